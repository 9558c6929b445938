"""What the tests against a real API server share: the server, alone or with the controller manager, the CRD on it,
and a place for jobs whose pods are processes of this machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.apiserver import ControlPlane, apiserver, control_plane, kubernetes_assets
from tests.support.crd import install, the_crd
from tests.support.playground import place, playground

HERE = Path(__file__).parent
__all__ = ["apiserver", "control_plane", "kubernetes_assets", "place", "playground"]


@pytest.fixture(scope="package")
def dsort_api(apiserver: ControlPlane) -> ControlPlane:
    """The API server that nothing acts on, with the CRD."""
    install(apiserver, the_crd())
    return apiserver


@pytest.fixture(scope="package")
def dsort_cluster(control_plane: ControlPlane) -> ControlPlane:
    """The API server with the controller manager, with the CRD."""
    install(control_plane, the_crd())
    return control_plane


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Seven jobs of two pods start, stop and go in one test: on a busy machine that takes longer than the house's limit."""
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))
