"""The chart: what it renders, what it refuses, and what a real API server says to it.

DSORT_WRITE_GOLDEN=1 writes the golden files anew, for a look at their diff.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import tomllib
import urllib.error
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dsort_api.crd import FILE
from dsort_api.labels import (
    APP_NAME,
    APP_NAME_LABEL,
    COMPONENT_LABEL,
    METRICS_PORT,
    MOST_LANES,
    WORKER_COMPONENT,
)
from dsort_api.spec import load_job
from dsort_operator import kube
from dsort_operator.settings import Settings
from tests.support.apiserver import ControlPlane
from tests.support.crd import await_that
from tests.support.helm import CHART, NAMESPACE, ROOT, Document, Helm, Refused, helm

__all__ = ["helm"]

GOLDEN: Final = Path(__file__).parent / "golden"
EVERYTHING: Final[dict[str, Any]] = yaml.safe_load((GOLDEN / "everything.values.yaml").read_text())
DEFAULT: Final[dict[str, Any]] = yaml.safe_load((GOLDEN / "default.values.yaml").read_text())


def only(objects: list[Document], kind: str, name: str = "") -> Document:
    """The one object of a kind whose name ends so."""
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(name)]
    return found


def is_hook(document: Document) -> bool:
    return "helm.sh/hook" in document["metadata"].get("annotations", {})


def container(objects: list[Document]) -> Document:
    (found,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def pod_specs(objects: list[Document]) -> dict[str, tuple[Document, Document]]:
    """Labels and spec of every pod that comes of the objects, by kind and name."""
    found = {}
    for one in objects:
        pod = one if one["kind"] == "Pod" else one.get("spec", {}).get("template")
        if isinstance(pod, dict) and "containers" in pod.get("spec", {}):
            found[f"{one['kind']} {one['metadata']['name']}"] = (pod["metadata"]["labels"], pod["spec"])
    return found


# ------------------------------------------------------------------------------------------------------ rendering


@pytest.mark.parametrize("name", ["default", "everything"])
def test_golden(helm: Helm, name: str) -> None:
    rendered = helm.template(yaml.safe_load((GOLDEN / f"{name}.values.yaml").read_text()))
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("DSORT_WRITE_GOLDEN"):
        path.write_text(rendered)
    assert rendered == path.read_text()


def test_the_chart_is_of_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_crd_is_that_of_the_tree_and_stays(helm: Helm) -> None:
    crd = only(helm.objects(), "CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd["metadata"].pop("labels")["app.kubernetes.io/managed-by"] == "Helm"
    assert crd == yaml.safe_load((ROOT / "crds" / FILE).read_text())
    going = only(helm.objects({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "annotations" not in going["metadata"]


def test_the_operator_understands_its_environment(helm: Helm) -> None:
    for values, wanted in (
        (
            DEFAULT,
            {"watch_namespaces": (), "leader_election": True, "log_format": "json", "metrics_port": 8080},
        ),
        (
            EVERYTHING,
            {
                "watch_namespaces": ("team-a", "team-b"),
                "image_pull_secrets": ("registry", "mirror"),
                "image_pull_policy": "Always",
                "allow_host_paths": True,
                "network_policy": True,
                "log_level": "debug",
                "metrics_port": 9090,
                "health_port": 9091,
                "lease_name": "sorter",
                "operator_namespace": NAMESPACE,
            },
        ),
    ):
        objects = helm.objects(values)
        environment = {one["name"]: one["value"] for one in container(objects)["env"]}
        settings = Settings.load({}, environment=environment)
        assert {name: getattr(settings, name) for name in wanted} == wanted
        assert settings.image == container(objects)["image"]
        labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert settings.operator_pod_labels.items() <= labels.items()
        ours = {name for name in environment if name.startswith("DSORT_")}
        fields = {f"DSORT_{name.upper()}" for name in Settings.__dataclass_fields__}
        assert ours == fields - {"DSORT_IDENTITY"}


def test_the_image_is_named_by_tag_or_digest(helm: Helm) -> None:
    def image(**values: str) -> str:
        return str(container(helm.objects({"image": values}))["image"])

    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert image(repository="host:5000/x/y") == f"host:5000/x/y:{version}"
    assert image(repository="x", tag="1.2") == "x:1.2"
    assert image(repository="x", tag="1.2", digest=f"sha256:{'0' * 64}") == f"x@sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("dsort", {}, "dsort-dsort-operator"),
        ("dsort-operator", {}, "dsort-operator"),
        ("dsort", {"nameOverride": "sorter"}, "dsort-sorter"),
        ("dsort", {"fullnameOverride": "sorter"}, "sorter"),
        ("a" * 53, {}, "a" * 47),
    ],
)
def test_names(helm: Helm, release: str, values: Document, name: str) -> None:
    objects = helm.objects(values, release=release)
    assert only(objects, "Deployment")["metadata"]["name"] == name
    assert all(len(one["metadata"]["name"]) <= 63 for one in objects if "Cluster" not in one["kind"])


def test_an_upgrade_never_runs_two_operators_without_a_lease(helm: Helm) -> None:
    deployment = only(helm.objects({"leaderElection": {"enabled": False}}), "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert "strategy" not in only(helm.objects(), "Deployment")["spec"]


def test_what_is_switched_off_is_not_there(helm: Helm) -> None:
    off = {
        "crds": {"install": False},
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "mine"},
        "metrics": {"enabled": False},
        "leaderElection": {"enabled": False},
        "uninstall": {"release": False},
    }
    kinds = [one["kind"] for one in helm.objects(off) if not is_hook(one)]
    assert kinds == ["Deployment"]
    assert only(helm.objects(off), "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_the_test_is_a_job_that_the_strict_loader_takes(helm: Helm) -> None:
    for values, namespace in (
        ({}, NAMESPACE),
        ({"watchNamespaces": ["team-a", NAMESPACE]}, NAMESPACE),
        (EVERYTHING, "team-a"),
    ):
        objects = helm.objects(values)
        hooks = [
            one for one in objects if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
        ]
        assert {one["metadata"]["namespace"] for one in hooks} == {namespace}
        manifest = only(hooks, "DSortJob")
        job = load_job(manifest, strict=True)
        claim = job.spec.input.url.removeprefix("pvc://").partition("/")[0]
        (volume,) = only(hooks, "Pod", "-input")["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        made = [one["metadata"]["name"] for one in hooks if one["kind"] == "PersistentVolumeClaim"]
        assert made == ([] if "test" in values else [claim])


def test_the_pod_monitor_finds_the_metrics_of_every_lane(helm: Helm) -> None:
    spec = only(helm.objects(EVERYTHING), "PodMonitor")["spec"]
    assert spec["selector"]["matchLabels"] == {APP_NAME_LABEL: APP_NAME, COMPONENT_LABEL: WORKER_COMPONENT}
    (endpoint,) = spec["podMetricsEndpoints"]
    (keep,) = [one for one in endpoint["relabelings"] if one["action"] == "keep"]
    ports = [port for port in range(1 << 16) if re.fullmatch(keep["regex"], str(port))]
    lanes = set(range(METRICS_PORT, METRICS_PORT + MOST_LANES))
    assert lanes <= set(ports)
    assert max(ports) < METRICS_PORT + 100  # none of the control and data ports


def test_the_dashboard_asks_for_metrics_that_there_are(helm: Helm) -> None:
    data = only(helm.objects(EVERYTHING), "ConfigMap", "-dashboards")["data"]
    dashboard = json.loads(data["dsort.json"])
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"\bdsort_\w+", target["expr"])
    }
    code = "".join(
        (ROOT / path).read_text()
        for path in ("operator/dsort_operator/metrics.py", "worker/dsort_worker/metrics.py")
    )
    there = set(re.findall(r'"(dsort_\w+)"', code))
    there |= {f"dsort_rank_{name}" for name in re.findall(r'\(\s*"(\w+)",\s+"', code)}
    assert len(asked) > 10
    assert {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in asked} <= there


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"imag": {}}, "'imag'"),
        ({"image": {"repo": "x"}}, "'repo'"),
        ({"image": {"repository": "x:1.0"}}, "repository"),
        ({"image": {"repository": ""}}, "repository"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
        ({"replicaCount": "2"}, "replicaCount"),
        ({"watchNamespaces": "team-a"}, "watchNamespaces"),
        ({"watchNamespaces": ["Team"]}, "watchNamespaces"),
        ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
        ({"crds": {"instal": True}}, "'instal'"),
        ({"logging": {"level": "loud"}}, "level"),
        ({"metrics": {"port": 0}}, "port"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "interval"),
        ({"metrics": {"podMonitor": {"relabelings": [{"target": "x"}]}}}, "'target'"),
        ({"securityContext": {"runAsRoot": True}}, "'runAsRoot'"),
        ({"podSecurityContext": {"fsgroup": 1}}, "'fsgroup'"),
        ({"resources": {"limit": {}}}, "'limit'"),
        ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
        ({"tolerations": [{"kee": "x"}]}, "'kee'"),
        ({"affinity": {"node": {}}}, "'node'"),
        ({"podLabels": {"a": 1}}, "podLabels"),
        ({"extraEnv": [{"value": "x"}]}, "name"),
        ({"test": {"workers": 0}}, "workers"),
        ({"replicaCount": 2, "leaderElection": {"enabled": False}}, "replicaCount: more than one"),
        ({"healthPort": 8080}, "healthPort: must not be"),
        ({"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": "50%"}}, "exclude each other"),
        ({"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}}, "needs metrics.enabled"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(helm: Helm, values: Document, words: str) -> None:
    with pytest.raises(Refused, match=re.escape(words)):
        helm.template(values)


def schema_nodes(schema: Document, path: str = "") -> Iterator[tuple[str, Document]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from schema_nodes(inner, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        yield from schema_nodes(schema["items"], f"{path}[]")


def test_the_schema_is_closed_but_for_what_the_api_server_knows_better() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    nodes = dict(schema_nodes(schema))
    open_ = {
        path
        for path, one in nodes.items()
        if one.get("type") == "object" and "additionalProperties" not in one
    }
    assert open_ == {
        "global",
        "affinity.nodeAffinity",
        "affinity.podAffinity",
        "affinity.podAntiAffinity",
        "extraEnv[].valueFrom",
    }
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)


# ------------------------------------------------------------------------------------------- a real API server


def applied(plane: ControlPlane, objects: list[Document], *, dry: bool = True) -> None:
    flags = ("--dry-run=server",) if dry else ()
    text = yaml.safe_dump_all(objects)
    plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--validate=strict", *flags, "-f", "-", stdin=text
    )


@pytest.fixture
def places(dsort_api: ControlPlane) -> ControlPlane:
    """The server with the namespaces that the values name."""
    for name in (NAMESPACE, "team-a", "team-b"):
        applied(dsort_api, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}], dry=False)
    return dsort_api


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_the_api_server_takes_all_of_it_strictly(helm: Helm, places: ControlPlane, values: Document) -> None:
    objects = [
        one for one in helm.objects(values) if not one["apiVersion"].startswith("monitoring.coreos.com/")
    ]
    assert len(objects) > 15
    applied(places, objects)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_every_pod_is_one_that_the_restricted_standard_admits(
    helm: Helm, dsort_api: ControlPlane, values: Document
) -> None:
    namespace = f"restricted-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    dsort_api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}})
    pods = f"/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict"
    specs = pod_specs(helm.objects(values))
    assert len(specs) == 4  # the operator, the release after an uninstall, the two pods of the test
    for labels, found in specs.values():
        spec = copy.deepcopy(found) | {"restartPolicy": "Never"}
        spec.pop("priorityClassName", None)  # this one is for kube-system
        dsort_api.request("POST", pods, {"metadata": {"name": "a-pod", "labels": labels}, "spec": spec})
        for one in spec["containers"]:
            one["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            dsort_api.request("POST", pods, {"metadata": {"name": "a-pod"}, "spec": spec})
        refused.value.close()


# ----------------------------------------------------------------------------------------------------------- rights

Right = tuple[str, str, str]
"""Group, resource (with its subresource), verb."""


def needed() -> dict[str, set[Right]]:
    """What the operator says that it needs, by where: in the namespaces that it watches, in the cluster, in its own."""
    found: dict[str, set[Right]] = {"watched": set(), "cluster": set(), "own": set()}
    _, table = (kube.__doc__ or "").split("|---|---|---|---|\n")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| .+ \|$", table, flags=re.MULTILINE)
    for place, resources, verbs in rows:
        where = "cluster" if "cluster-wide" in place else "own" if "own namespace" in place else "watched"
        group = place.partition(",")[0].replace("(core)", "")
        found[where] |= {
            (group, resource, verb) for resource in resources.split(", ") for verb in verbs.split(", ")
        }
    return found


def granted(role: Document) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


NETWORK: Final = {("networking.k8s.io", "networkpolicies", verb) for verb in ("get", "create")}


def test_the_operator_has_the_rights_that_it_needs_and_no_others(helm: Helm) -> None:
    rights = needed()
    assert rights["watched"] >= NETWORK
    objects = [one for one in helm.objects() if not is_hook(one)]
    assert (
        granted(only(objects, "ClusterRole", "dsort-operator"))
        == rights["watched"] - NETWORK | rights["cluster"]
    )
    assert granted(only(objects, "Role", "-leader")) == rights["own"]
    objects = [one for one in helm.objects(EVERYTHING) if not is_hook(one)]
    roles = [one for one in objects if one["kind"] == "Role" and one["metadata"]["name"] == "sorter"]
    assert [one["metadata"]["namespace"] for one in roles] == ["team-a", "team-b"]
    assert [granted(one) for one in roles] == [rights["watched"], rights["watched"]]
    assert granted(only(objects, "ClusterRole", "sorter")) == rights["cluster"]
    bare = {"watchNamespaces": ["team-a"], "rbac": {"nodes": False, "aggregate": False}}
    assert "ClusterRole" not in {one["kind"] for one in helm.objects(bare)}


def may(plane: ControlPlane, account: str, right: Right, *, namespace: str = "", name: str = "") -> bool:
    group, resource, verb = right
    resource, _, subresource = resource.partition("/")
    attributes = {
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "verb": verb,
        "namespace": namespace,
        "name": name,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{NAMESPACE}:{account}",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": {key: value for key, value in attributes.items() if value},
        },
    }
    answer = plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def test_the_api_server_grants_what_is_needed_where_it_is_needed(helm: Helm, places: ControlPlane) -> None:
    objects = [one for one in helm.objects(EVERYTHING) if one["apiVersion"].startswith("rbac.")]
    applied(places, [one for one in objects if not is_hook(one)], dry=False)
    rights = needed()
    account = "sorter"
    wanted = [
        *((right, {"namespace": place}) for right in rights["watched"] for place in ("team-a", "team-b")),
        *((right, {}) for right in rights["cluster"]),
        *((right, {"namespace": NAMESPACE, "name": "sorter"}) for right in rights["own"]),
    ]
    for right, where in wanted:  # the authorizer hears of roles a moment later
        await_that(functools.partial(may, places, account, right, **where), f"{right} {where}")
    assert not any(may(places, account, right, namespace="default") for right in rights["watched"])
    assert not may(places, account, ("", "secrets", "list"), namespace="team-a")
    assert not may(places, account, ("", "pods", "delete"), namespace="team-a")
    assert not may(
        places, account, ("coordination.k8s.io", "leases", "update"), namespace=NAMESPACE, name="other"
    )
