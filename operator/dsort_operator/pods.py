"""The pods of a job: what runs in them, where, and as whom. Pure: plain mappings out of a definition and settings.

Both kinds run as nobody, on a read-only root, without a token of Kubernetes: they stand the restricted pod security standard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dsort_api.budgets import pod_limit
from dsort_api.labels import (
    CLEANUP_COMPONENT,
    CLEANUP_CONTAINER,
    CONTROL_PORT,
    DATA_PORT,
    METRICS_PORT,
    WORKER_COMPONENT,
    WORKER_CONTAINER,
)
from dsort_api.messages import JobDefinition
from dsort_api.podtemplate import PodSpec, PodTemplate
from dsort_api.spec import DSortJobSpec
from dsort_operator.naming import base_name, labels, worker_selector
from dsort_operator.volumes import DEFINITION, SCRATCH, Mount, mount_of, mounts_of

if TYPE_CHECKING:
    from dsort_operator.settings import Settings

Template = dict[str, Any]
"""A pod template, or a part of one."""

DEFINITION_KEY: Final = "job.json"
"""Key of the definition in its ConfigMap, and its file name in a pod."""
TOKEN_KEY: Final = "token"  # noqa: S105 - the name of a key
_TOKEN_VARIABLE: Final = "DSORT_TOKEN"  # noqa: S105 - the name of a variable
_NOBODY: Final = 65532
"""User and group of the processes: the nonroot of distroless images."""
_CPU_OF_LANE: Final = 500
"""Thousandths of a core that the scheduler sets aside for a rank."""
_GRACE_SECONDS: Final = 20
_TERMINATION_LOG: Final = "/dev/termination-log"
_HOST_NAME: Final = "kubernetes.io/hostname"


def worker_template(definition: JobDefinition, *, settings: Settings) -> Template:
    """The template of the worker pods."""
    spec = definition.spec
    base = base_name(definition.name, uid=definition.id)
    template = spec.workers.template or PodTemplate()
    mounts = mounts_of(spec)
    metadata: Template = {
        "labels": {
            **template.metadata.labels,
            **labels(definition.name, uid=definition.id, component=WORKER_COMPONENT),
        }
    }
    if template.metadata.annotations:
        metadata["annotations"] = dict(template.metadata.annotations)
    scratch: Template = {"name": "scratch", "emptyDir": {}}
    if spec.workers.scratch_size_limit is not None:
        scratch["emptyDir"] = {"sizeLimit": str(spec.workers.scratch_size_limit)}
    return {
        "metadata": metadata,
        "spec": {
            **_pod(spec, settings=settings),
            "topologySpreadConstraints": [_spread(definition)],
            "containers": [_worker(definition, mounts=mounts, base=base, settings=settings)],
            "volumes": [
                {"name": "definition", "configMap": {"name": base}},
                scratch,
                *(_volume(mount, at=at) for at, mount in enumerate(mounts)),
            ],
        },
    }


def cleanup_template(definition: JobDefinition, *, settings: Settings) -> Template:
    """The template of the pod that takes back what the job left in its output."""
    spec = definition.spec
    mount = mount_of(spec.output.url, field="spec.output.url", read_only=False)
    claims = ["--pvc", f"{mount.claim}={mount.path}"] if mount.claim else []
    container = {
        **_container(CLEANUP_CONTAINER, settings=settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "command": ["dsort", "clean"],
        "args": [spec.output.url, "--job", definition.id, *claims],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [_volume_mount(mount, at=0)],
    }
    return {
        "metadata": {"labels": labels(definition.name, uid=definition.id, component=CLEANUP_COMPONENT)},
        "spec": {
            **(_near(_pod(spec, settings=settings)) if mount.claim else _pod(spec, settings=settings)),
            "containers": [container],
            "volumes": [_volume(mount, at=0)],
        },
    }


def _near(pod: Template) -> Template:
    """The pod, which would rather run where the template says, but runs elsewhere when it cannot: the workers of a job that is
    taken back may have found no place either. Where a claim can be mounted the scheduler knows.
    """
    chosen = {name: value for name, value in pod.items() if name not in {"nodeSelector", "affinity"}}
    terms = [
        {"key": key, "operator": "In", "values": [value]}
        for key, value in pod.get("nodeSelector", {}).items()
    ]
    if terms:
        preferred = [{"weight": 100, "preference": {"matchExpressions": terms}}]
        chosen["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return chosen


def _worker(
    definition: JobDefinition, *, mounts: tuple[Mount, ...], base: str, settings: Settings
) -> Template:
    lanes = definition.lanes
    volumes = [
        argument
        for mount in mounts
        if mount.claim
        for argument in ("--volume", f"{mount.claim}={mount.path}")
    ]
    health = {"httpGet": {"path": "/healthz", "port": CONTROL_PORT}, "timeoutSeconds": 5}
    return {
        **_container(WORKER_CONTAINER, settings=settings),
        "command": ["dsort", "worker"],
        "args": [
            "--job",
            f"{DEFINITION}/{DEFINITION_KEY}",
            "--index",
            "$(JOB_COMPLETION_INDEX)",
            "--host",
            "$(POD_IP)",
            "--scratch",
            SCRATCH,
            "--termination-log",
            _TERMINATION_LOG,
            "--metrics",
            *volumes,
        ],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {
                "name": _TOKEN_VARIABLE,
                "valueFrom": {"secretKeyRef": {"name": base, "key": TOKEN_KEY}},
            },
        ],
        "ports": [
            {"name": f"{name}-{lane}", "containerPort": first + lane, "protocol": "TCP"}
            for name, first in (("metrics", METRICS_PORT), ("control", CONTROL_PORT), ("data", DATA_PORT))
            for lane in range(lanes)
        ],
        "resources": _resources(definition.spec, lanes=lanes),
        # The first says that the processes are up, which takes seconds on a busy node; the others look less often.
        "startupProbe": {**health, "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {**health, "periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**health, "periodSeconds": 10, "failureThreshold": 6},
        "volumeMounts": [
            {"name": "definition", "mountPath": DEFINITION, "readOnly": True},
            {"name": "scratch", "mountPath": SCRATCH},
            *(_volume_mount(mount, at=at) for at, mount in enumerate(mounts)),
        ],
    }


def _resources(spec: DSortJobSpec, *, lanes: int) -> Template:
    given = (spec.workers.template or PodTemplate()).spec.resources
    memory = pod_limit(spec)
    # With a limit alone Kubernetes sets aside what the limit is.
    cpu = {} if "cpu" in given.limits else {"cpu": f"{lanes * _CPU_OF_LANE}m"}
    return {
        "requests": {**cpu, "memory": memory, **given.requests},
        "limits": {**given.limits, "memory": memory},
    }


def _spread(definition: JobDefinition) -> Template:
    """One pod a node, or as evenly as there is room. Not anti-affinity: a replacement must have somewhere to go."""
    return {
        "maxSkew": 1,
        "topologyKey": _HOST_NAME,
        "whenUnsatisfiable": "DoNotSchedule" if definition.spec.workers.one_per_node else "ScheduleAnyway",
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": dict(worker_selector(definition.id))},
    }


def _pod(spec: DSortJobSpec, *, settings: Settings) -> Template:
    """What the pods of workers and of the cleanup have in common: where and as whom they run."""
    given = (spec.workers.template or PodTemplate()).spec
    secrets = [
        *({"name": name} for name in settings.image_pull_secrets),
        *({"name": secret.name} for secret in given.image_pull_secrets),
    ]
    optional = {
        "nodeSelector": dict(given.node_selector),
        "tolerations": [_plain(toleration) for toleration in given.tolerations],
        "affinity": _plain(given.affinity) if given.affinity is not None else None,
        "priorityClassName": given.priority_class_name,
        "runtimeClassName": given.runtime_class_name,
        "schedulerName": given.scheduler_name,
        "imagePullSecrets": secrets,
    }
    grace = given.termination_grace_period_seconds
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS if grace is None else grace,
        "securityContext": _security_context(given),
        **{name: value for name, value in optional.items() if value},
    }


def _security_context(pods: PodSpec) -> Template:
    given = _plain(pods.security_context)
    return {
        "runAsNonRoot": True,
        "runAsUser": _NOBODY,
        "runAsGroup": _NOBODY,
        "fsGroup": _NOBODY,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
        **{name: value for name, value in given.items() if value != []},
    }


def _container(name: str, *, settings: Settings) -> Template:
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "terminationMessagePath": _TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def _volume(mount: Mount, *, at: int) -> Template:
    if mount.claim:
        return {"name": f"data-{at}", "persistentVolumeClaim": {"claimName": mount.claim}}
    kind = "Directory" if mount.read_only else "DirectoryOrCreate"
    return {"name": f"data-{at}", "hostPath": {"path": mount.host_path, "type": kind}}


def _volume_mount(mount: Mount, *, at: int) -> Template:
    read_only = {"readOnly": True} if mount.read_only else {}
    return {"name": f"data-{at}", "mountPath": mount.path, **read_only}


def _plain(part: Any) -> Template:
    plain: Template = part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return plain
