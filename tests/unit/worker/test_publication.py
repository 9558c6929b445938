"""The manifest of a job ends its ranks, whoever was to tell them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dsort_api.messages import Outcome
from dsort_api.reasons import DSortError, Reason
from dsort_worker.publication import Publication
from dsort_worker.staging import MANIFEST, Staging
from tests.support.waiting import idle, until

COMPLETE = Outcome(state="Complete", manifest="elsewhere")


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    staging = Staging(str(tmp_path / "out"), job="uid", epoch="e", ranks=2)
    staging.create()
    return staging


def publish(staging: Staging, *, job: str = "uid") -> None:
    Path(staging.output, MANIFEST).write_text(json.dumps({"run": {"id": job}}))


def test_the_manifest_of_another_job_is_none(staging: Staging) -> None:
    publication = Publication(staging, recurs=False)
    assert publication.outcome() is None
    publish(staging, job="another")
    assert publication.outcome() is None
    publish(staging)
    assert publication.outcome() == Outcome(state="Complete", manifest=f"{staging.output}/{MANIFEST}")


def test_of_a_job_that_recurs_a_manifest_counts_beside_what_was_staged(staging: Staging) -> None:
    publication = Publication(staging, recurs=True)
    publish(staging)
    assert publication.outcome() is None
    Path(staging.plan, "commit.json").write_text("{}")
    assert publication.outcome() is not None


@pytest.mark.asyncio
async def test_work_that_ends_by_itself_is_its_own_outcome(staging: Staging) -> None:
    async def work() -> Outcome:
        publish(staging)
        await asyncio.sleep(0)
        return COMPLETE

    told: list[int] = []
    outcome = await Publication(staging, recurs=False).or_else(work(), on_manifest=lambda: told.append(1))
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

    publication = Publication(staging, recurs=False, look=0.001)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(publication.or_else(work(), on_manifest=lambda: ended.append("told")))
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
        await Publication(staging, recurs=False).or_else(work(), on_manifest=lambda: None)
    (error,) = caught.value.exceptions
    assert isinstance(error, DSortError)
