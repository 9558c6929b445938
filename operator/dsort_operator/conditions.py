"""The conditions of a status, as the API conventions have them, and the events that their changes are worth. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final

from dsort_api.status import Condition, ConditionType
from dsort_operator.actions import Event

LONGEST: Final = 1024
"""Characters of a condition's message, and of an event's."""


class Why(StrEnum):
    """Reasons of conditions that are no reasons of an end."""

    # Suspended
    SUSPENDED = "Suspended"
    QUEUED = "Queued"
    NOT_SUSPENDED = "NotSuspended"
    # WorkersReady
    ALL_READY = "AllReady"
    STARTING = "Starting"
    NO_NODES = "NoNodes"
    MISSING_CLAIM = "MissingClaim"
    DENIED = "Denied"
    REPLACING = "Replacing"
    RELEASED = "Released"
    STOPPING = "Stopping"
    ENDED = "Ended"
    # Throttled
    MEMORY_PRESSURE = "MemoryPressure"
    NOT_THROTTLED = "NotThrottled"
    # Complete
    PUBLISHED = "Published"
    PLANNED = "Planned"


_QUIET: Final = frozenset({Why.SUSPENDED, Why.QUEUED, Why.STARTING, Why.REPLACING, Why.STOPPING, Why.ENDED})
"""Reasons of WorkersReady False that another event, or nobody, tells of."""


class Conditions:
    """Conditions while a status is made. What is not set stays as it was."""

    def __init__(self, before: Iterable[Condition], *, now: datetime, generation: int) -> None:
        self._before = {one.type: one for one in before}
        self._now = now
        self._generation = generation
        self._known = dict(self._before)

    def get(self, kind: ConditionType) -> Condition | None:
        """A condition as it stands now."""
        return self._known.get(kind)

    def holds(self, kind: ConditionType) -> bool:
        """Whether a condition is there and True."""
        condition = self._known.get(kind)
        return condition is not None and condition.status == "True"

    def since(self, kind: ConditionType, *, holds: bool) -> datetime | None:
        """Since when a condition is True, or False; None where it is not."""
        condition = self._known.get(kind)
        if condition is None or (condition.status == "True") is not holds:
            return None
        return condition.last_transition_time

    def set(self, kind: ConditionType, reason: str, message: str, *, holds: bool) -> None:
        """Make a condition True or False. Its time is that of the last change of its status."""
        status = "True" if holds else "False"
        before = self._before.get(kind)
        same = before is not None and before.status == status
        self._known[kind] = Condition(
            type=kind,
            status="True" if holds else "False",
            observed_generation=self._generation,
            last_transition_time=before.last_transition_time if before and same else self._now,
            reason=reason,
            message=message[:LONGEST],
        )

    def listed(self) -> list[Condition]:
        """All conditions that this operator knows, in the order of their types."""
        return [self._known[kind] for kind in ConditionType if kind in self._known]


def events_of(before: Sequence[Condition], after: Sequence[Condition]) -> list[Event]:
    """An event for each condition whose status or reason changed in a way that people want to hear of."""
    old = {one.type: one for one in before}
    events = []
    for one in after:
        was = old.get(one.type)
        if was is None or (was.status, was.reason) != (one.status, one.reason):
            event = _event(one, was=was)
            if event is not None:
                events.append(event)
    return events


def _event(now: Condition, *, was: Condition | None) -> Event | None:
    holds = now.status == "True"
    match ConditionType(now.type):
        case ConditionType.SUSPENDED if holds:
            return Event(type="Normal", reason=now.reason, message=now.message)
        case ConditionType.SUSPENDED if was is not None and now.reason == Why.NOT_SUSPENDED:
            return Event(type="Normal", reason="Resumed", message=now.message)
        case ConditionType.WORKERS_READY if holds:
            return Event(type="Normal", reason="WorkersReady", message=now.message)
        case ConditionType.WORKERS_READY if now.reason not in _QUIET:
            return Event(type="Warning", reason=now.reason, message=now.message)
        case ConditionType.FAILURE_TARGET if holds:
            return Event(type="Warning", reason=now.reason, message=now.message)
        case ConditionType.FAILED if holds:
            return Event(type="Warning", reason="Failed", message=f"{now.reason}: {now.message}"[:LONGEST])
        case ConditionType.COMPLETE if holds:
            return Event(type="Normal", reason="Complete", message=now.message)
        case _:
            return None
