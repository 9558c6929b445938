"""Requests to other ranks, against peers that do everything wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from dsort_api.messages import PROTOCOL, Peer, PeerTable
from dsort_api.reasons import DSortError, Reason
from dsort_worker.peers import Patience, Peers
from dsort_worker.window import Placer
from dsort_worker.wire import Checksum, checksum_bytes
from tests.support.flows import flows_of
from tests.support.tcpserver import serving
from tests.support.waiting import DEADLINE, idle, until

pytestmark = pytest.mark.asyncio

PAYLOAD = np.random.default_rng(1).bytes(300_000)
QUICK = Patience(connect=5.0, silence=5.0, peer=5.0, poll=0.05)

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def stream(payload: bytes = PAYLOAD, *, checksum: bytes | None = None, length: int | None = None) -> bytes:
    digest = Checksum()
    digest.update(payload)
    body = payload + (checksum_bytes(digest) if checksum is None else checksum)
    size = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size + body


def status(code: int, text: str = "", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    length = "" if code == 204 else f"Content-Length: {len(text)}\r\n"
    return f"HTTP/1.1 {code} Words\r\n{lines}{length}Connection: close\r\n\r\n{text}".encode()


@dataclass
class Script:
    """A peer that gives one answer after the other, and the last one for ever."""

    answers: list[Answer]
    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.strip().split("\r\n")
            headers = dict(entry.split(": ", 1) for entry in lines)
            body = await reader.readexactly(int(headers.get("Content-Length", 0)))
            self.requests.append((line, headers, body))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def scripted(*answers: Answer) -> AsyncIterator[Script]:
    script = Script(list(answers))
    async with serving(script.serve, "127.0.0.1", 0) as (_, port):
        script.url = f"http://127.0.0.1:{port}"
        yield script


def table(*scripts: Script, version: int = 1, epoch: str = "e1") -> PeerTable:
    peers = [Peer(rank=rank, url=script.url, epoch=epoch) for rank, script in enumerate(scripts)]
    return PeerTable(version=version, peers=peers)


@asynccontextmanager
async def asking(
    *scripts: Script, patience: Patience = QUICK, flows: int = 4, received: list[int] | None = None
) -> AsyncIterator[Peers]:
    counted = [] if received is None else received
    peers = Peers(
        rank=7,
        job="job",
        token="secret",
        flows=flows_of(flows),
        patience=patience,
        on_received=counted.append,
    )
    async with asyncio.timeout(DEADLINE), peers:
        if scripts:
            peers.update(table(*scripts))
        yield peers


class Target:
    """A window of the size of the payload."""

    def __init__(self, size: int = len(PAYLOAD)) -> None:
        self.out = bytearray(size)
        self.made = 0

    def sink(self) -> Placer:
        self.made += 1
        return Placer(memoryview(self.out), places=np.array([0]), lengths=np.array([len(self.out)]))


async def test_a_stream_is_placed_and_counted() -> None:
    received: list[int] = []
    target = Target()
    async with scripted(stream()) as peer, asking(peer, received=received) as peers:
        await peers.stream(0, "/v1/slices", body=b"which", sink=target.sink, size=len(PAYLOAD))
    assert bytes(target.out) == PAYLOAD
    assert sum(received) == len(PAYLOAD)
    ((line, headers, body),) = peer.requests
    assert line == "POST /v1/slices HTTP/1.1"
    assert body == b"which"
    assert headers["Authorization"] == "Bearer secret"
    assert headers["X-Dsort-Job"] == "job"
    assert headers["X-Dsort-Epoch"] == "e1"
    assert headers["X-Dsort-Rank"] == "7"
    assert headers["X-Dsort-Protocol"] == str(PROTOCOL)
    assert headers["X-Dsort-Size"] == str(len(PAYLOAD))
    assert headers["X-Dsort-Deadline"] == f"{0.8 * QUICK.silence:.1f}"
    assert "X-Dsort-Ticket" not in headers
    assert "Accept-Encoding" not in headers


async def stalls(writer: asyncio.StreamWriter) -> None:
    """Half of the stream, and then nothing until the asker goes away."""
    writer.write(stream()[:150_000])
    await writer.drain()
    while not writer.is_closing():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(stream(checksum=b"\0" * 8), id="wrong checksum"),
        pytest.param(
            stream(PAYLOAD[:-1] + b"\0"), id="other bytes, right checksum of them, wrong for the size"
        ),
        pytest.param(stream()[:100_000], id="ends in mid body"),
        pytest.param(stream()[:-3], id="ends in the checksum"),
        pytest.param(stream()[:10], id="ends in the headers"),
        pytest.param(b"", id="no answer"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="another protocol"),
        pytest.param(stream(PAYLOAD[:-1]), id="too short for what was asked"),
        pytest.param(stream(PAYLOAD + b"x"), id="too long for what was asked"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", id="no room for a checksum"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="no length"
        ),
        pytest.param(status(500, "the disk is gone"), id="500"),
        pytest.param(status(409, "another epoch"), id="409"),
        pytest.param(stalls, id="stalls in mid body"),
    ],
)
async def test_whatever_broke_is_asked_for_again_from_the_start(
    answer: Answer, request: pytest.FixtureRequest
) -> None:
    if "other bytes" in request.node.name:
        answer = stream(PAYLOAD[:-1] + b"\0", checksum=stream()[-8:])
    target = Target()
    patience = Patience(connect=5.0, silence=0.2, peer=5.0)
    async with scripted(answer, stream()) as peer, asking(peer, patience=patience) as peers:
        await peers.stream(0, "/v1/slices", sink=target.sink, size=len(PAYLOAD))
    assert bytes(target.out) == PAYLOAD
    assert len(peer.requests) == 2


async def test_more_than_the_sink_has_room_for_is_refused() -> None:
    first, second = Target(10), Target()
    targets = [first, second]
    async with scripted(stream()) as peer, asking(peer) as peers:
        await peers.stream(0, "/v1/rows/0", sink=lambda: targets.pop(0).sink())
    assert bytes(second.out) == PAYLOAD
    assert bytes(first.out) == PAYLOAD[:10]


async def test_each_attempt_has_a_fresh_sink() -> None:
    target = Target()
    async with (
        scripted(stream()[:70_000], stream(checksum=bytes(8)), stream()) as peer,
        asking(peer) as peers,
    ):
        await peers.stream(0, "/v1/slices", sink=target.sink, size=len(PAYLOAD))
    assert target.made == 3
    assert bytes(target.out) == PAYLOAD


@pytest.mark.parametrize(
    "answer",
    [
        status(204),
        status(503, Retry_After="0.001"),
        status(503, Retry_After="-1"),
        status(503, Retry_After="soon"),
    ],
    ids=["204", "503", "503 from the past", "503 without a number"],
)
async def test_a_peer_that_is_not_ready_is_alive(answer: Answer) -> None:
    # No patience at all: any answer of a live peer starts it anew.
    patience = Patience(connect=5.0, silence=5.0, peer=0.0)
    async with scripted(*[answer] * 3, status(200, "{}")) as peer, asking(peer, patience=patience) as peers:
        assert await peers.post_json(0, "/v1/steps/list", b"[]") == b"{}"
    assert len(peer.requests) == 4
    assert peer.requests[0][1]["Content-Type"] == "application/json"


async def test_a_ticket_is_shown_to_who_gave_it_until_it_is_served() -> None:
    busy = [status(503, Retry_After="0.01", X_Dsort_Ticket=ticket) for ticket in ("7", "7", "9")]
    target = Target()
    async with scripted(*busy, stream()) as peer, asking(peer) as peers:
        await peers.stream(0, "/v1/slices", sink=target.sink, size=len(PAYLOAD))
        await peers.stream(0, "/v1/slices", sink=target.sink, size=len(PAYLOAD))
    shown = [headers.get("X-Dsort-Ticket") for _, headers, _ in peer.requests]
    assert shown == [None, "7", "7", "9", None]


async def test_a_ticket_ends_with_the_life_of_who_gave_it() -> None:
    target = Target()
    async with (
        scripted(status(503, Retry_After="60", X_Dsort_Ticket="7")) as old,
        scripted(stream()) as new,
        asking(old) as peers,
        asyncio.TaskGroup() as group,
    ):
        asked = group.create_task(peers.stream(0, "/v1/slices", sink=target.sink, size=len(PAYLOAD)))
        await until(lambda: old.requests)
        await idle()
        peers.update(table(new, version=2, epoch="e2"))
        await asked
    ((_, headers, _),) = new.requests
    assert "X-Dsort-Ticket" not in headers


async def test_a_request_that_is_away_keeps_its_flow_to_come_back_with() -> None:
    # As in a line: who was sent away is served first, and a slot waits for it.
    is_back = asyncio.Event()
    sent_away: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "X-Dsort-Ticket: 7" in head:
            is_back.set()
        elif not sent_away:
            sent_away.append(head)
            writer.write(status(503, Retry_After="0.01", X_Dsort_Ticket="7"))
            writer.close()
            return
        await is_back.wait()
        writer.write(stream())
        await writer.drain()
        writer.close()

    targets = [Target(), Target()]
    async with serving(serve, "127.0.0.1", 0) as (_, port):
        peer = Script([], url=f"http://127.0.0.1:{port}")
        async with asking(peer, flows=1) as peers, asyncio.TaskGroup() as group:
            for target in targets:
                group.create_task(peers.stream(0, "/v1/slices", sink=target.sink, size=len(PAYLOAD)))
    assert [bytes(target.out) for target in targets] == [PAYLOAD, PAYLOAD]


async def test_an_older_rank_is_asked_in_its_version_from_then_on() -> None:
    refusal = status(426, "this rank speaks protocol 1, the request has 2")
    async with scripted(refusal, status(200, "{}")) as peer, asking(peer) as peers:
        for _ in range(2):
            await peers.post_json(0, "/v1/steps/list", b"")
    assert [headers["X-Dsort-Protocol"] for _, headers, _ in peer.requests] == ["2", "1", "1"]


async def test_a_new_peer_table_ends_the_wait_and_goes_to_the_new_epoch() -> None:
    async with (
        scripted(status(503, Retry_After="60")) as old,
        scripted(status(200, "{}")) as new,
        asking(old) as peers,
        asyncio.TaskGroup() as group,
    ):
        asked = group.create_task(peers.post_json(0, "/v1/steps/list", b""))
        await until(lambda: old.requests)
        await idle()
        peers.update(table(new, version=2, epoch="e2"))
        assert await asked == b"{}"
    assert len(old.requests) == 1
    assert new.requests[0][1]["X-Dsort-Epoch"] == "e2"


async def test_after_a_409_the_next_peer_table_is_waited_for() -> None:
    target = Target()
    async with (
        scripted(status(409, "this rank lives in epoch e2")) as old,
        scripted(stream()) as new,
        asking(old) as peers,
        asyncio.TaskGroup() as group,
    ):
        asked = group.create_task(peers.stream(0, "/v1/slices", sink=target.sink, size=len(PAYLOAD)))
        await until(lambda: len(old.requests) > 1)
        peers.update(table(new, version=2, epoch="e2"))
        await asked
    assert bytes(target.out) == PAYLOAD
    assert {headers["X-Dsort-Epoch"] for _, headers, _ in old.requests} == {"e1"}
    assert [headers["X-Dsort-Epoch"] for _, headers, _ in new.requests] == ["e2"]


async def test_a_peer_that_vanished_is_given_up_for_its_successor_at_once() -> None:
    target = Target()
    async with (
        scripted(stalls) as old,
        scripted(stream()) as new,
        asking(old, patience=Patience(silence=2 * DEADLINE)) as peers,
        asyncio.TaskGroup() as group,
    ):
        asked = group.create_task(peers.stream(0, "/v1/slices", sink=target.sink, size=len(PAYLOAD)))
        await until(lambda: target.made)
        peers.update(table(old, version=2))  # not this rank was replaced
        await idle()
        assert not asked.done()
        peers.update(table(new, version=3, epoch="e2"))
        peers.update(table(new, version=4, epoch="e3"))
        await asked
    assert bytes(target.out) == PAYLOAD
    assert target.made == 2
    assert len(old.requests) == 1
    assert [headers["X-Dsort-Epoch"] for _, headers, _ in new.requests] == ["e3"]


async def lost(*answers: Answer) -> DSortError:
    patience = Patience(connect=1.0, silence=1.0, peer=0.2)
    async with scripted(*answers) as peer, asking(peer, patience=patience) as peers:
        with pytest.raises(DSortError) as caught:
            await peers.post_json(0, "/v1/steps/list", b"")
    return caught.value


@pytest.mark.parametrize(
    ("answer", "words"), [(status(401, "no token"), "401 no token"), (b"", "ServerDisconnected")]
)
async def test_patience_has_an_end(answer: Answer, words: str) -> None:
    error = await lost(answer)
    assert error.reason is Reason.PEER_LOST
    assert "rank 0 did not answer /v1/steps/list for 0 s" in error.message
    assert words in error.message


async def test_a_peer_that_is_gone_is_lost() -> None:
    async with scripted(b"") as peer:
        pass
    async with asking(peer, patience=Patience(connect=1.0, peer=0.2)) as peers:
        with pytest.raises(DSortError, match="rank 0 did not answer") as caught:
            await peers.stream(0, "/v1/slices", sink=Target().sink)
    assert caught.value.reason is Reason.PEER_LOST


async def trickles(writer: asyncio.StreamWriter) -> None:
    """Half of the stream, in more time than anybody is waited for, and then nothing ever again."""
    for low in range(0, 150_000, 10_000):
        writer.write(stream()[low : low + 10_000])
        await writer.drain()
        await asyncio.sleep(0.02)


async def test_patience_begins_anew_with_every_byte() -> None:
    target = Target()
    patience = Patience(connect=1.0, silence=1.0, peer=0.2)
    async with scripted(trickles, stream()) as peer, asking(peer, patience=patience) as peers:
        await peers.stream(0, "/v1/rows/0", sink=target.sink)
    assert bytes(target.out) == PAYLOAD
    assert target.made == 2


async def test_patience_does_not_run_while_a_request_waits_for_its_turn() -> None:
    first, second = Target(), Target()
    patience = Patience(connect=5.0, silence=5.0, peer=0.2)
    async with (
        scripted(trickles, stream(), b"", stream()) as peer,
        asking(peer, patience=patience, flows=1) as peers,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(peers.stream(0, "/v1/rows/0", sink=first.sink))
        group.create_task(peers.stream(0, "/v1/rows/1", sink=second.sink))  # its first answer is none
    assert bytes(first.out) == bytes(second.out) == PAYLOAD


async def test_another_protocol_is_told_at_once() -> None:
    error = await lost(status(426, "this rank speaks protocol 3 and 4, the request has 2"))
    assert error.reason is Reason.PROTOCOL_MISMATCH
    assert "refused protocol 2: this rank speaks protocol 3 and 4" in error.message


async def test_nothing_is_asked_before_the_first_peer_table() -> None:
    async with scripted(status(200, "{}")) as peer, asking() as peers, asyncio.TaskGroup() as group:
        asked = group.create_task(peers.post_json(0, "/v1/steps/list", b""))
        await idle()
        assert not asked.done()
        peers.update(table(peer))
        assert await asked == b"{}"


async def test_streams_are_bounded_and_questions_do_not_wait_behind_them() -> None:
    inside: list[asyncio.StreamWriter] = []
    go_on = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        inside.append(writer)
        await go_on.wait()
        writer.write(stream())
        await writer.drain()

    targets = [Target() for _ in range(5)]
    async with (
        scripted(slow) as data,
        scripted(status(200, json.dumps({"a": 1}))) as zero,
        asking(zero, data, flows=2) as peers,
        asyncio.TaskGroup() as group,
    ):
        for target in targets:
            group.create_task(peers.stream(1, "/v1/slices", sink=target.sink, size=len(PAYLOAD)))
        await until(lambda: len(inside) == 2)
        assert await peers.post_json(0, "/v1/steps/list", b"") == b'{"a": 1}'
        await idle()
        assert len(inside) == 2
        go_on.set()
    assert all(bytes(target.out) == PAYLOAD for target in targets)


async def test_peers_are_asked_inside_the_block_only() -> None:
    peers = Peers(rank=0, job="job", token="", flows=flows_of(1), patience=QUICK, on_received=lambda _: None)
    peers.update(PeerTable(version=1, peers=[Peer(rank=0, url="http://127.0.0.1:1", epoch="")]))
    with pytest.raises(RuntimeError, match="outside"):
        await peers.post_json(0, "/", b"")
    await peers.__aexit__()
