"""Flows for tests of what asks and receives."""

from __future__ import annotations

from dsort_worker.budget import Buffers
from dsort_worker.flows import Flows
from dsort_worker.state import Flowing
from dsort_worker.throttle import Throttle


def flows_of(
    requests: int,
    *,
    buffers: Buffers | None = None,
    of_one: int | None = None,
    sources: int = 1,
    throttle: Throttle | None = None,
    flow: Flowing | None = None,
) -> Flows:
    """Flows with `requests` in progress at the most; call it in the event loop that they belong to."""
    return Flows(
        buffers=buffers or Buffers(count=1, size=4096),
        requests=requests,
        of_one=of_one or requests,
        sources=sources,
        throttle=throttle or Throttle(),
        flow=flow or Flowing(),
    )
