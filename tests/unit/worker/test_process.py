"""A rank's process: whatever comes when, it says how it ended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsort_api.messages import Desired, JobDefinition, Phase, Stop
from dsort_api.reasons import EXIT_CODES, Reason
from dsort_api.spec import DSortJobSpec
from dsort_worker.control import ControlServer
from dsort_worker.process import Process, RankSettings
from dsort_worker.state import RankState
from dsort_worker.termination import SIGTERM_EXIT, Termination
from tests.support.datasets import make_shards


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def settings(tmp_path: Path) -> RankSettings:
    make_shards(tmp_path / "in", shards=1, records=2)
    spec = DSortJobSpec.model_validate(
        {
            "input": {"url": f"file://{tmp_path}/in"},
            "output": {"url": f"file://{tmp_path}/out", "name": "o-%06d", "recordsPerShard": 2},
        }
    )
    return RankSettings(rank=0, job=JobDefinition(id="job", name="small", spec=spec, ranks=1), token="secret")


def run(settings: RankSettings, state: RankState, *, terminated: bool = False) -> int:
    control = ControlServer(state, host="127.0.0.1", port=0, token=settings.token)
    termination = Termination()
    termination.received = terminated

    async def process() -> int:
        async with asyncio.timeout(20):
            return await Process(settings, state).run(control, termination)

    return asyncio.run(process())


def test_order_to_stop_that_is_there_before_the_work_begins_is_said_to_be_followed(
    settings: RankSettings,
) -> None:
    state = RankState(rank=0, epoch="e")
    state.tell(Desired(epoch="e", stop=Stop(reason=Reason.ABORTED)))
    assert run(settings, state) == EXIT_CODES[Reason.ABORTED]
    assert state.phase is Phase.STOPPED


def test_signal_that_came_before_the_work_begins_is_no_failure(settings: RankSettings) -> None:
    state = RankState(rank=0, epoch="e")
    assert run(settings, state, terminated=True) == SIGTERM_EXIT
    assert state.phase is Phase.STOPPED
    assert state.observed().failure is None
