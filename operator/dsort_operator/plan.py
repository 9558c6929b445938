"""The decisions: from what is there to what is done next, and what the status says. Pure; the clock is an argument.

Nothing is remembered from one plan to the next but verdicts and times in the status. A failure is written down before anything
is ended because of it: its witnesses go with the pods.
"""

from __future__ import annotations

from datetime import datetime

from dsort_api.labels import MANAGED_BY
from dsort_api.messages import Failure, JobDefinition
from dsort_api.reasons import Reason
from dsort_api.spec import IMMUTABLE, DSortJobSpec
from dsort_api.status import ConditionType
from dsort_operator.actions import (
    CreateDefinition,
    CreateNetworkPolicy,
    CreateSecret,
    CreateWorkers,
    DeleteJob,
    Plan,
    PlanSettings,
    SuspendWorkers,
)
from dsort_operator.children import WorkersJob
from dsort_operator.conditions import Why, events_of
from dsort_operator.deadlines import active_left, left, retry_pause
from dsort_operator.draft import Draft
from dsort_operator.ending import end_workers, fail, give_up_lost, give_way, leave
from dsort_operator.failure import lasting_failure
from dsort_operator.placement import missing_claims, pods_of, unsuitable
from dsort_operator.summary import has_ended, status_of
from dsort_operator.throttling import memory_failure, note_kills, throttle
from dsort_operator.world import World


def plan(world: World, *, now: datetime, settings: PlanSettings) -> Plan:
    """The next step of the job. The same world and time give the same plan."""
    if world.managed_by not in {"", MANAGED_BY}:
        return Plan(status=world.status, active=False)
    draft = Draft(world, now=now, settings=settings)
    if not has_ended(world.status):
        note_kills(draft)
    _decide(draft)
    give_up_lost(draft)
    give_way(draft)
    status = status_of(draft)
    return Plan(
        status=status,
        actions=tuple(draft.actions),
        events=(*events_of(world.status.conditions, status.conditions), *draft.notes),
        stop=draft.stop,
        throttle_level=draft.memory.level if draft.memory is not None else 0,
        memory_budget=draft.memory.budget if draft.memory is not None else None,
        wake_after=draft.wake_after,
        active=draft.active,
    )


def _decide(draft: Draft) -> None:
    spec = draft.spec
    if has_ended(draft.world.status):
        _after_end(draft)
    elif draft.done or draft.kept or (draft.durable and _would_end(draft)):
        _complete(draft)
    elif draft.world.deleting or draft.world.namespace_deleting:
        leave(draft)
    elif draft.conditions.holds(ConditionType.FAILURE_TARGET):
        fail(draft)
    elif (failure := _failure(draft)) is not None:
        _fail_first(draft, failure)
    else:
        assert spec is not None  # that would be a failure
        if spec.suspend:
            _hold(draft)
        else:
            _go_on(draft, spec)


# The end


def _would_end(draft: Draft) -> bool:
    """Whether the job is to end now, whatever its ranks still do. What is being taken back is no result any more."""
    if draft.world.cleanup is not None:
        return False
    return (
        draft.world.deleting
        or draft.conditions.holds(ConditionType.FAILURE_TARGET)
        or _failure(draft) is not None
    )


def _failure(draft: Draft) -> Failure | None:
    """Why the job is to end without a result, if it is."""
    world, spec = draft.world, draft.spec
    if spec is None:
        message = world.problem.message if world.problem is not None else "the spec cannot be read"
        return Failure(reason=Reason.INVALID_SPEC, message=message)
    if spec.abort:
        return Failure(reason=Reason.ABORTED, message="spec.abort is true")
    remaining = active_left(spec, status=world.status, now=draft.now)
    if remaining is not None and remaining <= 0:
        return Failure(
            reason=Reason.DEADLINE_EXCEEDED,
            message=f"spec.activeDeadlineSeconds ({spec.active_deadline_seconds}) are over",
        )
    return lasting_failure(world) or memory_failure(draft, spec) or _unsuitable(draft, spec)


def _unsuitable(draft: Draft, spec: DSortJobSpec) -> Failure | None:
    """Whether the cluster can do the job at all; asked before its pods are made, once everything is there to see it."""
    world = draft.world
    pods = _pods(draft, spec)
    if world.workers is not None or spec.suspend or not pods or missing_claims(spec, claims=world.claims):
        return None
    if world.definition is not None and any(
        getattr(world.definition.spec, name) != getattr(spec, name) for name in IMMUTABLE
    ):
        message = "spec: the ConfigMap that is to freeze it holds another; create another DSortJob"
        return Failure(reason=Reason.INVALID_SPEC, message=message)
    wrong = unsuitable(spec, pods=pods, claims=world.claims, allow_host_paths=draft.settings.allow_host_paths)
    return Failure(reason=Reason.INVALID_SPEC, message=wrong) if wrong is not None else None


def _fail_first(draft: Draft, failure: Failure) -> None:
    """Write the failure down. A job of which nothing has started has failed with that."""
    if draft.started:
        draft.conditions.set(ConditionType.FAILURE_TARGET, failure.reason, failure.message, holds=True)
        draft.order_stop(failure.reason, failure.message)
        draft.wake(0)
    else:
        draft.end(ConditionType.FAILED, failure.reason, failure.message)
        draft.active = False


def _complete(draft: Draft) -> None:
    message = "the output and its manifest are published"
    if draft.dry_run:
        planned = draft.figures.plan
        message = (
            f"{planned.shards} shards would be written, with {planned.records} records"
            if planned is not None
            else "the plan is in the log of rank 0: nobody was there to hear it"
        )
    why = Why.PLANNED if draft.dry_run else Why.PUBLISHED
    if draft.conditions.holds(ConditionType.FAILURE_TARGET):
        draft.conditions.set(ConditionType.FAILURE_TARGET, why, message, holds=False)
    draft.end(ConditionType.COMPLETE, why, message)
    _end_stragglers(draft)


def _after_end(draft: Draft) -> None:
    """The verdict stands. What still runs is ended, and the DSortJob goes when its time to live is over."""
    _end_stragglers(draft)
    if draft.world.deleting:
        draft.active = False
        return
    ttl = draft.spec.ttl_seconds_after_finished if draft.spec is not None else None
    if ttl is None:
        return
    wait = left(draft.world.status.completion_time, seconds=ttl, now=draft.now)
    if wait > 0:
        draft.wake(wait)
    elif not draft.active:
        draft.act(DeleteJob())


def _end_stragglers(draft: Draft) -> None:
    draft.active = any(not pod.succeeded for pod in draft.world.live_pods)
    if draft.active:
        end_workers(draft)
        draft.wake(draft.settings.look_again_seconds)


# Life


def _hold(draft: Draft) -> None:
    """Suspended: no pods. Before its start a job has no children either."""
    draft.conditions.set(ConditionType.SUSPENDED, Why.SUSPENDED, "spec.suspend is true", holds=True)
    draft.not_ready(Why.SUSPENDED, "the job is suspended")
    draft.not_throttled(Why.NOT_THROTTLED, "the job is suspended")
    end_workers(draft)
    if draft.world.live_pods:
        draft.wake(draft.settings.look_again_seconds)


def _go_on(draft: Draft, spec: DSortJobSpec) -> None:
    workers = draft.world.workers
    queued = f"the queue {draft.queue} has not admitted the job"
    if draft.queue and (workers is None or workers.deleting or workers.suspended):
        draft.conditions.set(ConditionType.SUSPENDED, Why.QUEUED, queued, holds=True)
    else:
        draft.not_suspended()
    if workers is None or workers.deleting or workers.suspended:
        draft.not_throttled(Why.NOT_THROTTLED, "no pod is to run")
    if workers is None:
        _start(draft, spec)
    elif workers.deleting:
        draft.not_ready(Why.REPLACING, "an earlier Job is being deleted")
        draft.wake(draft.settings.look_again_seconds)
    elif workers.suspended and draft.queue:
        draft.not_ready(Why.QUEUED, queued)
    elif workers.suspended:
        _try_again(draft, workers)
    else:
        _run(draft, spec, workers)
    remaining = active_left(spec, status=draft.world.status, now=draft.now)
    if remaining is not None and not draft.conditions.holds(ConditionType.SUSPENDED):
        draft.wake(remaining)


def _start(draft: Draft, spec: DSortJobSpec) -> None:
    world, definition = draft.world, draft.world.definition
    if world.live_pods:
        draft.not_ready(Why.REPLACING, "pods of an earlier Job still end")
        draft.wake(draft.settings.look_again_seconds)
    elif missing := missing_claims(spec, claims=world.claims):
        draft.not_ready(Why.MISSING_CLAIM, f"there is no claim {' nor '.join(missing)}")
        draft.wake(draft.settings.look_again_seconds)
    elif not (pods := _pods(draft, spec)):
        draft.not_ready(Why.NO_NODES, "no node that can be scheduled to matches the template of the pods")
        draft.wake(draft.settings.look_again_seconds)
    elif definition is None:
        lanes = spec.workers.lanes
        draft.act(
            CreateDefinition(
                definition=JobDefinition(
                    id=world.uid, name=world.name, spec=spec, ranks=pods * lanes, lanes=lanes
                )
            )
        )
        _create(draft, CreateDefinition.__name__)
    else:
        draft.act(CreateSecret())
        if draft.settings.network_policy:
            draft.act(CreateNetworkPolicy(definition=definition))
        draft.act(CreateWorkers(definition=definition, suspended=bool(draft.queue), queue=draft.queue))
        _create(draft, CreateSecret.__name__, CreateNetworkPolicy.__name__, CreateWorkers.__name__)


def _create(draft: Draft, *actions: str) -> None:
    """Say that the children are being made, or what the API server has against them."""
    denied = next((draft.world.denied[name] for name in actions if name in draft.world.denied), None)
    if denied is not None:
        draft.not_ready(Why.DENIED, f"the API server refuses what the job needs: {denied}")
        draft.wake(draft.settings.look_again_seconds)
    else:
        draft.not_ready(Why.STARTING, "the job's children are being created")
        # Nobody is told of a new definition, as one is of a new Job.
        draft.wake(0 if draft.world.definition is None else draft.settings.look_again_seconds)


def _pods(draft: Draft, spec: DSortJobSpec) -> int:
    """How many pods there are to be: frozen with the definition."""
    if draft.world.definition is not None:
        return draft.ranks // draft.lanes
    return pods_of(spec, nodes=draft.world.nodes)


def _run(draft: Draft, spec: DSortJobSpec, workers: WorkersJob) -> None:
    throttle(draft, spec)
    draft.wake(draft.settings.progress_seconds)
    ready, ranks = draft.readiness.ready, draft.ranks
    if ready >= ranks:
        message = f"all {ranks} ranks are ready"
        draft.conditions.set(ConditionType.WORKERS_READY, Why.ALL_READY, message, holds=True)
        return
    first = next(iter(draft.readiness.abnormal), None)
    says = f"{ready} of {ranks} ranks are ready" + (f"; {first.message}" if first is not None else "")
    draft.not_ready(first.reason if first is not None else Why.STARTING, says)
    if workers.ended or draft.queue:
        return  # Kueue has its own patience
    unready = draft.conditions.since(ConditionType.WORKERS_READY, holds=False)
    since = max(filter(None, (unready, workers.started or draft.now)))
    wait = left(since, seconds=spec.start_deadline_seconds, now=draft.now)
    if wait > 0:
        draft.wake(wait)
    elif draft.durable:
        _complete(draft)  # the ranks that are missing have nothing left to do
    else:
        # Half of the pods would keep others from the room that they themselves do not use.
        draft.act(SuspendWorkers(uid=workers.uid, suspended=True))
        draft.not_ready(
            Why.RELEASED,
            f"the ranks were not all ready within spec.startDeadlineSeconds ({spec.start_deadline_seconds}), so all are "
            f"released and tried again later: {says}",
        )


def _try_again(draft: Draft, workers: WorkersJob) -> None:
    """Resume the Job: at once, or, where its pods were released, after a pause. A status that got lost costs only the pause."""
    was = next(
        (one for one in draft.world.status.conditions if one.type == ConditionType.WORKERS_READY), None
    )
    if was is not None and was.reason == Why.RELEASED:
        since = workers.suspended_since
        pause = retry_pause(draft.world.uid, since=since, seconds=draft.settings.retry_seconds)
        wait = left(since, seconds=pause, now=draft.now)
        if wait > 0:
            draft.not_ready(Why.RELEASED, was.message)
            draft.wake(wait)
            return
    draft.act(SuspendWorkers(uid=workers.uid, suspended=False))
    draft.not_ready(Why.STARTING, "the job's pods are started again")
