"""A server by hand whose end is the end of its connections, too.

From Python 3.12 on `asyncio.Server` waits, when it is left, for every connection that it has accepted; a handler that answers
nothing would keep it for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handle: Handler, *place: Any, **options: Any) -> AsyncIterator[tuple[Any, ...]]:
    """Serve as `asyncio.start_server` does with these arguments; lent is the address. What still runs at the end is cancelled."""
    tasks: set[asyncio.Task[Any]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.add(writer)
        await handle(reader, writer)

    server = await asyncio.start_server(accepted, *place, **options)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
