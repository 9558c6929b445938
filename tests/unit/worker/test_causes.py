"""Why something failed, in one line and with a reason."""

from __future__ import annotations

import asyncio

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.causes import reason_in, unexpected

LOST = DSortError(Reason.PEER_LOST, "rank 1")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (LOST, LOST),
        (ValueError(), None),
        (ExceptionGroup("", [ValueError(), LOST]), LOST),
        (ExceptionGroup("", [ExceptionGroup("", [KeyError()]), ExceptionGroup("", [LOST])]), LOST),
        (BaseExceptionGroup("", [asyncio.CancelledError(), ExceptionGroup("", [KeyError()])]), None),
    ],
)
def test_the_cause_is_the_first_with_a_reason(error: BaseException, cause: DSortError | None) -> None:
    assert reason_in(error) is cause


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("can't start\n new thread"), "here: RuntimeError: can't start new thread"),
        (MemoryError(), "here: MemoryError: "),
        (ExceptionGroup("", [ExceptionGroup("", [KeyError("a")]), ValueError()]), "here: KeyError: 'a'"),
    ],
)
def test_what_nobody_expected_is_told_in_one_line(error: BaseException, words: str) -> None:
    failure = unexpected(error, where="here")
    assert (failure.reason, failure.message) == (Reason.INTERNAL, words)
