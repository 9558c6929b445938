"""A rank that has its allocations traced, as a process: `python -m tests.support.tracedrank RANK`, with its job on standard input.

It prints its control url, and at its end what it saw, as JSON. Tracing begins when everything is imported, so what is seen is
the job's. Anonymous mappings, which the budget's buffers are, are not traced: what is, is beside them.
"""

from __future__ import annotations

import json
import sys
import threading
import tracemalloc

from benchmarks.ranks import TOKEN
from dsort_api.messages import JobDefinition
from dsort_worker.main import RankSettings, run_rank

_FRAMES = 3
_SECONDS = 0.02
"""Between two looks."""


class Tracer:
    """Looks at all live allocations again and again, from a thread of its own."""

    def __init__(self) -> None:
        self.looks = 0
        self.largest = 0
        self.where: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin to trace."""
        tracemalloc.start(_FRAMES)
        self._thread.start()

    def end(self) -> dict[str, object]:
        """Stop; what was seen: bytes of the largest allocation that was live at any look, and of the peak of them all."""
        self._over.set()
        self._thread.join()
        peak = tracemalloc.get_traced_memory()[1]
        return {"looks": self.looks, "largest": self.largest, "where": self.where, "peak": peak}

    def _run(self) -> None:
        while not self._over.wait(_SECONDS):
            trace = max(tracemalloc.take_snapshot().traces, key=lambda one: one.size, default=None)
            self.looks += 1
            if trace is not None and trace.size > self.largest:
                self.largest, self.where = trace.size, trace.traceback.format()


def main() -> int:
    """Be the rank."""
    settings = RankSettings(
        rank=int(sys.argv[1]),
        job=JobDefinition.model_validate_json(sys.stdin.read()),
        token=TOKEN,
        short_circuit=False,
        unattended=True,
    )
    tracer = Tracer()
    tracer.start()
    code = run_rank(settings, on_ready=lambda url: print(url, flush=True))
    print(json.dumps(tracer.end()), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
