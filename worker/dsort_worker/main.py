"""One rank as a process: settings in, exit code out.

Three parts with a life of their own meet here: the control endpoint (its own thread), the data endpoint, and the rank's
work; and the orders of whoever drives the rank (see `process`). A rank that has come to an end keeps answering control until
its driver has seen it. SIGTERM ends it within seconds, whatever it is doing.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import uuid
from collections.abc import Callable
from typing import Final

from dsort_api.messages import Failure
from dsort_worker.control import ControlServer
from dsort_worker.malloc import keep_freed_memory
from dsort_worker.memorywatch import MemoryWatch
from dsort_worker.process import FAREWELL, Process, RankSettings
from dsort_worker.state import RankState
from dsort_worker.termination import GRACE, SIGTERM_EXIT, Termination

__all__ = ["RankSettings", "run_rank"]

_SWITCH_INTERVAL: Final = 0.0005
"""Seconds a thread may keep the interpreter while another wants it: the loop must not wait for a busy thread."""


def run_rank(
    settings: RankSettings,
    *,
    on_ready: Callable[[str], None] = lambda _: None,
    on_failure: Callable[[Failure], None] = lambda _: None,
) -> int:
    """Run one rank to its end; on_ready is called with the control url, on_failure with how it failed. Returns the exit code.

    Blocks. Installs a handler for SIGTERM (exit 143) and ignores SIGINT, so it belongs in a process's main thread.
    """
    termination = Termination()
    _raise_file_limit()
    keep_freed_memory()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    state = RankState(rank=settings.rank, epoch=uuid.uuid4().hex)
    metrics = None
    if settings.metrics_port is not None:
        from dsort_worker.metrics import exposition  # the library is there in an image, not on every laptop

        metrics = exposition(state, job=settings.job.name, port=settings.metrics_port)
    control = ControlServer(
        state,
        host=settings.host,
        port=settings.control_port,
        token=settings.token,
        metrics=metrics,
        watch=MemoryWatch(state, spec=settings.job.spec.memory).run,
    )
    url = control.start()
    try:
        on_ready(url)
        code = asyncio.run(_run(settings, state, control, termination))
        failure = state.observed().failure
        if failure is not None and code != SIGTERM_EXIT:
            on_failure(failure)
        termination.tell(lambda: control.terminate(within=GRACE, code=code))
        if code != SIGTERM_EXIT:
            control.final_answered.wait(FAREWELL)
        return code
    finally:
        control.stop()


async def _run(
    settings: RankSettings, state: RankState, control: ControlServer, termination: Termination
) -> int:
    return await Process(settings, state).run(control, termination)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
