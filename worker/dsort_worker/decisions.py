"""Rank 0's decisions: each step of the job that concerns all ranks is decided once and never otherwise.

A step is a reduction with a barrier in it: every rank reports, rank 0 computes one document from all reports, writes it
beside the output with an exclusive link, and serves it. A request carries its rank's report again each time, so nothing is
lost when rank 0 restarts: what was decided is read from its file, what was not is decided from the reports that come anew.

A decision may take as long as it likes, and belongs to nobody who asks for it: a thread makes it, and who asks is told after
a while that there is none yet, or hangs up, without any effect on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final

from dsort_api.reasons import DSortError, Reason
from dsort_worker.staging import place, unwritable

log: Final = logging.getLogger("dsort.decisions")

Report = Mapping[str, Any]
Decide = Callable[[Sequence[Report]], Mapping[str, Any]]
"""From the reports by rank to the decision. Runs in a thread; may raise DSortError, which fails the job."""


class Decisions:
    """The steps of one job. folder: where decisions are kept; None (dry run): in memory only. epoch: of rank 0.

    anew: steps that every life of rank 0 decides for itself, because what they do may have been undone since; nothing of
    them is kept.
    """

    def __init__(
        self,
        steps: Mapping[str, Decide],
        *,
        ranks: int,
        folder: str | None,
        epoch: str,
        threads: Executor,
        anew: Collection[str] = (),
    ) -> None:
        self._steps = steps
        self._ranks = ranks
        self._folder = folder
        self._epoch = epoch
        self._threads = threads
        self._anew = anew
        self._reports: dict[str, dict[int, Report]] = {step: {} for step in steps}
        self._decided: dict[str, bytes] = {}
        self._working: set[str] = set()
        """Steps that a thread looks at."""
        self._news: dict[str, asyncio.Event] = {step: asyncio.Event() for step in steps}
        self._error: DSortError | None = None
        self._answered: dict[str, set[int]] = {}
        self._answer = asyncio.Event()

    async def decide(self, step: str, *, rank: int, report: Report, wait: float) -> bytes | None:
        """Take a rank's report and return the step's decision (JSON), or None when it is not made after `wait` seconds.

        Raises DSortError when the decision cannot be made, ValueError for an unknown step or rank.
        """
        if step not in self._steps or not 0 <= rank < self._ranks:
            raise ValueError(f"no step {step!r} for rank {rank}")
        if step not in self._decided:
            self._reports[step][rank] = report
            self._begin(step)
        try:
            async with asyncio.timeout(wait):
                await self._news[step].wait()
        except TimeoutError:
            return None
        if self._error is not None:
            raise self._error
        self._answered.setdefault(step, set()).add(rank)
        self._answer.set()
        return self._decided[step]

    async def farewell(self, *, wait: float) -> None:
        """Wait until every rank has the latest decision: the job has ended here, others still have to hear of it."""
        latest = next(reversed(self._decided), None)
        if latest is None:
            return
        with contextlib.suppress(TimeoutError):  # a rank that was replaced finds the manifest
            async with asyncio.timeout(wait):
                while len(self._answered.get(latest, ())) < self._ranks:
                    self._answer.clear()
                    await self._answer.wait()

    def _begin(self, step: str) -> None:
        """Have a thread look whether the step is decided, and decide it when all have reported."""
        if self._error is not None or step in self._working:
            return
        reports = self._reports[step]
        every = [reports[rank] for rank in range(self._ranks)] if len(reports) == self._ranks else None
        self._working.add(step)
        looking = asyncio.get_running_loop().run_in_executor(self._threads, self._look, step, every)
        looking.add_done_callback(functools.partial(self._looked, step))

    def _looked(self, step: str, looking: asyncio.Future[bytes | None]) -> None:
        self._working.discard(step)
        if looking.cancelled():
            return
        error = looking.exception()
        if error is not None:
            self._fail(step, error)
        elif (decision := looking.result()) is not None:
            self._decided[step] = decision
            self._reports[step].clear()
            self._news[step].set()
        elif len(self._reports[step]) == self._ranks:  # the last of them came meanwhile
            self._begin(step)

    def _fail(self, step: str, error: BaseException) -> None:
        """No rank can go on."""
        if isinstance(error, DSortError):
            self._error = error
        else:
            log.error("step %s cannot be decided", step, exc_info=error)
            self._error = DSortError(Reason.INTERNAL, f"step {step}: {type(error).__name__}: {error}")
        for event in self._news.values():
            event.set()

    def _look(self, step: str, reports: Sequence[Report] | None) -> bytes | None:
        """The decision: as it was made, or made now from all reports; None without them. Runs in a thread."""
        path = None
        if self._folder is not None and step not in self._anew:
            path = os.path.join(self._folder, f"{step}.json")
            with unwritable(path):
                made = _load(path)
            if made is not None:
                return made
        if reports is None:
            return None
        decision = json.dumps(self._steps[step](reports)).encode()
        return decision if path is None else self._keep(path, decision)

    def _keep(self, path: str, decision: bytes) -> bytes:
        """Write a decision down. Of two lives of rank 0 the first one's word holds."""
        temporary = f"{path}.{self._epoch}"
        with unwritable(path):
            try:
                with open(temporary, "wb") as file:
                    file.write(decision)
                place(temporary, path)
            except FileExistsError:
                with open(path, "rb") as file:
                    return file.read()
            finally:
                with contextlib.suppress(FileNotFoundError):  # moved, where there are no hard links
                    os.unlink(temporary)
        return decision


def _load(path: str) -> bytes | None:
    """The decision that was kept there; None where there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        json.loads(data)
    except FileNotFoundError:
        return None
    except ValueError:
        # The machine stopped before it was on disk. What it said follows from the inputs: it is decided again.
        os.unlink(path)
        return None
    return data
