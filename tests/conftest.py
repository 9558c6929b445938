"""What every layer of tests shares."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

IN_CI = os.environ.get("CI") == "true"

# A time limit per example measures the machine, not the code; the limit per test is pytest's. In CI the examples are
# the same every time, so that a failure is the change's own; by hand they are new ones each time.
settings.register_profile(
    "house", deadline=None, derandomize=IN_CI, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")


LONG = ("e2e", "apiserver")
"""Layers whose tests share a cluster, and wait for it most of the time."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this hook, too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side: a cluster's stay together and begin first, the others of a file stay together."""

    def group(item: pytest.Item) -> str:
        layer = item.path.relative_to(Path(__file__).parent).parts[0]
        return layer if layer in LONG else item.nodeid.partition("::")[0]

    items.sort(key=lambda item: LONG.index(group(item)) if group(item) in LONG else len(LONG))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


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
def gnu_tar() -> str:
    """The path of GNU tar."""
    return tool("tar", package="tar")


@pytest.fixture(scope="session")
def bsdtar() -> str:
    """The path of bsdtar (libarchive)."""
    return tool("bsdtar", package="libarchive-tools")
