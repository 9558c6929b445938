"""Which nodes the worker pods of a job may run on, as the scheduler sees it. Pure.

Node selector, required node affinity, and taints; not what is left of a node's resources, which changes all the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dsort_api.podtemplate import PodSpec, PodTemplate, Toleration
from dsort_operator.children import Body, items, part

_KEEPS_AWAY: Final = frozenset({"NoSchedule", "NoExecute"})
_CORDONED: Final = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def count_nodes(nodes: Sequence[Body], *, template: PodTemplate | None) -> int:
    """How many of the v1 Nodes take a pod of this template."""
    pods = template.spec if template is not None else PodSpec()
    return sum(takes(node, pods=pods) for node in nodes)


def takes(node: Body, *, pods: PodSpec) -> bool:
    """Whether pods of this kind may run on the node."""
    metadata, spec = part(node, "metadata"), part(node, "spec")
    labels = part(metadata, "labels")
    if any(labels.get(key) != value for key, value in pods.node_selector.items()):
        return False
    required = part(_node_affinity(pods), "requiredDuringSchedulingIgnoredDuringExecution")
    terms = items(required, "nodeSelectorTerms")
    if required and not any(_fits(term, labels=labels, name=metadata.get("name", "")) for term in terms):
        return False
    taints = [*items(spec, "taints"), *([_CORDONED] if spec.get("unschedulable") else [])]
    return all(
        any(_tolerates(toleration, taint) for toleration in pods.tolerations)
        for taint in taints
        if taint.get("effect") in _KEEPS_AWAY
    )


def _node_affinity(pods: PodSpec) -> Mapping[str, Any]:
    return (pods.affinity.node_affinity if pods.affinity is not None else None) or {}


def _fits(term: Body, *, labels: Body, name: str) -> bool:
    expressions, fields = items(term, "matchExpressions"), items(term, "matchFields")
    # An empty term fits no node.
    return bool(expressions or fields) and (
        all(_holds(one, labels.get(one.get("key", ""))) for one in expressions)
        and all(_holds(one, {"metadata.name": name}.get(one.get("key", ""))) for one in fields)
    )


def _holds(expression: Body, value: str | None) -> bool:
    values: Sequence[str] = expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            numbers = [int(text) for text in (value, *values) if text is not None and text.isdecimal()]
            return len(numbers) == 2 and (
                numbers[0] > numbers[1] if operator == "Gt" else numbers[0] < numbers[1]
            )
        case _:
            return False


def _tolerates(toleration: Toleration, taint: Body) -> bool:
    if toleration.effect and toleration.effect != taint.get("effect"):
        return False
    if toleration.operator == "Exists":
        return not toleration.key or toleration.key == taint.get("key")
    return toleration.key == taint.get("key") and (toleration.value or "") == (taint.get("value") or "")
