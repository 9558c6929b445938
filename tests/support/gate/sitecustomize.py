"""Hold one rank at one point of its work until a test lets it go on.

This folder is put on PYTHONPATH of a command under test, with DSORT_TEST_GATE naming a folder, a point and a rank. The rank
that reaches the point first writes to the pipe `reached` and then waits for the pipe `go`; a rank that is started in its
place passes. Where there is no pipe between the two (`ends`, for pods), the file `taken` says that it is there, and it waits for
its end. Points: the name of a phase (as it is entered), `spilled` and `merged` (the rank's rows do not fit into memory: it
has written the third piece of them in its scan, or the tenth when it brings them into order), `committed` (the rank's second shard is committed), `published`
(its first shard has its name), `manifest` (every shard has its name, the manifest is about to be written), `written` (it is,
and nobody knows yet).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import Any


def _install(gate: dict[str, Any]) -> None:
    from dsort_worker import rank0, staging, state

    folder, point, rank = gate["folder"], gate["point"], gate["rank"]
    seen = {"spilled": 0, "merged": 0, "committed": 0, "published": 0}
    mine: list[int] = []

    def reach() -> None:
        os.makedirs(folder, exist_ok=True)
        try:
            os.close(os.open(os.path.join(folder, "taken"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if gate.get("ends"):
            threading.Event().wait()
        # First the way on: who opened a pipe after its last writer has closed it would wait for ever.
        with contextlib.suppress(OSError), open(os.path.join(folder, "go"), "rb") as go:
            with open(os.path.join(folder, "reached"), "w", encoding="ascii") as pipe:
                pipe.write(str(os.getpid()))
            go.read()

    def enter(self: state.RankState, phase: Any, counters: Any = None) -> None:
        mine[:] = [self.rank]
        entered(self, phase, counters)
        if self.rank == rank and phase.value == point:
            reach()

    def serve_at(self: state.RankState, url: str) -> None:
        if self.rank == rank and point == "Starting":
            reach()
        served(self, url)

    def count(name: str, *, of: int) -> None:
        seen[name] += 1
        if mine == [rank] and name == point and seen[name] == of:
            reach()

    def spill(self: state.RankState, size: int) -> None:
        spilled(self, size)
        if self.phase.value == "Scan":
            count("spilled", of=3)
        elif self.phase.value == "Order":
            count("merged", of=10)

    def commit(self: staging.Staging, record: Any) -> None:
        committed(self, record)
        count("committed", of=2)

    def publish(self: staging.Staging, record: Any) -> None:
        published(self, record)
        count("published", of=1)

    def write(self: rank0.RankZero, reports: Any) -> Any:
        if point == "manifest":
            reach()
        decision = written(self, reports)
        if point == "written":
            reach()
        return decision

    entered, state.RankState.enter = state.RankState.enter, enter  # type: ignore[method-assign]
    served, state.RankState.serve_at = state.RankState.serve_at, serve_at  # type: ignore[method-assign]
    spilled, state.RankState.spill = state.RankState.spill, spill  # type: ignore[method-assign]
    committed, staging.Staging.commit = staging.Staging.commit, commit  # type: ignore[assignment, method-assign]
    published, staging.Staging.publish = staging.Staging.publish, publish  # type: ignore[assignment, method-assign]
    written, rank0.RankZero._publish = rank0.RankZero._publish, write  # type: ignore[method-assign]


if "DSORT_TEST_GATE" in os.environ:
    _install(json.loads(os.environ["DSORT_TEST_GATE"]))
