"""Rank 0's decisions: made once, from all reports, and held by every life of rank 0."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.decisions import Decisions, Report
from tests.support.waiting import DEADLINE, idle

pytestmark = pytest.mark.asyncio


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class Steps:
    """Decides `sum` of what was reported, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.made = 0
        self.error: Exception | None = None

    def decide(self, reports: list[Report]) -> dict[str, Any]:
        self.made += 1
        if self.error is not None:
            raise self.error
        return {"reports": [report["value"] for report in reports], "made": self.made}


def life(steps: Steps, pool: ThreadPoolExecutor, folder: Path | None, *, ranks: int = 3) -> Decisions:
    return Decisions(
        {"sum": steps.decide, "next": steps.decide},
        ranks=ranks,
        folder=str(folder) if folder else None,
        threads=pool,
    )


async def ask_all(decisions: Decisions, *, step: str = "sum", first: int = 0, ranks: int = 3) -> list[Any]:
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(
            *(
                decisions.decide(step, rank=rank, report={"value": first + rank}, wait=60)
                for rank in range(ranks)
            )
        )
    return [json.loads(answer or b"null") for answer in answers]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_step_is_decided_once_from_all_reports(
    pool: ThreadPoolExecutor, tmp_path: Path, kept: bool
) -> None:
    steps = Steps()
    decisions = life(steps, pool, tmp_path if kept else None)
    assert await decisions.decide("sum", rank=2, report={"value": 9}, wait=0.01) is None
    assert await decisions.decide("sum", rank=0, report={"value": 0}, wait=0.01) is None
    # A report that comes again takes the place of the earlier one.
    assert await ask_all(decisions) == [{"reports": [0, 1, 2], "made": 1}] * 3
    assert await ask_all(decisions, first=100) == [{"reports": [0, 1, 2], "made": 1}] * 3
    assert await ask_all(decisions, step="next", first=5) == [{"reports": [5, 6, 7], "made": 2}] * 3
    assert steps.made == 2
    assert sorted(os.listdir(tmp_path)) == (["next.json", "sum.json"] if kept else [])


async def test_a_new_life_of_rank_0_keeps_what_was_decided(pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    steps = Steps()
    await ask_all(life(steps, pool, tmp_path))
    again = life(steps, pool, tmp_path)
    # One report is enough: nobody has to come again to a step that was decided.
    answer = await again.decide("sum", rank=1, report={"value": 77}, wait=DEADLINE)
    assert json.loads(answer or b"")["reports"] == [0, 1, 2]
    assert steps.made == 1


async def test_what_was_not_decided_is_decided_from_the_reports_that_come_anew(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    steps = Steps()
    first = life(steps, pool, tmp_path)
    await first.decide("sum", rank=0, report={"value": 0}, wait=0.01)
    await first.decide("sum", rank=1, report={"value": 1}, wait=0.01)
    assert await ask_all(life(steps, pool, tmp_path), first=10) == [{"reports": [10, 11, 12], "made": 1}] * 3


async def test_of_two_lives_the_first_word_holds(pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    steps = Steps()
    loads = Decisions._load

    class Late(Decisions):
        """Does not see the file that the other life makes in this very moment."""

        def _load(self, step: str) -> bytes | None:
            found = loads(self, step)
            if found is None:
                (tmp_path / "sum.json").write_text('{"reports": "the word of the other"}')
            return found

    decisions = Late({"sum": steps.decide}, ranks=1, folder=str(tmp_path), threads=pool)
    assert await ask_all(decisions, ranks=1) == [{"reports": "the word of the other"}]
    assert os.listdir(tmp_path) == ["sum.json"]


async def test_a_file_system_without_hard_links_keeps_decisions_too(
    pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    steps = Steps()
    assert await ask_all(life(steps, pool, tmp_path)) == [{"reports": [0, 1, 2], "made": 1}] * 3
    assert os.listdir(tmp_path) == ["sum.json"]
    assert await ask_all(life(steps, pool, tmp_path)) == [{"reports": [0, 1, 2], "made": 1}] * 3


async def test_a_decision_that_cannot_be_made_fails_every_rank_and_is_not_tried_again(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    steps = Steps()
    steps.error = DSortError(Reason.MISSING_SHARDS, "shard a.tar is missing")
    decisions = life(steps, pool, tmp_path)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(catch(decisions.decide("sum", rank=rank, report={"value": 0}, wait=60)))
            for rank in range(3)
        ]
    assert [error.result().message for error in waiting] == ["shard a.tar is missing"] * 3
    steps.error = None
    for step in ("sum", "next"):
        for rank in range(3):
            error = await catch(decisions.decide(step, rank=rank, report={"value": 0}, wait=DEADLINE))
            assert error.reason is Reason.MISSING_SHARDS
    assert steps.made == 1
    assert os.listdir(tmp_path) == []


async def test_a_surprise_is_an_internal_error(
    pool: ThreadPoolExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps()
    steps.error = KeyError("records")
    error = await catch(life(steps, pool, tmp_path, ranks=1).decide("sum", rank=0, report={}, wait=DEADLINE))
    assert error.reason is Reason.INTERNAL
    assert error.message == "step sum: KeyError: 'records'"
    assert "cannot be decided" in caplog.text


async def catch(awaitable: Any) -> DSortError:
    with pytest.raises(DSortError) as caught:
        await awaitable
    return caught.value


@pytest.mark.parametrize(("step", "rank"), [("sum", 3), ("sum", -1), ("guess", 0)])
async def test_who_is_not_of_the_job_is_refused(pool: ThreadPoolExecutor, step: str, rank: int) -> None:
    with pytest.raises(ValueError, match="no step"):
        await life(Steps(), pool, None).decide(step, rank=rank, report={}, wait=0)


async def test_farewell_waits_until_every_rank_has_the_latest_decision(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    decisions = life(Steps(), pool, tmp_path)
    async with asyncio.timeout(DEADLINE):
        await decisions.farewell(wait=60)  # nothing was decided: nobody waits
    await ask_all(decisions)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        asking = [
            group.create_task(decisions.decide("next", rank=rank, report={"value": 0}, wait=60))
            for rank in range(3)
        ]
        await asyncio.wait(asking)
        # A new step: one rank has its answer only later.
        again = life(Steps(), pool, tmp_path)
        await again.decide("next", rank=0, report={}, wait=DEADLINE)
        await again.decide("next", rank=1, report={}, wait=DEADLINE)
        farewell = group.create_task(again.farewell(wait=60))
        await idle()
        assert not farewell.done()
        await again.decide("next", rank=2, report={}, wait=DEADLINE)
        await farewell
    async with asyncio.timeout(DEADLINE):
        third = life(Steps(), pool, tmp_path)
        await third.decide("next", rank=0, report={}, wait=DEADLINE)
        await third.farewell(wait=0.01)  # a rank that stays away is not waited for


async def test_a_decision_that_never_reached_the_disk_is_made_again(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    steps = Steps()
    before = await ask_all(life(steps, pool, tmp_path))
    (tmp_path / "sum.json").write_bytes(b"")  # as a machine that stopped may leave it
    after = await ask_all(life(steps, pool, tmp_path))
    assert [answer["reports"] for answer in after] == [answer["reports"] for answer in before]
    assert json.loads((tmp_path / "sum.json").read_bytes()) == after[0]
