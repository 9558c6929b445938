"""Gates in the pods of a live cluster (see gate/sitecustomize.py): the API server puts them into the pods that ask for one.

A pod asks by a label, which the job's template gives it: the operator and what it makes are as always.
"""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from dsort_api.labels import JOB_NAME_LABEL
from tests.support.livecluster import TEST_LABEL
from tests.support.liveplace import LiveJob, Place
from tests.support.running import ROOT

LABEL: Final = "dsort-test-gate"
_API: Final = "/apis/admissionregistration.k8s.io/v1"
_NAME: Final = "dsort-test-gate"
_PROGRAM: Final = ROOT / "tests" / "support" / "gate" / "sitecustomize.py"


def unavailable(place: Place) -> str | None:
    """Why there can be no gates in this cluster, or None."""
    try:
        place.cluster.ask("GET", f"{_API}/mutatingadmissionpolicies")
    except urllib.error.HTTPError:
        return "the API server has no MutatingAdmissionPolicy (Kubernetes 1.36 or later has)"
    return None


@contextmanager
def gates(place: Place) -> Iterator[None]:
    """Within the block pods get the gates that they ask for. Returns when the API server has taken that in."""
    place.desk("write", place.folder("gate/sitecustomize.py"), _PROGRAM.read_text())
    variables = {
        "PYTHONPATH": json.dumps(place.folder("gate")),
        "DSORT_TEST_GATE": " + ".join(
            (
                json.dumps(f'{{"ends": true, "rank": 0, "folder": "{place.folder("held")}/'),
                f'object.metadata.labels["{JOB_NAME_LABEL}"]',
                json.dumps('", "point": "'),
                f'object.metadata.labels["{LABEL}"]',
                json.dumps('"}'),
            )
        ),
    }
    patches = [
        f'JSONPatch{{op: "add", path: "/spec/containers/0/env/-", '
        f'value: Object.spec.containers.env{{name: "{name}", value: {value}}}}}'
        for name, value in variables.items()
    ]
    policy = {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.name}},
            "objectSelector": {"matchExpressions": [{"key": LABEL, "operator": "Exists"}]},
            "resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
            ],
        },
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": f"[{', '.join(patches)}]"}}],
    }
    metadata = {"name": _NAME, "labels": {TEST_LABEL: "jobs"}}
    made = {
        "mutatingadmissionpolicies": policy,
        "mutatingadmissionpolicybindings": {"policyName": _NAME},
    }
    try:
        for kind, spec in made.items():
            place.cluster.ask("POST", f"{_API}/{kind}", {"metadata": metadata, "spec": spec})
        place.cluster.until(lambda: _works(place), "no pod gets a gate")
        yield
    finally:
        for kind in made:
            place.cluster.delete(f"{_API}/{kind}/{_NAME}")


def _works(place: Place) -> bool:
    """Whether a pod that was made now would have a gate."""
    pod: dict[str, Any] = {
        "metadata": {"name": "probe", "labels": {LABEL: "none", JOB_NAME_LABEL: "probe"}},
        "spec": place.desk_spec() | {"volumes": []},
    }
    container = pod["spec"]["containers"][0]
    pod["spec"]["containers"] = [container | {"volumeMounts": [], "env": [{"name": "NONE"}]}]
    made = place.cluster.ask("POST", f"{place.core}/pods?dryRun=All", pod)
    names = [one["name"] for one in made["spec"]["containers"][0]["env"]]
    return "DSORT_TEST_GATE" in names


def held(jobs: list[LiveJob], place: Place) -> None:
    """Wait until a rank of each stands at its gate."""
    wanted = {f"{job.name}/taken" for job in jobs}
    place.cluster.until(
        lambda: wanted <= place.digests("held").keys(), f"no rank stands at its gate: {sorted(wanted)}"
    )


def gate_at(point: str) -> dict[str, Any]:
    """The metadata of a pod template that asks for one."""
    return {"labels": {LABEL: point}}
