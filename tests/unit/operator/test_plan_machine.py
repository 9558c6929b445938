"""Everything that can happen to a job, in any order: whatever it is, the same things hold at the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dsort_api.labels import MANAGED_BY, QUEUE_LABEL
from dsort_api.messages import Phase
from dsort_api.spec import LEAST_BUDGET
from dsort_api.status import Condition, ConditionType, DSortJobStatus, JobMemory, State
from dsort_operator.conditions import Why
from dsort_operator.world import World
from tests.support.clusters import SETTINGS, Cluster
from tests.support.worlds import job_body

INDEXES = st.sampled_from([0, 1])
CODES = st.sampled_from([1, 6, 18, 130, 137, 143, 12, 77])
PHASES = st.sampled_from([Phase.LIST, Phase.SCAN, Phase.ORDER, Phase.CREATE, Phase.PUBLISH])
SECONDS = st.sampled_from([0.4, 1.0, 3.0, 31.0, 151.0, 700.0])
DENIED = st.sampled_from(["CreateDefinition", "CreateWorkers", "CreateCleanup", "CreateSecret"])

ODD: list[dict[str, Any]] = [
    {"suspend": True},
    {"abort": True},
    {"input": {"url": "file:///data"}},
    {"input": {"url": "nowhere"}},
    {"managedBy": "kueue.x-k8s.io/multikueue"},
]


def conditions(status: DSortJobStatus) -> dict[str, Condition]:
    return {one.type: one for one in status.conditions}


def share(status: DSortJobStatus) -> int:
    return int(status.progress.share.removesuffix("%")) if status.progress and status.progress.share else 0


class JobMachine(RuleBasedStateMachine):
    """One DSortJob in a cluster that does what it likes."""

    @initialize(
        spec=st.fixed_dictionaries(
            {"backoffLimit": st.sampled_from([0, 1, 6]), "startDeadlineSeconds": st.sampled_from([20, 600])},
            optional={
                "dryRun": st.booleans(),
                "activeDeadlineSeconds": st.sampled_from([5, 400]),
                "ttlSecondsAfterFinished": st.sampled_from([0, 60]),
                "workers": st.sampled_from([{}, {"count": 1}]),
            },
        ),
        odd=st.sampled_from([{}] * 6 + ODD),
        queued=st.booleans(),
        turns=st.sampled_from([6, 4, 3, 2, 1, 0]),
    )
    def begin(self, spec: dict[str, Any], odd: dict[str, Any], *, queued: bool, turns: int) -> None:
        self.cluster = Cluster(body=job_body(labels={QUEUE_LABEL: "q"} if queued else {}, **spec, **odd))
        self.ended: DSortJobStatus | None = None
        self.last = DSortJobStatus()
        self.stale: World | None = None
        for _ in range(turns):
            self.cluster.reconcile()
            self.cluster.control_jobs()
            self.cluster.run_pods()
            self.cluster.admit(admitted=True)

    # The operator

    @rule()
    def reconcile(self) -> None:
        self.cluster.reconcile()

    @rule(calls=st.integers(0, 3))
    def reconcile_and_be_killed(self, calls: int) -> None:
        self.cluster.reconcile(crash_after=calls)

    @rule()
    def look_away(self) -> None:
        """What is seen now is acted upon later."""
        self.stale = self.cluster.world()

    @precondition(lambda self: self.stale is not None)
    @rule()
    def act_on_an_old_sight(self) -> None:
        """A watch that lags shows children that were; the DSortJob itself and its status are as they are."""
        assert self.stale is not None
        now, old = self.cluster.world(), self.stale
        self.stale = None
        self.cluster.reconcile(
            world=replace(now, workers=old.workers, pods=old.pods, cleanup=old.cleanup, reports=old.reports)
        )

    @rule()
    def settle(self) -> None:
        """Nothing is left to do after it, and nothing will be before the plan says so."""
        todo = self.cluster.settle()
        if todo is None or self.cluster.gone:
            return
        before = self.cluster.now
        wait = todo.wake_after if todo.wake_after is not None else 10_000.0
        self.cluster.wait(max(0.0, wait - 0.1))
        later = self.cluster.plan()
        assert self.cluster.has_nothing_left(later)
        assert later.status == self.cluster.status
        assert later.events == () or all(event.reason.startswith("Cleanup") for event in later.events)
        self.cluster.now = before

    # Users

    @rule(
        spec=st.sampled_from(
            [
                {"suspend": True},
                {"suspend": False},
                {"suspend": False},
                {"abort": True},
                {"activeDeadlineSeconds": 30},
                {"activeDeadlineSeconds": None},
            ]
        )
    )
    def edit(self, spec: dict[str, Any]) -> None:
        self.cluster.edit(**spec)

    @precondition(lambda self: self.cluster.status.start_time is not None)
    @rule(foreground=st.booleans())
    def delete(self, *, foreground: bool) -> None:
        self.cluster.delete(foreground=foreground)

    @precondition(lambda self: self.cluster.workers is not None)
    @rule(first=st.booleans())
    def delete_the_workers(self, *, first: bool) -> None:
        if first:
            self.cluster.delete_workers_first()
        else:
            self.cluster.delete_workers()

    @precondition(lambda self: "deletionTimestamp" in self.cluster.body["metadata"])
    @rule()
    def delete_the_namespace(self) -> None:
        self.cluster.namespace_deleting = True

    @rule(
        name=DENIED,
        claim=st.sampled_from([None, ("ReadWriteMany",), ("ReadWriteOnce",)]),
        nodes=st.integers(0, 2),
    )
    def disturb(self, name: str, claim: tuple[str, ...] | None, nodes: int) -> None:
        """Rights, claims and nodes come and go."""
        self.cluster.denies ^= {name}
        self.cluster.claims["data"] = claim
        self.cluster.nodes = nodes
        self.cluster.full = not nodes

    @rule()
    def repair(self) -> None:
        self.cluster.denies.clear()
        self.cluster.claims["data"] = ("ReadWriteMany",)
        self.cluster.nodes, self.cluster.full = 2, False
        self.cluster.lost_nodes.clear()

    # Kubernetes

    @rule()
    def control_jobs(self) -> None:
        self.cluster.control_jobs()

    @rule()
    def run_pods(self) -> None:
        self.cluster.run_pods()

    @rule()
    def move_on(self) -> None:
        """A job on its usual way."""
        for _ in range(4):
            self.cluster.reconcile()
            self.cluster.control_jobs()
            self.cluster.run_pods()

    @precondition(lambda self: QUEUE_LABEL in self.cluster.body["metadata"]["labels"])
    @rule(admitted=st.booleans())
    def admit(self, *, admitted: bool) -> None:
        if QUEUE_LABEL in self.cluster.body["metadata"]["labels"]:
            self.cluster.admit(admitted=admitted)

    @precondition(lambda self: self.cluster.running())
    @rule(index=INDEXES)
    def lose_node(self, index: int) -> None:
        self.cluster.lose(f"node-{index}")

    @precondition(lambda self: self.cluster.cleanup is not None)
    @rule(fails=st.booleans())
    def end_cleanup(self, *, fails: bool) -> None:
        self.cluster.run_cleanup(fails=fails)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.cluster.wait(seconds)

    # Ranks

    @precondition(lambda self: self.cluster.running())
    @rule(index=INDEXES, code=CODES, oom=st.booleans())
    def fail_pod(self, index: int, code: int, *, oom: bool) -> None:
        self.cluster.fail_pod(index, code=code, oom=oom and code == 137)

    @precondition(lambda self: self.cluster.running())
    @rule(index=INDEXES, phase=PHASES, done=st.integers(0, 100))
    def report(self, index: int, phase: Phase, done: int) -> None:
        self.cluster.report(index, phase, done=done)

    @precondition(lambda self: self.cluster.running())
    @rule(index=INDEXES, percent=st.sampled_from([10, 80, 90, 99]))
    def fill(self, index: int, percent: int) -> None:
        self.cluster.fill(index, percent)

    @precondition(lambda self: self.cluster.running())
    @rule()
    def publish(self) -> None:
        self.cluster.publish()
        self.cluster.announce_plan()

    @precondition(lambda self: self.cluster.published)
    @rule(index=INDEXES)
    def succeed(self, index: int) -> None:
        self.cluster.succeed(index)

    # What always holds

    @invariant()
    def holds(self) -> None:
        for status in self.cluster.history:
            self.ended_is_ended(status)
            self.throttles_step_by_step(status)
            self.moves_forward(status)
        self.cluster.history.clear()
        self.one_pod_a_rank()
        self.what_is_complete_is_never_cleaned_up()

    def ended_is_ended(self, status: DSortJobStatus) -> None:
        kinds = conditions(status)
        ends = [kind for kind in ("Complete", "Failed") if kind in kinds and kinds[kind].status == "True"]
        assert len(ends) <= 1
        if self.ended is not None:
            assert status.model_copy(update={"observed_generation": None}) == self.ended
        elif ends:
            self.ended = status.model_copy(update={"observed_generation": None})
            assert status.completion_time is not None
            assert status.state is State(ends[0])

    def moves_forward(self, now: DSortJobStatus) -> None:
        was = self.last
        assert share(now) >= share(was)
        assert (now.active_seconds or 0) >= (was.active_seconds or 0)
        assert (now.observed_generation or 0) >= (was.observed_generation or 0)
        assert (now.records_out or 0) >= (was.records_out or 0)
        for field in ("start_time", "ranks", "plan", "manifest", "completion_time"):
            assert getattr(was, field) in {None, getattr(now, field)} or field == "plan"
        assert was.plan is None or now.plan == was.plan
        before = conditions(was)
        for kind, condition in conditions(now).items():
            if kind in before:
                assert condition.last_transition_time >= before[kind].last_transition_time
                if condition.status == before[kind].status:
                    assert condition.last_transition_time == before[kind].last_transition_time
        target = before.get(ConditionType.FAILURE_TARGET)
        if target is not None and target.status == "True":
            kept = conditions(now)[ConditionType.FAILURE_TARGET]
            assert kept.status == "False" or (kept.reason, kept.message) == (target.reason, target.message)
        self.last = now

    def throttles_step_by_step(self, now: DSortJobStatus) -> None:
        was, memory = self.last.memory or JobMemory(), now.memory or JobMemory()
        throttled = conditions(now).get(ConditionType.THROTTLED)
        assert (memory.level > 0) == (throttled is not None and throttled.status == "True")
        assert memory.oom_kills >= was.oom_kills
        assert memory.budget is None or LEAST_BUDGET <= memory.budget <= (was.budget or memory.budget)
        if memory.level and memory.level != was.level:
            assert abs(memory.level - was.level) == 1
            assert memory.level_since is not None
            waited = memory.level_since - (was.level_since or datetime.min.replace(tzinfo=UTC))
            assert waited.total_seconds() >= SETTINGS.throttle_seconds - 1
        if self.ended is not None:
            assert memory.level == 0

    def one_pod_a_rank(self) -> None:
        live = [pod.index for pod in self.cluster.pods if pod.live]
        assert len(live) == len(set(live))

    def what_is_complete_is_never_cleaned_up(self) -> None:
        complete = conditions(self.cluster.status).get(ConditionType.COMPLETE)
        if complete is not None:
            assert self.cluster.cleanups == 0
            assert self.cluster.published

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        self.everybody_does_their_part()
        self.waits_for_what_it_says()
        self.comes_to_an_end()
        self.leaves_nothing()

    @property
    def ours(self) -> bool:
        return self.cluster.world().managed_by in {"", MANAGED_BY}

    def everybody_does_their_part(self) -> None:
        """As long as nothing but the time and the children moves."""
        for _ in range(12):
            self.turn()
            self.holds()

    def turn(self) -> datetime:
        todo = self.cluster.settle()
        self.cluster.control_jobs()
        self.cluster.run_pods()
        self.cluster.run_cleanup()
        self.cluster.wait(min(60.0, (todo.wake_after if todo else None) or 1.0))
        return self.cluster.now

    def waits_for_what_it_says(self) -> None:
        if self.cluster.gone or not self.ours:
            return
        status = self.cluster.status
        runs = any(pod.live for pod in self.cluster.pods) and not self.cluster.lost_nodes
        if self.ended is not None:
            assert not runs
            return
        if status.state is State.STOPPING:
            return
        found = conditions(status)
        if found[ConditionType.SUSPENDED].status == "True":
            assert not runs
            assert found[ConditionType.SUSPENDED].reason in {Why.SUSPENDED, Why.QUEUED}
            return
        ready = found[ConditionType.WORKERS_READY]
        assert ready.status == "True" or ready.reason not in {Why.STOPPING, Why.ENDED, Why.SUSPENDED}
        assert ready.message

    def comes_to_an_end(self) -> None:
        """In a cluster that has all that the job needs, and with ranks that do their work."""
        cluster = self.cluster
        cluster.denies.clear()
        cluster.claims["data"] = ("ReadWriteMany",)
        cluster.nodes, cluster.full = 2, False
        cluster.lost_nodes.clear()
        cluster.edit(suspend=False)
        for _ in range(60):
            if cluster.gone or self.ended is not None or not self.ours:
                return
            self.turn()
            self.admit(admitted=True)
            cluster.publish()
            cluster.announce_plan()
            for index in (0, 1):
                cluster.succeed(index)
            self.holds()
        raise AssertionError(f"it hangs: {cluster.status}")

    def leaves_nothing(self) -> None:
        """A DSortJob that is deleted goes; before, it goes by itself where it has a time to live."""
        cluster = self.cluster
        if (
            self.ours
            and not cluster.gone
            and "ttlSecondsAfterFinished" in cluster.body["spec"]
            and cluster.world().job
        ):
            for _ in range(12):
                self.turn()
            assert cluster.gone
        cluster.delete()
        for _ in range(12):
            if cluster.gone:
                return
            self.turn()
        raise AssertionError("the finalizer holds it")


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
    database=None,
)
