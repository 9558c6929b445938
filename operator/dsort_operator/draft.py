"""A plan while it is made: what is known of the job, and what was decided so far. Pure."""

from __future__ import annotations

from datetime import datetime

from dsort_api.labels import QUEUE_LABEL
from dsort_api.messages import JobDefinition, Phase, Stop
from dsort_api.reasons import Reason
from dsort_api.spec import DSortJobSpec
from dsort_api.status import ConditionType, JobMemory
from dsort_operator.actions import Action, Event, PlanSettings
from dsort_operator.conditions import Conditions, Why
from dsort_operator.memory_sight import memory_sight
from dsort_operator.progress import figures
from dsort_operator.readiness import readiness
from dsort_operator.world import World


class Draft:
    """A plan while it is made, for one world at one time."""

    def __init__(self, world: World, *, now: datetime, settings: PlanSettings) -> None:
        self.world = world
        self.now = now
        self.stamp = now.replace(microsecond=0)
        """The same as the API writes times."""
        self.settings = settings
        self.conditions = Conditions(world.status.conditions, now=self.stamp, generation=world.generation)
        self.actions: list[Action] = []
        self.notes: list[Event] = []
        self.stop: Stop | None = None
        self.memory: JobMemory | None = world.status.memory
        self.active = True
        self._wakes: list[float] = []
        self.readiness = readiness(world, lanes=self.lanes, silence=settings.silence_seconds)
        self.sight = memory_sight(world, lanes=self.lanes, silence=settings.silence_seconds)
        self.figures = figures(
            world.reports, ranks=self.ranks, dry_run=self.dry_run, before=world.status, started=self.started
        )

    # What is known

    @property
    def spec(self) -> DSortJobSpec | None:
        """The spec as it is now; None when it does not load."""
        return self.world.job.spec if self.world.job is not None else None

    @property
    def definition(self) -> JobDefinition | None:
        """What the job is: as it was frozen, or, where that is gone, as it must have been."""
        if self.world.definition is not None or self.spec is None:
            return self.world.definition
        lanes = self.spec.workers.lanes
        pods = self.world.workers.completions if self.world.workers is not None else 0
        ranks = pods * lanes or self.world.status.ranks or lanes
        return JobDefinition(
            id=self.world.uid, name=self.world.name, spec=self.spec, ranks=ranks, lanes=lanes
        )

    @property
    def lanes(self) -> int:
        """Ranks in a pod."""
        return self.definition.lanes if self.definition is not None else 1

    @property
    def ranks(self) -> int:
        """Ranks of the job, 0 before it is known."""
        if self.world.definition is not None:
            return self.world.definition.ranks
        return self.world.status.ranks or 0

    @property
    def dry_run(self) -> bool:
        """Whether there is to be no output."""
        return self.definition is not None and self.definition.spec.dry_run

    @property
    def queue(self) -> str:
        """The queue of Kueue that decides when pods start; "" without."""
        return self.world.labels.get(QUEUE_LABEL, "")

    @property
    def started(self) -> bool:
        """Whether there may be something that the job's pods have done."""
        return bool(self.world.workers or self.world.pods or self.world.status.start_time)

    @property
    def durable(self) -> bool:
        """Whether the result stands: no failure can come after that. A rank ends well only when it does."""
        if self.dry_run:
            return self.figures.plan is not None
        reports = self.world.reports.values()
        return any(pod.succeeded for pod in self.world.pods) or any(
            report.observed.phase is Phase.COMPLETE for report in reports
        )

    @property
    def kept(self) -> bool:
        """Whether who was to take the output back has found a result there."""
        return self.world.cleanup is not None and self.world.cleanup.kept

    @property
    def done(self) -> bool:
        """Whether all pods have ended well, or Kubernetes says so."""
        workers = self.world.workers
        if workers is None:
            return False
        ended = {pod.index for pod in self.world.pods if pod.succeeded}
        return workers.complete or len(ended) >= workers.completions

    # What is decided

    @property
    def wake_after(self) -> float | None:
        """Seconds after which to look again; None: when something changes."""
        return min(self._wakes, default=None)

    def act(self, action: Action) -> None:
        """Do this."""
        self.actions.append(action)

    def wake(self, seconds: float) -> None:
        """Look again after so many seconds, or earlier."""
        self._wakes.append(max(0.0, seconds))

    def warn(self, reason: str, message: str) -> None:
        """An event that no condition tells of."""
        self.notes.append(Event(type="Warning", reason=reason, message=message))

    def order_stop(self, reason: Reason, message: str) -> None:
        """Every rank is to end."""
        self.stop = Stop(reason=reason, message=message)

    def not_ready(self, reason: Why | str, message: str) -> None:
        """The ranks do not all answer."""
        self.conditions.set(ConditionType.WORKERS_READY, reason, message, holds=False)

    def not_suspended(self) -> None:
        """The job may go on."""
        self.conditions.set(ConditionType.SUSPENDED, Why.NOT_SUSPENDED, "the job is active", holds=False)

    def end(self, kind: ConditionType, reason: str, message: str) -> None:
        """The job is Complete, or Failed. Nothing else is true of it from now on."""
        says = f"the job is {kind.lower()}"
        self.not_ready(Why.ENDED, says)
        if self.conditions.holds(ConditionType.SUSPENDED):
            self.conditions.set(ConditionType.SUSPENDED, Why.ENDED, says, holds=False)
        self.not_throttled(Why.ENDED, says)
        self.conditions.set(kind, reason, message, holds=True)

    def not_throttled(self, why: Why, message: str) -> None:
        """No pod is to run, so none is held back."""
        if self.memory is not None and (self.memory.level or self.memory.above_abort_since):
            none = {"level": 0, "level_since": self.stamp, "above_abort_since": None, "above_abort_pod": None}
            self.memory = self.memory.model_copy(update=none)
        if self.conditions.holds(ConditionType.THROTTLED):
            self.conditions.set(ConditionType.THROTTLED, why, message, holds=False)
