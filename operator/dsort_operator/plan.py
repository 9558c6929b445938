"""The decisions: from what is there to what is done next, and what the status says. Pure; the clock is an argument."""

from __future__ import annotations

from datetime import datetime

from dsort_operator.actions import Plan, PlanSettings
from dsort_operator.world import World


def plan(world: World, *, now: datetime, settings: PlanSettings) -> Plan:
    """The next step of the job. The same world and time give the same plan."""
    raise NotImplementedError
