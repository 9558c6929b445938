"""What the tests of real processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.datasets import make_shards
from tests.support.running import House

HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Temporary files of everything that a test starts; a test may ask whether it is empty."""
    folder = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def house(scratch: Path) -> Iterator[House]:
    """Runs jobs in this process; see tests.support.running."""
    with House() as house:
        yield house


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five shards of 40 records, 0.6 MB in all, with long runs of neither keys nor sizes."""
    return make_shards(tmp_path_factory.mktemp("shards"), shards=5, records=40)


@pytest.fixture(scope="session")
def source(shards: list[Path]) -> Path:
    """The folder of `shards`."""
    return shards[0].parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of several commands may take longer on a busy machine than the house's limit for a test."""
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))
