"""A value that one task will set and others wait for: how a server answers "not yet" without knowing why."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Promise(Generic[T]):
    """Set once; every wait is bounded."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._value: T | None = None

    def set(self, value: T) -> None:
        """Keep the promise. A second value is refused (RuntimeError)."""
        if self._event.is_set():
            raise RuntimeError("the promise was kept already")
        self._value = value
        self._event.set()

    async def get(self, *, wait: float) -> T | None:
        """The value, or None when it is not there after `wait` seconds."""
        try:
            async with asyncio.timeout(wait):
                await self._event.wait()
        except TimeoutError:
            return None
        return self._value
