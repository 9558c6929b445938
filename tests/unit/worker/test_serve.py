"""The data endpoint, with the real client on one side or a raw and unfriendly one."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from aiohttp import web

from dsort_api.messages import PROTOCOL, Peer, PeerTable
from dsort_api.reasons import DSortError, Reason
from dsort_worker import serve
from dsort_worker.admission import Admission, asked_by
from dsort_worker.decisions import Decisions, Report
from dsort_worker.gather import Slices
from dsort_worker.line import LATEST, SOONEST
from dsort_worker.listing import pin
from dsort_worker.merge import Run
from dsort_worker.peers import Patience, Peers
from dsort_worker.rows import RowBlock
from dsort_worker.rowsreceiver import RowsReceiver
from dsort_worker.rowstore import RowStore
from dsort_worker.scratch import Scratch
from dsort_worker.serve import DataServer, Offers
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.state import Flowing
from dsort_worker.window import Placer
from dsort_worker.wire import encode_slices
from tests.support.flows import flows_of
from tests.support.rowblocks import Record, block_of, records_of
from tests.support.waiting import DEADLINE, idle, until

pytestmark = pytest.mark.asyncio

PIECE = 128 << 10
SIZE = 6 << 20


@dataclass
class Rank:
    """A serving rank with two input shards."""

    offers: Offers
    admission: Admission
    flow: Flowing
    url: str = ""
    server: DataServer | None = None
    sent: list[int] = field(default_factory=list)
    errors: list[DSortError] = field(default_factory=list)

    def sockets(self) -> Sequence[Any]:
        assert self.server is not None
        assert self.server._runner is not None
        (site,) = self.server._runner.sites
        assert isinstance(site, web.SockSite)
        assert isinstance(site._server, asyncio.Server)
        return site._server.sockets


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.tar").write_bytes(np.random.default_rng(number).bytes(SIZE))
    return folder


def files_of(root: Path) -> ShardFiles:
    return ShardFiles([pin(str(root), name) for name in sorted(os.listdir(root))], root=str(root))


@asynccontextmanager
async def serving(
    *,
    slots: int = 2,
    waiting: int = 128,
    silence: float = DEADLINE,
    decisions: Decisions | None = None,
    files: ShardFiles | None = None,
) -> AsyncIterator[Rank]:
    flow = Flowing()
    rank = Rank(Offers(), Admission(slots=slots, piece=PIECE, waiting=waiting, flow=flow), flow)
    if files is not None:
        rank.offers.files.set(files)
    with ThreadPoolExecutor(2) as threads:
        rank.server = DataServer(
            rank.offers,
            job="job",
            epoch="e1",
            token="secret",
            admission=rank.admission,
            threads=threads,
            decisions=decisions,
            poll=0.05,
            silence=silence,
            on_sent=rank.sent.append,
            on_error=rank.errors.append,
        )
        rank.url = await rank.server.start(host="127.0.0.1", port=0)
        try:
            async with asyncio.timeout(DEADLINE):
                yield rank
        finally:
            await rank.server.stop()
            rank.admission.close()
            if files is not None:
                files.close()


@asynccontextmanager
async def asking(
    rank: Rank, *, epoch: str = "e1", token: str = "secret", patience: float = 5.0
) -> AsyncIterator[Peers]:
    peers = Peers(
        rank=1,
        job="job",
        token=token,
        flows=flows_of(8),
        patience=Patience(connect=30.0, silence=30.0, peer=patience),
        on_received=lambda _: None,
    )
    async with peers:
        peers.update(PeerTable(version=1, peers=[Peer(rank=0, url=rank.url, epoch=epoch)]))
        yield peers


def slices_of(*entries: tuple[int, int, int]) -> Slices:
    columns = np.array(entries, dtype=np.int64).reshape(-1, 3).T
    return Slices(columns[0], columns[1], columns[2])


async def pull(peers: Peers, slices: Slices) -> bytes:
    out = bytearray(slices.size)
    places = np.cumsum(slices.length) - slices.length
    await peers.stream(
        0,
        "/v1/slices",
        body=encode_slices(slices),
        sink=lambda: Placer(memoryview(out), places=places, lengths=slices.length),
        size=slices.size,
    )
    return bytes(out)


HEADERS = {
    "Authorization": "Bearer secret",
    "X-Dsort-Job": "job",
    "X-Dsort-Epoch": "e1",
    "X-Dsort-Protocol": str(PROTOCOL),
}


def request_bytes(path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    lines = "".join(
        f"{name}: {value}\r\n" for name, value in (HEADERS if headers is None else headers).items()
    )
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def connected(
    rank: Rank, *, receive: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that takes nothing beyond its buffers (receive: bytes of the socket's) unless it is read."""
    one = socket.socket()
    if receive is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    one.setblocking(False)
    await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", int(rank.url.rpartition(":")[2])))
    reader, writer = await asyncio.open_connection(sock=one, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer_to(
    rank: Rank, path: str, body: bytes = b"", changed: dict[str, str] | None = None
) -> tuple[int, str]:
    headers = {**HEADERS, **(changed or {})}
    async with connected(rank) as (reader, writer):
        writer.write(request_bytes(path, body, headers))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            (int(line.split()[1]) for line in head.split("\r\n") if line.startswith("Content-Length")), 0
        )
        return int(head.split()[1]), (await reader.readexactly(length)).decode()


async def test_slices_are_the_bytes_of_the_shards(root: Path) -> None:
    slices = slices_of((1, 512, 1024), (0, 0, SIZE), (1, SIZE - 512, 512), (0, 1024, 0))
    shards = [(root / f"{number}.tar").read_bytes() for number in range(2)]
    async with serving(files=files_of(root)) as rank, asking(rank) as peers:
        got = await pull(peers, slices)
        assert await pull(peers, slices_of()) == b""
        assert got == shards[1][512:1536] + shards[0] + shards[1][-512:]
        assert sum(rank.sent) == len(got)
        assert rank.errors == []


def store_of(block: RowBlock) -> RowStore:
    """The rows of a block as they stand, in a scratch file."""
    return RowStore.write(block, np.arange(len(block)), scratch=Scratch(None))


def arrived(receiver: RowsReceiver) -> RowBlock:
    """What came off the wire, in memory."""
    block = receiver.finish()
    assert isinstance(block, RowBlock)
    return block


async def test_rows_are_those_of_the_askers_range() -> None:
    records = [Record(0, ((number, 1), (50, 2)), key=bytes([number])) for number in range(10)]
    block = block_of(records)
    store = store_of(block)
    async with serving() as rank, asking(rank) as peers, asyncio.TaskGroup() as group:
        asked = group.create_task(peers.stream(0, "/v1/rows/1", sink=lambda: RowsReceiver(has_keys=True)))
        await idle()
        rank.offers.rows.set((store, [0, 3, 7, 10]))  # what was not there yet is waited for
        assert records_of(arrived(await asked)) == records[3:7]
        last = await peers.stream(0, "/v1/rows/2", sink=lambda: RowsReceiver(has_keys=True))
        assert records_of(arrived(last)) == records[7:]
        for wrong in ("3", "-1", "x"):
            assert (await answer_to(rank, f"/v1/rows/{wrong}"))[0] == 400


async def test_the_first_cell_is_served() -> None:
    records = [Record(0, ((number, 1), (50, 2))) for number in range(3)]
    async with serving() as rank, asking(rank) as peers:
        rank.offers.cell.set(Run(store_of(block_of(records)), 0, 2))
        sink = await peers.stream(0, "/v1/cell", sink=lambda: RowsReceiver(has_keys=False))
        assert records_of(arrived(sink)) == records[:2]


async def test_what_is_not_there_yet_is_answered_with_204() -> None:
    async with serving() as rank:
        for path in ("/v1/slices", "/v1/rows/0", "/v1/cell"):
            assert (await answer_to(rank, path))[0] == 204


async def test_requests_meant_for_others_are_refused(root: Path) -> None:
    async with serving(files=files_of(root)) as rank:
        assert (await answer_to(rank, "/v1/slices", changed={"Authorization": ""}))[0] == 401
        assert (await answer_to(rank, "/v1/slices", changed={"Authorization": "Bearer guess"}))[0] == 401
        assert (await answer_to(rank, "/v1/slices", changed={"Authorization": "Bearer s\u00e9cret"}))[
            0
        ] == 401
        code, text = await answer_to(rank, "/v1/slices", changed={"X-Dsort-Protocol": "99"})
        assert (code, text) == (426, "this rank speaks protocol 1 and 2, the request has 99")
        assert (await answer_to(rank, "/v1/slices", changed={"X-Dsort-Epoch": "e0"}))[0] == 409
        assert (await answer_to(rank, "/v1/slices", changed={"X-Dsort-Job": "other"}))[0] == 409
        assert (await answer_to(rank, "/v1/steps/list", b"{}"))[0] == 404
        assert (await answer_to(rank, "/v1/slices", b"abc"))[0] == 400
        assert await answer_to(rank, "/v1/slices") == (400, "a slices request of 0 bytes")
        code, text = await answer_to(rank, "/v1/slices", encode_slices(slices_of((2, 0, 512))))
        assert (code, text) == (400, "shard 2 is not in the listing")
        assert rank.sent == []
        assert rank.errors == []


async def test_another_token_is_refused(root: Path) -> None:
    async with serving(files=files_of(root)) as rank, asking(rank, token="guess", patience=0.1) as peers:
        with pytest.raises(DSortError, match="401 this rank wants its job's bearer token") as caught:
            await pull(peers, slices_of((0, 0, 512)))
        assert caught.value.reason is Reason.PEER_LOST


@pytest.mark.parametrize(
    ("asker", "server", "spoken"),
    [
        (2, (1, 2), "2"),
        (2, (1,), "1"),  # an older rank
        (2, (2, 3), "2"),  # a newer one
        (2, (3, 4), None),
        (1, (1, 2), "1"),
        (1, (1,), "1"),
        (1, (2, 3), None),  # it has fallen back to 1 already
        (3, (1, 2), "2"),
        (1, (3, 4), None),
        (2, (0,), None),
    ],
)
async def test_ranks_of_two_versions_speak_the_newest_that_both_know(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    asker: int,
    server: tuple[int, ...],
    spoken: str | None,
) -> None:
    words = " and ".join(map(str, server))
    monkeypatch.setattr("dsort_worker.peers.PROTOCOL", asker)
    monkeypatch.setattr(serve, "_SPOKEN", frozenset(map(str, server)))
    monkeypatch.setattr(
        serve, "refusal", lambda version: f"this rank speaks protocol {words}, the request has {version}"
    )
    heard: list[str | None] = []

    def listen(headers: Mapping[str, str], **size: Any) -> Any:
        heard.append(headers.get("X-Dsort-Protocol"))
        return asked_by(headers, **size)

    monkeypatch.setattr(serve, "asked_by", listen)
    async with serving(files=files_of(root)) as rank, asking(rank) as peers:
        if spoken is None:
            with pytest.raises(
                DSortError, match=f"rank 0 refused protocol {asker}: .* {words}, the"
            ) as caught:
                await pull(peers, slices_of((0, 0, 512)))
            assert caught.value.reason is Reason.PROTOCOL_MISMATCH
        else:
            for _ in range(2):
                assert len(await pull(peers, slices_of((0, 0, 512)))) == 512
            assert heard == [spoken, spoken]


@contextmanager
def deciding(ranks: int) -> Iterator[Decisions]:
    def decide(reports: Sequence[Report]) -> Report:
        if any(report.get("fail") for report in reports):
            raise DSortError(Reason.MISSING_SHARDS, "shard a.tar is missing")
        return {"sum": sum(report["value"] for report in reports)}

    with ThreadPoolExecutor(1) as threads:
        yield Decisions(
            {"sum": decide, "other": decide}, ranks=ranks, folder=None, epoch="e", threads=threads
        )


async def test_steps_are_answered_when_all_have_reported() -> None:
    with deciding(2) as decisions:
        async with serving(decisions=decisions) as rank, asking(rank) as peers, asyncio.TaskGroup() as group:
            assert (await answer_to(rank, "/v1/steps/sum", b'{"rank": 0, "report": {"value": 1}}'))[0] == 204
            asked = [
                group.create_task(
                    peers.post_json(
                        0, "/v1/steps/sum", json.dumps({"rank": one, "report": {"value": one + 1}}).encode()
                    )
                )
                for one in range(2)
            ]
            assert [json.loads(await one) for one in asked] == [{"sum": 3}] * 2
            assert (await answer_to(rank, "/v1/steps/guess", b'{"rank": 0, "report": {}}'))[0] == 400
            for report in (b"no json", b"[]", b'{"rank": "0", "report": {}}', b'{"rank": 0}'):
                assert (await answer_to(rank, "/v1/steps/sum", report))[0] == 400
            code, text = await answer_to(rank, "/v1/steps/other", b'{"rank": 0, "report": {"fail": 1}}')
            assert code == 204
            code, text = await answer_to(rank, "/v1/steps/other", b'{"rank": 1, "report": {"fail": 1}}')
            assert (code, text) == (500, "shard a.tar is missing")
            assert [error.reason for error in rank.errors] == [Reason.MISSING_SHARDS]


async def test_a_receiver_that_takes_nothing_holds_its_own_slot_only(root: Path) -> None:
    whole = slices_of((0, 0, SIZE), (1, 0, SIZE), (0, 0, SIZE))
    async with (
        serving(slots=2, files=files_of(root)) as rank,
        connected(rank, receive=4096) as (reader, writer),
    ):
        writer.write(request_bytes("/v1/slices", encode_slices(whole)))
        await reader.readuntil(b"\r\n\r\n")
        async with asking(rank) as peers:
            for _ in range(5):
                assert await pull(peers, slices_of((1, 0, SIZE))) == (root / "1.tar").read_bytes()
        # And what it asked for is whole, when it takes it at last.
        body = await reader.readexactly(whole.size)
        assert body[SIZE : 2 * SIZE] == (root / "1.tar").read_bytes()
        assert body[:SIZE] == body[2 * SIZE :] == (root / "0.tar").read_bytes()


async def test_a_receiver_that_takes_nothing_loses_its_slot(root: Path) -> None:
    async with (
        serving(slots=1, silence=0.2, files=files_of(root)) as rank,
        connected(rank, receive=4096) as (reader, writer),
    ):
        writer.write(
            request_bytes("/v1/slices", encode_slices(slices_of((0, 0, SIZE), (1, 0, SIZE), (0, 0, SIZE))))
        )
        await reader.readuntil(b"\r\n\r\n")
        async with asking(rank) as peers:
            assert await pull(peers, slices_of((1, 0, 1024))) == (root / "1.tar").read_bytes()[:1024]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(3 * SIZE + 8)
        assert rank.errors == []


async def test_a_slot_is_held_until_the_last_byte_has_left_its_buffer(root: Path) -> None:
    async with serving(slots=1, files=files_of(root)) as rank:
        for one in rank.sockets():  # connections inherit it: even a small answer does not fit
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with connected(rank, receive=4096) as (reader, writer), asyncio.TaskGroup() as group:
            writer.write(request_bytes("/v1/slices", encode_slices(slices_of((0, 0, 60 * 1024)))))
            await reader.readuntil(b"\r\n\r\n")
            await until(lambda: rank.admission._buffers.lent == 2)
            async with asking(rank) as peers:
                other = group.create_task(pull(peers, slices_of((1, 0, 512))))
                await until(lambda: rank.admission.waiting == 1)
                await idle(200)
                assert not other.done()
                assert await reader.readexactly(60 * 1024) == (root / "0.tar").read_bytes()[: 60 * 1024]
                assert await other == (root / "1.tar").read_bytes()[:512]


async def test_past_the_queue_a_request_is_told_to_come_back_and_gets_its_turn(root: Path) -> None:
    whole = encode_slices(slices_of((0, 0, SIZE), (1, 0, SIZE), (0, 0, SIZE)))
    async with (
        serving(slots=1, waiting=1, files=files_of(root)) as rank,
        connected(rank, receive=4096) as (reader, writer),
    ):
        writer.write(request_bytes("/v1/slices", whole))
        await reader.readuntil(b"\r\n\r\n")
        async with asking(rank) as peers, asyncio.TaskGroup() as group:
            asked = [group.create_task(pull(peers, slices_of((1, number * 512, 512)))) for number in range(6)]
            await until(lambda: rank.admission.waiting == 1)
            async with connected(rank) as (refused, ask):
                ask.write(request_bytes("/v1/slices", encode_slices(slices_of((0, 0, 512)))))
                head = (await refused.readuntil(b"\r\n\r\n")).decode()
                assert head.startswith("HTTP/1.1 503")
                ticket = re.search(r"X-Dsort-Ticket: (\d+)\r\n", head)
                assert ticket is not None
                seconds = re.search(r"Retry-After: (\d\.\d\d)\r\n", head)
                assert seconds is not None
                assert SOONEST <= float(seconds[1]) <= LATEST
            # A rank that is one version older knows of no tickets, and nobody waits for it.
            old = {**HEADERS, "X-Dsort-Protocol": "1"}
            async with connected(rank) as (refused, ask):
                ask.write(request_bytes("/v1/slices", encode_slices(slices_of((0, 0, 512))), old))
                head = (await refused.readuntil(b"\r\n\r\n")).decode()
                assert head.startswith("HTTP/1.1 503")
                assert "Retry-After: " in head
                assert "Ticket" not in head
            await reader.readexactly(3 * SIZE)
        content = (root / "1.tar").read_bytes()
        assert [one.result() for one in asked] == [content[number * 512 :][:512] for number in range(6)]
        assert rank.flow.refused >= 6


async def test_a_shard_that_ends_while_it_is_sent_ends_the_connection_not_the_body(root: Path) -> None:
    files = files_of(root)
    with files.opened([0]):
        pass
    os.truncate(root / "0.tar", SIZE - 512)
    async with serving(slots=1, files=files) as rank, connected(rank) as (reader, writer):
        writer.write(request_bytes("/v1/slices", encode_slices(slices_of((0, 0, SIZE)))))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)) as ended:
            await reader.readexactly(SIZE + 8)
        if isinstance(ended.value, asyncio.IncompleteReadError):
            assert (root / "0.tar").read_bytes().startswith(ended.value.partial)
        (error,) = rank.errors
        assert error.reason is Reason.INPUT_CHANGED
        assert "0.tar" in error.message
        # Told before anything was sent, it is an answer.
        code, text = await answer_to(rank, "/v1/slices", encode_slices(slices_of((0, SIZE - 512, 512))))
        assert (code, text) == (500, error.message)
        assert rank.admission._buffers.lent == 0


async def test_a_scratch_file_that_cannot_be_read_fails_the_rank(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="aiohttp.server")
    store = store_of(block_of([Record(0, ((0, 1),))]))
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    async with serving() as rank:
        rank.offers.rows.set((store, [0, 1]))
        with mock.patch.object(os, "preadv", side_effect=broken):
            assert (await answer_to(rank, "/v1/rows/0"))[0] == 500
        (error,) = rank.errors
        assert (error.reason, error.message) == (Reason.OUTPUT_UNWRITABLE, "scratch file: Input/output error")


class Blocking(ShardFiles):
    """Shards whose reads wait until they are let go."""

    def __init__(self, root: Path) -> None:
        super().__init__([pin(str(root), name) for name in sorted(os.listdir(root))], root=str(root))
        self.reading = threading.Event()
        self.go_on = threading.Event()

    def opened(self, ordinals: Sequence[int]) -> Any:
        self.reading.set()
        assert self.go_on.wait(DEADLINE)
        return super().opened(ordinals)


async def test_a_response_that_is_ended_keeps_its_buffers_until_the_thread_is_done(root: Path) -> None:
    files = Blocking(root)
    async with (
        serving(slots=1, files=files) as rank,
        connected(rank) as (_, writer),
        asyncio.TaskGroup() as group,
    ):
        writer.write(request_bytes("/v1/slices", encode_slices(slices_of((0, 0, SIZE)))))
        await asyncio.to_thread(files.reading.wait, DEADLINE)
        assert rank.server is not None
        stopping = group.create_task(rank.server.stop())
        # The server gives its handlers half a second, then it cancels them.
        handlers = [task for task in asyncio.all_tasks() if "RequestHandler" in repr(task.get_coro())]
        await until(lambda: stopping.done() or any(task.cancelling() for task in handlers))
        await idle()
        assert rank.admission._buffers.lent == 2
        files.go_on.set()
        await stopping
        await until(lambda: rank.admission._buffers.lent == 0)


async def test_a_receiver_that_goes_away_gives_its_slot_back(root: Path) -> None:
    async with serving(slots=1, files=files_of(root)) as rank:
        for _ in range(3):
            async with connected(rank, receive=4096) as (reader, writer):
                writer.write(
                    request_bytes("/v1/slices", encode_slices(slices_of((0, 0, SIZE), (1, 0, SIZE))))
                )
                await reader.readuntil(b"\r\n\r\n")
        async with asking(rank) as peers:
            assert len(await pull(peers, slices_of((0, 0, 512)))) == 512
        assert rank.errors == []


class Breaking(ThreadPoolExecutor):
    """An executor on a machine that gives no more threads."""

    def submit(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("can't start new thread")


async def test_what_nobody_expected_ends_the_rank_by_name(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(files=files_of(root)) as rank:
        assert rank.server is not None
        rank.server._threads = Breaking(1)
        code, text = await answer_to(rank, "/v1/slices", encode_slices(slices_of((0, 0, 512))))
        assert (code, text) == (500, "/v1/slices: RuntimeError: can't start new thread")
        (error,) = rank.errors
        assert (error.reason, error.message) == (Reason.INTERNAL, text)
        (record,) = [one for one in caplog.records if one.name == "dsort.serve"]
        assert record.exc_info is not None
        assert rank.admission._buffers.lent == 0
        assert (await answer_to(rank, "/v1/nowhere"))[0] == 404  # a wrong address is the asker's own mistake
        assert len(rank.errors) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("Ticket", "mine"), ("Size", "big"), ("Deadline", "soon"), ("Deadline", "nan")]
)
async def test_headers_that_are_no_numbers_are_the_askers_mistake(root: Path, name: str, value: str) -> None:
    async with serving(files=files_of(root)) as rank:
        body = encode_slices(slices_of((0, 0, 512)))
        assert (await answer_to(rank, "/v1/slices", body, {f"X-Dsort-{name}": value}))[0] == 400
        assert rank.errors == []


async def test_who_hangs_up_gives_up_its_place(root: Path) -> None:
    whole = encode_slices(slices_of((0, 0, SIZE), (1, 0, SIZE), (0, 0, SIZE)))
    async with (
        serving(slots=1, files=files_of(root)) as rank,
        connected(rank, receive=4096) as (reader, writer),
    ):
        writer.write(request_bytes("/v1/slices", whole))
        await reader.readuntil(b"\r\n\r\n")
        async with connected(rank) as (_, other):
            other.write(request_bytes("/v1/slices", encode_slices(slices_of((0, 0, 512)))))
            await until(lambda: rank.flow.queued == 1)
        await until(lambda: rank.flow.queued == 0)
        assert rank.flow.serving == 1


async def test_a_body_that_does_not_come_loses_its_slot(root: Path) -> None:
    body = encode_slices(slices_of((0, 0, 512)))
    async with serving(slots=1, silence=0.2, files=files_of(root)) as rank, connected(rank) as (_, writer):
        writer.write(request_bytes("/v1/slices", body)[:-1])
        await until(lambda: rank.flow.serving == 1)
        async with asking(rank) as peers:
            assert len(await pull(peers, slices_of((1, 0, 512)))) == 512
        assert rank.errors == []


async def test_steps_need_no_slot(root: Path) -> None:
    whole = encode_slices(slices_of((0, 0, SIZE), (1, 0, SIZE), (0, 0, SIZE)))
    with deciding(1) as decisions:
        async with (
            serving(slots=1, waiting=1, decisions=decisions, files=files_of(root)) as rank,
            connected(rank, receive=4096) as (reader, writer),
            connected(rank) as (_, other),
        ):
            writer.write(request_bytes("/v1/slices", whole))
            await reader.readuntil(b"\r\n\r\n")
            other.write(request_bytes("/v1/slices", encode_slices(slices_of((0, 0, 512)))))
            await until(lambda: rank.flow.queued == 1)
            code, text = await answer_to(rank, "/v1/steps/sum", b'{"rank": 0, "report": {"value": 1}}')
            assert (code, json.loads(text)) == (200, {"sum": 1})


async def test_past_a_number_of_connections_one_that_has_brought_its_answer_is_closed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(files=files_of(root)) as rank:
        for most, closes in ((1, False), (0, True)):
            monkeypatch.setattr(serve, "_KEPT_CONNECTIONS", most)
            async with connected(rank) as (reader, writer):
                writer.write(request_bytes("/v1/slices", encode_slices(slices_of((0, 0, 512)))))
                head = await reader.readuntil(b"\r\n\r\n")
                assert (b"Connection: close" in head) == closes
                await reader.readexactly(512 + 8)
            await until(lambda: rank.server is not None and rank.server._connections() == 0)
