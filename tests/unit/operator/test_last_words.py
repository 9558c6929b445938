"""What a worker says last is what the operator understands."""

from __future__ import annotations

from typing import Any

import pytest

from dsort_api.labels import OOM_KILLED
from dsort_api.reasons import Reason
from dsort_operator.children import WorkerPod
from dsort_operator.failure import end_of
from dsort_worker.lastwords import last_words


def ended(message: str, *, reason: str = "Error", code: int = 137) -> WorkerPod:
    terminated: dict[str, Any] = {"exitCode": code, "reason": reason, "message": message}
    status = {
        "phase": "Failed",
        "containerStatuses": [{"name": "worker", "state": {"terminated": terminated}}],
    }
    return WorkerPod.of({"metadata": {"name": "p"}, "status": status})


@pytest.mark.parametrize(
    ("message", "reason", "killed"),
    [
        (last_words(OOM_KILLED, "rank 1 was killed", rank=1).decode(), "Error", True),
        ("", "OOMKilled", True),
        (last_words(Reason.INTERNAL, f'{{"reason": "{OOM_KILLED}"}}', rank=1).decode(), "Error", False),
        ("", "Error", False),
        ("[]", "Error", False),
        ("what the kubelet cut off", "Error", False),
    ],
)
def test_a_lane_killed_for_want_of_memory_counts_as_its_pod(message: str, reason: str, killed: bool) -> None:
    pod = ended(message, reason=reason)
    assert pod.oom_killed == killed
    assert (end_of(pod).reason == OOM_KILLED) == killed


@pytest.mark.parametrize("code", [0, 6, 143])
def test_container_that_ended_by_itself_was_not_killed_whatever_else_was_in_it(code: int) -> None:
    assert not ended("", reason="OOMKilled", code=code).oom_killed


def test_the_words_of_a_rank_are_the_end_of_its_pod() -> None:
    end = end_of(ended(last_words(Reason.OUTPUT_EXISTS, "out/a.tar is there", rank=3).decode()))
    assert end.reason == "OutputExists"
    assert "out/a.tar is there" in end.message
