"""Ranks that a benchmark drives by itself, through their control endpoints and nothing else, as an operator does."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from dsort_api.messages import Desired, Observed, Peer, PeerTable, Phase

TOKEN: Final = "benchmark"
_WAIT: Final = 0.05
"""Seconds that a rank may hold an answer."""


@dataclass(frozen=True, slots=True)
class Driven:
    """How a job went. seconds: from the first order to the end of all ranks; phases: of them, by the phase of rank 0."""

    seconds: float
    phases: dict[str, float]
    last: tuple[Observed, ...]
    """What each rank said in the end."""


def drive(urls: Sequence[str], *, budget: int) -> Driven:
    """Drive the ranks at these control urls to the end of their job. Raises SystemExit when one of them fails."""
    start = time.perf_counter()
    seen = [
        _exchange(url, Desired(epoch="", peers=None, **_order(0, budget=budget, wait=0.0))) for url in urls
    ]
    while not all(one.data_url for one in seen):
        seen = [_next(url, one, table=None, budget=budget) for url, one in zip(urls, seen, strict=True)]
    table = PeerTable(
        version=1, peers=[Peer(rank=one.rank, url=one.data_url, epoch=one.epoch) for one in seen]
    )
    phases: dict[str, float] = {}
    last = start
    while not all(one.phase is Phase.COMPLETE for one in seen):
        before = seen[0].phase
        seen = [
            one if one.phase is Phase.COMPLETE else _next(url, one, table=table, budget=budget)
            for url, one in zip(urls, seen, strict=True)
        ]
        now = time.perf_counter()
        phases[before.value] = phases.get(before.value, 0.0) + now - last
        last = now
        for one in seen:
            if one.phase in {Phase.FAILED, Phase.STOPPED}:
                raise SystemExit(f"rank {one.rank}: {one.failure}")
    return Driven(time.perf_counter() - start, phases, tuple(seen))


def _order(seen: int, *, budget: int, wait: float) -> dict[str, Any]:
    return {"memory_budget": budget, "stop": None, "seen": seen, "wait_seconds": wait}


def _next(url: str, one: Observed, *, table: PeerTable | None, budget: int) -> Observed:
    wanted = table if table is not None and one.peers_version < table.version else None
    order = _order(one.version, budget=budget, wait=_WAIT)
    return _exchange(url, Desired(epoch=one.epoch, peers=wanted, **order))


def _exchange(url: str, desired: Desired) -> Observed:
    address = urlsplit(url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    try:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection.request("PUT", "/v1/control", desired.model_dump_json(by_alias=True), headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise SystemExit(f"control: {response.status} {body.decode(errors='replace')}")
        return Observed.model_validate_json(body)
    finally:
        connection.close()
