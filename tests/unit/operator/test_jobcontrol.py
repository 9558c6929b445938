"""The ranks of one job in their pods: peer tables, reports, replaced pods. Each rank is played by a small server."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from dsort_api.budgets import rank_budget
from dsort_api.labels import CONTROL_PORT
from dsort_api.messages import Desired, JobDefinition, Memory, Observed, PeerTable, Phase, Progress, Stop
from dsort_api.reasons import Reason
from dsort_api.spec import load_job
from dsort_operator.children import WorkerPod
from dsort_operator.jobcontrol import JobControl, Load
from tests.support.running import job
from tests.support.waiting import until
from tests.support.worlds import filled

SPEC = load_job(job("file:///in", "file:///out", output={"shardCount": 1}), strict=True).spec
TOKEN = "secret"


@dataclass
class Rank:
    """A rank that answers at once. ip: of its pod."""

    rank: int
    epoch: str
    peers_version: int = 0
    phase: Phase = Phase.STARTING
    done: int = 0
    moved: int = 0
    version: int = 1
    peers: PeerTable | None = None
    stop: Stop | None = None
    refuse: int = 0
    memory: Memory = field(default_factory=Memory)
    told: list[tuple[int, int]] = field(default_factory=list)
    """Throttle level and budget, of each request."""
    ip: str = field(default_factory=lambda: f"127.{random.randrange(100, 250)}.{random.randrange(256)}.1")

    def pod(self, **more: object) -> WorkerPod:
        return WorkerPod(
            name=f"pod-{self.epoch}",
            uid=f"uid-{self.epoch}",
            index=self.rank,
            phase="Running",
            ip=self.ip,
            **more,  # type: ignore[arg-type]
        )

    async def handle(self, request: web.Request) -> web.Response:
        if self.refuse:
            return web.Response(status=self.refuse, text="not mine")
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        desired = Desired.model_validate_json(await request.read())
        if desired.peers is not None:
            self.peers, self.peers_version = desired.peers, desired.peers.version
        self.stop = desired.stop or self.stop
        self.told.append((desired.throttle_level, desired.memory_budget))
        observed = Observed(
            epoch=self.epoch,
            rank=self.rank,
            version=self.version,
            data_url=f"http://{self.ip}:1",
            phase=self.phase,
            peers_version=self.peers_version,
            progress=Progress(bytes_done=self.done, bytes_received=self.moved),
            memory=self.memory,
        )
        return web.Response(text=observed.model_dump_json())


class Room:
    """A JobControl with what it says to others; `clock` is the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wakes = 0
        self.moved = 0
        self.load = Load()
        self.control = JobControl(load=self.load, wake=self._wake, moved=self._move, clock=lambda: self.now)

    def _wake(self) -> None:
        self.wakes += 1

    def _move(self, size: int) -> None:
        self.moved += size

    async def steer(
        self,
        *pods: WorkerPod,
        ranks: int = 2,
        stop: Stop | None = None,
        level: int = 0,
        budget: int | None = None,
    ) -> None:
        definition = JobDefinition(id="u", name="n", spec=SPEC, ranks=ranks)
        await self.control.steer(
            pods, definition=definition, token=TOKEN, stop=stop, throttle_level=level, memory_budget=budget
        )


@asynccontextmanager
async def room(*ranks: Rank) -> AsyncIterator[Room]:
    async with AsyncExitStack() as stack:
        for rank in ranks:
            app = web.Application()
            app.router.add_put("/v1/control", rank.handle)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, rank.ip, CONTROL_PORT).start()
        made = Room()
        async with made.control:
            yield made
        assert made.load.ranks == 0


@pytest.mark.asyncio
async def test_ranks_hear_of_each_other_when_all_are_known() -> None:
    first, second = Rank(0, "a"), Rank(1, "b")
    async with room(first, second) as here:
        await here.steer(first.pod())
        await until(lambda: 0 in here.control.reports())
        assert here.control.peers is None
        await here.steer(first.pod(), second.pod())
        await until(lambda: first.peers is not None and second.peers is not None)
        assert first.peers is not None
        assert [peer.epoch for peer in first.peers.peers] == ["a", "b"]
        assert here.load.ranks == 2
        assert here.control.reports()[1].pod == "uid-b"


@pytest.mark.asyncio
async def test_a_new_operator_makes_a_table_that_is_newer_than_any_that_a_rank_has() -> None:
    first, second = Rank(0, "a", peers_version=7), Rank(1, "b", peers_version=4)
    async with room(first, second) as here:
        await here.steer(first.pod(), second.pod())
        await until(lambda: second.peers is not None and second.peers.version == 8)


@pytest.mark.asyncio
async def test_a_pod_in_the_place_of_another_gets_the_rank_and_all_hear_of_it() -> None:
    first, second, third = Rank(0, "a"), Rank(1, "b"), Rank(1, "c")
    async with room(first, second, third) as here:
        await here.steer(first.pod(), second.pod())
        await until(lambda: first.peers is not None)
        ended = WorkerPod(name="pod-b", uid="uid-b", index=1, phase="Failed", ip=second.ip, exit_code=1)
        await here.steer(first.pod(), ended)
        assert here.control.reports()[1].observed.epoch == "b"  # its last words
        await here.steer(first.pod(), ended, third.pod())
        await until(lambda: first.peers is not None and first.peers.peers[1].epoch == "c")
        assert first.peers is not None
        assert first.peers.version == 2
        assert here.control.reports()[1].pod == "uid-c"


@pytest.mark.asyncio
async def test_an_order_to_stop_reaches_every_rank() -> None:
    first, second = Rank(0, "a"), Rank(1, "b")
    stop = Stop(reason=Reason.ABORTED)
    async with room(first, second) as here:
        await here.steer(first.pod(), second.pod())
        await until(lambda: len(here.control.reports()) == 2)
        await here.steer(first.pod(), second.pod(), stop=stop)
        await until(lambda: first.stop == second.stop == stop)


@pytest.mark.asyncio
async def test_level_and_budget_reach_every_rank() -> None:
    first, second = Rank(0, "a"), Rank(1, "b")
    planned = rank_budget(SPEC)
    async with room(first, second) as here:
        await here.steer(first.pod(), second.pod())
        await until(lambda: len(here.control.reports()) == 2)
        assert set(first.told) == {(0, planned)}
        await here.steer(first.pod(), second.pod(), level=3)
        await until(lambda: first.told[-1] == second.told[-1] == (3, planned))
        await here.steer(first.pod(), second.pod(), level=2, budget=99)
        await until(lambda: first.told[-1] == second.told[-1] == (2, 99))


@pytest.mark.asyncio
async def test_memory_wakes_where_it_passes_a_mark() -> None:
    rank = Rank(0, "a", memory=filled(60))
    async with room(rank) as here:
        await here.steer(rank.pod(), ranks=1)
        await until(lambda: rank.peers is not None)
        for version, (percent, wakes) in enumerate([(74, 0), (76, 1), (84, 0), (86, 1), (99, 0), (10, 1)], 2):
            before = here.wakes
            rank.version, rank.memory = version, filled(percent)

            def heard(percent: float = percent) -> bool:
                return here.control.reports()[0].observed.memory == filled(percent)

            await until(heard)
            assert here.wakes == before + wakes, percent


@pytest.mark.asyncio
async def test_what_is_worth_a_look_wakes_and_counts_do_not() -> None:
    rank = Rank(0, "a")
    async with room(rank) as here:
        await here.steer(rank.pod(), ranks=1)
        await until(lambda: rank.peers is not None)
        wakes = here.wakes
        rank.version, rank.phase = 2, Phase.CREATE
        await until(lambda: here.wakes == wakes + 1)
        rank.version, rank.done, rank.moved = 3, 1000, 500
        await until(lambda: here.moved == 500)
        here.now = 10.0
        await until(lambda: here.control.reports()[0].rate == 100.0)
        assert here.wakes == wakes + 1
        rank.version, rank.phase, rank.done = 4, Phase.PUBLISH, 0
        await until(lambda: here.wakes == wakes + 2)
        assert here.control.reports()[0].past[Phase.CREATE].bytes_done == 1000
        here.now = 12.0
        assert here.control.reports()[0].age <= 12.0


@pytest.mark.asyncio
async def test_a_refusal_is_known_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsort_operator.jobcontrol._REFUSED_PAUSE", 0.01)
    rank = Rank(0, "a", refuse=401)
    async with room(rank) as here:
        await here.steer(rank.pod(), ranks=1)
        await until(here.control.refused)
        refusal = here.control.refused()[0]
        assert (refusal.message, refusal.lasting) == ("refused control (401): not mine", False)
        rank.refuse = 0
        await until(lambda: 0 in here.control.reports())
        assert here.control.refused() == {}


@pytest.mark.asyncio
async def test_where_a_pod_was_nobody_is_asked_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may be somebody else's, to whom the token is to be no business."""
    monkeypatch.setattr("dsort_operator.jobcontrol._REFUSED_PAUSE", 0.01)
    silent, other = Rank(0, "a"), Rank(1, "b", refuse=401)
    async with room(other) as here:  # nobody listens where the first is to be
        pods = (silent.pod(), other.pod())
        await here.steer(*pods)
        await until(lambda: 1 in here.control.refused())
        assert here.control.has_ranks
        await here.steer()
        assert here.control.refused() == {}
        following = [one.following for one in here.control._ranks.values()]
        await until(lambda: all(task is not None and task.done() for task in following))
        assert here.control.reports() == {}


def test_the_more_ranks_the_longer_they_hold_their_answers() -> None:
    assert Load(0).hold_seconds == 2.0
    assert Load(1000).hold_seconds == 5.0
    assert Load(100_000).hold_seconds == 25.0
