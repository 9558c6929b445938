"""`spec.workers.template`: the part of a pod template that a user may set. The rest is the operator's.

Only a cluster needs it: it is imported when the first manifest has one (`Lazily`), so that no start pays for it.
What Kubernetes alone can judge, as taints and affinities, is handed on as it is.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field

from dsort_api.fields import Amount, Part, Whole
from dsort_api.labels import APP_NAME_LABEL, COMPONENT_LABEL, GROUP, MANAGED_BY_LABEL

MOST_LABELS: Final = 64
MOST_RESOURCES: Final = 16
MOST_ENTRIES: Final = 64
LONGEST_NAME: Final = 253
LARGEST_ID: Final = (1 << 31) - 1
OWN_LABELS: Final = (APP_NAME_LABEL, COMPONENT_LABEL, MANAGED_BY_LABEL)
"""Labels of every worker pod, besides those below `dsort.dev/`: no template may set them."""
LABEL_KEY: Final = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE: Final = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
LONGEST_LABEL: Final = 63
NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

_KEY: Final = re.compile(LABEL_KEY.removesuffix("$") + r"\Z")
_VALUE: Final = re.compile(LABEL_VALUE.removesuffix("$") + r"\Z")
_NAME: Final = re.compile(NAME.removesuffix("$") + r"\Z")


def _have_names(values: dict[str, str]) -> dict[str, str]:
    for key in values:
        if _KEY.match(key) is None or len(key.rpartition("/")[2]) > LONGEST_LABEL:
            raise ValueError(f"{key!r} is not the name of a label or an annotation, such as example.com/team")
    return values


def _are_labels(values: dict[str, str]) -> dict[str, str]:
    for key, value in _have_names(values).items():
        if _VALUE.match(value) is None or len(value) > LONGEST_LABEL:
            raise ValueError(
                f"{key}: {value!r} is not the value of a label: at most 63 letters, digits, '-', '_' and '.'"
            )
    return values


def _are_free(values: dict[str, str]) -> dict[str, str]:
    for key in values:
        if key in OWN_LABELS or key.startswith(f"{GROUP}/"):
            raise ValueError(f"{key} is the operator's own label")
    return values


def _is_name(value: str) -> str:
    if _NAME.match(value) is None:
        raise ValueError(f"{value!r} is not a name: lower case letters, digits, '-' and '.', at most 253")
    return value


Name = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(_is_name)]
Labels = Annotated[dict[str, str], Field(max_length=MOST_LABELS), AfterValidator(_are_labels)]
Amounts = Annotated[dict[str, Amount], Field(max_length=MOST_RESOURCES)]
Id = Annotated[Whole, Field(ge=0, le=LARGEST_ID)]


class PodMetadata(Part):
    """Labels and annotations of the worker pods, beside the operator's own."""

    labels: Annotated[Labels, AfterValidator(_are_free)] = Field(
        default_factory=dict, description="Labels of the pods. Those of the operator cannot be set."
    )
    annotations: Annotated[dict[str, str], Field(max_length=MOST_LABELS), AfterValidator(_have_names)] = (
        Field(default_factory=dict, description="Annotations of the pods.")
    )


class Resources(Part):
    """Of a worker container. The limit of memory follows from memory.budget where it is not given."""

    requests: Amounts = Field(default_factory=dict, description="What the scheduler sets aside, by resource.")
    limits: Amounts = Field(default_factory=dict, description="What must not be exceeded, by resource.")


class Toleration(Part):
    """A taint of nodes that does not keep the pods away."""

    model_config = ConfigDict(extra="allow")
    key: str | None = Field(default=None, description="Key of the taint; all, when not given.")
    operator: str | None = Field(default=None, description="Exists, or Equal (the default).")
    value: str | None = Field(default=None, description="Value of the taint, with Equal.")
    effect: str | None = Field(
        default=None, description="NoSchedule, PreferNoSchedule or NoExecute; all, when not given."
    )
    toleration_seconds: Whole | None = Field(
        default=None, description="How long a taint of NoExecute is borne; for ever, when not given."
    )


class Affinity(Part):
    """Where the pods are to run or rather run, as in a Pod."""

    model_config = ConfigDict(extra="allow")
    node_affinity: dict[str, Any] | None = Field(default=None, description="To nodes, as in a Pod.")
    pod_affinity: dict[str, Any] | None = Field(default=None, description="To other pods, as in a Pod.")
    pod_anti_affinity: dict[str, Any] | None = Field(
        default=None, description="Away from other pods, as in a Pod."
    )


class SecretName(Part):
    """The name of a Secret in the job's namespace."""

    name: Name = Field(description="Name of the Secret.")


class SecurityContext(Part):
    """As whom the workers read and write. They never run as root."""

    run_as_user: Annotated[Whole, Field(ge=1, le=LARGEST_ID)] | None = Field(
        default=None, description="User id of the processes, 65532 when not given."
    )
    run_as_group: Id | None = Field(default=None, description="Group id of the processes.")
    fs_group: Id | None = Field(
        default=None, description="Group that owns the volumes, 65532 when not given."
    )
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] | None = Field(
        default=None, description="When the owner of a volume's files is changed: OnRootMismatch, or Always."
    )
    supplemental_groups: Annotated[tuple[Id, ...], Field(max_length=MOST_ENTRIES)] = Field(
        default_factory=tuple, description="Further groups of the processes."
    )


class PodSpec(Part):
    """Where and as what the worker pods run."""

    node_selector: Labels = Field(
        default_factory=dict,
        description="Labels that a node must have. With OnePerNode it says which nodes there are.",
    )
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=MOST_ENTRIES)] = Field(
        default_factory=tuple, description="Taints of nodes that do not keep the pods away."
    )
    affinity: Affinity | None = Field(
        default=None, description="Where the pods are to run or rather run, as in a Pod."
    )
    resources: Resources = Field(
        default_factory=Resources,
        description="Of the worker container. The limit of memory follows from memory.budget where it is not given, and what is "
        "requested is the limit.",
    )
    priority_class_name: Name | None = Field(default=None, description="PriorityClass of the pods.")
    runtime_class_name: Name | None = Field(default=None, description="RuntimeClass of the pods.")
    scheduler_name: Name | None = Field(default=None, description="Scheduler of the pods.")
    image_pull_secrets: Annotated[tuple[SecretName, ...], Field(max_length=MOST_ENTRIES)] = Field(
        default_factory=tuple, description="Secrets to pull the image with, beside those of the operator."
    )
    termination_grace_period_seconds: Annotated[Whole, Field(ge=0, le=LARGEST_ID)] | None = Field(
        default=None, description="Seconds that a pod has to end when it is told to."
    )
    security_context: SecurityContext = Field(
        default_factory=SecurityContext, description="As whom the workers read and write."
    )


class PodTemplate(Part):
    """What a user may say about the worker pods."""

    metadata: PodMetadata = Field(
        default_factory=PodMetadata, description="Labels and annotations of the worker pods."
    )
    spec: PodSpec = Field(default_factory=PodSpec, description="Where and as what the worker pods run.")
