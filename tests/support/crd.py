"""The CRD of the tree on a real API server, installed and served."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Callable
from typing import Any, Final

import yaml

from dsort_api.crd import FILE, PLURAL
from dsort_api.labels import GROUP
from dsort_api.spec import VERSION
from tests.support.apiserver import ControlPlane
from tests.support.jobs import ROOT

JOBS: Final = f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}"
"""Path of the jobs of the default namespace."""
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
PATIENCE: Final = 60.0
"""Seconds after which a test gives up."""


def the_crd() -> dict[str, Any]:
    """The resource as the tree has it."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "crds" / FILE).read_text())
    return document


def install(plane: ControlPlane, crd: dict[str, Any]) -> None:
    """Create or replace the CRD, and wait until the server goes by it."""
    name = crd["metadata"]["name"]
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    query = "?fieldManager=tests&force=true&fieldValidation=Strict"
    plane.request("PATCH", path + query, crd, kind=APPLY)
    await_that(lambda: _is_established(plane.request("GET", path)), f"{name} is established")
    await_that(lambda: plane.request("GET", JOBS)["kind"] == "DSortJobList", f"{name} is served")


def await_that(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; a refusal counts as not yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
            why = "not so"
        except urllib.error.HTTPError as error:
            with error:
                why = error.read().decode()
        if time.monotonic() > deadline:
            raise AssertionError(f"after {PATIENCE} s not yet: {what}: {why}")
        time.sleep(0.02)


def _is_established(crd: dict[str, Any]) -> bool:
    conditions = crd.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)
