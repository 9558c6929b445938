"""How many pods, on which nodes, with which volumes, and what cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from dsort_api.podtemplate import PodTemplate
from dsort_api.spec import DSortJobSpec, load_job
from dsort_operator.nodes import count_nodes
from dsort_operator.placement import missing_claims, pods_of, unsuitable
from dsort_operator.volumes import Mount, claims_of, mount_of, mounts_of
from tests.support.worlds import job_body

MANY = ("ReadWriteMany",)
ONCE = ("ReadWriteOnce",)


def spec_of(**spec: Any) -> DSortJobSpec:
    return load_job(job_body(**spec), strict=True).spec


def urls(read: str, write: str) -> dict[str, Any]:
    return {"input": {"url": read}, "output": {"url": write, "name": "s-%04d", "shardSize": "1Mi"}}


@pytest.mark.parametrize(
    ("workers", "nodes", "pods"),
    [({"count": 3}, None, 3), ({}, 4, 4), ({}, 0, 0), ({}, None, 0), ({"placement": "OnePerNode"}, 2, 2)],
)
def test_number_of_pods(workers: dict[str, Any], nodes: int | None, pods: int) -> None:
    assert pods_of(spec_of(workers=workers), nodes=nodes) == pods


def test_url_is_a_mount() -> None:
    assert mount_of("pvc://data/a/b", field="f", read_only=True) == Mount(
        field="f", claim="data", read_only=True
    )
    assert mount_of("pvc://data/a", field="f", read_only=True).path == "/volumes/data"
    assert mount_of("file:///a%20b//c/", field="f", read_only=False).path == "/a b/c"


def test_volume_of_input_and_output_is_mounted_once_to_be_written_to() -> None:
    (both,) = mounts_of(spec_of())
    assert both == Mount(field="spec.output.url", claim="data")
    read, written = mounts_of(spec_of(**urls("pvc://in/x", "file:///out")))
    assert (read.claim, read.read_only) == ("in", True)
    assert (written.host_path, written.read_only) == ("/out", False)


def test_claims_of_a_job() -> None:
    spec = spec_of(**urls("pvc://in/x", "pvc://out"))
    assert claims_of(spec) == {"in", "out"}
    assert missing_claims(spec, claims={"in": MANY, "out": None}) == ["out"]
    assert missing_claims(spec, claims={}) == ["in", "out"]
    assert missing_claims(spec, claims={"in": MANY, "out": ONCE}) == []
    assert claims_of(spec_of(**urls("file:///in", "file:///out"))) == frozenset()


@pytest.mark.parametrize(
    ("read", "write", "claims", "pods"),
    [
        ("pvc://a", "pvc://a/out", {"a": MANY}, 8),
        ("pvc://a", "pvc://b", {"a": ("ReadOnlyMany",), "b": (*ONCE, *MANY)}, 8),
        ("pvc://a", "pvc://b", {"a": ONCE, "b": ONCE}, 1),
        ("file:///data", "pvc://b", {"b": MANY}, 8),
        ("file:///data/in", "file:///data/out", {}, 1),
    ],
)
def test_volumes_that_work(read: str, write: str, claims: dict[str, tuple[str, ...]], pods: int) -> None:
    assert unsuitable(spec_of(**urls(read, write)), pods=pods, claims=claims, allow_host_paths=True) is None


@pytest.mark.parametrize(
    ("read", "write", "claims", "pods", "says"),
    [
        (
            "pvc://a",
            "pvc://b",
            {"a": ONCE, "b": MANY},
            2,
            "spec.input.url: claim a is ReadWriteOnce, which 2 pods on several nodes cannot share",
        ),
        (
            "pvc://a",
            "pvc://b",
            {"a": MANY, "b": ("ReadWriteOnce", "ReadOnlyMany")},
            2,
            "spec.output.url: claim b is ReadWriteOnce and ReadOnlyMany",
        ),
        (
            "pvc://a",
            "pvc://b",
            {"a": MANY, "b": ("ReadOnlyMany",)},
            1,
            "claim b is ReadOnlyMany, and the output",
        ),
        ("pvc://a", "file:///out", {"a": MANY}, 2, "spec.output.url: /out is another folder on each node"),
        ("file:///a:b", "pvc://b", {"b": MANY}, 1, "spec.input.url: '/a:b' has a ':'"),
        ("file:///", "pvc://b", {"b": MANY}, 1, "would hide the container's own /;"),
        ("file:///usr/data", "pvc://b", {"b": MANY}, 1, "would hide the container's own /usr;"),
    ],
)
def test_volumes_that_do_not(
    read: str, write: str, claims: dict[str, tuple[str, ...]], pods: int, says: str
) -> None:
    wrong = unsuitable(spec_of(**urls(read, write)), pods=pods, claims=claims, allow_host_paths=True)
    assert says in (wrong or "")


def test_folders_of_nodes_must_be_allowed() -> None:
    spec = spec_of(**urls("file:///in", "pvc://b"))
    wrong = unsuitable(spec, pods=1, claims={"b": MANY}, allow_host_paths=False)
    assert (wrong or "").startswith("spec.input.url: this operator does not allow folders of nodes")


def test_memory_limit_below_the_budget_is_refused() -> None:
    template = {"spec": {"resources": {"limits": {"memory": "1Gi"}}}}
    spec = spec_of(workers={"count": 1, "template": template}, memory={"budget": "2Gi"})
    wrong = unsuitable(spec, pods=1, claims={"data": MANY}, allow_host_paths=False)
    assert (wrong or "").startswith("spec.workers.template.spec.resources.limits.memory: 1.00 GiB are less")


# Nodes


def node(
    *taints: dict[str, str], name: str = "n", unschedulable: bool = False, **labels: str
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": list(taints), "unschedulable": unschedulable},
    }


def template(**spec: Any) -> PodTemplate:
    return PodTemplate.model_validate({"spec": spec})


def wants(*expressions: dict[str, Any], fields: tuple[dict[str, Any], ...] = ()) -> PodTemplate:
    term = {"matchExpressions": list(expressions), "matchFields": list(fields)}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return template(affinity={"nodeAffinity": required})


def test_every_plain_node_takes_a_pod() -> None:
    assert count_nodes([node(), node()], template=None) == 2
    assert count_nodes([], template=None) == 0
    assert count_nodes([{}], template=template()) == 1


def test_node_selector_must_match() -> None:
    assert (
        count_nodes(
            [node(disk="ssd"), node(disk="hdd"), node()], template=template(nodeSelector={"disk": "ssd"})
        )
        == 1
    )


GPU = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("tolerations", "takes"),
    [
        ([], False),
        ([{"operator": "Exists"}], True),
        ([{"key": "gpu", "operator": "Exists"}], True),
        ([{"key": "other", "operator": "Exists"}], False),
        ([{"key": "gpu", "value": "yes"}], True),
        ([{"key": "gpu", "operator": "Equal", "value": "no"}], False),
        ([{"key": "gpu", "value": "yes", "effect": "NoExecute"}], False),
        ([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], True),
    ],
)
def test_taint_keeps_pods_away_that_do_not_tolerate_it(
    tolerations: list[dict[str, str]], *, takes: bool
) -> None:
    assert count_nodes([node(GPU)], template=template(tolerations=tolerations)) == takes


def test_taint_that_only_prefers_keeps_nobody_away() -> None:
    assert count_nodes([node({"key": "a", "effect": "PreferNoSchedule"})], template=None) == 1


def test_cordoned_node_takes_nobody_who_does_not_tolerate_it() -> None:
    cordoned = node(unschedulable=True)
    assert count_nodes([cordoned], template=None) == 0
    tolerates = template(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert count_nodes([cordoned], template=tolerates) == 1


@pytest.mark.parametrize(
    ("expression", "matching"),
    [
        ({"key": "cpus", "operator": "In", "values": ["8", "64"]}, 1),
        ({"key": "cpus", "operator": "NotIn", "values": ["8"]}, 2),
        ({"key": "cpus", "operator": "Exists"}, 2),
        ({"key": "cpus", "operator": "DoesNotExist"}, 1),
        ({"key": "cpus", "operator": "Gt", "values": ["7"]}, 1),
        ({"key": "cpus", "operator": "Lt", "values": ["100"]}, 1),
        ({"key": "cpus", "operator": "Gt", "values": []}, 0),
        ({"key": "cpus", "operator": "Novel"}, 0),
    ],
)
def test_required_affinity_is_heard(expression: dict[str, Any], matching: int) -> None:
    nodes = [node(cpus="8"), node(cpus="many"), node()]
    assert count_nodes(nodes, template=wants(expression)) == matching


def test_affinity_to_names_and_empty_terms() -> None:
    field = {"key": "metadata.name", "operator": "In", "values": ["a"]}
    assert count_nodes([node(name="a"), node(name="b")], template=wants(fields=(field,))) == 1
    assert count_nodes([node()], template=wants()) == 0
    assert count_nodes([node()], template=template(affinity={"podAffinity": {}})) == 1
