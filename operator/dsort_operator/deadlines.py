"""Time: how long a job has been active, what is left of its deadlines, and when to try again. Pure; the clock is an argument.

Seconds are computed from times that stand in the cluster, so they outlive the operator.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from dsort_api.spec import DSortJobSpec
from dsort_api.status import ConditionType, DSortJobStatus

_STEPS: Final = 1 << 32


def active_seconds(status: DSortJobStatus, *, now: datetime) -> float:
    """Seconds that the job has been active: since its start, without the time in suspension."""
    before = float(status.active_seconds or 0)
    suspended = next((one for one in status.conditions if one.type == ConditionType.SUSPENDED), None)
    if status.start_time is None or (suspended is not None and suspended.status == "True"):
        return before
    since = max(status.start_time, suspended.last_transition_time) if suspended else status.start_time
    return before + max(0.0, (now - since).total_seconds())


def active_left(spec: DSortJobSpec, *, status: DSortJobStatus, now: datetime) -> float | None:
    """Seconds until the job has been active for too long; None without such a deadline, or before the start."""
    if spec.active_deadline_seconds is None or status.start_time is None:
        return None
    return spec.active_deadline_seconds - active_seconds(status, now=now)


def left(since: datetime | None, *, seconds: float, now: datetime) -> float:
    """Seconds until `seconds` have passed since then; all of them when it has not begun."""
    return seconds if since is None else (since + timedelta(seconds=seconds) - now).total_seconds()


def retry_pause(uid: str, *, since: datetime | None, seconds: float) -> float:
    """How long released pods wait for their next try: between `seconds` and twice as much.

    It differs from job to job and from try to try, so that two jobs that took each other's room do not meet again; and it
    is the same whenever it is asked for.
    """
    seed = f"{uid}/{since.isoformat() if since else ''}".encode()
    share = int.from_bytes(hashlib.sha256(seed).digest()[:4], "big") / _STEPS
    return seconds * (1 + share)
