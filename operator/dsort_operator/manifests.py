"""The children of a DSortJob, as the API server takes them. Pure: plain mappings out of a definition and settings.

A child that runs is never written anew by a later operator, so what stands here may change with every version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dsort_api.labels import (
    CLEANUP_COMPONENT,
    CLEANUP_CONTAINER,
    JOB_COMPONENT,
    QUEUE_LABEL,
    WORKER_COMPONENT,
    WORKER_CONTAINER,
)
from dsort_api.messages import JobDefinition
from dsort_api.reasons import EXIT_CODES, Reason
from dsort_operator.failure import ANOTHER_TRY, EXIT_TERMINATED
from dsort_operator.naming import base_name, cleanup_name, labels, owner_reference, worker_selector
from dsort_operator.pods import DEFINITION_KEY, TOKEN_KEY, cleanup_template, worker_template

if TYPE_CHECKING:
    from dsort_operator.settings import Settings

Manifest = dict[str, Any]
"""An object to create."""

CLEANUP_SECONDS: Final = 120
"""How long the cleanup Job may take, all tries together."""
_CLEANUP_RETRIES: Final = 3
_CLEANUP_KEPT_SECONDS: Final = 60
_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"


def definition_config_map(definition: JobDefinition, *, namespace: str) -> Manifest:
    """What the job is, for its pods to read; it freezes the number of ranks."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(definition.name, uid=definition.id, namespace=namespace),
        "immutable": True,
        "data": {DEFINITION_KEY: definition.model_dump_json(by_alias=True, exclude_none=True)},
    }


def token_secret(name: str, *, uid: str, namespace: str, token: str) -> Manifest:
    """What the ranks of the job and the operator know each other by."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(name, uid=uid, namespace=namespace),
        "immutable": True,
        "type": "Opaque",
        "stringData": {TOKEN_KEY: token},
    }


def network_policy(definition: JobDefinition, *, namespace: str, settings: Settings) -> Manifest:
    """Only the ranks of the job and the operator may connect to its pods."""
    pods = {"matchLabels": dict(worker_selector(definition.id))}
    operator = {
        "namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: settings.operator_namespace}},
        "podSelector": {"matchLabels": dict(settings.operator_pod_labels)},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(definition.name, uid=definition.id, namespace=namespace),
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": pods}, operator]}],
        },
    }


def workers_job(
    definition: JobDefinition, *, namespace: str, suspended: bool, queue: str, settings: Settings
) -> Manifest:
    """The Indexed Job of the worker pods: one completion a pod."""
    pods = definition.ranks // definition.lanes
    metadata = _metadata(definition.name, uid=definition.id, namespace=namespace, component=WORKER_COMPONENT)
    if queue:
        metadata["labels"][QUEUE_LABEL] = queue
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "suspend": suspended,
            "backoffLimitPerIndex": definition.spec.backoff_limit,
            "maxFailedIndexes": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": worker_template(definition, settings=settings),
        },
    }


def cleanup_job(definition: JobDefinition, *, namespace: str, owned: bool, settings: Settings) -> Manifest:
    """The Job that takes back what the job without a result left in its output.

    One that is not owned outlives the DSortJob by a moment, and takes itself away.
    """
    metadata = _metadata(definition.name, uid=definition.id, namespace=namespace, component=CLEANUP_COMPONENT)
    metadata["name"] = cleanup_name(definition.name, uid=definition.id)
    if not owned:
        del metadata["ownerReferences"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": _CLEANUP_RETRIES,
            "podFailurePolicy": {"rules": [_ends_on(CLEANUP_CONTAINER, [EXIT_CODES[Reason.JOB_COMPLETE]])]},
            "activeDeadlineSeconds": CLEANUP_SECONDS,
            **({} if owned else {"ttlSecondsAfterFinished": _CLEANUP_KEPT_SECONDS}),
            "template": cleanup_template(definition, settings=settings),
        },
    }


def _metadata(name: str, *, uid: str, namespace: str, component: str = JOB_COMPONENT) -> Manifest:
    return {
        "name": base_name(name, uid=uid),
        "namespace": namespace,
        "labels": labels(name, uid=uid, component=component),
        "ownerReferences": [owner_reference(name, uid=uid)],
    }


def _failure_rules() -> list[Manifest]:
    """A disruption and an orderly end cost no try; what another try would meet again ends the Job."""
    lasting = sorted(code for reason, code in EXIT_CODES.items() if reason not in ANOTHER_TRY)
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": _codes(WORKER_CONTAINER, [EXIT_TERMINATED])},
        _ends_on(WORKER_CONTAINER, lasting),
    ]


def _ends_on(container: str, codes: list[int]) -> Manifest:
    return {"action": "FailJob", "onExitCodes": _codes(container, codes)}


def _codes(container: str, codes: list[int]) -> Manifest:
    return {"containerName": container, "operator": "In", "values": codes}
