"""The last words of a pod."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.messages import Failure
from dsort_api.reasons import Reason
from dsort_worker.lastwords import MOST_WORDS, last_words, leave, words_of


@given(st.text(max_size=6000) | st.text(alphabet='ü€😀\n"', min_size=500, max_size=6000))
def test_words_are_json_that_kubernetes_takes_over_whole(message: str) -> None:
    words = last_words("InternalError", message, rank=7)
    assert len(words) <= MOST_WORDS
    said = json.loads(words)
    assert (said["reason"], said["rank"]) == ("InternalError", 7)
    if said["message"] != message:
        assert message.startswith(said["message"].removesuffix("..."))
        assert len(words) > MOST_WORDS - 100, "cut more than it had to be"


def test_a_failure_is_put_into_words() -> None:
    words = json.loads(words_of(Failure(reason=Reason.PEER_LOST, message="rank 1"), rank=0))
    assert words == {"reason": "PeerLost", "message": "rank 1", "rank": 0}


def test_words_that_cannot_be_left_fail_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave(None, b"words")
    leave(str(tmp_path), b"words")
    assert "Is a directory" in caplog.text
    leave(str(tmp_path / "log"), b"a longer one")
    leave(str(tmp_path / "log"), b"words")
    assert (tmp_path / "log").read_bytes() == b"words"
