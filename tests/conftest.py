"""What every layer of tests shares."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.controlgroups import unavailable

IN_CI = os.environ.get("CI") == "true"

# A time limit per example measures the machine, not the code; the limit per test is pytest's. In CI the examples are
# the same every time, so that a failure is the change's own; by hand they are new ones each time.
settings.register_profile(
    "house", deadline=None, derandomize=IN_CI, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")


CLUSTERS = ("e2e", "apiserver")
"""Layers whose tests share a cluster, and wait for it most of the time."""


def together(nodeid: str) -> str:
    """What runs in one process, one test after the other: the tests of a cluster, or those of a file."""
    path = nodeid.partition("::")[0]
    layer = path.split("/")[1]
    return layer if layer in CLUSTERS else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of clusters first: side by side with them there is time for all others."""
    items.sort(key=lambda item: (*CLUSTERS, together(item.nodeid)).index(together(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """How a whole run, with two tests at a time, deals them out."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    scheduling: Any = LoadScopeScheduling(config, log)
    scheduling._split_scope = together
    return scheduling


def tool(command: str, *, package: str) -> str:
    """The path of a command that a test reads archives with; without it the test is skipped, in CI it fails."""
    path = shutil.which(command)
    if path is None:
        why = f"{command} is not there: apt-get install {package}"
        if IN_CI:
            pytest.fail(why)
        pytest.skip(why)
    return path


@pytest.fixture(scope="session")
def control_groups() -> None:
    """The test makes control groups. Where none can be made it is skipped; in CI, for root, it fails."""
    why = unavailable()
    if why is None:
        return
    if IN_CI and os.geteuid() == 0:
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def gnu_tar() -> str:
    """The path of GNU tar."""
    return tool("tar", package="tar")


@pytest.fixture(scope="session")
def bsdtar() -> str:
    """The path of bsdtar (libarchive)."""
    return tool("bsdtar", package="libarchive-tools")
