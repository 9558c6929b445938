"""What ranks see to themselves where nobody else reaches the output."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from dsort_api.messages import Outcome
from dsort_api.reasons import DSortError, Reason
from dsort_worker import unattended
from dsort_worker.joblock import Hold, try_lock
from dsort_worker.staging import MANIFEST, Staging
from dsort_worker.unattended import Unattended
from tests.support.waiting import idle, until

COMPLETE = Outcome(state="Complete", manifest="elsewhere")


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    staging = Staging(str(tmp_path / "out"), job="uid", epoch="e", ranks=2)
    staging.create()
    return staging


def publish(staging: Staging) -> None:
    Path(staging.output, MANIFEST).write_text(json.dumps({"run": {"id": "uid"}}))


@pytest.mark.asyncio
async def test_all_ranks_share_the_lock_and_nobody_else_gets_it(staging: Staging) -> None:
    ranks = [Unattended(staging), Unattended(staging)]
    for rank in ranks:
        await rank.lock()
    assert try_lock(staging.home, Hold.ALONE) is None


@pytest.mark.asyncio
async def test_who_only_looks_is_waited_for(staging: Staging) -> None:
    looks = try_lock(staging.home, Hold.ALONE)
    assert looks is not None
    async with asyncio.TaskGroup() as group:
        locking = group.create_task(Unattended(staging).lock())
        await asyncio.sleep(0)
        assert not locking.done()
        os.close(looks)
    assert try_lock(staging.home, Hold.ALONE) is None


@pytest.mark.asyncio
async def test_a_folder_that_was_removed_meanwhile_is_made_anew(staging: Staging) -> None:
    removes = try_lock(staging.home, Hold.ALONE)
    assert removes is not None
    async with asyncio.TaskGroup() as group:
        group.create_task(Unattended(staging).lock())
        await asyncio.sleep(0)
        staging.remove()
        os.close(removes)
    assert sorted(os.listdir(staging.home)) == ["commits", "lock", "plan", "stage"]


@pytest.mark.asyncio
async def test_who_keeps_the_lock_fails_the_rank(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "_PATIENCE", 0.0)
    assert try_lock(staging.home, Hold.ALONE) is not None
    with pytest.raises(DSortError) as caught:
        await Unattended(staging).lock()
    assert caught.value.reason is Reason.JOB_BUSY


@pytest.mark.asyncio
async def test_work_that_ends_by_itself_is_its_own_outcome(staging: Staging) -> None:
    async def work() -> Outcome:
        publish(staging)
        await asyncio.sleep(0)
        return COMPLETE

    told: list[int] = []
    outcome = await Unattended(staging).unless_published(work(), on_manifest=lambda: told.append(1))
    assert (outcome, told) == (COMPLETE, [])


@pytest.mark.asyncio
async def test_a_manifest_ends_work_that_would_wait_for_ever(staging: Staging) -> None:
    ended: list[str] = []

    async def work() -> Outcome:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")
        return COMPLETE

    rank = Unattended(staging, look=0.001)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(rank.unless_published(work(), on_manifest=lambda: ended.append("told")))
        await idle()
        assert not waiting.done()
        publish(staging)
        await until(waiting.done)
    assert waiting.result() == Outcome(state="Complete", manifest=str(Path(staging.output, MANIFEST)))
    assert ended == ["told", "work"]


@pytest.mark.asyncio
async def test_a_failure_of_the_work_is_passed_on(staging: Staging) -> None:
    async def work() -> Outcome:
        raise DSortError(Reason.PEER_LOST, "rank 0")

    with pytest.raises(BaseExceptionGroup) as caught:
        await Unattended(staging).unless_published(work(), on_manifest=lambda: None)
    (error,) = caught.value.exceptions
    assert isinstance(error, DSortError)


def test_what_cannot_be_removed_is_no_failure(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        Unattended(staging).remove()
    assert "the result is whole" in caplog.text
    Unattended(staging).remove()
    assert os.listdir(staging.output) == []
