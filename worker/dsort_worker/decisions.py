"""Rank 0's decisions: each step of the job that concerns all ranks is decided once and never otherwise.

A step is a reduction with a barrier in it: every rank reports, rank 0 computes one document from all reports, writes it
beside the output with an exclusive link, and serves it. A request carries its rank's report again each time, so nothing is
lost when rank 0 restarts: what was decided is read from its file, what was not is decided from the reports that come anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Final

from dsort_api.reasons import DSortError, Reason
from dsort_worker.staging import place

log: Final = logging.getLogger("dsort.decisions")

Report = Mapping[str, Any]
Decide = Callable[[list[Report]], Mapping[str, Any]]
"""From the reports by rank to the decision. Runs in a thread; may raise DSortError, which fails the job."""


class Decisions:
    """The steps of one job. folder: where decisions are kept; None (dry run): in memory only."""

    def __init__(
        self, steps: Mapping[str, Decide], *, ranks: int, folder: str | None, threads: Executor
    ) -> None:
        self._steps = steps
        self._ranks = ranks
        self._folder = folder
        self._threads = threads
        self._reports: dict[str, dict[int, Report]] = {step: {} for step in steps}
        self._decided: dict[str, bytes] = {}
        self._deciding: dict[str, asyncio.Lock] = {step: asyncio.Lock() for step in steps}
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
        reports = self._reports[step]
        if step not in self._decided:
            reports[rank] = report
        async with self._deciding[step]:
            if step not in self._decided and self._error is None:
                known = await self._in_thread(self._load, step)
                if known is None and len(reports) == self._ranks:
                    known = await self._in_thread(self._make, step)
                if known is not None:
                    self._decided[step] = known
                    reports.clear()
                    self._news[step].set()
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

    async def _in_thread(self, function: Callable[[str], bytes | None], step: str) -> bytes | None:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, function, step)
        except Exception as error:
            if isinstance(error, DSortError):
                self._error = error
            else:
                log.exception("step %s cannot be decided", step)
                self._error = DSortError(Reason.INTERNAL, f"step {step}: {type(error).__name__}: {error}")
            for event in self._news.values():
                event.set()
            raise self._error from error

    def _load(self, step: str) -> bytes | None:
        if self._folder is None:
            return None
        try:
            with open(self._path(step), "rb") as file:
                data = file.read()
            json.loads(data)
        except FileNotFoundError:
            return None
        except ValueError:
            # The machine stopped before it was on disk. What it said follows from the inputs: it is decided again.
            os.unlink(self._path(step))
            return None
        return data

    def _make(self, step: str) -> bytes | None:
        reports = self._reports[step]
        decision = self._steps[step]([reports[rank] for rank in range(self._ranks)])
        data = json.dumps(decision).encode()
        if self._folder is None:
            return data
        path = self._path(step)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(data)
        try:
            place(temporary, path)
        except FileExistsError:  # another life of rank 0 was first: its word holds
            with open(path, "rb") as file:
                data = file.read()
        finally:
            with contextlib.suppress(FileNotFoundError):  # moved, where there are no hard links
                os.unlink(temporary)
        return data

    def _path(self, step: str) -> str:
        return os.path.join(self._folder or "", f"{step}.json")
