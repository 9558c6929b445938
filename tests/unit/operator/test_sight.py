"""What the watches saw, and what is known better."""

from __future__ import annotations

from typing import Any

import pytest

from dsort_operator.naming import base_name
from dsort_operator.sight import Sight, is_at_rest, trimmed

UID = "job-uid"


BASE = base_name(f"name-{UID}", uid=UID)


def thing(kind: str, uid: str, version: int, **more: Any) -> dict[str, Any]:
    """A DSortJob, or a child of it."""
    owners = {"Job": {"kind": "DSortJob", "uid": UID}, "Pod": {"kind": "Job", "name": BASE, "uid": "any"}}
    owned = {"ownerReferences": [{**owners[kind], "controller": True}]} if kind in owners else {}
    return {
        "kind": kind,
        "metadata": {
            "name": f"name-{uid}",
            "namespace": "ns",
            "uid": uid,
            "resourceVersion": str(version),
            **owned,
        },
        **more,
    }


def sight(
    *, job: dict[str, Any] | None = None, pods: list[dict[str, Any]] | None = None, jobs: Any = ()
) -> Sight:
    return Sight(
        jobs={UID: [job or thing("DSortJob", UID, 5)]},
        pods={UID: pods} if pods else {},
        workloads={UID: jobs} if jobs else {},
    )


def test_an_answer_of_our_own_counts_until_the_watch_has_caught_up() -> None:
    seen = thing("DSortJob", UID, 5)
    known = sight(job=seen)
    of = known.of(UID)
    of.note(thing("DSortJob", UID, 7, status={"state": "Running"}))
    assert of.job is not None
    assert of.job["status"]["state"] == "Running"
    known.jobs = {UID: [thing("DSortJob", UID, 7)]}
    assert "status" not in (of.job or {})
    assert known.of(UID) is of


def test_a_child_that_we_made_is_there_before_the_watch_saw_it() -> None:
    known = sight()
    of = known.of(UID)
    of.note(thing("Job", "a", 3))
    assert of.workload("name-a") is not None
    assert of.pods == []
    known.workloads = {UID: [thing("Job", "a", 4)]}
    assert of.workload("name-a") == thing("Job", "a", 4)
    known.workloads = {}
    assert of.workload("name-a") is None


def test_what_is_in_no_list_is_gone_although_no_watch_said_so() -> None:
    ghost, pod = thing("Pod", "ghost", 1), thing("Pod", "pod", 2)
    known = sight(pods=[ghost, pod])
    of = known.of(UID)
    before = of.snapshot()
    known.pods = {UID: [ghost, pod, thing("Pod", "new", 3)]}  # seen after the list was asked for
    of.listed(pods=[pod], workloads=[], known=before)
    assert [one["metadata"]["uid"] for one in of.pods] == ["pod", "new"]


def test_what_a_request_of_ours_did_not_find_is_gone_too() -> None:
    known = sight(pods=[thing("Pod", "a", 1), thing("Pod", "b", 1)])
    of = known.of(UID)
    of.note(thing("Pod", "a", 2))
    of.note_gone("a")
    assert [one["metadata"]["uid"] for one in of.pods] == ["b"]


STRANGERS = {
    "of another namespace": {"namespace": "other"},
    "of nobody": {"ownerReferences": []},
    "of somebody else": {
        "ownerReferences": [{"kind": "Job", "name": "theirs", "uid": "x", "controller": True}]
    },
    "of a controller of another kind": {
        "ownerReferences": [{"kind": "ReplicaSet", "name": BASE, "uid": "x", "controller": True}]
    },
    "of an owner that controls nothing": {"ownerReferences": [{"kind": "Job", "name": BASE, "uid": UID}]},
}


@pytest.mark.parametrize("changes", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("kind", ["Pod", "Job"])
def test_labels_alone_make_no_child(kind: str, changes: dict[str, Any]) -> None:
    """Anybody may write them; a pod that is taken for a rank gets the token, and a Job that is, has the last word."""
    stranger = thing(kind, "a", 1)
    stranger["metadata"] |= changes
    known = sight(pods=[stranger], jobs=[stranger])
    of = known.of(UID)
    of.note(stranger)
    assert of.pods == []
    assert of.workload("name-a") is None


def test_the_cleanup_job_may_have_no_owner() -> None:
    """It has to outlive the DSortJob."""
    cleanup, pod = thing("Job", "c", 1), thing("Pod", "p", 1)
    cleanup["metadata"] |= {"name": f"{BASE}-cleanup", "ownerReferences": []}
    pod["metadata"]["ownerReferences"][0]["name"] = f"{BASE}-cleanup"
    of = sight(jobs=[cleanup], pods=[pod]).of(UID)
    assert of.workload(f"{BASE}-cleanup") == cleanup
    assert of.pods == [pod]


def test_without_its_dsortjob_there_are_no_children() -> None:
    known = sight(pods=[thing("Pod", "a", 1)])
    known.jobs = {}
    assert known.of(UID).pods == []


def test_a_job_that_vanished_is_gone_until_it_is_forgotten() -> None:
    known = sight(job=thing("DSortJob", UID, 5))
    known.of(UID).vanished()
    assert known.of(UID).job is None
    assert sum(known.states().values()) == 0
    known.forget(UID)
    assert known.states()["Pending"] == 1


def test_of_pods_only_what_is_decided_by_is_kept() -> None:
    pod = thing("Pod", "a", 1, spec={"nodeName": "n", "containers": [{}]}, status={"phase": "Running"})
    pod["metadata"]["managedFields"] = [{}]
    assert trimmed(pod) == thing("Pod", "a", 1, spec={"nodeName": "n"}, status={"phase": "Running"})


ENDED = [{"type": "Complete", "status": "True"}]
COMPLETE = {"status": {"conditions": ENDED, "observedGeneration": 2}}
FINALIZER = {"finalizers": ["dsort.dev/operator"]}


@pytest.mark.parametrize(
    ("metadata", "spec", "status", "rests"),
    [
        ({}, {}, {}, False),
        ({}, {}, COMPLETE, True),
        ({}, {}, {"status": {"conditions": ENDED, "observedGeneration": 1}}, False),
        (FINALIZER, {}, COMPLETE, False),
        ({}, {"ttlSecondsAfterFinished": 0}, COMPLETE, False),
        ({}, {"managedBy": "example.com/other"}, {}, True),
        ({}, {"managedBy": "dsort.dev/operator"}, {}, False),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, {}, {}, True),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z", **FINALIZER}, {}, {}, False),
        ({}, {}, {"status": {"conditions": [{"type": "Complete", "status": "False"}]}}, False),
    ],
)
def test_a_job_is_at_rest_when_nothing_is_to_be_done_until_it_changes(
    metadata: dict[str, Any], spec: dict[str, Any], status: dict[str, Any], rests: bool
) -> None:
    assert is_at_rest({"metadata": {"generation": 2, **metadata}, "spec": spec, **status}) is rests
