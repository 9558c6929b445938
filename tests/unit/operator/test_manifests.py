"""The children as the API server takes them: some word for word, and what holds for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsort_api.labels import JOB_NAME_LABEL, QUEUE_LABEL
from dsort_api.messages import JobDefinition
from dsort_api.reasons import EXIT_CODES, Reason
from dsort_operator import manifests
from dsort_operator.naming import base_name, cleanup_name, labels
from dsort_operator.settings import Settings
from tests.support.worlds import UID, definition_of, job_body

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = Settings(
    image="registry.example/dsort:1.0",
    image_pull_secrets=("pull",),
    operator_namespace="ops",
    operator_pod_labels={"app": "dsort"},
)
TEMPLATE = {
    "metadata": {"labels": {"team": "vision"}, "annotations": {"example.com/note": "x"}},
    "spec": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi", "example.com/nic": 1}},
        "priorityClassName": "low",
        "runtimeClassName": "kata",
        "schedulerName": "other",
        "imagePullSecrets": [{"name": "mine"}],
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 1000, "fsGroup": 100, "supplementalGroups": [5]},
    },
}
PLAIN = definition_of(job_body())
FULL = definition_of(
    job_body(
        input={"url": "file:///data/in"},
        workers={"lanes": 2, "scratchSizeLimit": "1Gi", "template": TEMPLATE},
        backoffLimit=2,
    )
)


def workers(definition: JobDefinition, *, suspended: bool = False, queue: str = "") -> dict[str, Any]:
    return manifests.workers_job(
        definition, namespace="team", suspended=suspended, queue=queue, settings=SETTINGS
    )


def cleanup(definition: JobDefinition, *, owned: bool = True) -> dict[str, Any]:
    return manifests.cleanup_job(definition, namespace="team", owned=owned, settings=SETTINGS)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("workers", workers(PLAIN)),
        ("workers-full", workers(FULL, suspended=True, queue="gpu")),
        ("cleanup", cleanup(PLAIN)),
        ("network-policy", manifests.network_policy(PLAIN, namespace="team", settings=SETTINGS)),
    ],
)
def test_manifest_is_word_for_word(name: str, manifest: dict[str, Any]) -> None:
    assert manifest == json.loads((GOLDEN / f"{name}.json").read_text())


def test_limit_of_cpu_is_what_is_requested_where_nothing_else_is_said() -> None:
    """By Kubernetes itself. More than the limit could be requested of no node."""
    template = {"spec": {"resources": {"limits": {"cpu": "250m"}}}}
    (container,) = pod_of(workers(definition_of(job_body(workers={"template": template}))))["containers"]
    assert "cpu" not in container["resources"]["requests"]
    assert container["resources"]["limits"]["cpu"] == "250m"


@pytest.mark.parametrize("job", [workers(PLAIN), workers(FULL), cleanup(PLAIN), cleanup(FULL)])
def test_pods_stand_the_restricted_standard_and_have_no_token(job: dict[str, Any]) -> None:
    pod = pod_of(job)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert container["resources"]["limits"]["memory"]
    assert [volume["name"] for volume in pod["volumes"]] == [
        mount["name"] for mount in container["volumeMounts"]
    ]


@pytest.mark.parametrize(
    ("memory", "resources", "requested", "limit"),
    [
        (None, {}, "1024Mi", "1024Mi"),
        ({"budget": "700Mi"}, {}, "1000Mi", "1000Mi"),
        (None, {"limits": {"memory": "3Gi"}}, "3Gi", "3Gi"),
        (None, {"requests": {"memory": "1Gi"}, "limits": {"memory": "3Gi"}}, "1Gi", "3Gi"),
    ],
)
def test_scheduler_sets_aside_all_memory_that_a_pod_may_use_unless_the_template_says_less(
    memory: dict[str, Any] | None, resources: dict[str, Any], requested: str, limit: str
) -> None:
    body = job_body(workers={"count": 2, "template": {"spec": {"resources": resources}}}, memory=memory)
    (container,) = pod_of(workers(definition_of(body)))["containers"]
    assert container["resources"]["requests"]["memory"] == requested
    assert container["resources"]["limits"]["memory"] == limit


def test_definition_is_what_a_rank_reads() -> None:
    config = manifests.definition_config_map(FULL, namespace="team")
    assert JobDefinition.model_validate_json(config["data"]["job.json"]) == FULL
    assert config["immutable"] is True


def test_secret_holds_the_token() -> None:
    secret = manifests.token_secret("shuffle", uid=UID, namespace="team", token="t0k")
    assert secret["stringData"] == {"token": "t0k"}
    assert secret["immutable"] is True
    assert secret["metadata"]["name"] == base_name("shuffle", uid=UID)


def test_exit_codes_that_another_try_would_meet_again_end_the_job() -> None:
    *_, last = workers(PLAIN)["spec"]["podFailurePolicy"]["rules"]
    again = {EXIT_CODES[reason] for reason in (Reason.INTERNAL, Reason.PEER_LOST, Reason.ABORTED)}
    assert set(last["onExitCodes"]["values"]) == set(EXIT_CODES.values()) - again
    assert last["action"] == "FailJob"


@pytest.mark.parametrize(("spec", "unsatisfiable"), [({}, "DoNotSchedule"), ({"count": 2}, "ScheduleAnyway")])
def test_pods_are_spread_over_nodes(spec: dict[str, Any], unsatisfiable: str) -> None:
    (spread,) = pod_of(workers(definition_of(job_body(workers=spec))))["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == unsatisfiable
    assert spread["topologyKey"] == "kubernetes.io/hostname"


def test_cleanup_that_nobody_owns_takes_itself_away() -> None:
    owned, alone = cleanup(PLAIN), cleanup(PLAIN, owned=False)
    assert "ttlSecondsAfterFinished" not in owned["spec"]
    assert owned["metadata"]["ownerReferences"][0]["uid"] == UID
    assert alone["spec"]["ttlSecondsAfterFinished"] > 0
    assert "ownerReferences" not in alone["metadata"]


def test_cleanup_of_a_folder_of_the_node_names_no_claim() -> None:
    definition = definition_of(
        job_body(output={"url": "file:///out", "name": "s-%04d", "shardSize": 1024}), pods=1
    )
    (container,) = pod_of(cleanup(definition))["containers"]
    assert container["args"] == ["file:///out", "--job", UID]


def test_cleanup_runs_elsewhere_where_the_workers_found_no_place() -> None:
    pod = pod_of(cleanup(FULL))
    assert "nodeSelector" not in pod
    (preferred,) = pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["preference"]["matchExpressions"] == [
        {"key": "disk", "operator": "In", "values": ["ssd"]}
    ]
    assert set(pod["affinity"]) == {"nodeAffinity"}
    assert "affinity" not in pod_of(cleanup(PLAIN))
    template = {"spec": {"nodeSelector": {"disk": "ssd"}}}
    there = definition_of(
        job_body(
            output={"url": "file:///out", "name": "s-%04d", "shardSize": 1024}, workers={"template": template}
        ),
        pods=1,
    )
    assert pod_of(cleanup(there))["nodeSelector"] == {"disk": "ssd"}  # that is where the folder is


def test_user_cannot_take_over_the_labels() -> None:
    job = workers(FULL, queue="gpu")
    own = job["spec"]["template"]["metadata"]["labels"]
    assert own["team"] == "vision"
    assert own.items() >= labels("shuffle", uid=UID, component="worker").items()
    assert job["metadata"]["labels"][QUEUE_LABEL] == "gpu"
    assert QUEUE_LABEL not in workers(FULL)["metadata"]["labels"]


# Names


@pytest.mark.parametrize(
    ("name", "stem"),
    [("shuffle", "shuffle"), ("a.b", "a-b"), ("x" * 253, "x" * 40), ("y" * 39 + ".z", "y" * 39)],
)
def test_base_name_is_short_and_has_the_uid(name: str, stem: str) -> None:
    base = base_name(name, uid=UID)
    assert base.rpartition("-")[0] == stem
    assert len(base) <= 49
    assert base != base_name(name, uid="another")
    assert cleanup_name(name, uid=UID) == f"{base}-cleanup"


def test_label_of_a_long_name_is_the_base_name() -> None:
    assert labels("a" * 63, uid=UID, component="job")[JOB_NAME_LABEL] == "a" * 63
    assert labels("a" * 64, uid=UID, component="job")[JOB_NAME_LABEL] == base_name("a" * 64, uid=UID)
