"""A rank's data loop: the orders of whoever drives it, the data endpoint, and the work.

The first order brings the budget, from which all buffers are made, the next the peer table, and work begins. A rank whose job
has been published meanwhile has nothing left to do, wherever it is: the manifest says so, and no peer needs to be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from dsort_api.messages import Failure, JobDefinition, Outcome, Phase
from dsort_api.reasons import EXIT_CODES, DSortError, Reason
from dsort_worker import steps
from dsort_worker.admission import Admission
from dsort_worker.budget import Buffers, divide
from dsort_worker.causes import reason_in, unexpected
from dsort_worker.control import ControlServer
from dsort_worker.decisions import Decisions
from dsort_worker.findings import FindingsLog
from dsort_worker.flows import Flows
from dsort_worker.locations import resolve
from dsort_worker.peers import Patience, Peers
from dsort_worker.pools import Pools
from dsort_worker.publication import Publication
from dsort_worker.rank import Rank
from dsort_worker.rank0 import RankZero
from dsort_worker.scan import Indexer
from dsort_worker.serve import DataServer, Offers
from dsort_worker.staging import Staging
from dsort_worker.state import RankState
from dsort_worker.steps import Listed
from dsort_worker.termination import GRACE, SIGTERM_EXIT, Termination
from dsort_worker.unattended import Unattended

log: Final = logging.getLogger("dsort.rank")

FAREWELL: Final = 30.0
"""Seconds that an ended rank waits for its driver to see how it ended."""


class RankSettings(NamedTuple):
    """How a rank is started. volumes: folder of each claim. scratch: for scratch files; None: beside the output.

    short_circuit: this rank can open every input shard itself. Ports of 0 are chosen by the system. metrics_port: where
    metrics are served; None: nowhere. unattended: who drives the ranks has no hand on the output, so they hold the lock of
    the job themselves, and rank 0 removes what is staged when all is published (see `unattended`).
    """

    rank: int
    job: JobDefinition
    token: str
    host: str = "127.0.0.1"
    control_port: int = 0
    data_port: int = 0
    volumes: Mapping[str, str] = MappingProxyType({})
    scratch: str | None = None
    short_circuit: bool = True
    metrics_port: int | None = None
    unattended: bool = False
    patience: Patience = Patience()
    indexer: Indexer | None = None


class Process:
    """One rank in one epoch, from its first order to its end."""

    def __init__(self, settings: RankSettings, state: RankState) -> None:
        self._settings = settings
        self._state = state
        self._told = asyncio.Event()
        self._budget: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._cancelled = threading.Event()
        self._terminated = False
        self._error: DSortError | None = None
        self._work: asyncio.Task[None] | None = None
        self._peers: Peers | None = None
        self._listed: Listed | None = None
        self._zero: RankZero | None = None
        self._publication: Publication | None = None
        self._unattended: Unattended | None = None

    async def run(self, control: ControlServer, termination: Termination) -> int:
        """Work until the end; returns the exit code."""
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        def terminate() -> None:
            control.terminate(within=GRACE, code=SIGTERM_EXIT)
            with contextlib.suppress(RuntimeError):  # the loop has ended, the work with it
                loop.call_soon_threadsafe(self._terminate)

        def told() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all that could be told
                loop.call_soon_threadsafe(self._told.set)

        def unreachable(error: BaseException) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._fail, unexpected(error, where="the control endpoint"))

        control.on_failure = unreachable
        self._state.on_told = told
        self._told.set()  # an order may have come before
        async with asyncio.TaskGroup() as group:
            # The work begins first: a task that is cancelled before its first step would not say how it ended.
            self._work = group.create_task(self._guarded())
            watch = group.create_task(self._watch())
            termination.tell(terminate)
            await asyncio.wait([self._work])
            watch.cancel()
        return self._exit_code()

    def _exit_code(self) -> int:
        if self._state.phase is Phase.COMPLETE:
            return 0
        if self._terminated:  # what comes of it is no failure
            return SIGTERM_EXIT
        if self._error is not None:
            return self._error.exit_code
        stop = self._state.stop
        return EXIT_CODES[Reason(stop.reason)] if self._state.phase is Phase.STOPPED and stop else 0

    def _terminate(self) -> None:
        self._terminated = True
        self._end_work()

    def _end_work(self) -> None:
        self._cancelled.set()
        if self._work is not None:
            self._work.cancel()

    def _fail(self, error: DSortError) -> None:
        """A server found out that this rank cannot go on."""
        if self._error is None:
            self._error = error
            self._end_work()

    async def _watch(self) -> None:
        """Carry orders over from the control thread, until the order to stop."""
        while self._state.stop is None:
            await self._told.wait()
            self._told.clear()
            if self._state.memory_budget and not self._budget.done():
                self._budget.set_result(self._state.memory_budget)
            table = self._state.peers
            if self._peers is not None and table is not None:
                self._peers.update(table)
        self._end_work()

    async def _guarded(self) -> None:
        """Work, and say how it ended: every failure ends in the observed state."""
        try:
            outcome = await self._job()
        except asyncio.CancelledError:
            if done := self._published():  # the order to end came too late: there is nothing left to stop
                self._state.finish(done)
        except (BaseExceptionGroup, Exception) as error:  # noqa: BLE001 - reported, with its trace in the log
            self._error = self._error or reason_in(error) or self._unexpected(error)
        else:
            self._state.finish(outcome)
        self._cancelled.set()
        if self._error is not None and not self._terminated:
            self._state.fail(Failure(reason=self._error.reason, message=self._error.message))
        else:
            self._state.stopped()  # no effect on a rank that has finished

    def _unexpected(self, error: BaseException) -> DSortError:
        log.error("rank %d failed", self._settings.rank, exc_info=error)
        return unexpected(error, where=f"rank {self._settings.rank}")

    async def _job(self) -> Outcome:
        """Make everything that the rank needs, in the order in which it depends on each other, and let it run."""
        settings, state = self._settings, self._state
        job = settings.job
        input_root = resolve(job.spec.input.url, settings.volumes, field="spec.input.url")
        output_root = resolve(job.spec.output.url, settings.volumes, field="spec.output.url")
        staging = Staging(output_root, job=job.id, epoch=state.epoch, ranks=job.ranks)
        kept = not job.spec.dry_run
        unattended = Unattended(staging) if kept and settings.unattended else None
        if kept:
            self._publication = Publication(staging, recurs=not unattended)
            self._unattended = unattended
            if done := await asyncio.to_thread(self._published):
                return done  # this rank was replaced at the very end
        division = divide(await self._budget)
        state.reserve(division.reserved)
        if kept:
            staging.create()
        if unattended:
            await unattended.lock()
        findings = FindingsLog(state, staging=staging if kept else None)
        async with contextlib.AsyncExitStack() as stack:
            pools = Pools(windows=division.windows)
            stack.callback(pools.close_all)
            buffers = Buffers(count=division.windows, size=division.window)
            stack.callback(buffers.close)
            flows = Flows(
                buffers=buffers,
                requests=division.flows,
                of_one=division.serve_slots - 1,  # all ranks divide the same budget
                sources=job.ranks - 1,
                throttle=state.throttle,
                flow=state.flow,
            )
            admission = Admission(
                slots=division.serve_slots, piece=division.piece, waiting=division.waiting, flow=state.flow
            )
            stack.callback(admission.close)
            peers = await stack.enter_async_context(
                Peers(
                    rank=settings.rank,
                    job=job.id,
                    token=settings.token,
                    flows=flows,
                    patience=settings.patience,
                    on_received=self._received,
                    socket_buffer=division.socket,
                )
            )
            decisions = None
            if settings.rank == 0:
                self._zero = RankZero(job, staging=staging, input_root=input_root, output_root=output_root)
                decisions = Decisions(
                    self._zero.decides(),
                    ranks=job.ranks,
                    folder=staging.plan if kept else None,
                    epoch=state.epoch,
                    threads=pools.decide,
                    anew={steps.PUBLISH},  # the manifest may have been taken away meanwhile
                )
            offers = Offers()
            server = DataServer(
                offers,
                job=job.id,
                epoch=state.epoch,
                token=settings.token,
                admission=admission,
                threads=pools.serve,
                decisions=decisions,
                poll=settings.patience.poll,
                silence=settings.patience.silence,
                on_sent=self._sent,
                on_error=self._fail,
                socket_buffer=division.socket,
            )
            stack.push_async_callback(server.stop)
            state.serve_at(await server.start(host=settings.host, port=settings.data_port))
            self._peers = peers
            self._told.set()
            await peers.known()
            rank = Rank(
                rank=settings.rank,
                ranks=job.ranks,
                spec=job.spec,
                input_root=input_root,
                staging=staging,
                scratch=settings.scratch or (staging.scratch if kept else None),
                room=division.rows,
                open_files=_open_files(),
                short_circuit=settings.short_circuit and job.spec.workers.short_circuit,
                list_plan=not settings.unattended,
                state=state,
                peers=peers,
                offers=offers,
                pools=pools,
                flows=flows,
                findings=findings,
                decisions=decisions,
                on_listed=self._on_listed,
                cancelled=self._cancelled.is_set,
                indexer=settings.indexer,
            )
            if self._publication and settings.rank:
                return await self._publication.or_else(rank.run(), on_manifest=self._cancelled.set)
            outcome = await rank.run()
            if decisions is not None:
                await decisions.farewell(wait=FAREWELL)
                if unattended:
                    unattended.remove()
            return outcome

    def _published(self) -> Outcome | None:
        """How the job ended, when it has been published whole; then nothing that is staged is needed any more."""
        done = self._publication.outcome() if self._publication else None
        if done and self._unattended and self._settings.rank == 0:
            self._unattended.remove()
        return done

    def _on_listed(self, listed: Listed) -> None:
        if self._zero is not None:
            self._zero.listed = listed

    def _sent(self, size: int) -> None:
        self._state.traffic.sent += size

    def _received(self, size: int) -> None:
        self._state.traffic.received += size


def _open_files() -> int:
    """Input shards to keep open: several threads may each need a batch of them at a time."""
    return max(16, min(1024, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128) // 8))
