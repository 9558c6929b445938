"""The local runner: ranks as processes of this machine, from the first to the last.

It reads as a loop: see what the ranks say and how their processes fare, decide (see `decide`), act. Every
wait has an end.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, assert_never

from dsort_api.messages import Failure, Observed, Outcome, Stop
from dsort_api.quantity import format_bytes
from dsort_api.reasons import Reason
from dsort_cli import decide as policy
from dsort_cli.board import Board, RankProcess
from dsort_cli.oomkills import OomKills
from dsort_operator.control import FINAL, ControlClient, Link
from dsort_worker.cgroup import oom_kills

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsort_cli.processes import Nursery
    from dsort_cli.report import Reporter
    from dsort_cli.signals import Signals


class Bounds(NamedTuple):
    """How long the runner waits, in seconds."""

    ready: float = 60.0
    """For a process to open its control endpoint."""
    silence: float = 90.0
    """For a process to answer at all: a held request is answered within seconds, whatever the rank is doing.
    """
    stop: float = 5.0
    """For ranks to end when told to; then they are killed."""
    last_words: float = 2.0
    """For the answer of a process that has ended to arrive."""
    show: float = 0.1
    """Between two looks at the progress."""


class End(NamedTuple):
    """How a run ended: a failure, or what rank 0 said at its end. `warnings` is the number of all warnings."""

    failure: Failure | None = None
    outcome: Outcome | None = None
    warnings: int = 0
    peak_rss: tuple[int, ...] = ()


@dataclass(slots=True, eq=False, repr=False)
class LocalRun:
    """One run of a job. `start_rank` asks the nursery for a process."""

    nursery: Nursery
    start_rank: Callable[[int], None]
    job_fd: int
    ranks: int
    token: str
    memory_budget: int
    backoff_limit: int
    began: float
    deadline: float | None
    reporter: Reporter
    signals: Signals
    bounds: Bounds = field(default_factory=Bounds)
    clock: Callable[[], float] = time.monotonic
    oom_kills: Callable[[], int] = oom_kills
    restarts: int = 0
    _board: Board = field(init=False)
    _group: asyncio.TaskGroup = field(init=False)
    _client: ControlClient = field(init=False)
    _ending: Failure | None = None
    _hurry: asyncio.Event = field(init=False)
    _kills: OomKills = field(init=False)

    async def run(self) -> End:
        """Drive the ranks, which were asked for already, to their end. No process of a rank is left when it
        returns.
        """
        self._board = Board(self.memory_budget, self.reporter.wait_seconds)
        self._hurry = asyncio.Event()
        self._kills = OomKills(self.oom_kills, clock=self.clock)
        loop = asyncio.get_running_loop()
        loop.add_reader(self.nursery, self._on_event)
        # Called within the signal's handler: this wakes the loop, which may be waiting, too.
        self.signals.listener = lambda number: loop.call_soon_threadsafe(self._on_signal, number)
        if self.signals.received:
            self._end_by(self.signals.received[0])
        try:
            async with ControlClient(token=self.token) as self._client, asyncio.TaskGroup() as self._group:
                now = self.clock()
                for rank in range(self.ranks):
                    self._board.ranks[rank] = RankProcess(rank, asked=now, heard=now)
                showing = self._group.create_task(self._show())
                failure = await self._steer()
                showing.cancel()
                for process in self._board.ranks.values():
                    if process.following is not None:
                        process.following.cancel()
                self._show_warnings()
                return self._end(failure)
        finally:
            self.signals.listener = None
            loop.remove_reader(self.nursery)

    async def _steer(self) -> Failure | None:
        """Decide and act until the job has ended; returns why it failed, None when it is complete."""
        board = self._board
        while True:
            board.changed.clear()
            self._look_at_the_clock()
            decision = policy.decide(
                board.views(), restarts=self.restarts, backoff_limit=self.backoff_limit, ending=self._ending
            )
            match decision:
                case policy.Wait():
                    await self._change(within=1.0)
                case policy.Restart(ranks=ranks):
                    for rank in ranks:
                        self._restart(rank)
                case policy.Stop(failure=failure):
                    board.order_stop(Stop(reason=failure.reason, message=failure.message))
                    await self._all_ended()
                    return failure
                case policy.Done():
                    await self._all_ended()
                    return None
                case _:
                    assert_never(decision)

    def _look_at_the_clock(self) -> None:
        now = self.clock()
        if self.deadline is not None and now >= self.deadline and self._ending is None:
            self._ending = Failure(
                reason=Reason.DEADLINE_EXCEEDED,
                message=f"spec.activeDeadlineSeconds: not complete after {now - self.began:.0f} seconds",
            )
        if self.nursery.ended():
            self._nursery_failed()
        for process in self._board.running():
            patience = self.bounds.silence if process.link else self.bounds.ready
            if now - process.heard > patience:
                process.heard = now  # the kill needs a moment to be seen
                self.nursery.kill(process.rank)

    async def _change(self, *, within: float) -> None:
        if self.deadline is not None:
            within = min(within, max(0.0, self.deadline - self.clock()))
        try:
            async with asyncio.timeout(within):
                await self._board.changed.wait()
        except TimeoutError:
            pass

    async def _all_ended(self) -> None:
        """Wait for every process to end by itself; kill those that take too long, or all when the user is in
        a hurry.
        """
        until = self.clock() + self.bounds.stop
        while self._board.running() and not self._hurry.is_set() and self.clock() < until:
            self._board.changed.clear()
            await self._change(within=min(0.5, self.bounds.stop))
        for process in self._board.running():
            self.nursery.kill(process.rank)
        until = self.clock() + self.bounds.stop
        while self._board.running() and self.clock() < until:
            self._board.changed.clear()
            await self._change(within=0.5)

    def _restart(self, rank: int) -> None:
        old = self._board.ranks[rank]
        self.restarts += 1
        how = old.view.end
        if old.oom_killed:
            self._board.memory_budget = policy.smaller(self._board.memory_budget)
            how += f", and has a budget of {format_bytes(self._board.memory_budget)} now"
        self.reporter.restarted(rank, how=how, restarts=self.restarts, limit=self.backoff_limit)
        now = self.clock()
        self._board.ranks[rank] = RankProcess(rank, asked=now, heard=now)
        self.start_rank(rank)

    def _on_event(self) -> None:
        event = self.nursery.receive()
        process = self._board.ranks.get(event.rank)
        match event.kind:
            case "started" if process is not None:
                process.pid = event.pid
            case "ready" if process is not None:
                process.pid = event.pid
                process.link = Link(event.text, client=self._client, wishes=self._board, hear=self._hear)
                process.heard = self.clock()
                process.following = self._group.create_task(self._follow(process.link))
            case "ended" if process is not None and process.pid == event.pid:
                self._group.create_task(self._settle(process, event.code))
            case "gone":
                self._nursery_failed()
            case _:
                pass  # it is about a process that was replaced
        self._board.changed.set()

    def _nursery_failed(self) -> None:
        asyncio.get_running_loop().remove_reader(self.nursery)
        if self._ending is None:
            self._ending = Failure(
                reason=Reason.INTERNAL, message="the process that ranks are forked from ended unexpectedly"
            )
        for process in self._board.running():
            process.exit_code = 1  # the kernel kills the ranks of a nursery that is gone

    async def _follow(self, link: Link) -> None:
        await link.run()
        if link.refused is not None and self._ending is None:
            reason = Reason.PROTOCOL_MISMATCH if link.refused.lasting else Reason.INTERNAL
            self._ending = Failure(reason=reason, message=f"a rank {link.refused.message}")
        self._board.changed.set()

    async def _settle(self, process: RankProcess, code: int) -> None:
        """The process has ended; its last answer may be on its way, and says more than the exit code."""
        if process.link is not None and process.following is not None:
            process.link.over = True
            await asyncio.wait({process.following}, timeout=self.bounds.last_words)
        if code == -signal.SIGKILL:
            process.oom_killed = self._kills.claim()
        process.exit_code = code
        self._board.changed.set()

    def _hear(self, link: Link) -> None:
        process = next((process for process in self._board.ranks.values() if process.link is link), None)
        if process is None or link.observed is None:
            return
        process.heard = self.clock()
        self._board.renew_peers()
        if link.observed.phase in FINAL:
            self._board.changed.set()

    def _on_signal(self, number: int) -> None:
        if len(self.signals.received) > 1:
            self._hurry.set()
        self._end_by(number)

    def _end_by(self, number: int) -> None:
        if self._ending is None:
            name = signal.Signals(number).name
            self._ending = Failure(reason=Reason.ABORTED, message=f"stopped by {name}; nothing was published")
        self._board.changed.set()

    async def _show(self) -> None:
        while True:
            self._show_warnings()
            self.reporter.progress({rank: process.observed for rank, process in self._board.ranks.items()})
            await asyncio.sleep(self.bounds.show)

    def _show_warnings(self) -> None:
        for text in self._board.new_warnings():
            self.reporter.warning(text)

    def _end(self, failure: Failure | None) -> End:
        reports = [process.observed for process in self._board.ranks.values()]
        outcomes = [report.outcome for report in reports if report is not None and report.outcome is not None]
        return End(
            failure=failure,
            outcome=outcomes[0] if outcomes else None,
            warnings=self._board.warning_count,
            peak_rss=tuple(_peak(report) for report in reports),
        )


def _peak(report: Observed | None) -> int:
    return report.memory.peak_rss if report else 0
