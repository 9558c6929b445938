"""What the runner does next, as a table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsort_api.messages import Failure, Phase
from dsort_api.reasons import EXIT_CODES, Reason
from dsort_cli.decide import (
    DONE,
    KEEPS_STAGING,
    WAIT,
    Decision,
    RankView,
    Restart,
    Stop,
    decide,
    how_it_ended,
    smaller,
)

CORRUPT = Failure(reason=Reason.CORRUPT_SHARD, message="shard a.tar: at offset 512: no header")
BUG = Failure(reason=Reason.INTERNAL, message="rank 1: KeyError: 3")
LOST = Failure(reason=Reason.PEER_LOST, message="rank 1 does not answer")
TOLD = Failure(reason=Reason.ABORTED, message="told to stop")
LATE = Failure(reason=Reason.DEADLINE_EXCEEDED, message="late")

RUNNING = RankView(0, phase=Phase.CREATE)
COMPLETE = RankView(0, phase=Phase.COMPLETE)


def failed(rank: int, failure: Failure, exit_code: int | None = None) -> RankView:
    return RankView(rank, exit_code=exit_code, phase=Phase.FAILED, failure=failure)


@pytest.mark.parametrize(
    ("ranks", "restarts", "ending", "expected"),
    [
        pytest.param([RankView(0), RankView(1)], 0, None, WAIT, id="starting"),
        pytest.param([RUNNING, COMPLETE], 0, None, WAIT, id="one is not done"),
        pytest.param([COMPLETE, COMPLETE], 0, None, DONE, id="all are done"),
        pytest.param(
            [RankView(0, exit_code=0, phase=Phase.PUBLISH), COMPLETE],
            0,
            None,
            DONE,
            id="last words were lost",
        ),
        pytest.param([RankView(0, exit_code=-9, phase=Phase.COMPLETE)], 0, None, DONE, id="killed when done"),
        pytest.param([COMPLETE], 0, LATE, DONE, id="complete beats the deadline"),
        pytest.param([RUNNING], 0, LATE, Stop(LATE), id="deadline"),
        pytest.param(
            [RankView(0, exit_code=-9, phase=Phase.CREATE)], 0, TOLD, Stop(TOLD), id="no restart at the end"
        ),
        pytest.param([RUNNING, failed(1, CORRUPT)], 0, None, Stop(CORRUPT), id="bad input"),
        pytest.param(
            [failed(0, TOLD), failed(1, CORRUPT)], 0, None, Stop(CORRUPT), id="the cause, not the echo"
        ),
        pytest.param(
            [RankView(0, exit_code=-9), failed(1, CORRUPT)], 0, None, Stop(CORRUPT), id="cause before restart"
        ),
        pytest.param([RUNNING, failed(1, BUG)], 0, None, WAIT, id="a bug: the process is about to end"),
        pytest.param([RUNNING, failed(1, BUG, 1)], 0, None, Restart((1,)), id="a bug: try again"),
        pytest.param([failed(0, LOST, 18), RUNNING], 0, None, Restart((0,)), id="lost its peer"),
        pytest.param(
            [RankView(0, exit_code=-9), RankView(1, exit_code=1)], 0, None, Restart((0, 1)), id="both died"
        ),
        pytest.param([RankView(0, exit_code=143)], 1, None, Restart((0,)), id="SIGTERM from somebody else"),
        pytest.param([RankView(0, exit_code=130)], 1, None, Restart((0,)), id="aborted and not by us"),
        pytest.param(
            [RankView(0, exit_code=-9, phase=Phase.SCAN)], 1, None, Restart((0,)), id="the last restart"
        ),
    ],
)
def test_next_step(ranks: list[RankView], restarts: int, ending: Failure | None, expected: Decision) -> None:
    assert decide(ranks, restarts=restarts, backoff_limit=2, ending=ending) == expected


def test_a_restart_too_many_names_rank_and_signal() -> None:
    decision = decide([RUNNING, RankView(1, exit_code=-9)], restarts=2, backoff_limit=2)
    assert isinstance(decision, Stop)
    assert decision.failure.reason is Reason.BACKOFF_LIMIT_EXCEEDED
    assert "rank 1 was killed by signal 9 (SIGKILL)" in decision.failure.message
    assert "(2)" in decision.failure.message


def test_a_restart_too_many_for_want_of_memory_says_what_to_change() -> None:
    killed = RankView(1, exit_code=-9, oom_killed=True)
    assert decide([RUNNING, killed], restarts=1, backoff_limit=2) == Restart((1,))
    decision = decide([failed(0, LOST, 18), killed], restarts=2, backoff_limit=2)
    assert isinstance(decision, Stop)
    assert decision.failure.reason is Reason.MEMORY_LIMIT_EXCEEDED
    for part in ("rank 1 was killed for want of memory", "--workers", "--memory"):
        assert part in decision.failure.message


@pytest.mark.parametrize(("budget", "less"), [(1024, 768), (80, 64), (64, 64), (48, 48)])
def test_a_smaller_budget_is_no_smaller_than_the_least(budget: int, less: int) -> None:
    assert smaller(budget << 20) == less << 20


def test_a_restart_too_many_repeats_what_the_rank_said() -> None:
    decision = decide([failed(1, BUG, 1)], restarts=0, backoff_limit=0)
    assert isinstance(decision, Stop)
    assert "KeyError" in decision.failure.message


def test_a_reason_is_read_from_the_exit_code_when_there_were_no_words() -> None:
    code = EXIT_CODES[Reason.OUTPUT_UNWRITABLE]
    decision = decide([RankView(3, exit_code=code)], restarts=0, backoff_limit=2)
    assert isinstance(decision, Stop)
    assert decision.failure.reason is Reason.OUTPUT_UNWRITABLE
    assert "rank 3" in decision.failure.message


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "ended with exit code 1"),
        (-15, "was killed by signal 15 (SIGTERM)"),
        (-63, "was killed by signal 63"),
    ],
)
def test_how_it_ended(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def test_the_page_on_exit_codes_says_after_which_the_staging_stays() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "exit-codes.md").read_text()
    (listed,) = re.findall(r"after ([\d, ]+ and \d+), which another run may not meet again", page)
    assert sorted(map(int, re.findall(r"\d+", listed))) == sorted(
        EXIT_CODES[reason] for reason in KEEPS_STAGING
    )
