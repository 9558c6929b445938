"""Work in a thread that a task waits for, even when the task is cancelled.

A thread cannot be stopped in the middle of a read, and until it ends it uses its buffer. So the buffer's owner stays until
the thread is done: a cancelled wait is carried out late, by the length of one piece of work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkCancelled(Exception):
    """Work in a thread was told to stop, and has."""


async def in_thread(executor: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run function(*args, **kwargs) in the executor; when this returns or raises, the thread is done with it."""
    future = asyncio.get_running_loop().run_in_executor(executor, lambda: function(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    finally:
        await ended(future)


async def ended(future: asyncio.Future[T]) -> None:
    """Wait until the thread behind `future` is done, however often the wait is cancelled; its failure counts as seen.

    For a task that is ending already: a cancellation that comes in between is not passed on.
    """
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()
