"""Drive the ranks of one job in its pods: who answers where, what each said last, and the peer table for all.

Nothing here is needed after a restart of the operator: ranks say who they are and which table they have, and the next
table is newer than any that a rank has seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Self

from dsort_api.budgets import rank_budget
from dsort_api.labels import CONTROL_PORT
from dsort_api.messages import JobDefinition, Observed, Peer, PeerTable, Phase, Progress, Stop
from dsort_operator.children import WorkerPod
from dsort_operator.control import ControlClient, Link, RefusedError
from dsort_operator.memory_policy import Marks
from dsort_operator.world import Refusal, Report

_LEAST_HOLD: Final = 2.0
_MOST_HOLD: Final = 25.0
_EXCHANGES_PER_SECOND: Final = 200.0
"""What all jobs together may cost: about a fifth of a core."""
_REFUSED_PAUSE: Final = 5.0
_RATE_SECONDS: Final = 1.0
"""A rate is taken over no less than this."""


@dataclass(slots=True)
class Load:
    """The ranks of all jobs that one operator drives: the more there are, the less often each is asked."""

    ranks: int = 0

    @property
    def hold_seconds(self) -> float:
        """How long a rank holds its answer when nothing changed."""
        return min(_MOST_HOLD, max(_LEAST_HOLD, self.ranks / _EXCHANGES_PER_SECOND))


@dataclass(slots=True)
class _Rank:
    """A rank in its current pod. link is the exchange with it, observed what it said last over any."""

    rank: int
    pod: str
    url: str
    link: Link = field(init=False)
    following: asyncio.Task[None] | None = None
    observed: Observed | None = None
    heard: float = 0.0
    past: dict[Phase, Progress] = field(default_factory=dict)
    rate: float = 0.0
    rate_since: float = 0.0
    rate_bytes: int = 0
    refused: RefusedError | None = None


class JobControl:
    """The control exchange with the ranks of one job. An async context manager, to be entered and left by one task.

    wake: called when a rank said something that may be worth deciding on; mere counts are not. moved: called with payload
    bytes that a rank received since it was heard last.
    """

    def __init__(
        self,
        *,
        load: Load,
        wake: Callable[[], None],
        moved: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.peers: PeerTable | None = None
        self.stop: Stop | None = None
        self.memory_budget = 0
        self.throttle_level = 0
        self._marks: Marks | None = None
        self._load = load
        self._wake = wake
        self._moved = moved
        self._clock = clock
        self._ranks: dict[int, _Rank] = {}
        self._count = 0
        self._stack = AsyncExitStack()
        self._client: ControlClient | None = None
        self._group: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for rank in list(self._ranks):
            self._forget(rank)
        await self._stack.__aexit__(kind, error, trace)

    @property
    def wait_seconds(self) -> float:
        """How long a rank may hold its answer when nothing changed."""
        return self._load.hold_seconds

    async def steer(
        self,
        pods: Iterable[WorkerPod],
        *,
        definition: JobDefinition,
        token: str,
        stop: Stop | None,
        throttle_level: int = 0,
        memory_budget: int | None = None,
    ) -> None:
        """Talk to the ranks in these pods from now on, and want this of them. memory_budget: None is what the spec comes to."""
        self.memory_budget = rank_budget(definition.spec) if memory_budget is None else memory_budget
        self._marks = Marks.of(definition.spec.memory)
        self._count = definition.ranks
        current = {pod.index: pod for pod in sorted(pods, key=_age) if pod.index >= 0}
        for index, pod in current.items():
            for lane in range(definition.lanes):
                rank = index * definition.lanes + lane
                known = self._ranks.get(rank)
                if known is not None and known.pod == pod.uid:
                    known.link.over = not _runs(pod)
                elif pod.ip and _runs(pod) and rank < definition.ranks:
                    await self._meet(rank, pod, lane, token)
        for rank in [rank for rank in self._ranks if rank // definition.lanes not in current]:
            self._ranks[rank].link.over = True  # its last words are kept until another pod has the rank
        if (stop, throttle_level) != (self.stop, self.throttle_level):
            self.stop, self.throttle_level = stop, throttle_level
            self._tell_all()

    def reports(self) -> dict[int, Report]:
        """What each rank said last, by number."""
        now = self._clock()
        return {
            rank: Report(
                observed=one.observed,
                age=now - one.heard,
                pod=one.pod,
                rate=one.rate,
                past=dict(one.past),
            )
            for rank, one in self._ranks.items()
            if one.observed is not None
        }

    def refused(self) -> dict[int, Refusal]:
        """Why ranks do not take requests, by number."""
        return {
            rank: Refusal(message=one.refused.message, lasting=one.refused.lasting)
            for rank, one in self._ranks.items()
            if one.refused is not None and not one.link.over
        }

    @property
    def has_ranks(self) -> bool:
        """Whether it was told of any: it has to be told when they are gone, too."""
        return bool(self._ranks)

    async def _meet(self, rank: int, pod: WorkerPod, lane: int, token: str) -> None:
        self._forget(rank)
        if self._client is None or self._group is None:
            self._client = await self._stack.enter_async_context(ControlClient(token=token))
            self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        url = f"http://{host}:{CONTROL_PORT + lane}"
        one = self._ranks[rank] = _Rank(rank, pod.uid, url)
        one.link = Link(url, client=self._client, wishes=self, hear=partial(self._hear, one))
        self._load.ranks += 1
        one.following = self._group.create_task(self._follow(one, self._client), name=f"rank {rank}")

    def _forget(self, rank: int) -> None:
        one = self._ranks.pop(rank, None)
        if one is not None:
            self._load.ranks -= 1
            if one.following is not None:
                one.following.cancel()

    async def _follow(self, one: _Rank, client: ControlClient) -> None:
        while True:
            await one.link.run()
            if one.link.refused is None:
                return  # it has said its last word, or its pod has ended
            # Another program may have had the address before; or it speaks another protocol, which is for a plan to judge.
            one.refused = one.link.refused
            self._wake()
            await asyncio.sleep(_REFUSED_PAUSE)
            if one.link.over:
                return
            one.link = Link(one.url, client=client, wishes=self, hear=partial(self._hear, one))

    def _hear(self, one: _Rank, link: Link) -> None:
        observed = link.observed
        if observed is None or self._ranks.get(one.rank) is not one:
            return
        before, one.observed = one.observed, observed
        one.heard, one.refused = self._clock(), None
        self._measure(one, before, observed)
        if before is None or _gist(before, self._marks) != _gist(observed, self._marks):
            self._renew_peers()
            self._wake()

    def _measure(self, one: _Rank, before: Observed | None, observed: Observed) -> None:
        known = 0
        if before is not None and before.epoch == observed.epoch:
            known = before.progress.bytes_received
        self._moved(max(0, observed.progress.bytes_received - known))
        if before is None or before.phase is not observed.phase:
            if before is not None:
                one.past[before.phase] = before.progress
            one.rate, one.rate_since, one.rate_bytes = 0.0, one.heard, observed.progress.bytes_done
        elif one.heard - one.rate_since >= _RATE_SECONDS:
            done = observed.progress.bytes_done
            one.rate = max(0, done - one.rate_bytes) / (one.heard - one.rate_since)
            one.rate_since, one.rate_bytes = one.heard, done

    def _renew_peers(self) -> None:
        """Make the next peer table, when every rank is known and the table is not as it is now."""
        known = {rank: one.observed for rank, one in self._ranks.items()}
        reports = [known.get(rank) for rank in range(self._count)]
        if any(report is None or not report.data_url for report in reports):
            return
        peers = [
            Peer(rank=report.rank, url=report.data_url, epoch=report.epoch) for report in reports if report
        ]
        if self.peers is None or self.peers.peers != peers:
            seen = max(report.peers_version for report in reports if report)
            version = 1 + max(seen, self.peers.version if self.peers else 0)
            self.peers = PeerTable(version=version, peers=peers)
            self._tell_all()

    def _tell_all(self) -> None:
        for one in self._ranks.values():
            one.link.tell()


def _runs(pod: WorkerPod) -> bool:
    return pod.live and pod.exit_code is None


def _age(pod: WorkerPod) -> tuple[bool, float, str]:
    """The pod that has the index now comes last: one that runs, and of those the newest."""
    return _runs(pod), pod.created.timestamp() if pod.created else 0.0, pod.uid


def _gist(observed: Observed, marks: Marks | None) -> tuple[object, ...]:
    memory = observed.memory
    band = marks.band(100 * memory.unreclaimable / memory.limit) if marks and memory.limit else None
    return observed.epoch, observed.phase, observed.data_url, observed.failure, observed.outcome, band
