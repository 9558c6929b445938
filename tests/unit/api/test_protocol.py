"""Versions of the exchange: what two sides that differ come to, and what an older version does not contain."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from dsort_api.messages import PROTOCOL, Desired, Failure, Flow, Memory, Observed, Stop
from dsort_api.protocol import SPOKEN, desired_text, observed_text, other_version, refusal, version_of
from dsort_api.reasons import Reason


def test_this_version_and_the_one_before_it_are_spoken() -> None:
    assert SPOKEN == (1, 2) == (PROTOCOL - 1, PROTOCOL)


@pytest.mark.parametrize(
    ("words", "than", "both"),
    [
        (refusal(3), 3, 2),
        ("this rank speaks protocol 1, the request has 2", 2, 1),
        ("rank http://a:1/: this rank speaks protocol 1, the request has 2", 2, 1),
        ("this rank speaks protocol 2 and 3, the request has 1", 1, 2),
        ("this rank speaks protocol 3 and 4, the request has 2", 2, None),
        ("this rank speaks protocol 0, the request has 2", 2, None),
        ("this rank speaks protocol 1 and 2, the request has 2", 2, 1),
        ("this rank speaks protocol 2, the request has 2", 2, None),
        ("upgrade required", 2, None),
        ("", 2, None),
    ],
)
def test_the_newest_version_of_both_is_found_in_the_words_of_a_refusal(
    words: str, than: int, both: int | None
) -> None:
    assert other_version(words, than=than) == both


@pytest.mark.parametrize(("text", "version"), [(b"{}", PROTOCOL), (b'{"protocol": 7, "new": {}}', 7)])
def test_a_message_says_its_version_whatever_else_it_says(text: bytes, version: int) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize("text", [b"", b"[]", b'{"protocol": "two"}'])
def test_what_is_no_message_has_no_version(text: bytes) -> None:
    with pytest.raises(ValidationError):
        version_of(text)


def test_version_1_has_no_throttle_level_and_no_reason_that_came_later() -> None:
    desired = Desired(
        protocol=1,
        epoch="e",
        memory_budget=5,
        throttle_level=3,
        stop=Stop(reason=Reason.MEMORY_LIMIT_EXCEEDED, message="pod a has 1 GiB of 1 GiB"),
    )
    assert json.loads(desired_text(desired)) == {
        "protocol": 1,
        "epoch": "e",
        "peers": None,
        "memory_budget": 5,
        "stop": {"reason": "Aborted", "message": "pod a has 1 GiB of 1 GiB"},
        "seen": 0,
        "wait_seconds": 0.0,
    }
    aborted = desired.model_copy(update={"stop": Stop(reason=Reason.ABORTED)})
    assert json.loads(desired_text(aborted))["stop"]["reason"] == "Aborted"


def test_version_1_has_four_figures_of_memory_and_none_of_flow() -> None:
    observed = Observed(
        epoch="e",
        rank=1,
        version=3,
        memory=Memory(budget=1, reserved=2, rss=3, peak_rss=4, limit=5, pressure=0.5, spilled=6),
        flow=Flow(level=2),
        failure=Failure(reason=Reason.MEMORY_LIMIT_EXCEEDED, message="too much"),
    )
    told = json.loads(observed_text(observed, version=1))
    assert told["protocol"] == 1
    assert told["memory"] == {"budget": 1, "reserved": 2, "rss": 3, "peak_rss": 4}
    assert "flow" not in told
    assert told["failure"] == {"reason": "InternalError", "message": "too much"}
    lost = observed.model_copy(update={"failure": Failure(reason=Reason.PEER_LOST, message="")})
    assert json.loads(observed_text(lost, version=1))["failure"]["reason"] == "PeerLost"


def test_this_version_is_told_whole() -> None:
    desired = Desired(throttle_level=3, stop=Stop(reason=Reason.MEMORY_LIMIT_EXCEEDED))
    assert Desired.model_validate_json(desired_text(desired)) == desired
    observed = Observed(epoch="e", rank=1, version=3, memory=Memory(limit=5), flow=Flow(level=2))
    assert Observed.model_validate_json(observed_text(observed, version=PROTOCOL)) == observed
