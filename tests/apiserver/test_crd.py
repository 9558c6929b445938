"""The CRD on a real API server: every example, every change, what older and newer versions left behind, what people see."""

from __future__ import annotations

import copy
import json
import re
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dsort_api.crd import PLURAL
from dsort_api.fields import LONGEST_ENTRY
from dsort_api.quantity import LONGEST
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import MOST_ENTRIES, load_job
from dsort_api.status import ConditionType, State, load_status
from dsort_api.urls import LONGEST_URL
from tests.support.apiserver import ControlPlane
from tests.support.crd import APPLY, JOBS, MERGE, await_that, install, the_crd
from tests.support.jobs import ROOT, TABLE, change_title, manifest, title

EXAMPLES = [
    path for path in sorted((ROOT / "examples").rglob("*.yaml")) if "kind: DSortJob" in path.read_text()
]
STRICT = "?fieldValidation=Strict"
NOON = "2026-01-01T12:00:00Z"


def refusal(request: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[int, str]:
    """The code and the words with which the server refuses."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        request(*arguments, **options)
    with caught.value as error:
        return error.code, json.loads(error.read())["message"]


@pytest.fixture
def plane(dsort_api: ControlPlane) -> Iterator[ControlPlane]:
    """The API server with the CRD and no jobs."""
    yield dsort_api
    dsort_api.request("DELETE", JOBS)


# Creation.


@pytest.mark.parametrize("example", TABLE["accepted"], ids=title)
def test_the_job_is_taken_and_filled_in_as_the_loader_does(
    plane: ControlPlane, example: dict[str, Any]
) -> None:
    document = manifest(example)
    stored = plane.request("POST", JOBS + STRICT, document)
    assert load_job(stored, strict=True).spec == load_job(document, strict=True).spec


@pytest.mark.parametrize(
    "example", [one for one in TABLE["refused"] if one.get("server") != "leaves"], ids=title
)
def test_the_job_is_refused(plane: ControlPlane, example: dict[str, Any]) -> None:
    code, message = refusal(plane.request, "POST", JOBS + STRICT, manifest(example))
    assert code in {400, 422}
    path = example["error"].split(":")[0]
    if path.startswith("spec."):  # of what comes before that, the server has words of its own
        assert path.rpartition(".")[2].partition("[")[0] in message


@pytest.mark.parametrize(
    "example", [one for one in TABLE["refused"] if one.get("server") == "leaves"], ids=title
)
def test_what_the_server_leaves_to_the_loader_is_refused_there(
    plane: ControlPlane, example: dict[str, Any]
) -> None:
    stored = plane.request("POST", JOBS + STRICT, manifest(example))
    with pytest.raises(DSortError) as caught:
        load_job(stored, strict=False)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert caught.value.message.startswith(example["error"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_the_tree_can_be_applied(plane: ControlPlane, path: Path) -> None:
    assert "created" in plane.kubectl("apply", "--validate=strict", "-f", str(path))


def test_a_job_with_as_many_entries_as_fit_may_be_created_and_changed(plane: ControlPlane) -> None:
    """The rules' cost is bounded: neither the schema nor a job as large as etcd takes it goes beyond the server's budget."""
    document = manifest({"set": {"spec.input.shards": [f"{place:075}.tar" for place in range(16384)]}})
    plane.request("POST", JOBS + STRICT, document)
    plane.request("PATCH", f"{JOBS}/example", {"spec": {"suspend": True}}, kind=MERGE)
    code, message = refusal(
        plane.request, "PATCH", f"{JOBS}/example", {"spec": {"input": {"shards": []}}}, kind=MERGE
    )
    assert (code, "input is immutable" in message) == (422, True)


TEMPLATE = "spec.workers.template"
NAMES = [f"{kind}ClassName" for kind in ("priority", "runtime")] + ["schedulerName"]


def many(number: int, value: object) -> dict[str, Any]:
    return {f"name-{place}": value for place in range(number)}


def lengths() -> Iterator[tuple[str, Any, Any]]:
    """Fields, the longest value that each takes, and one that is longer by one."""
    for side in ("input", "output"):
        yield f"spec.{side}.url", "file:///" + "a" * (LONGEST_URL - 8), "file:///" + "a" * (LONGEST_URL - 7)
    yield "spec.output.name", f"{'a' * 251}.tar", f"{'a' * 252}.tar"
    yield "spec.input.shards", ["a"] * MOST_ENTRIES, ["a"] * (MOST_ENTRIES + 1)
    yield "spec.input.shards", ["a" * LONGEST_ENTRY], ["a" * (LONGEST_ENTRY + 1)]
    for path in ("spec.output.shardSize", "spec.memory.budget", "spec.workers.scratchSizeLimit"):
        yield path, "1Gi".zfill(LONGEST), "1Gi".zfill(LONGEST + 1)
    for kind in ("requests", "limits"):
        path = f"{TEMPLATE}.spec.resources.{kind}"
        yield path, {"a": "1".zfill(LONGEST)}, {"a": "1".zfill(LONGEST + 1)}
        yield path, many(16, 1), many(17, 1)
    for path in ("metadata.labels", "metadata.annotations", "spec.nodeSelector"):
        yield f"{TEMPLATE}.{path}", many(64, "x"), many(65, "x")
    for path in ("metadata.labels", "spec.nodeSelector"):
        yield f"{TEMPLATE}.{path}", {"a": "b" * 63}, {"a": "b" * 64}
    yield f"{TEMPLATE}.spec.tolerations", [{}] * 64, [{}] * 65
    yield f"{TEMPLATE}.spec.imagePullSecrets", [{"name": "a"}] * 64, [{"name": "a"}] * 65
    yield f"{TEMPLATE}.spec.imagePullSecrets", [{"name": "a" * 253}], [{"name": "a" * 254}]
    yield f"{TEMPLATE}.spec.securityContext.supplementalGroups", [1] * 64, [1] * 65
    for name in NAMES:
        yield f"{TEMPLATE}.spec.{name}", "a" * 253, "a" * 254


@pytest.mark.parametrize(("path", "longest", "longer"), list(lengths()))
def test_server_and_loader_take_the_same_lengths(
    plane: ControlPlane, path: str, longest: Any, longer: Any
) -> None:
    fits, too_long = manifest({"set": {path: longest}}), manifest({"set": {path: longer}})
    plane.request("POST", JOBS + STRICT, fits)
    assert refusal(plane.request, "POST", JOBS + STRICT, too_long)[0] == 422
    load_job(fits, strict=True)
    with pytest.raises(DSortError, match="^" + re.escape(path)):
        load_job(too_long, strict=True)


# Changes.


def change(plane: ControlPlane, example: dict[str, Any]) -> dict[str, Any]:
    """Store what was, and return what is to be, ready to be put."""
    stored = plane.request("POST", JOBS + STRICT, manifest({"set": example["from"]}))
    document = manifest({"set": example["to"]})
    document["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    return document


@pytest.mark.parametrize("example", TABLE["changes_accepted"], ids=change_title)
def test_the_change_is_taken(plane: ControlPlane, example: dict[str, Any]) -> None:
    document = change(plane, example)
    stored = plane.request("PUT", f"{JOBS}/example{STRICT}", document)
    assert load_job(stored, strict=True).spec == load_job(document, strict=True).spec


@pytest.mark.parametrize("example", TABLE["changes_refused"], ids=change_title)
def test_the_change_is_refused(plane: ControlPlane, example: dict[str, Any]) -> None:
    code, message = refusal(plane.request, "PUT", f"{JOBS}/example{STRICT}", change(plane, example))
    assert code == 422
    assert example["error"] in message


# What other versions left behind.


@dataclass(frozen=True, slots=True)
class Upgraded:
    """An API server whose jobs were stored under another CRD; `before` are the jobs as that one told them, by name."""

    plane: ControlPlane
    before: dict[str, Any]

    def tellings(self, name: str) -> tuple[Any, Any]:
        return self.before[name], self.plane.request("GET", f"{JOBS}/{name}")


@pytest.fixture(scope="module")
def upgraded(kubernetes_assets: Path) -> Iterator[Upgraded]:
    """From a CRD that checked nothing, pruned nothing and knew no defaults to this one."""
    lax = the_crd()
    for version in lax["spec"]["versions"]:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version["schema"]["openAPIV3Schema"] = {
            "type": "object",
            "properties": {"spec": anything, "status": anything},
        }
    with ControlPlane(kubernetes_assets) as running:
        install(running, lax)
        for name, changes in STORED.items():
            document = manifest({"set": {"metadata.name": name, **changes}})
            running.request("POST", JOBS + STRICT, document)
        status = {"status": NEWER_STATUS}
        running.request("PATCH", f"{JOBS}/newer/status", status, kind=MERGE)
        before = {name: running.request("GET", f"{JOBS}/{name}") for name in STORED}
        assert before["newer"]["spec"]["input"]["later"] == 1
        assert before["newer"]["status"] == NEWER_STATUS
        install(running, the_crd())
        await_that(
            lambda: "lanes" in running.request("GET", f"{JOBS}/plain")["spec"]["workers"],
            "the new schema is in use",
        )
        yield Upgraded(running, before)


STORED: dict[str, dict[str, Any]] = {
    "plain": {},
    "newer": {
        "spec.later": {"a": [1]},
        "spec.input.later": 1,
        "spec.order": {"kind": "Key", "later": True},
        "spec.workers.template": {"later": 1, "spec": {"imagePullSecrets": [{"name": "a", "later": 1}]}},
        "spec.workers.template.spec.tolerations": [{"key": "a", "later": 1}],
    },
    "wrong": {"spec.order.seed": 7, "spec.workers": {"placement": "Count"}, "spec.suspend": True},
}
NEWER_STATUS: dict[str, Any] = {
    "state": "Hibernating",
    "phase": "Dream",
    "later": {"x": 1},
    "startTime": NOON,
    "conditions": [
        {"type": "Failed", "status": "True", "reason": "Frozen", "message": "", "lastTransitionTime": NOON},
        {"type": "Odd", "status": "Maybe"},
    ],
}


def test_jobs_with_unknown_fields_load(upgraded: Upgraded) -> None:
    for document in upgraded.tellings("newer"):
        job = load_job(document, strict=False)
        assert job.spec.order.kind == "Key"
        assert job.spec.workers.template is not None
        assert job.spec.workers.template.spec.image_pull_secrets[0].name == "a"
        assert job.metadata.uid
    for document in upgraded.tellings("plain"):
        assert load_job(document, strict=False).spec == load_job(TABLE["base"], strict=True).spec


def test_the_status_of_another_version_is_read_as_far_as_it_is_understood(upgraded: Upgraded) -> None:
    for document in upgraded.tellings("newer"):
        status = load_status(load_job(document, strict=False).status)
        assert (status.state, status.phase) == (None, None)
        assert status.start_time is not None
        assert [(one.type, one.reason) for one in status.conditions] == [(ConditionType.FAILED, "Frozen")]


def test_a_job_that_the_rules_would_refuse_today_is_named_by_the_loader(upgraded: Upgraded) -> None:
    with pytest.raises(DSortError, match=r"^spec\.order\.seed: a seed goes with kind Shuffle, not None"):
        load_job(upgraded.plane.request("GET", f"{JOBS}/wrong"), strict=False)


@pytest.mark.parametrize("name", STORED)
def test_finalizers_and_the_status_of_old_jobs_can_be_written(upgraded: Upgraded, name: str) -> None:
    """Or a job that is not valid by today's rules could neither be failed nor deleted."""
    path = f"{JOBS}/{name}"
    for finalizers in (["dsort.dev/operator"], []):
        stored = upgraded.plane.request("PATCH", path, {"metadata": {"finalizers": finalizers}}, kind=MERGE)
        assert stored["metadata"].get("finalizers", []) == finalizers
    status = {"state": State.FAILED, "phase": "Failed", "conditions": [condition("Failed")]}
    query = "/status?fieldManager=dsort-operator&force=true&fieldValidation=Strict"
    document = {"apiVersion": "dsort.dev/v1alpha1", "kind": "DSortJob", "status": status}
    assert upgraded.plane.request("PATCH", path + query, document, kind=APPLY)["status"]["state"] == "Failed"


@pytest.mark.parametrize("name", ["plain", "newer"])
def test_old_jobs_can_be_suspended_and_aborted(upgraded: Upgraded, name: str) -> None:
    for field in ("suspend", "abort"):
        upgraded.plane.request("PATCH", f"{JOBS}/{name}", {"spec": {field: True}}, kind=MERGE)


def test_unknown_fields_are_pruned_where_they_are_not_refused(plane: ControlPlane) -> None:
    document = manifest({"set": STORED["newer"]})
    stored = plane.request("POST", f"{JOBS}?fieldValidation=Ignore", document)
    tolerations = stored["spec"]["workers"]["template"]["spec"].pop("tolerations")
    assert "later" not in json.dumps(stored["spec"])
    assert tolerations == [{"key": "a", "later": 1}]


# The status.


def condition(kind: str, *, status: str = "True", reason: str = "Why") -> dict[str, str]:
    return {
        "type": kind, "status": status, "reason": reason, "message": "because", "lastTransitionTime": NOON
    }  # fmt: skip


def apply_status(plane: ControlPlane, manager: str, status: object, *, force: bool = False) -> dict[str, Any]:
    document = {"apiVersion": "dsort.dev/v1alpha1", "kind": "DSortJob", "status": status}
    query = f"/example/status?fieldManager={manager}&force={str(force).lower()}&fieldValidation=Strict"
    stored: dict[str, Any] = plane.request("PATCH", JOBS + query, document, kind=APPLY)["status"]
    return stored


def test_two_managers_share_the_conditions_of_a_job(plane: ControlPlane) -> None:
    plane.request("POST", JOBS, manifest({}))
    ours = {"state": "Running", "ranks": 2, "conditions": [condition("WorkersReady"), condition("Suspended")]}
    apply_status(plane, "dsort-operator", ours)
    both = apply_status(plane, "auditor", {"conditions": [condition("example.com/Audited")]})
    assert {one["type"] for one in both["conditions"]} == {
        "WorkersReady",
        "Suspended",
        "example.com/Audited",
    }
    theirs = {"conditions": [condition("Suspended", status="False")]}
    assert refusal(apply_status, plane, "auditor", theirs)[0] == 409
    # What a manager no longer applies goes, and nothing of the other's.
    left = apply_status(plane, "dsort-operator", {"state": "Failed", "conditions": [condition("Failed")]})
    assert {one["type"] for one in left["conditions"]} == {"Failed", "example.com/Audited"}
    assert "ranks" not in left
    stored = plane.request("GET", f"{JOBS}/example")
    assert stored["metadata"]["generation"] == 1
    assert load_status(stored["status"]).state is State.FAILED


def test_a_condition_is_taken_over_by_force(plane: ControlPlane) -> None:
    plane.request("POST", JOBS, manifest({}))
    apply_status(plane, "someone", {"state": "Pending", "conditions": [condition("Failed", status="False")]})
    ours = {"state": "Running", "conditions": [condition("Failed", status="Unknown", reason="Ours")]}
    assert apply_status(plane, "dsort-operator", ours, force=True) == ours


@pytest.mark.parametrize(
    "status",
    [
        {"state": "Odd"},
        {"conditions": [condition("Failed", reason="two words")]},
        {"conditions": [condition("Failed", status="true")]},
        {"abnormalRanks": [{"rank": rank, "reason": "OOMKilled"} for rank in range(11)]},
        {"plan": {"shards": 1}},
    ],
    ids=json.dumps,
)
def test_a_status_that_the_models_refuse_is_refused(plane: ControlPlane, status: object) -> None:
    plane.request("POST", JOBS, manifest({}))
    assert refusal(apply_status, plane, "dsort-operator", status)[0] == 422


def test_the_status_is_not_written_with_the_job(plane: ControlPlane) -> None:
    document = manifest({"set": {"status": {"state": "Complete"}}})
    assert "status" not in plane.request("POST", JOBS + STRICT, document)


# What people see.


def test_every_field_is_explained(dsort_api: ControlPlane) -> None:
    path = f"/openapi/v3/apis/{the_crd()['spec']['group']}/v1alpha1"
    await_that(lambda: "openapi" in dsort_api.request("GET", path), "the schema is published")
    schemas = dsort_api.request("GET", path)["components"]["schemas"]
    job = next(schema for name, schema in schemas.items() if name.endswith(".DSortJob"))
    missing = [
        path
        for part in ("spec", "status")
        for path, node in fields(job["properties"][part], part)
        if not node.get("description")
    ]
    assert missing == []


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from fields(inner, f"{path}.{name}")
    for inner in schema.get("items", {}).get("properties", {}).values():
        yield from fields(inner, f"{path}[]")


def test_kubectl_explains_what_there_is(dsort_api: ControlPlane) -> None:
    listed = dsort_api.kubectl("explain", "dsortjob.spec", "--recursive")
    for name in ("shardSize", "placement", "scratchSizeLimit", "podAntiAffinity", "runAsUser", "managedBy"):
        assert name in listed
    told = dsort_api.kubectl("explain", "dsj.spec.workers.lanes")
    assert "Ranks in each pod" in told


def test_kubectl_shows_jobs_by_their_short_name(plane: ControlPlane) -> None:
    plane.request("POST", JOBS, manifest({}))
    status = {
        "state": "Running",
        "ready": "2/3",
        "progress": {"share": "42%"},
        "recordsOut": 1000,
        "bytesOut": 4096,
        "rate": "1.20 GiB/s",
        "conditions": [condition("Throttled", status="False")],
    }
    apply_status(plane, "dsort-operator", status)
    header, row = plane.kubectl("get", "dsj", "--no-headers=false").splitlines()
    assert header.split() == ["NAME", "STATUS", "PROGRESS", "RANKS", "THROTTLED", "AGE"]
    assert row.split()[:5] == ["example", "Running", "42%", "2/3", "False"]
    header, row = plane.kubectl("get", PLURAL, "-o", "wide").splitlines()
    assert header.split()[6:] == ["RECORDS", "BYTES", "RATE"]
    assert row.split()[6:] == ["1000", "4096", "1.20", "GiB/s"]


def test_the_file_is_applied_twice_without_a_change(dsort_api: ControlPlane) -> None:
    """Client-side, as most people do: the whole file goes into an annotation, which is bounded."""
    file = json.dumps(the_crd())
    dsort_api.kubectl("apply", "-f", "-", stdin=file)
    before = copy.deepcopy(dsort_api.request("GET", CRD_PATH)["metadata"])
    assert "unchanged" in dsort_api.kubectl("apply", "-f", "-", stdin=file)
    assert dsort_api.request("GET", CRD_PATH)["metadata"]["generation"] == before["generation"]


CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/dsortjobs.dsort.dev"
