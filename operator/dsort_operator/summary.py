"""The status that a draft comes to. Pure: the same draft gives the same status, so that nothing is written when nothing changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from dsort_api.messages import Phase
from dsort_api.spec import OrderKind
from dsort_api.status import ConditionType, DSortJobStatus, State
from dsort_operator.conditions import Why
from dsort_operator.deadlines import active_seconds, left
from dsort_operator.draft import Draft
from dsort_operator.progress import Figures, at_end
from dsort_operator.volumes import MANIFEST

_PROGRESS: Final = (
    "progress",
    "records_in",
    "records_out",
    "bytes_in",
    "bytes_out",
    "throughput",
    "rate",
)
"""What of a status is mere progress."""


def has_ended(status: DSortJobStatus) -> bool:
    """Whether the job is Complete or Failed, for ever."""
    ends = (ConditionType.COMPLETE, ConditionType.FAILED)
    return any(one.type in ends and one.status == "True" for one in status.conditions)


def status_of(draft: Draft) -> DSortJobStatus:
    """The status now. What has ended stays as it is; mere progress is held back for a while."""
    before = draft.world.status
    if has_ended(before):
        return before.model_copy(update={"observed_generation": draft.world.generation})
    status = _status(draft)
    if draft.world.written is not None and _only_progressed(before, status):
        wait = left(draft.world.written, seconds=draft.settings.progress_seconds, now=draft.now)
        if wait > 0:
            draft.wake(wait)
            return before
    return status


def _status(draft: Draft) -> DSortJobStatus:
    conditions, spec = draft.conditions, draft.spec
    complete, failed = (conditions.holds(kind) for kind in (ConditionType.COMPLETE, ConditionType.FAILED))
    start = _start_time(draft)
    numbers = _numbers(draft, complete=complete, failed=failed, start=start)
    ready = draft.readiness.ready
    return DSortJobStatus(
        observed_generation=draft.world.generation,
        state=_state(draft),
        phase=numbers.phase,
        ranks=draft.ranks or None,
        ranks_ready=ready if draft.ranks else None,
        ready=f"{ready}/{draft.ranks}" if draft.ranks else None,
        progress=numbers.progress,
        records_in=numbers.records_in,
        records_out=numbers.records_out,
        bytes_in=numbers.bytes_in,
        bytes_out=numbers.bytes_out,
        throughput=numbers.throughput,
        rate=numbers.rate,
        seed=(spec.order.seed or 0) if spec and spec.order.kind is OrderKind.SHUFFLE else None,
        plan=numbers.plan,
        memory=draft.memory,
        manifest=_manifest(draft) if complete and not draft.dry_run else None,
        abnormal_ranks=[] if complete else list(draft.readiness.abnormal),
        start_time=start,
        completion_time=draft.stamp if complete or failed else None,
        active_seconds=_active_seconds(draft),
        conditions=conditions.listed(),
    )


def _start_time(draft: Draft) -> datetime | None:
    """When the Job's pods were first allowed to start."""
    workers = draft.world.workers
    return draft.world.status.start_time or (workers.started if workers is not None else None)


def _numbers(draft: Draft, *, complete: bool, failed: bool, start: datetime | None) -> Figures:
    if complete:
        seconds = active_seconds(draft.world.status.model_copy(update={"start_time": start}), now=draft.now)
        return at_end(draft.figures, seconds=seconds, dry_run=draft.dry_run)
    if failed:
        return replace(draft.figures, phase=Phase.FAILED, throughput=None)
    return draft.figures if draft.world.live_pods else replace(draft.figures, throughput=None)


def _active_seconds(draft: Draft) -> int | None:
    """Counted up when a suspension begins, and at no other time."""
    before = draft.world.status
    was = draft.conditions.since(ConditionType.SUSPENDED, holds=True)
    begins = was == draft.stamp and was is not None
    if begins and before.start_time is not None:
        return int(active_seconds(before, now=draft.stamp))
    return before.active_seconds


def _state(draft: Draft) -> State:
    conditions, workers = draft.conditions, draft.world.workers
    if conditions.holds(ConditionType.COMPLETE):
        return State.COMPLETE
    if conditions.holds(ConditionType.FAILED):
        return State.FAILED
    if draft.world.deleting or conditions.holds(ConditionType.FAILURE_TARGET):
        return State.STOPPING
    if conditions.holds(ConditionType.SUSPENDED):
        suspended = conditions.get(ConditionType.SUSPENDED)
        waits = suspended is not None and suspended.reason == Why.QUEUED and not draft.world.status.start_time
        return State.PENDING if waits else State.SUSPENDED
    if workers is None:
        return State.PENDING
    is_running = conditions.holds(ConditionType.WORKERS_READY) or draft.readiness.moving
    return State.RUNNING if is_running else State.STARTING


def _manifest(draft: Draft) -> str | None:
    definition = draft.definition
    return f"{definition.spec.output.url.rstrip('/')}/{MANIFEST}" if definition is not None else None


def _only_progressed(before: DSortJobStatus, now: DSortJobStatus) -> bool:
    return before != now and before == now.model_copy(
        update={name: getattr(before, name) for name in _PROGRESS}
    )
