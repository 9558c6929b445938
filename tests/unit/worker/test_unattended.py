"""What ranks see to themselves where nobody else reaches the output."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker import unattended
from dsort_worker.joblock import Hold, try_lock
from dsort_worker.staging import Staging
from dsort_worker.unattended import Unattended


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    staging = Staging(str(tmp_path / "out"), job="uid", epoch="e", ranks=2)
    staging.create()
    return staging


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
