"""The Lease with several candidates, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, cast

import pytest

from dsort_operator.kube import ApiError, Kube
from dsort_operator.leader import LeadershipLostError, Lease
from tests.support.waiting import idle, until


class Store:
    """The part of the API server that a Lease needs."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.away = False
        self.version = 0
        self.looks = 0

    def _answer(self) -> None:
        if self.away:
            raise ApiError("x", status=503, reason="", message="away")

    async def get(self, _: str) -> dict[str, Any] | None:
        self.looks += 1
        self._answer()
        return copy.deepcopy(self.lease)

    async def create(self, _: str, body: dict[str, Any]) -> dict[str, Any] | None:
        self._answer()
        if self.lease is not None:
            return None
        return self._store(body)

    async def replace(self, _: str, body: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ApiError("x", status=409, reason="Conflict", message="changed")
        return self._store(body)

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return copy.deepcopy(self.lease)

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def candidate(store: Store, clock: Clock, name: str) -> Lease:
    return Lease(cast("Kube", store), "ns", "lease", name, retry_seconds=0.001, clock=clock)


async def renewed(store: Store) -> None:
    """Wait until the holder has begun and ended a write: the first that comes may have been under way already."""
    version = store.version
    await until(lambda: store.version > version + 1)


async def looked(store: Store) -> None:
    """Wait until the only candidate has begun and ended a look at the Lease."""
    looks = store.looks
    await until(lambda: store.looks > looks + 1)


@pytest.mark.asyncio
async def test_one_leads_and_another_follows_when_it_is_silent() -> None:
    store, clock = Store(), Clock()
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    holding = asyncio.ensure_future(first.hold())
    await until(first.leading.is_set)
    waiting = asyncio.ensure_future(second.hold())
    await idle()
    assert not second.leading.is_set()
    for _ in range(5):
        clock.now += 10
        await renewed(store)
    assert not second.leading.is_set()
    holding.cancel()
    await asyncio.wait({holding})
    await looked(store)  # its patience begins with the last that it saw of the first
    clock.now += 14
    await looked(store)
    assert not second.leading.is_set()
    clock.now += 2
    await until(second.leading.is_set)
    assert store.holder == "second"
    assert store.lease is not None
    assert store.lease["spec"]["leaseTransitions"] == 2
    waiting.cancel()


@pytest.mark.asyncio
async def test_who_cannot_renew_gives_up_before_another_may_take_over() -> None:
    store, clock = Store(), Clock()
    first = candidate(store, clock, "first")
    holding = asyncio.ensure_future(first.hold())
    await until(first.leading.is_set)
    store.away = True
    clock.now += 9
    await looked(store)
    assert not holding.done()
    clock.now += 1.1
    with pytest.raises(LeadershipLostError):
        await holding
    assert not first.leading.is_set()


@pytest.mark.asyncio
async def test_who_sees_another_in_its_place_gives_up_at_once() -> None:
    store, clock = Store(), Clock()
    first = candidate(store, clock, "first")
    holding = asyncio.ensure_future(first.hold())
    await until(first.leading.is_set)
    assert store.lease is not None
    store.lease["spec"] = {**store.lease["spec"], "holderIdentity": "thief"}
    with pytest.raises(LeadershipLostError):
        await holding


@pytest.mark.asyncio
async def test_a_lease_given_back_is_free_at_once() -> None:
    store, clock = Store(), Clock()
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    holding = asyncio.ensure_future(first.hold())
    await until(first.leading.is_set)
    holding.cancel()
    await asyncio.wait({holding})
    await first.give_back()
    assert store.holder == ""
    waiting = asyncio.ensure_future(second.hold())
    await until(second.leading.is_set)
    waiting.cancel()
