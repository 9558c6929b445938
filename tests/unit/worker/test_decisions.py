"""Rank 0's decisions: made once, from all reports, and held by every life of rank 0."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.decisions import Decisions, Report
from dsort_worker.staging import place
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
        self.may_end = threading.Event()
        self.may_end.set()

    def decide(self, reports: Sequence[Report]) -> dict[str, Any]:
        self.may_end.wait(DEADLINE)
        self.made += 1
        if self.error is not None:
            raise self.error
        return {"reports": [report["value"] for report in reports], "made": self.made}


def life(
    steps: Steps,
    pool: ThreadPoolExecutor,
    folder: Path | None,
    *,
    ranks: int = 3,
    epoch: str = "e",
    anew: Collection[str] = (),
) -> Decisions:
    return Decisions(
        {"sum": steps.decide, "next": steps.decide},
        ranks=ranks,
        folder=str(folder) if folder else None,
        epoch=epoch,
        threads=pool,
        anew=anew,
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


async def test_of_two_lives_the_first_word_holds(
    pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the second does not see it when it looks, and writes its own while the first has not cleared away."""
    steps = Steps()
    placed, go_on = threading.Event(), threading.Event()

    def place_and_wait(source: str, target: str) -> None:
        place(source, target)
        placed.set()
        go_on.wait(DEADLINE)

    async with asyncio.timeout(DEADLINE):
        with ThreadPoolExecutor(1) as another:
            monkeypatch.setattr("dsort_worker.decisions.place", place_and_wait)
            first = asyncio.create_task(ask_all(life(steps, another, tmp_path, ranks=1, epoch="a"), ranks=1))
            await asyncio.to_thread(placed.wait)
            monkeypatch.setattr("dsort_worker.decisions.place", place)
            monkeypatch.setattr("dsort_worker.decisions._load", lambda _: None)
            second = await ask_all(life(steps, pool, tmp_path, ranks=1, epoch="b"), ranks=1, first=50)
            go_on.set()
            assert await first == second == [{"reports": [0], "made": 1}]
    assert json.loads((tmp_path / "sum.json").read_bytes()) == second[0]
    assert os.listdir(tmp_path) == ["sum.json"]


async def test_a_decision_that_takes_long_is_nobodys_who_asks(pool: ThreadPoolExecutor) -> None:
    """Who asks is told in time that there is none yet, and may hang up; it is made once."""
    steps = Steps()
    steps.may_end.clear()
    decisions = life(steps, pool, None, ranks=2)
    async with asyncio.timeout(DEADLINE):
        assert await decisions.decide("sum", rank=0, report={"value": 0}, wait=0.01) is None
        last = asyncio.create_task(decisions.decide("sum", rank=1, report={"value": 1}, wait=60))
        assert await decisions.decide("sum", rank=0, report={"value": 0}, wait=0.01) is None
        last.cancel()
        await asyncio.wait([last])
        steps.may_end.set()
        assert await ask_all(decisions, ranks=2) == [{"reports": [0, 1], "made": 1}] * 2


async def test_the_last_report_may_come_while_it_is_looked_whether_there_is_a_decision(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    decisions = life(Steps(), pool, tmp_path, ranks=2)
    with held(pool):  # all looks wait
        early = [
            asyncio.create_task(decisions.decide("sum", rank=rank, report={"value": rank}, wait=60))
            for rank in range(2)
        ]
        await idle()
    async with asyncio.timeout(DEADLINE):
        assert [json.loads(answer or b"") for answer in await asyncio.gather(*early)] == [
            {"reports": [0, 1], "made": 1}
        ] * 2


async def test_what_may_have_been_undone_since_is_decided_by_every_life(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    steps = Steps()
    for made in (1, 2):
        decisions = life(steps, pool, tmp_path, anew={"sum"})
        assert await ask_all(decisions) == [{"reports": [0, 1, 2], "made": made}] * 3
    assert os.listdir(tmp_path) == []


async def test_a_full_disk_is_told_as_one(
    pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dsort_worker.decisions.place", full)
    error = await catch(
        life(Steps(), pool, tmp_path, ranks=1).decide("sum", rank=0, report={"value": 0}, wait=DEADLINE)
    )
    assert (error.reason, error.message) == (
        Reason.OUTPUT_UNWRITABLE,
        f"{tmp_path}/sum.json: No space left on device; free some space",
    )
    assert os.listdir(tmp_path) == []


@contextmanager
def held(pool: ThreadPoolExecutor) -> Iterator[None]:
    """What the pool is asked for waits until the block ends."""
    go_on = threading.Event()
    pool.submit(go_on.wait, DEADLINE)
    yield
    go_on.set()


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
