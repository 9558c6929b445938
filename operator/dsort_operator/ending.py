"""The end of a job before its time: its pods are ended, then what they staged is taken back, then it is over. Pure.

The same steps serve a failure, an abort and a deletion. Each waits for the one before to be seen done in the cluster, so an
operator that comes later goes on where it stands.
"""

from __future__ import annotations

from dsort_api.reasons import EXIT_CODES, Reason
from dsort_api.status import ConditionType
from dsort_operator.actions import CreateCleanup, DeleteWorkers, MarkPodFailed, SuspendWorkers
from dsort_operator.children import CleanupJob
from dsort_operator.conditions import Why
from dsort_operator.deadlines import left
from dsort_operator.draft import Draft


def fail(draft: Draft) -> None:
    """Go on with a failure that was decided: Failed, with its reason, when nothing is left of the job."""
    target = draft.conditions.get(ConditionType.FAILURE_TARGET)
    assert target is not None
    known = target.reason in EXIT_CODES  # else another version wrote it
    draft.order_stop(Reason(target.reason) if known else Reason.ABORTED, target.message)
    if settled(draft, owned=True):
        draft.end(ConditionType.FAILED, target.reason, target.message)
        draft.active = False
    else:
        draft.not_ready(Why.STOPPING, "the job has failed, and what is left of it is ended")
        draft.wake(draft.settings.look_again_seconds)


def leave(draft: Draft) -> None:
    """The DSortJob was deleted without a result, or its namespace is: go when nothing is left of it."""
    why = (
        "the DSortJob was deleted"
        if draft.world.deleting
        else "the namespace of the DSortJob is being deleted"
    )
    draft.order_stop(Reason.ABORTED, why)
    draft.not_ready(Why.STOPPING, why)
    if not draft.started or draft.dry_run:
        draft.active = False
    elif draft.world.namespace_deleting:
        draft.active = False
        if draft.world.held:  # else it was told when it was let go
            draft.warn(
                "CleanupSkipped",
                f"namespace {draft.world.namespace} is being deleted, so nothing can take back what the job left in its output",
            )
    else:
        # The collector of garbage takes what is owned before the owner, when told to go about it in the foreground.
        draft.active = not settled(draft, owned=not draft.world.foreground)
        draft.wake(draft.settings.look_again_seconds)


def end_workers(draft: Draft) -> None:
    """No pod is to run, nor to be started. A Job that has a queue is Kueue's to suspend and to resume, so it goes."""
    workers = draft.world.workers
    if workers is None or workers.ended or workers.deleting:
        return
    if draft.queue:
        draft.act(DeleteWorkers(uid=workers.uid))
    elif not workers.suspended:
        draft.act(SuspendWorkers(uid=workers.uid, suspended=True))


def give_way(draft: Draft) -> None:
    """In a namespace that is being deleted, delete the Job, and hold nothing. Kubernetes deletes the pods first, and the Job
    controller lets go of a pod that failed only when it has made another in its place (KEP-3850), which is forbidden there:
    left alone, each would wait for the other for ever. And what the operator may do there is deleted before the DSortJobs.
    """
    if not draft.world.namespace_deleting:
        return
    draft.active = False
    workers = draft.world.workers
    if workers is not None and not workers.deleting:
        draft.act(DeleteWorkers(uid=workers.uid))


def give_up_lost(draft: Draft) -> None:
    """A pod that was told to end on a lost node never says that it did; the Job would wait for it for ever."""
    for pod in draft.world.live_pods:
        since = draft.world.lost_nodes.get(pod.node)
        if since is None or pod.deleted is None:
            continue
        wait = left(max(since, pod.deleted), seconds=draft.settings.lost_node_seconds, now=draft.now)
        if wait > 0:
            draft.wake(wait)
        else:
            draft.act(MarkPodFailed(name=pod.name, uid=pod.uid))


def settled(draft: Draft, *, owned: bool) -> bool:
    """Whether no pod runs, and what was staged is taken back; the next step towards it is in the draft."""
    end_workers(draft)
    return _is_quiet(draft) and _is_taken_back(draft, owned=owned)


def _is_quiet(draft: Draft) -> bool:
    """Whether no pod runs, and Kubernetes has seen that it is to start none."""
    workers = draft.world.workers
    if draft.world.live_pods:
        return False
    return workers is None or workers.ended or (workers.suspended and workers.suspended_since is not None)


def _is_taken_back(draft: Draft, *, owned: bool) -> bool:
    definition, cleanup = draft.definition, draft.world.cleanup
    if definition is None or definition.spec.dry_run:
        return True
    if cleanup is not None:
        return _is_over(draft, cleanup)
    denied = draft.world.denied.get(CreateCleanup.__name__)
    if denied is not None:
        begun = draft.conditions.since(ConditionType.FAILURE_TARGET, holds=True) or draft.world.deleted
        wait = left(begun, seconds=draft.settings.cleanup_seconds, now=draft.now)
        if wait <= 0:
            draft.warn("CleanupFailed", f"no cleanup Job could be created: {denied}")
            return True
        draft.wake(min(wait, draft.settings.look_again_seconds))
    draft.act(CreateCleanup(definition=definition, owned=owned))
    return False


def _is_over(draft: Draft, cleanup: CleanupJob) -> bool:
    if cleanup.complete:
        return True
    if cleanup.failed:
        draft.warn("CleanupFailed", f"the cleanup Job failed: {cleanup.message}; run `dsort clean` by hand")
        return True
    wait = left(cleanup.created, seconds=draft.settings.cleanup_seconds, now=draft.now)
    if wait <= 0:
        draft.warn("CleanupFailed", "the cleanup Job took too long; run `dsort clean` by hand")
        return True
    draft.wake(wait)
    return False
