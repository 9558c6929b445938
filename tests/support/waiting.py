"""Waiting for a condition on an event loop, with a deadline and without guessing how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

DEADLINE: Final = 30.0
"""Seconds after which a test gives up."""


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0)


async def idle(rounds: int = 20) -> None:
    """Let the loop run a while, so that whatever can go on has gone on."""
    for _ in range(rounds):
        await asyncio.sleep(0)
