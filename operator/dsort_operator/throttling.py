"""What a draft makes of the memory of the job's pods: level, condition, events, and the failure when nothing helps. Pure."""

from __future__ import annotations

from typing import Final

from dsort_api.budgets import rank_budget
from dsort_api.messages import HIGHEST_LEVEL, Failure
from dsort_api.quantity import format_bytes
from dsort_api.reasons import Reason
from dsort_api.spec import LEAST_BUDGET, DSortJobSpec
from dsort_api.status import ConditionType, JobMemory
from dsort_operator.actions import Event
from dsort_operator.conditions import Why
from dsort_operator.draft import Draft
from dsort_operator.memory_kills import count_kills
from dsort_operator.memory_policy import Marks, Step, exceeded, step

RAISED: Final = "MemoryPressure"
LOWERED: Final = "MemoryRelieved"
"""Reasons of the events that tell of a change of the level."""
KILLED: Final = "OutOfMemory"
"""Reason of the event that tells of pods that were killed, and of what that means for others."""

_UNHURT: Final = "no rank is short of memory"


def note_kills(draft: Draft) -> None:
    """Count the pods that were killed for want of memory; ranks that start from now on get less."""
    definition = draft.definition
    if definition is None:
        return
    planned = rank_budget(definition.spec)
    before = draft.memory or JobMemory()
    pods, memory = count_kills(before, pods=draft.world.pods, budget=planned)
    if not pods:
        return
    draft.memory = memory
    last = pods[-1].name
    names = f"pod {last} was" if len(pods) == 1 else f"{len(pods)} pods ({last} the last) were"
    budget, was = memory.budget or planned, before.budget or planned
    if budget < was:
        then = f"ranks that start from now on use {format_bytes(budget)}, not {format_bytes(was)}"
    elif budget <= LEAST_BUDGET:
        then = f"ranks that start use {format_bytes(budget)} already, and cannot do with less; raise the pods' memory limit"
    else:
        then = f"ranks that start use {format_bytes(budget)} already"
    draft.warn(KILLED, f"{names} killed for want of memory; {then}")


def memory_failure(draft: Draft, spec: DSortJobSpec) -> Failure | None:
    """The end of a job that nothing relieves."""
    marks = Marks.of(spec.memory)
    if draft.memory is None:
        return None
    worst, wait = exceeded(draft.memory, usages=draft.sight.usages, marks=marks, now=draft.now)
    if wait is not None:
        draft.wake(wait)
    if worst is None:
        return None
    return Failure(
        reason=Reason.MEMORY_LIMIT_EXCEEDED,
        message=f"{worst.says}; it was above spec.memory.abortAt ({marks.abort}%) for {marks.abort_after} s at the highest "
        f"throttle level; raise resources.limits.memory in spec.workers.template, or lower spec.memory.budget",
    )


def throttle(draft: Draft, spec: DSortJobSpec) -> None:
    """The level of a job whose pods may run."""
    marks = Marks.of(spec.memory)
    made = step(
        draft.memory or JobMemory(),
        usages=draft.sight.usages,
        complete=draft.sight.complete,
        marks=marks,
        now=draft.now,
        stamp=draft.stamp,
        interval=draft.settings.throttle_seconds,
    )
    if made.wait is not None:
        draft.wake(made.wait)
    if draft.memory is not None or made.memory != JobMemory():
        was = draft.memory.level if draft.memory is not None else 0
        draft.memory = made.memory
        if made.cause is not None:
            _tell(draft, made, was=was, marks=marks)
            return
    _keep(draft)


def _tell(draft: Draft, made: Step, *, was: int, marks: Marks) -> None:
    """A change of the level, with the figures of it, which stay until the next."""
    assert made.cause is not None
    level = made.memory.level
    mark = f"throttleAt is {marks.throttle}%" if level > was else f"resumeAt is {marks.resume}%"
    says = f"level {level} of {HIGHEST_LEVEL}: {made.cause.says}; spec.memory.{mark}"
    if level:
        draft.conditions.set(ConditionType.THROTTLED, Why.MEMORY_PRESSURE, says, holds=True)
    else:
        draft.conditions.set(ConditionType.THROTTLED, Why.NOT_THROTTLED, f"{_UNHURT}; {says}", holds=False)
    draft.notes.append(
        Event(type="Warning", reason=RAISED, message=says)
        if level > was
        else Event(type="Normal", reason=LOWERED, message=says)
    )


def _keep(draft: Draft) -> None:
    """The condition as it is, or as it must have been, where somebody took it away."""
    level = draft.memory.level if draft.memory is not None else 0
    now = draft.conditions.get(ConditionType.THROTTLED)
    reason = Why.MEMORY_PRESSURE if level else Why.NOT_THROTTLED
    if now is not None and now.reason == reason:
        says = now.message
    else:
        says = f"level {level} of {HIGHEST_LEVEL}" if level else _UNHURT
    draft.conditions.set(ConditionType.THROTTLED, reason, says, holds=level > 0)
