"""Fairness: what a slow rank takes from the others, and how evenly requests wait at a rank that is asked for too much.

    python -m benchmarks.fairness [--seconds 15] [--budget 64Mi 256Mi] [--json FILE]

Servers, clients, lines and receive windows are the product's, divided from the budget as in a rank; all are in one process, on
the loopback, and what is asked for is in memory.

**A slow rank.** Four ranks fetch from each other without a pause; then again with a fifth among them whose line carries a
hundredth of theirs, both ways, and from which they fetch as well. Reported is how much of their throughput the pairs without it
keep (median of rounds that are made in turns).

**Overload.** Four times as many clients as a rank admits (its slots and its queue) ask it, each for one answer after the other.
Reported are the times from the first asking to the last byte, refusals and waits included: the 99th of a hundred to the median.

Exit code 1 when a bound of bounds.yaml does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from dsort_api.messages import Peer, PeerTable
from dsort_api.quantity import parse_quantity
from dsort_api.reasons import DSortError
from dsort_worker.admission import Admission
from dsort_worker.budget import MIB, Buffers, Division, divide
from dsort_worker.flows import Flows
from dsort_worker.listing import pin
from dsort_worker.peers import Patience, Peers
from dsort_worker.serve import DataServer, Offers
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.state import Flowing
from dsort_worker.throttle import Throttle
from dsort_worker.window import Placer
from dsort_worker.wire import encode_slices
from tests.support.dataendpoint import make_shards, slices_of
from tests.support.links import Links, Pace

_BOUNDS: Final = Path(__file__).with_name("bounds.yaml")
_RANKS: Final = 4
_ROUNDS: Final = 3
_SLOWNESS: Final = 0.01
_SHARDS: Final = 4
_SHARD: Final = 16 * MIB
_OVERLOAD: Final = 4
_AT_A_TIME: Final = 2
"""Requests that a rank always wants to have with each other one: of two windows."""


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one budget. rates: MB/s of all pairs without the slow rank. seconds: of the requests under overload."""

    budget: int
    rate_without: float
    rate_beside: float
    clients: int
    requests: int
    refused: int
    median: float
    late: float

    @property
    def kept(self) -> float:
        """Part of their throughput that the others keep."""
        return self.rate_beside / self.rate_without

    @property
    def spread(self) -> float:
        """How many times the median the 99th of a hundred requests takes."""
        return self.late / self.median


@dataclass(slots=True)
class Rank:
    """A rank that serves its shards and asks others for theirs."""

    number: int
    url: str
    peers: Peers
    flow: Flowing

    async def fetch(self, source: int, out: memoryview, *, shard: int, offset: int) -> None:
        """Fetch as many bytes as there is room for."""
        slices = slices_of((shard, offset, len(out)))
        await self.peers.stream(
            source,
            "/v1/slices",
            body=encode_slices(slices),
            sink=lambda: Placer(out, places=np.array([0]), lengths=slices.length),
            size=len(out),
        )


def _failed(error: DSortError) -> None:
    sys.exit(f"error: {error.message}")


@asynccontextmanager
async def _rank(number: int, folder: Path, division: Division, *, ranks: int) -> AsyncIterator[Rank]:
    async with AsyncExitStack() as stack:
        files = ShardFiles([pin(str(folder), name) for name in sorted(os.listdir(folder))], root=str(folder))
        stack.callback(files.close)
        flow = Flowing()
        admission = Admission(
            slots=division.serve_slots, piece=division.piece, waiting=division.waiting, flow=flow
        )
        stack.callback(admission.close)
        offers = Offers()
        offers.files.set(files)
        server = DataServer(
            offers,
            job="job",
            epoch="e",
            token="token",
            admission=admission,
            threads=stack.enter_context(ThreadPoolExecutor(2)),
            decisions=None,
            poll=1.0,
            silence=60.0,
            on_sent=lambda _: None,
            on_error=_failed,
        )
        stack.push_async_callback(server.stop)
        url = await server.start(host="127.0.0.1", port=0)
        peers = await stack.enter_async_context(_asking(number, division, sources=ranks - 1))
        yield Rank(number, url, peers, flow)


@asynccontextmanager
async def _asking(number: int, division: Division, *, sources: int) -> AsyncIterator[Peers]:
    buffers = Buffers(count=division.windows, size=division.window)
    flows = Flows(
        buffers=buffers,
        requests=division.flows,
        of_one=division.serve_slots - 1,
        sources=sources,
        throttle=Throttle(),
        flow=Flowing(),
    )
    async with Peers(
        rank=number, job="job", token="token", flows=flows, patience=Patience(), on_received=lambda _: None
    ) as peers:
        yield peers
    buffers.close()


def _table(urls: list[str]) -> PeerTable:
    peers = [Peer(rank=rank, url=url, epoch="e") for rank, url in enumerate(urls)]
    return PeerTable(version=1, peers=peers)


# ------------------------------------------------------------------------------------------------------------ a slow rank


async def _throughput(
    folder: Path, division: Division, *, seconds: float, slow: float | None = None
) -> float:
    """Bytes a second that the quick ranks have from each other. slow: bytes a second of one more rank's line."""
    count = _RANKS + (slow is not None)
    paces = {} if slow is None else {_RANKS: Pace(slow)}
    moved = 0
    async with AsyncExitStack() as stack:
        links = stack.enter_context(Links(ranks=count, paces=paces, incidents=[]))
        ranks = [
            await stack.enter_async_context(_rank(number, folder, division, ranks=count))
            for number in range(count)
        ]
        for one in ranks:
            by_proxy = (one.number, *paces) if one.number not in paces else tuple(range(count))
            one.peers.update(
                _table(
                    [
                        links.front(other.number, other.url) if other.number in by_proxy else other.url
                        for other in ranks
                    ]
                )
            )
        size = max(64 << 10, division.window // (count - 1) // 512 * 512)

        async def want(one: Rank, source: int, start: int) -> None:
            nonlocal moved
            out = memoryview(bytearray(size))
            for turn in range(start, 1 << 30):
                offset = turn * size % (_SHARD - size) // 512 * 512
                await one.fetch(source, out, shard=turn % _SHARDS, offset=offset)
                if one.number < _RANKS and source < _RANKS:
                    moved += size

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(want(one, source.number, start))
                for one in ranks
                for source in ranks
                if one is not source
                for start in range(_AT_A_TIME)
            ]
            await asyncio.sleep(
                seconds / 4
            )  # concurrency finds its measure, the slow rank has asked everybody
            before, began = moved, time.perf_counter()
            await asyncio.sleep(seconds)
            rate = (moved - before) / (time.perf_counter() - began)
            for task in tasks:
                task.cancel()
    return rate


# --------------------------------------------------------------------------------------------------------------- overload


async def _overload(folder: Path, division: Division, *, seconds: float) -> tuple[int, int, list[float]]:
    """Clients, refusals, and the seconds of each request that was made before the time was over."""
    clients = _OVERLOAD * (division.serve_slots + division.waiting)
    times: list[float] = []
    async with AsyncExitStack() as stack:
        rank = await stack.enter_async_context(_rank(0, folder, division, ranks=2))
        askers = []
        for number in range(1, clients + 1):
            peers = await stack.enter_async_context(_asking(number, divide(0), sources=1))
            peers.update(_table([rank.url]))
            askers.append(Rank(number, "", peers, Flowing()))
        over = time.perf_counter() + seconds
        size = MIB

        async def ask(one: Rank) -> None:
            out = memoryview(bytearray(size))
            turn = one.number
            while (began := time.perf_counter()) < over:
                await one.fetch(
                    0, out, shard=turn % _SHARDS, offset=turn * 4096 % (_SHARD - size) // 512 * 512
                )
                times.append(time.perf_counter() - began)
                turn += 1

        async with asyncio.TaskGroup() as group:
            for one in askers:
                group.create_task(ask(one))
        return clients, rank.flow.refused, times


def measure(budget: int, *, seconds: float, folder: Path) -> Result:
    """Both figures with this budget."""
    division = divide(budget)
    each = seconds / (2 * _ROUNDS)
    without, beside = [], []
    for _ in range(_ROUNDS):
        rate = asyncio.run(_throughput(folder, division, seconds=each))
        if not rate:
            sys.exit("error: nothing moved at all: this machine has no time for a benchmark now")
        without.append(rate)
        slow = _SLOWNESS * rate / _RANKS
        beside.append(asyncio.run(_throughput(folder, division, seconds=each, slow=slow)))
    clients, refused, times = asyncio.run(_overload(folder, division, seconds=seconds))
    return Result(
        budget=budget,
        rate_without=statistics.median(without),
        rate_beside=statistics.median(beside),
        clients=clients,
        requests=len(times),
        refused=refused,
        median=statistics.median(times),
        late=float(np.percentile(times, 99)),
    )


def main() -> int:
    """Measure, print a table, and compare with the bounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of the two parts")
    parser.add_argument("--budget", nargs="+", default=["64Mi", "256Mi"], help="of a rank")
    parser.add_argument("--json", help="write the figures to this file as well")
    options = parser.parse_args()
    bounds = yaml.safe_load(_BOUNDS.read_text())["fairness"]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        folder = Path(place, "in")
        make_shards(folder, shards=_SHARDS, size=_SHARD)
        results = [
            measure(parse_quantity(budget), seconds=options.seconds, folder=folder)
            for budget in options.budget
        ]
    print(
        "| budget | MB/s of four | beside a slow one | kept | clients | requests | refused | median s | p99 s | p99 / median |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for one in results:
        print(
            f"| {one.budget >> 20} MiB | {one.rate_without / 1e6:.0f} | {one.rate_beside / 1e6:.0f} | {one.kept:.2f} "
            f"| {one.clients} | {one.requests} | {one.refused} | {one.median:.3f} | {one.late:.3f} | {one.spread:.2f} |"
        )
    if options.json:
        with contextlib.closing(open(options.json, "w", encoding="utf-8")) as file:
            json.dump([asdict(one) | {"kept": one.kept, "spread": one.spread} for one in results], file)
    missed = [
        f"{one.budget >> 20} MiB: {what} is {value:.2f}, the bound is {bound}"
        for one in results
        for what, value, bound, holds in (
            ("the share kept", one.kept, bounds["share_kept"], one.kept >= bounds["share_kept"]),
            ("p99 / median", one.spread, bounds["p99_to_median"], one.spread <= bounds["p99_to_median"]),
        )
        if not holds
    ]
    for line in missed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
