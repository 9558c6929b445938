"""A job's life under the plan, step by step: what happens, what is done about it, and what the status says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dsort_api.labels import QUEUE_LABEL
from dsort_api.messages import Phase, Stop
from dsort_api.reasons import Reason
from dsort_api.spec import load_job
from dsort_api.status import Condition, State
from dsort_operator.actions import (
    CreateCleanup,
    CreateDefinition,
    CreateNetworkPolicy,
    CreateSecret,
    CreateWorkers,
    DeleteJob,
    DeleteWorkers,
    MarkPodFailed,
    Plan,
    PlanSettings,
    SuspendWorkers,
)
from dsort_operator.children import CleanupJob
from dsort_operator.plan import plan
from dsort_operator.world import Refusal
from tests.support.clusters import SETTINGS, Cluster
from tests.support.worlds import (
    SHARED,
    T0,
    definition_of,
    failed_pod,
    failure,
    job_body,
    report,
    worker_pod,
    workers_job,
)


def names(todo: Plan) -> list[str]:
    return [type(action).__name__ for action in todo.actions]


def condition(cluster: Cluster, kind: str) -> Condition:
    return next(one for one in cluster.status.conditions if one.type == kind)


def has(cluster: Cluster, kind: str) -> bool:
    return any(one.type == kind and one.status == "True" for one in cluster.status.conditions)


def state(cluster: Cluster) -> State | None:
    return cluster.status.state


def turn(cluster: Cluster, times: int = 1) -> Plan:
    """The operator, then the Job controller and the kubelets."""
    todo = None
    for _ in range(times):
        todo = cluster.settle() or todo
        cluster.control_jobs()
        cluster.run_pods()
    assert todo is not None
    return todo


def running(**spec: Any) -> Cluster:
    """A job whose two pods run and are ready."""
    cluster = Cluster(body=job_body(**spec))
    turn(cluster, 2)
    cluster.settle()
    assert state(cluster) is State.RUNNING
    return cluster


# From the beginning to the end


def test_job_from_its_creation_to_complete() -> None:
    cluster = Cluster(body=job_body(order={"kind": "Shuffle", "seed": 7}))
    first = cluster.reconcile()
    assert first is not None
    assert names(first) == ["CreateDefinition"]
    assert first.wake_after == 0
    assert first.active
    assert state(cluster) is State.PENDING
    second = cluster.reconcile()
    assert second is not None
    assert names(second) == ["CreateSecret", "CreateWorkers"]
    assert cluster.status.ranks == 2
    cluster.settle()
    assert state(cluster) is State.STARTING
    assert cluster.status.start_time == T0
    assert (cluster.status.ready, cluster.status.seed) == ("0/2", 7)
    cluster.control_jobs()
    cluster.run_pods()
    third = cluster.settle()
    assert third is not None
    assert state(cluster) is State.RUNNING
    assert condition(cluster, "WorkersReady").reason == "AllReady"
    assert cluster.status.ready == "2/2"
    cluster.wait(10)
    for rank in (0, 1):
        cluster.report(rank, Phase.CREATE, done=50)
    cluster.settle()
    assert cluster.status.phase is Phase.CREATE
    assert cluster.status.progress is not None
    assert cluster.status.progress.share == "59%"
    assert cluster.status.bytes_out == 100
    cluster.publish()
    cluster.wait(10)
    for index in (0, 1):
        cluster.succeed(index)
    last = cluster.reconcile()
    assert last is not None
    assert [event.reason for event in last.events] == ["Complete"]
    assert not last.active
    assert not cluster.finalizer
    assert has(cluster, "Complete")
    assert state(cluster) is State.COMPLETE
    assert last.status.phase is Phase.COMPLETE
    assert last.status.progress is not None
    assert last.status.progress.share == "100%"
    assert cluster.status.manifest == "pvc://data/out/dsort-manifest.json"
    assert cluster.status.completion_time == T0 + timedelta(seconds=20)
    assert cluster.status.throughput == 5
    assert cluster.status.rate == "5 bytes/s"
    assert cluster.cleanups == 0


def test_number_of_pods_is_frozen_at_the_first_start() -> None:
    cluster = Cluster(body=job_body(workers={"lanes": 3}), nodes=4)
    cluster.reconcile()
    cluster.nodes = 1
    turn(cluster, 2)
    assert cluster.workers is not None
    assert cluster.workers.completions == 4
    assert cluster.status.ranks == 12


def test_network_policy_is_made_where_it_is_wanted() -> None:
    cluster = Cluster()
    cluster.reconcile()
    todo = plan(cluster.world(), now=T0, settings=PlanSettings(network_policy=True))
    assert names(todo) == ["CreateSecret", "CreateNetworkPolicy", "CreateWorkers"]
    assert isinstance(todo.actions[1], CreateNetworkPolicy)


def test_what_the_operator_cannot_watch_is_waited_for_by_name() -> None:
    cluster = Cluster(body=job_body(workers={}), nodes=0, claims={})
    todo = cluster.settle()
    assert todo is not None
    assert todo.wake_after == SETTINGS.look_again_seconds
    assert condition(cluster, "WorkersReady").reason == "MissingClaim"
    assert "data" in condition(cluster, "WorkersReady").message
    cluster.claims["data"] = ("ReadWriteMany",)
    cluster.settle()
    assert condition(cluster, "WorkersReady").reason == "NoNodes"
    assert state(cluster) is State.PENDING
    cluster.nodes = 2
    turn(cluster, 2)
    cluster.settle()
    assert state(cluster) is State.RUNNING


def test_refusal_of_the_api_server_is_shown_and_tried_again() -> None:
    cluster = Cluster(denies={"CreateSecret"})
    todo = cluster.settle()
    assert todo is not None
    assert condition(cluster, "WorkersReady").reason == "Denied"
    assert "forbidden" in condition(cluster, "WorkersReady").message
    assert cluster.workers is None  # not without its token
    assert todo.wake_after == SETTINGS.look_again_seconds
    cluster.denies.clear()
    turn(cluster, 2)
    assert state(cluster) in {State.STARTING, State.RUNNING}


def test_job_of_another_controller_is_left_alone() -> None:
    cluster = Cluster(body=job_body(managedBy="kueue.x-k8s.io/multikueue"))
    assert cluster.plan() == Plan(status=cluster.status, active=False)
    ours = Cluster(body=job_body(managedBy="dsort.dev/operator"))
    assert names(ours.plan()) == ["CreateDefinition"]


# What cannot work


@pytest.mark.parametrize(
    ("spec", "claims", "says"),
    [
        ({"input": {"url": "ftp://x"}}, {}, "spec.input.url"),
        (
            {"input": {"url": "file:///x"}},
            {"data": ("ReadWriteMany",)},
            "spec.input.url: this operator does not allow",
        ),
        ({}, {"data": ("ReadWriteOnce",)}, "spec.output.url: claim data is ReadWriteOnce"),
    ],
)
def test_impossible_job_fails_at_once_and_leaves_nothing(
    spec: dict[str, Any], claims: dict[str, tuple[str, ...] | None], says: str
) -> None:
    cluster = Cluster(body=job_body(**spec), claims=claims)
    todo = cluster.settle()
    assert todo is not None
    assert todo.actions == ()
    assert not todo.active
    failed = condition(cluster, "Failed")
    assert (failed.status, failed.reason) == ("True", "InvalidSpec")
    assert says in failed.message
    assert state(cluster) is State.FAILED
    assert cluster.status.phase is Phase.FAILED
    assert cluster.status.completion_time == T0
    assert cluster.definition is None


def test_single_pod_may_use_a_claim_of_one_node() -> None:
    cluster = Cluster(body=job_body(workers={"count": 1}), claims={"data": ("ReadWriteOnce",)})
    turn(cluster, 2)
    cluster.settle()
    assert state(cluster) is State.RUNNING


def test_job_whose_spec_stops_loading_while_it_runs_fails_and_is_cleaned_up() -> None:
    cluster = running()
    cluster.edit(output={"url": "nowhere", "name": "x"})
    turn(cluster, 3)
    assert cluster.cleanups == 1
    cluster.run_cleanup()
    cluster.settle()
    assert condition(cluster, "Failed").reason == "InvalidSpec"


# Failures


def test_cleanup_waits_until_kubernetes_has_seen_that_no_pod_is_to_start() -> None:
    cluster = Cluster()
    cluster.settle()
    assert cluster.pods == []  # the Job controller is slow today
    cluster.edit(abort=True)
    cluster.settle()
    assert cluster.workers is not None
    assert cluster.workers.suspended
    assert cluster.cleanups == 0
    cluster.control_jobs()
    cluster.settle()
    assert cluster.cleanups == 1


def fail_by_report(cluster: Cluster) -> None:
    cluster.reports[1] = report(1, Phase.FAILED, failure=failure())


def fail_by_last_words(cluster: Cluster) -> None:
    said = '{"reason": "CorruptShard", "message": "shard a.tar: no header", "rank": 1}'
    cluster.fail_pod(1, code=6, said=said)


def fail_by_exit_code(cluster: Cluster) -> None:
    cluster.fail_pod(1, code=6)


def fail_by_verdict(cluster: Cluster) -> None:
    cluster.fail_pod(1, code=6)
    cluster.control_jobs()
    cluster.pods = [pod for pod in cluster.pods if pod.live]


@pytest.mark.parametrize("fail", [fail_by_report, fail_by_last_words, fail_by_exit_code, fail_by_verdict])
def test_lasting_failure_ends_the_job_with_its_reason(fail: Callable[[Cluster], None]) -> None:
    cluster = running()
    fail(cluster)
    first = cluster.reconcile()
    assert first is not None
    assert first.actions == ()  # it is written down before its witnesses are gone
    assert first.wake_after == 0
    assert first.stop is not None
    assert first.stop.reason is Reason.CORRUPT_SHARD
    assert [event.reason for event in first.events] == ["CorruptShard"]
    assert state(cluster) is State.STOPPING
    second = cluster.reconcile()
    assert second is not None
    if fail is not fail_by_verdict:
        assert second.actions == (SuspendWorkers(uid="job-1", suspended=True),)
    assert second.stop == first.stop
    turn(cluster, 2)
    assert not cluster.pods or not any(pod.live for pod in cluster.pods)
    third = cluster.settle()
    assert third is not None
    assert cluster.cleanups == 1
    assert not has(cluster, "Failed")
    assert cluster.finalizer
    cluster.run_cleanup()
    last = cluster.settle()
    assert last is not None
    failed = condition(cluster, "Failed")
    assert failed.reason == "CorruptShard"
    assert failed.message == condition(cluster, "FailureTarget").message
    assert state(cluster) is State.FAILED
    assert not cluster.finalizer


def test_result_that_was_there_to_be_taken_back_completes_the_job() -> None:
    """Its ranks had written it, and were killed before they could say so."""
    cluster = running()
    fail_by_exit_code(cluster)
    turn(cluster, 3)
    cluster.settle()
    assert cluster.cleanups == 1
    assert state(cluster) is State.STOPPING
    cluster.cleanup = CleanupJob(created=cluster.now, failed=True, kept=True, message="exit code 22")
    last = cluster.settle()
    assert last is not None
    assert state(cluster) is State.COMPLETE
    assert not cluster.finalizer
    assert "CleanupFailed" not in [event.reason for event in last.events]


def test_definition_that_holds_another_spec_makes_no_pods() -> None:
    """Its name is known before it is there, and so are the marks of a child."""
    cluster = Cluster(body=job_body())
    forged = definition_of(job_body(input={"url": "file:///etc"}))
    made = plan(replace(cluster.world(), definition=forged, claims=SHARED), now=T0, settings=SETTINGS)
    assert made.actions == ()
    (failed,) = [one for one in made.status.conditions if one.type == "Failed"]
    assert failed.reason == "InvalidSpec"
    assert "ConfigMap" in failed.message


def test_quota_that_keeps_pods_from_being_made_is_told() -> None:
    world = running().world()
    seen = replace(world, pods=world.pods[:1], pods_refused='pods "x" is forbidden: exceeded quota: small')
    made = plan(seen, now=T0, settings=SETTINGS)
    (ready,) = [one for one in made.status.conditions if one.type == "WorkersReady"]
    assert (ready.status, ready.reason) == ("False", "FailedCreate")
    assert ready.message == '1 of 2 ranks are ready; pods "x" is forbidden: exceeded quota: small'


@pytest.mark.parametrize(
    "seen",
    [
        {"workers": workers_job(deleting=True)},
        {"workers": None},
        {"workers": workers_job(suspended=True), "job": load_job(job_body(suspend=True), strict=True)},
    ],
    ids=["an earlier Job is being deleted", "its pods still end", "suspended, and pods still end"],
)
def test_what_a_watch_may_miss_is_looked_at_again(seen: dict[str, Any]) -> None:
    made = plan(replace(running().world(), **seen), now=T0, settings=SETTINGS)
    assert made.wake_after is not None
    assert made.wake_after <= SETTINGS.look_again_seconds


def test_what_another_try_may_not_meet_again_is_tried_again() -> None:
    cluster = running()
    for _ in range(3):
        cluster.fail_pod(1, code=1)
        turn(cluster)
        assert not has(cluster, "FailureTarget")
        turn(cluster)
    assert state(cluster) is State.RUNNING


def test_used_up_tries_name_the_pod_that_used_them_up() -> None:
    cluster = running(backoffLimit=1)
    for _ in range(2):
        cluster.fail_pod(1, code=137, oom=True)
        turn(cluster, 2)
    target = condition(cluster, "FailureTarget")
    assert target.reason == "MemoryLimitExceeded"
    assert "OOMKilled" in target.message
    assert "pod job-1-1-" in target.message
    assert "spec.backoffLimit (1)" in target.message


def test_operator_that_a_rank_does_not_understand_ends_the_job() -> None:
    refusal = Refusal(message="refused control: protocol 2 is not 1", lasting=True)
    world = replace(running().world(), refused={1: refusal})
    target = next(
        one for one in plan(world, now=T0, settings=SETTINGS).status.conditions if one.type == "FailureTarget"
    )
    assert target.reason == "ProtocolMismatch"
    assert target.message == "rank 1 refused control: protocol 2 is not 1"


def test_rank_that_refuses_for_now_is_not_ready_and_the_job_goes_on() -> None:
    """Somebody else may have the address of a pod that is gone."""
    refusal = Refusal(message="refused control (401): not mine", lasting=False)
    made = plan(replace(running().world(), refused={1: refusal}), now=T0, settings=SETTINGS)
    assert made.stop is None
    ready = next(one for one in made.status.conditions if one.type == "WorkersReady")
    assert (ready.status, ready.reason) == ("False", "Refused")
    assert ready.message == "1 of 2 ranks are ready; rank 1 refused control (401): not mine"


def test_result_that_stands_beats_what_fails_after_it() -> None:
    cluster = running()
    cluster.publish()
    cluster.succeed(0)
    cluster.fail_pod(1, code=6)
    todo = cluster.settle()
    assert todo is not None
    assert has(cluster, "Complete")
    assert cluster.cleanups == 0


def test_result_that_shows_after_the_decision_to_fail_still_stands() -> None:
    cluster = running()
    cluster.edit(abort=True)
    cluster.reconcile()
    assert has(cluster, "FailureTarget")
    cluster.publish()
    cluster.succeed(0)
    cluster.settle()
    assert has(cluster, "Complete")
    assert condition(cluster, "FailureTarget").status == "False"
    assert cluster.workers is not None
    assert cluster.workers.suspended  # the other pod is ended
    turn(cluster, 2)
    assert not cluster.finalizer
    assert cluster.cleanups == 0


def test_what_is_being_taken_back_is_no_result_any_more() -> None:
    cluster = running()
    cluster.edit(abort=True)
    turn(cluster, 3)
    assert cluster.cleanups == 1
    cluster.reports[0] = report(0, Phase.COMPLETE)
    cluster.run_cleanup()
    cluster.settle()
    assert condition(cluster, "Failed").reason == "Aborted"


def test_stragglers_of_a_complete_job_are_ended_before_it_goes() -> None:
    cluster = running(ttlSecondsAfterFinished=0)
    cluster.publish()
    cluster.succeed(0)
    cluster.edit(abort=True)
    first = cluster.settle()
    assert first is not None
    assert has(cluster, "Complete")
    assert first.active
    assert "DeleteJob" not in names(cluster.plan())
    deleted = replace(cluster.world(), deleted=T0)
    assert not plan(deleted, now=T0, settings=SETTINGS).active
    turn(cluster, 3)
    assert cluster.gone


def test_pods_whose_containers_have_ended_well_are_no_stragglers() -> None:
    cluster = running()
    cluster.publish()
    cluster.pods = [replace(pod, exit_code=0) for pod in cluster.pods]
    todo = cluster.reconcile()
    assert todo is not None
    assert has(cluster, "Complete")
    assert todo.actions == ()
    assert not todo.active


def test_cleanup_that_fails_is_an_event_and_no_end_of_its_own() -> None:
    cluster = running()
    cluster.edit(abort=True)
    turn(cluster, 3)
    cluster.run_cleanup(fails=True)
    todo = cluster.reconcile()
    assert todo is not None
    assert "CleanupFailed" in [event.reason for event in todo.events]
    assert condition(cluster, "Failed").reason == "Aborted"


def test_cleanup_that_has_no_end_is_given_up() -> None:
    cluster = running()
    cluster.edit(abort=True)
    turn(cluster, 3)
    cluster.wait(SETTINGS.cleanup_seconds - 1)
    cluster.settle()
    assert not has(cluster, "Failed")
    cluster.wait(1)
    todo = cluster.settle()
    assert todo is not None
    assert has(cluster, "Failed")


def test_cleanup_that_nobody_may_create_is_given_up() -> None:
    cluster = running()
    cluster.denies.add("CreateCleanup")
    cluster.edit(abort=True)
    turn(cluster, 4)
    assert not has(cluster, "Failed")
    cluster.wait(SETTINGS.cleanup_seconds)
    todo = cluster.reconcile()
    assert todo is not None
    assert "no cleanup Job could be created: forbidden" in {event.message for event in todo.events}
    assert has(cluster, "Failed")


def test_dry_run_has_nothing_to_clean_up() -> None:
    cluster = running(dryRun=True)
    cluster.edit(abort=True)
    turn(cluster, 3)
    cluster.settle()
    assert has(cluster, "Failed")
    assert cluster.cleanups == 0


# Suspension


def test_suspended_before_its_start_a_job_has_no_children() -> None:
    cluster = Cluster(body=job_body(suspend=True))
    turn(cluster, 2)
    assert cluster.definition is None
    assert cluster.workers is None
    assert state(cluster) is State.SUSPENDED
    assert condition(cluster, "Suspended").reason == "Suspended"
    cluster.edit(suspend=False)
    turn(cluster, 2)
    cluster.settle()
    assert state(cluster) is State.RUNNING


def test_suspension_frees_the_pods_and_resumption_starts_them_at_once() -> None:
    cluster = running()
    cluster.wait(30)
    cluster.edit(suspend=True)
    held = cluster.reconcile()
    assert held is not None
    assert held.actions == (SuspendWorkers(uid="job-1", suspended=True),)
    assert held.stop is None
    assert cluster.status.active_seconds == 30
    turn(cluster, 2)
    assert cluster.pods == []
    assert cluster.status.ready == "0/2"
    assert cluster.status.observed_generation == 2
    cluster.wait(1000)
    cluster.edit(suspend=False)
    resumed = cluster.reconcile()
    assert resumed is not None
    assert resumed.actions == (SuspendWorkers(uid="job-1", suspended=False),)
    assert "Resumed" in [event.reason for event in resumed.events]
    turn(cluster, 2)
    cluster.settle()
    assert state(cluster) is State.RUNNING
    assert cluster.status.start_time == T0


def test_deadline_stands_still_in_suspension() -> None:
    cluster = running(activeDeadlineSeconds=60)
    cluster.wait(50)
    cluster.edit(suspend=True)
    turn(cluster, 2)
    cluster.wait(1000)
    cluster.settle()
    cluster.edit(suspend=False)
    todo = turn(cluster, 2)
    assert todo.wake_after is not None
    cluster.wait(9)
    cluster.settle()
    assert not has(cluster, "FailureTarget")
    cluster.wait(1)
    cluster.settle()
    target = condition(cluster, "FailureTarget")
    assert (target.reason, target.message) == (
        "DeadlineExceeded",
        "spec.activeDeadlineSeconds (60) are over",
    )


def test_suspended_job_can_be_aborted() -> None:
    cluster = running()
    cluster.edit(suspend=True)
    turn(cluster, 2)
    cluster.edit(abort=True)
    turn(cluster, 2)
    cluster.run_cleanup()
    cluster.settle()
    assert condition(cluster, "Failed").reason == "Aborted"
    assert condition(cluster, "Suspended").status == "False"


# Kueue


def queued(**spec: Any) -> Cluster:
    cluster = Cluster(body=job_body(labels={QUEUE_LABEL: "gpu"}, **spec))
    turn(cluster, 2)
    cluster.settle()
    return cluster


def test_queued_job_is_suspended_until_the_queue_admits_it() -> None:
    cluster = queued(activeDeadlineSeconds=10)
    assert cluster.workers is not None
    assert cluster.workers.suspended
    assert state(cluster) is State.PENDING
    assert condition(cluster, "Suspended").reason == "Queued"
    cluster.wait(1000)
    cluster.settle()
    assert not has(cluster, "FailureTarget")
    cluster.admit(admitted=True)
    turn(cluster, 2)
    cluster.settle()
    assert state(cluster) is State.RUNNING
    cluster.admit(admitted=False)
    turn(cluster, 2)
    cluster.settle()
    assert cluster.workers.suspended
    assert state(cluster) is State.SUSPENDED


def test_suspension_of_a_queued_job_deletes_its_job_and_resumption_makes_another() -> None:
    cluster = queued()
    cluster.admit(admitted=True)
    turn(cluster, 2)
    assert cluster.workers is not None
    first = cluster.workers.uid
    cluster.edit(suspend=True)
    todo = cluster.reconcile()
    assert todo is not None
    assert todo.actions == (DeleteWorkers(uid=first),)
    cluster.edit(suspend=False)
    cluster.settle()
    assert condition(cluster, "WorkersReady").reason == "Replacing"
    turn(cluster, 5)
    assert cluster.workers.uid != first
    assert cluster.workers.suspended


def test_pods_of_a_deleted_job_are_waited_for() -> None:
    cluster = running()
    cluster.workers = None
    cluster.settle()
    assert cluster.workers is None
    assert condition(cluster, "WorkersReady").reason == "Replacing"
    cluster.pods = []
    cluster.settle()
    assert cluster.workers is not None


def test_queued_job_has_no_deadline_for_its_start() -> None:
    cluster = queued(startDeadlineSeconds=5)
    cluster.full = True
    cluster.admit(admitted=True)
    turn(cluster, 2)
    cluster.wait(100)
    cluster.settle()
    assert cluster.workers is not None
    assert not cluster.workers.suspended


# Pods that do not all start


def test_pods_that_do_not_all_start_are_released_and_tried_again() -> None:
    cluster = Cluster(body=job_body(startDeadlineSeconds=60), full=True)
    turn(cluster, 2)
    todo = cluster.settle()
    assert todo is not None
    waiting = condition(cluster, "WorkersReady")
    assert waiting.reason == "Unschedulable"
    assert "0/2 nodes are available" in waiting.message
    cluster.wait(60)
    released = cluster.reconcile()
    assert released is not None
    assert released.actions == (SuspendWorkers(uid="job-1", suspended=True),)
    assert condition(cluster, "WorkersReady").reason == "Released"
    assert "0/2 nodes are available" in condition(cluster, "WorkersReady").message
    said = condition(cluster, "WorkersReady").message
    turn(cluster, 2)
    pause = cluster.settle()
    assert pause is not None
    assert pause.wake_after is not None
    assert SETTINGS.retry_seconds - 1 <= pause.wake_after <= 2 * SETTINGS.retry_seconds
    assert condition(cluster, "WorkersReady").message == said
    assert not has(cluster, "Suspended")
    cluster.full = False
    cluster.wait(pause.wake_after)
    again = cluster.reconcile()
    assert again is not None
    assert again.actions == (SuspendWorkers(uid="job-1", suspended=False),)
    turn(cluster, 2)
    cluster.settle()
    assert state(cluster) is State.RUNNING


def test_rank_that_cannot_come_back_is_not_waited_for_when_the_result_stands() -> None:
    cluster = running(startDeadlineSeconds=60)
    cluster.publish()
    cluster.succeed(0)
    cluster.fail_pod(1, code=1)
    cluster.full = True
    turn(cluster, 2)
    cluster.settle()
    assert not has(cluster, "Complete")
    cluster.wait(60)
    cluster.settle()
    assert has(cluster, "Complete")


# Lost nodes


def test_pod_on_a_lost_node_is_given_up_after_a_while() -> None:
    cluster = running()
    cluster.lose("node-1")
    lost = next(pod for pod in cluster.pods if pod.node == "node-1")
    cluster.wait(SETTINGS.lost_node_seconds - 1)
    early = cluster.settle()
    assert early is not None
    assert cluster.status.abnormal_ranks[0].reason == "NodeLost"
    cluster.wait(1)
    todo = cluster.reconcile()
    assert todo is not None
    assert todo.actions == (MarkPodFailed(name=lost.name, uid=lost.uid),)
    turn(cluster, 2)
    cluster.settle()
    assert state(cluster) is State.RUNNING


def test_pod_that_was_not_told_to_end_is_not_given_up() -> None:
    cluster = running()
    cluster.lost_nodes["node-1"] = T0 - timedelta(hours=1)
    assert "MarkPodFailed" not in names(cluster.plan())


# Deletion


def test_deletion_in_the_middle_takes_everything_back() -> None:
    cluster = running()
    cluster.delete()
    todo = cluster.reconcile()
    assert todo is not None
    assert todo.actions == (SuspendWorkers(uid="job-1", suspended=True),)
    assert todo.stop == Stop(reason=Reason.ABORTED, message="the DSortJob was deleted")
    assert state(cluster) is State.STOPPING
    turn(cluster, 2)
    cluster.settle()
    assert isinstance(cluster.cleanup, CleanupJob)
    assert not cluster.gone
    cluster.run_cleanup()
    cluster.settle()
    assert cluster.gone


def test_cleanup_of_a_deletion_in_the_foreground_is_not_owned() -> None:
    cluster = running()
    cluster.delete(foreground=True)
    turn(cluster, 2)
    todo = cluster.reconcile()
    assert todo is not None
    (action,) = todo.actions
    assert isinstance(action, CreateCleanup)
    assert not action.owned
    assert action.definition.ranks == 2


def test_cleanup_that_is_being_deleted_is_waited_for() -> None:
    world = replace(
        running().world(),
        deleted=T0,
        pods=(),
        workers=None,
        cleanup=CleanupJob(deleting=True, created=T0),
    )
    todo = plan(world, now=T0, settings=SETTINGS)
    assert todo.actions == ()
    assert todo.active


def test_deletion_before_the_start_is_no_work() -> None:
    cluster = Cluster(body=job_body(suspend=True))
    cluster.settle()
    cluster.delete()
    cluster.settle()
    assert cluster.gone


def test_deletion_of_a_finished_job_touches_nothing() -> None:
    cluster = running()
    cluster.publish()
    for index in (0, 1):
        cluster.succeed(index)
    cluster.settle()
    cluster.delete()
    assert cluster.gone
    assert cluster.cleanups == 0


def test_namespace_that_goes_away_is_not_held_up() -> None:
    cluster = running()
    cluster.namespace_deleting = True
    cluster.delete()
    todo = cluster.reconcile()
    assert todo is not None
    assert [event.reason for event in todo.events][-1] == "CleanupSkipped"
    assert cluster.gone


def test_namespace_that_goes_away_takes_the_job_of_the_pods_first() -> None:
    cluster = running()
    cluster.namespace_deleting = True
    todo = cluster.reconcile()
    assert todo is not None
    assert [type(action) for action in todo.actions] == [DeleteWorkers]
    assert not todo.active  # the operator's rights go before the DSortJob
    assert [event.reason for event in todo.events][-1] == "CleanupSkipped"
    cluster.delete()
    assert cluster.gone


def test_finished_job_goes_when_its_time_to_live_is_over() -> None:
    cluster = running(ttlSecondsAfterFinished=30)
    cluster.publish()
    for index in (0, 1):
        cluster.succeed(index)
    todo = cluster.settle()
    assert todo is not None
    assert todo.wake_after == 30
    assert not todo.active
    cluster.wait(30)
    assert cluster.plan().actions == (DeleteJob(),)
    cluster.reconcile()
    assert cluster.gone


def test_verdict_stays_whatever_comes() -> None:
    cluster = running()
    cluster.edit(abort=True)
    turn(cluster, 3)
    cluster.run_cleanup()
    cluster.settle()
    before = cluster.status
    cluster.edit(ttlSecondsAfterFinished=99)
    cluster.published = True
    cluster.pods = [worker_pod(0, phase="Succeeded"), worker_pod(1, phase="Succeeded")]
    cluster.workers = workers_job(complete=True)
    cluster.settle()
    assert cluster.status == before.model_copy(update={"observed_generation": 3})


# Dry run


def test_plan_of_a_dry_run_reaches_the_status() -> None:
    cluster = running(dryRun=True)
    cluster.announce_plan()
    cluster.settle()
    assert cluster.status.plan is not None
    assert (cluster.status.plan.shards, cluster.status.plan.records, cluster.status.plan.bytes) == (2, 11, 22)
    for index in (0, 1):
        cluster.succeed(index)
    cluster.settle()
    assert has(cluster, "Complete")
    complete = condition(cluster, "Complete")
    assert (complete.reason, complete.message) == ("Planned", "2 shards would be written, with 11 records")
    assert cluster.status.manifest is None
    assert cluster.status.throughput is None


def test_dry_run_that_nobody_heard_is_complete_and_says_so() -> None:
    cluster = running(dryRun=True)
    cluster.published = True
    for index in (0, 1):
        cluster.succeed(index)
    cluster.settle()
    assert "log of rank 0" in condition(cluster, "Complete").message


# The status


def test_same_world_gives_the_same_plan() -> None:
    cluster = running()
    cluster.report(0, Phase.SCAN, done=3)
    assert cluster.plan() == cluster.plan()


def test_mere_progress_is_held_back_and_comes_in_the_end() -> None:
    cluster = running()
    for rank in (0, 1):
        cluster.report(rank, Phase.CREATE, done=10)
    cluster.settle()
    writes = len(cluster.history)
    for rank in (0, 1):
        cluster.report(rank, Phase.CREATE, done=20)
    cluster.wait(1)
    todo = cluster.settle()
    assert todo is not None
    assert todo.wake_after is not None
    assert todo.wake_after <= SETTINGS.progress_seconds - 1
    assert len(cluster.history) == writes
    cluster.wait(SETTINGS.progress_seconds)
    cluster.settle()
    assert len(cluster.history) == writes + 1
    assert cluster.status.records_out == 40


def test_status_of_another_version_is_not_in_the_way() -> None:
    cluster = running()
    conditions = [
        one
        if one.type != "WorkersReady"
        else Condition(
            type="FailureTarget",
            status="True",
            last_transition_time=T0,
            reason="NeverHeardOf",
            message="of a later version",
        )
        for one in cluster.status.conditions
    ]
    cluster.status = cluster.status.model_copy(update={"conditions": conditions})
    todo = cluster.reconcile()
    assert todo is not None
    assert todo.stop == Stop(reason=Reason.ABORTED, message="of a later version")
    turn(cluster, 3)
    cluster.run_cleanup()
    cluster.settle()
    assert condition(cluster, "Failed").reason == "NeverHeardOf"


def test_actions_carry_what_the_executor_needs() -> None:
    cluster = Cluster()
    (first,) = cluster.plan().actions
    assert isinstance(first, CreateDefinition)
    assert (first.definition.ranks, first.definition.lanes, first.definition.id) == (
        2,
        1,
        cluster.world().uid,
    )
    cluster.reconcile()
    secret, workers = cluster.plan().actions
    assert secret == CreateSecret()
    assert workers == CreateWorkers(definition=first.definition, suspended=False, queue="")


def test_failed_pod_is_named_until_its_successor_runs() -> None:
    cluster = running()
    cluster.fail_pod(1, code=1)
    cluster.settle()
    (wrong,) = cluster.status.abnormal_ranks
    assert (wrong.rank, wrong.reason) == (1, "Error")
    assert condition(cluster, "WorkersReady").reason == "Error"
    turn(cluster, 2)
    cluster.settle()
    assert cluster.status.abnormal_ranks == []
    assert failed_pod(0).phase == "Failed"
