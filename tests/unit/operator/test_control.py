"""The control client against a rank that is played by a small server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from dsort_api.messages import Desired, Observed, Peer, PeerTable, Phase, Stop
from dsort_api.reasons import Reason
from dsort_cli.board import Board, RankProcess
from dsort_operator.control import ControlClient, Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TABLE = PeerTable(version=1, peers=[Peer(rank=0, url="http://x", epoch="e0")])


@dataclass
class FakeRank:
    """Answers control; `told` are the bodies it got. `statuses` are answered first, one a request.

    speaks: versions of the protocol; it answers in that of the question.
    """

    speaks: tuple[int, ...] = (1, 2)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    phase: Phase = Phase.STARTING
    version: int = 1
    peers_version: int = 0
    statuses: list[int] = field(default_factory=list)
    told: list[Desired] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer secret":
            return web.Response(status=401, text="no token")
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), text="for a\nreason")
        body = await request.json()
        if body["protocol"] not in self.speaks:
            spoken = " and ".join(map(str, self.speaks))
            words = f"this rank speaks protocol {spoken}, the request has {body['protocol']}"
            return web.Response(status=426, text=words)
        self.bodies.append(body)
        desired = Desired.model_validate(body)
        self.told.append(desired)
        if desired.peers is not None:
            self.peers_version = desired.peers.version
        if desired.stop is not None:
            await self.become(Phase.STOPPED)
        async with self.changed:
            try:
                async with asyncio.timeout(desired.wait_seconds):
                    await self.changed.wait_for(lambda: self.version > desired.seen)
            except TimeoutError:
                pass
        observed = Observed(
            protocol=desired.protocol,
            epoch="e0",
            rank=0,
            version=self.version,
            data_url="http://x",
            phase=self.phase,
            peers_version=self.peers_version,
        )
        return web.Response(text=observed.model_dump_json())

    async def become(self, phase: Phase) -> None:
        async with self.changed:
            self.phase, self.version = phase, self.version + 1
            self.changed.notify_all()


@asynccontextmanager
async def served(rank: FakeRank) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_put("/v1/control", rank.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def driven(
    rank: FakeRank, board: Board, *, token: str = "secret"
) -> AsyncIterator[tuple[Link, asyncio.Task[None]]]:
    heard = asyncio.Event()
    async with served(rank) as url, ControlClient(token=token) as client:
        link = Link(url, client=client, wishes=board, hear=lambda _: heard.set())
        board.ranks[0] = RankProcess(0, asked=0.0, heard=0.0, link=link)
        async with asyncio.TaskGroup() as group:
            yield link, group.create_task(link.run())


def board(wait_seconds: float = 10.0) -> Board:
    return Board(memory_budget=64 << 20, wait_seconds=wait_seconds)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it becomes true on the other side of a socket
            await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_the_first_request_names_no_epoch_and_the_next_ones_do() -> None:
    rank = FakeRank()
    async with driven(rank, board()) as (link, _):
        await until(lambda: len(rank.told) == 2)
        assert (rank.told[0].epoch, rank.told[0].seen, rank.told[0].wait_seconds) == ("", 0, 0.0)
        assert rank.told[0].memory_budget == 64 << 20
        assert (rank.told[1].epoch, rank.told[1].seen, rank.told[1].wait_seconds) == ("e0", 1, 10.0)
        await rank.become(Phase.COMPLETE)
    assert link.observed is not None
    assert link.observed.phase is Phase.COMPLETE


@pytest.mark.asyncio
async def test_a_new_peer_table_is_sent_at_once_and_only_once() -> None:
    rank, wishes = FakeRank(), board(wait_seconds=30.0)
    async with driven(rank, wishes):
        await until(lambda: len(rank.told) == 2)  # the second is held
        wishes.peers = TABLE
        wishes.tell_all()
        await until(lambda: rank.peers_version == 1)
        await rank.become(Phase.COMPLETE)
    assert sum(desired.peers is not None for desired in rank.told) == 1


@pytest.mark.asyncio
async def test_the_order_to_stop_does_not_wait_for_a_held_request() -> None:
    rank, wishes = FakeRank(), board(wait_seconds=30.0)
    async with asyncio.timeout(10), driven(rank, wishes) as (link, _):
        await until(lambda: len(rank.told) == 2)
        wishes.order_stop(Stop(reason=Reason.ABORTED, message="enough"))
    assert link.observed is not None
    assert link.observed.phase is Phase.STOPPED


@pytest.mark.asyncio
async def test_a_rank_that_stumbles_is_asked_again() -> None:
    rank = FakeRank(statuses=[500, 503], phase=Phase.COMPLETE)
    async with driven(rank, board()) as (link, _):
        pass
    assert link.refused is None
    assert link.observed is not None


@pytest.mark.asyncio
async def test_a_refusal_is_final_and_one_line() -> None:
    async with driven(FakeRank(), board(), token="wrong") as (link, _):
        pass
    assert link.refused is not None
    assert not link.refused.lasting  # somebody else may have the address
    rank = FakeRank(statuses=[426])
    async with driven(rank, board()) as (link, _):
        pass
    assert link.refused is not None
    assert link.refused.lasting
    assert link.refused.message == "refused control (426): for a reason"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("speaks", "spoken"),
    [((1,), 1), ((1, 2), 2), ((2, 3), 2), ((3, 4), None), ((0,), None)],
    ids=["older", "same", "newer", "much newer", "much older"],
)
async def test_driver_and_rank_speak_the_newest_version_that_both_know(
    speaks: tuple[int, ...], spoken: int | None
) -> None:
    rank, wishes = FakeRank(speaks=speaks), board()
    wishes.throttle_level = 3
    async with asyncio.timeout(10), driven(rank, wishes) as (link, _):
        if spoken is not None:
            await until(lambda: len(rank.told) == 2)
            wishes.order_stop(Stop(reason=Reason.MEMORY_LIMIT_EXCEEDED, message="too much"))
    if spoken is None:
        assert link.refused is not None
        assert link.refused.lasting
        words = " and ".join(map(str, speaks))
        assert link.refused.message == (
            f"refused control (426): this rank speaks protocol {words}, the request has 2"
        )
        assert rank.told == []
        return
    assert link.refused is None
    assert {body["protocol"] for body in rank.bodies} == {spoken}
    assert all(("throttle_level" in body) == (spoken == 2) for body in rank.bodies)
    assert rank.told[-1].stop is not None
    assert rank.told[-1].stop.reason is (Reason.ABORTED if spoken == 1 else Reason.MEMORY_LIMIT_EXCEEDED)


@pytest.mark.asyncio
async def test_the_exchange_ends_with_a_process_that_is_gone() -> None:
    wishes = board()
    async with asyncio.timeout(10), ControlClient(token="secret") as client:
        async with served(FakeRank()) as url:
            pass  # nobody listens there any more
        link = Link(url, client=client, wishes=wishes, hear=lambda _: None)
        link.over = True
        await link.run()
    assert link.observed is None


@pytest.mark.asyncio
async def test_an_answer_that_cannot_be_read_is_none_and_it_is_asked_again() -> None:
    rank = FakeRank(statuses=[200], phase=Phase.COMPLETE)  # with words that are no state
    async with driven(rank, board()) as (link, _):
        pass
    assert link.observed is not None


@pytest.mark.asyncio
async def test_of_a_process_that_has_ended_the_answer_that_is_on_its_way_is_heard_and_no_other() -> None:
    rank, wishes = FakeRank(), board(wait_seconds=30.0)
    async with asyncio.timeout(10), driven(rank, wishes) as (link, _):
        await until(lambda: len(rank.told) == 2)  # the second is held
        link.over = True
        link.tell()
        await rank.become(Phase.CREATE)
    assert link.observed is not None
    assert link.observed.phase is Phase.CREATE
    assert len(rank.told) == 2


@pytest.mark.asyncio
async def test_an_older_answer_does_not_replace_a_newer_one() -> None:
    async with ControlClient(token="secret") as client:
        link = Link("http://x", client=client, wishes=board(), hear=lambda _: None)
        link._absorb(Observed(epoch="e", rank=0, version=3, phase=Phase.SCAN))
        link._absorb(Observed(epoch="e", rank=0, version=2, phase=Phase.LIST))
    assert link.observed is not None
    assert link.observed.phase is Phase.SCAN
