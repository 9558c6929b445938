"""Memory in the life of a job: what the condition, the events and the ranks are told, and how it ends when nothing helps."""

from __future__ import annotations

from typing import Any

from dsort_api.messages import Phase
from dsort_api.reasons import Reason
from dsort_api.status import Condition, DSortJobStatus, JobMemory, State
from dsort_operator.actions import Plan
from tests.support.clusters import SETTINGS, Cluster
from tests.support.worlds import job_body, report

MIB = 1 << 20


def running(**spec: Any) -> Cluster:
    """A job whose two pods run and are ready."""
    cluster = Cluster(body=job_body(**spec))
    turn(cluster, 2)
    cluster.settle()
    assert cluster.status.state is State.RUNNING
    return cluster


def turn(cluster: Cluster, times: int = 1) -> None:
    """The operator, then the Job controller and the kubelets."""
    for _ in range(times):
        cluster.settle()
        cluster.control_jobs()
        cluster.run_pods()


def condition(status: DSortJobStatus, kind: str = "Throttled") -> Condition:
    return next(one for one in status.conditions if one.type == kind)


def memory(cluster: Cluster) -> JobMemory:
    assert cluster.status.memory is not None
    return cluster.status.memory


def look(cluster: Cluster) -> Plan:
    todo = cluster.reconcile()
    assert todo is not None
    return todo


def climb(cluster: Cluster, percent: float = 98) -> None:
    """The first pod is full until the level is the highest."""
    for _ in range(4):
        cluster.fill(0, percent)
        look(cluster)
        cluster.wait(SETTINGS.throttle_seconds)


def told(todo: Plan) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in todo.events]


def test_job_that_has_memory_says_so_and_no_more() -> None:
    cluster = running()
    throttled = condition(cluster.status)
    assert (throttled.status, throttled.reason) == ("False", "NotThrottled")
    assert throttled.message == "no rank is short of memory"
    cluster.fill(0, 60)
    assert told(look(cluster)) == []
    assert cluster.status.memory is None


def test_level_rises_with_its_cause_and_falls_again() -> None:
    cluster = running()
    cluster.fill(0, 60)
    cluster.fill(1, 90, pressure=7.0)
    up = look(cluster)
    assert up.throttle_level == 1
    assert up.wake_after is not None
    assert up.wake_after <= SETTINGS.throttle_seconds
    assert told(up) == [("Warning", "MemoryPressure")]
    throttled = condition(cluster.status)
    assert (throttled.status, throttled.reason) == ("True", "MemoryPressure")
    pod = cluster.pods[1].name
    assert throttled.message == (
        f"level 1 of 4: rank 1 (pod {pod}): 921.60 MiB of 1.00 GiB, 90 %; memory pressure 7 %; "
        "spec.memory.throttleAt is 85%"
    )
    assert up.events[0].message == throttled.message
    assert memory(cluster) == JobMemory(level=1, level_since=cluster.now)
    cluster.wait(SETTINGS.throttle_seconds)
    cluster.fill(1, 30)
    down = look(cluster)
    assert down.throttle_level == 0
    assert told(down) == [("Normal", "MemoryRelieved")]
    throttled = condition(cluster.status)
    assert (throttled.status, throttled.reason) == ("False", "NotThrottled")
    assert throttled.last_transition_time == cluster.now
    assert "level 0 of 4: rank 0" in throttled.message
    assert "60 %; spec.memory.resumeAt is 75%" in throttled.message


def test_while_the_level_stays_nothing_is_written() -> None:
    cluster = running()
    cluster.fill(0, 90)
    look(cluster)
    writes = len(cluster.history)
    said = condition(cluster.status).message
    for percent in (91, 87, 80, 76, 89):
        cluster.wait(0.9)
        cluster.fill(0, percent)
        assert told(look(cluster)) == []
    assert len(cluster.history) == writes
    assert condition(cluster.status).message == said


def test_operator_that_starts_again_goes_on_where_the_job_is() -> None:
    cluster = running()
    climb(cluster)
    cluster.reports.clear()
    first = look(cluster)
    assert first.throttle_level == 4
    assert told(first) == []
    cluster.status = cluster.status.model_copy(
        update={"conditions": [one for one in cluster.status.conditions if one.type != "Throttled"]}
    )
    look(cluster)
    throttled = condition(cluster.status)
    assert (throttled.status, throttled.message) == ("True", "level 4 of 4")


def test_pod_that_stays_above_abort_at_ends_the_job_with_what_to_change() -> None:
    cluster = running(memory={"abortAfterSeconds": 8})
    climb(cluster)
    above = memory(cluster).above_abort_since
    assert above is not None
    full = condition(cluster.status).message
    cluster.wait(8 - (cluster.now - above).total_seconds() - 0.5)
    before = look(cluster)
    assert before.wake_after is not None
    assert before.wake_after <= 0.5
    assert cluster.status.state is State.RUNNING
    cluster.wait(0.5)
    first = look(cluster)
    assert first.stop is not None
    assert first.stop.reason is Reason.MEMORY_LIMIT_EXCEEDED
    target = condition(cluster.status, "FailureTarget")
    assert target.reason == "MemoryLimitExceeded"
    assert target.message == (
        f"rank 0 (pod {cluster.pods[0].name}): 1003.52 MiB of 1.00 GiB, 98 %; it was above spec.memory.abortAt (95%) for 8 s at "
        "the highest throttle level; raise resources.limits.memory in spec.workers.template, or lower spec.memory.budget"
    )
    assert condition(cluster.status).message == full
    turn(cluster, 3)
    cluster.run_cleanup()
    cluster.settle()
    assert condition(cluster.status, "Failed").reason == "MemoryLimitExceeded"
    throttled = condition(cluster.status)
    assert (throttled.status, throttled.reason) == ("False", "Ended")
    assert (memory(cluster).level, memory(cluster).above_abort_since) == (0, None)


def test_pod_that_comes_below_abort_at_in_time_is_spared() -> None:
    cluster = running(memory={"abortAfterSeconds": 8})
    climb(cluster)
    cluster.fill(0, 94)
    look(cluster)
    assert memory(cluster).above_abort_since is None
    cluster.wait(60)
    cluster.fill(0, 96)
    look(cluster)
    assert cluster.status.state is State.RUNNING
    assert memory(cluster).above_abort_since == cluster.now


def test_result_that_stands_is_not_lost_for_want_of_memory() -> None:
    cluster = running(memory={"abortAfterSeconds": 1})
    climb(cluster)
    cluster.publish()
    cluster.succeed(1)
    cluster.wait(60)
    cluster.settle()
    assert condition(cluster.status, "Complete").status == "True"


def test_suspended_job_is_not_throttled() -> None:
    cluster = running()
    climb(cluster)
    cluster.edit(suspend=True)
    look(cluster)
    throttled = condition(cluster.status)
    assert (throttled.status, throttled.reason, throttled.message) == (
        "False",
        "NotThrottled",
        "the job is suspended",
    )
    assert memory(cluster).level == 0


def test_released_pods_are_not_throttled() -> None:
    cluster = running(startDeadlineSeconds=60)
    climb(cluster, 90)
    cluster.full = True
    cluster.fail_pod(1, code=1)
    turn(cluster, 2)
    cluster.wait(60)
    turn(cluster, 2)
    assert condition(cluster.status, "WorkersReady").reason == "Released"
    assert condition(cluster.status).status == "False"


def test_killed_pod_lowers_the_budget_of_those_that_start_and_says_so_once() -> None:
    cluster = running(memory={"budget": "512Mi"})
    assert cluster.plan().memory_budget is None
    cluster.fail_pod(1, code=137, oom=True)
    name = cluster.pods[1].name
    todo = look(cluster)
    assert todo.memory_budget == 384 * MIB
    assert (memory(cluster).budget, memory(cluster).oom_kills) == (384 * MIB, 1)
    assert memory(cluster).oom_killed == [cluster.pods[1].uid]
    (event,) = (event for event in todo.events if event.reason == "OutOfMemory")
    assert (event.type, event.message) == (
        "Warning",
        f"pod {name} was killed for want of memory; ranks that start from now on use 384.00 MiB, not 512.00 MiB",
    )
    again = look(cluster)
    assert again.memory_budget == 384 * MIB
    assert told(again) == []
    turn(cluster, 2)
    cluster.settle()
    assert cluster.status.state is State.RUNNING
    assert memory(cluster).oom_kills == 1


def test_pods_that_are_killed_together_are_told_of_together() -> None:
    cluster = running(memory={"budget": "80Mi"}, backoffLimit=9)
    for index in (0, 1):
        cluster.fail_pod(index, code=137, oom=True)
    last = max(cluster.pods, key=lambda pod: pod.index)
    (event,) = (event for event in look(cluster).events if event.reason == "OutOfMemory")
    assert event.message == (
        f"2 pods ({last.name} the last) were killed for want of memory; ranks that start from now on use 64.00 MiB, not 80.00 MiB"
    )


def test_budget_that_cannot_fall_is_told() -> None:
    cluster = running(memory={"budget": "64Mi"})
    cluster.fail_pod(0, code=137, oom=True)
    (event,) = (event for event in look(cluster).events if event.reason == "OutOfMemory")
    assert "use 64.00 MiB already, and cannot do with less; raise the pods' memory limit" in event.message


def test_pod_of_before_lowers_the_budget_no_further() -> None:
    cluster = running(memory={"budget": "512Mi"})
    cluster.wait(10)
    cluster.fail_pod(0, code=137, oom=True)
    look(cluster)
    cluster.wait(5)
    cluster.fail_pod(1, code=137, oom=True)
    (event,) = (event for event in look(cluster).events if event.reason == "OutOfMemory")
    assert event.message.endswith("ranks that start use 384.00 MiB already")
    assert memory(cluster).oom_kills == 2


def test_restarts_that_are_used_up_by_kills_end_with_their_reason() -> None:
    cluster = running(backoffLimit=1)
    for _ in range(2):
        cluster.wait(10)
        cluster.fail_pod(1, code=137, oom=True)
        turn(cluster, 2)
    target = condition(cluster.status, "FailureTarget")
    assert target.reason == "MemoryLimitExceeded"
    assert memory(cluster).oom_kills == 2
    turn(cluster, 3)
    cluster.run_cleanup()
    cluster.settle()
    assert condition(cluster.status, "Failed").reason == "MemoryLimitExceeded"
    assert memory(cluster).oom_kills == 2  # what became of it stays


def test_job_of_an_unknown_definition_counts_nothing() -> None:
    cluster = Cluster(body=job_body(input={"url": "nowhere"}))
    cluster.settle()
    assert cluster.status.memory is None


def test_ranks_of_an_older_version_are_left_as_they_are() -> None:
    cluster = running()
    for rank in (0, 1):
        cluster.reports[rank] = report(rank, Phase.CREATE, pod=cluster.pods[rank].uid)
    assert look(cluster).throttle_level == 0
    assert cluster.status.memory is None
