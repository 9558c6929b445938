"""What the tests on a live cluster share: the cluster, the image in it, the release of the chart, a place for jobs.

DSORT_TEST_KUBECONFIG     a cluster to use; otherwise kind is brought up, and taken away again if it was not there
DSORT_TEST_IMAGE          the application's image as NAME:TAG, which the nodes of that cluster have or can pull
DSORT_TEST_STORAGE_CLASS  of claims that several of its nodes can mount
DSORT_TEST_SHARED_FOLDER  where there is no such class: a folder that is the same on all nodes, and that anybody may write to

One run at a time: what an earlier one has left in the cluster is taken away first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support import desk
from tests.support.leftovers import clear
from tests.support.livecluster import LiveCluster, Object
from tests.support.liveplace import CLAIM, RECORDS, SHARDS, Place, Storage
from tests.support.release import Release
from tests.support.running import digests, dsort

ROOT: Final = Path(__file__).resolve().parents[2]
KIND: Final = ROOT / "tests" / "kind"
PATIENCE: Final = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pods take their time. What brings the cluster up has limits of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(PATIENCE, func_only=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, what the cluster has to say about it."""
    report = yield
    fixtures = getattr(item, "funcargs", {})
    if report.failed and report.when == "call" and {"place", "release"} <= fixtures.keys():
        place, release = fixtures["place"], fixtures["release"]
        story = place.cluster.story(place.name, operator_namespace=release.namespace)
        report.sections.append(("the cluster", story))
    return report


def unable(why: str) -> None:
    """Skip; in CI, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def said_by(*command: str | Path, seconds: float) -> str:
    """The last line that a script of the project prints; its own words go to standard error."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds)
    if done.returncode:
        unable(f"{' '.join(map(str, command))} failed (see above)")
    return done.stdout.strip().rpartition("\n")[2]


def tools_for_another() -> Path | None:
    """The folder of kubectl and helm for a cluster that is not kind: None where they are on the PATH."""
    absent = [program for program in ("kubectl", "helm") if shutil.which(program) is None]
    if not absent:
        return None
    built = Path(said_by(KIND / "build", "where", seconds=60))
    still = [program for program in absent if not (built / program).exists()]
    if still:
        unable(f"{' and '.join(still)} not found; tests/kind/build tools makes them")
    return built


@pytest.fixture(scope="package")
def cluster() -> Iterator[LiveCluster]:
    """The cluster. One that tests have brought up is taken away, and it is a failure when something of it is left; one that was
    there before stays, unless tests that were killed left it.
    """
    named = os.environ.get("DSORT_TEST_KUBECONFIG")
    if named:
        with LiveCluster(Path(named), tools=tools_for_another()) as given:
            clear(given)
            yield given
        return
    tools = Path(said_by(KIND / "build", "tools", seconds=3600))
    stays = f'. {KIND}/lib.sh && test -e "$state/engine" && ! test -e "$state/of-tests"'
    was_up = subprocess.run(["bash", "-c", stays]).returncode == 0
    kubeconfig = Path(said_by(KIND / "up", seconds=900))
    if not was_up:
        kubeconfig.with_name("of-tests").touch()
    try:
        with LiveCluster(kubeconfig, tools=tools) as made:
            clear(made)
            yield made
    finally:
        if not was_up:
            subprocess.run([KIND / "down"], check=True, timeout=300)


@pytest.fixture(scope="package")
def image(cluster: LiveCluster) -> str:
    """The application's image, in the nodes."""
    named = os.environ.get("DSORT_TEST_IMAGE")
    if named:
        return named
    if os.environ.get("DSORT_TEST_KUBECONFIG"):
        unable("DSORT_TEST_KUBECONFIG without DSORT_TEST_IMAGE: no image can be brought into its nodes")
    name = said_by(ROOT / "scripts" / "image.sh", seconds=1200)
    said_by(KIND / "load", name, seconds=600)
    return name


@pytest.fixture(scope="package")
def release(cluster: LiveCluster, image: str) -> Iterator[Release]:
    """The chart, installed with its defaults."""
    with Release(cluster, namespace="dsort-e2e-system", image=image) as installed:
        yield installed


@pytest.fixture(scope="package")
def place(cluster: LiveCluster, image: str, release: Release) -> Iterator[Place]:
    """A namespace with the input of all jobs."""
    storage_class = os.environ.get("DSORT_TEST_STORAGE_CLASS", "")
    folder = os.environ.get("DSORT_TEST_SHARED_FOLDER", "")
    if os.environ.get("DSORT_TEST_KUBECONFIG") and not storage_class and not folder:
        unable(
            "DSORT_TEST_KUBECONFIG without DSORT_TEST_STORAGE_CLASS or DSORT_TEST_SHARED_FOLDER: "
            "jobs need a volume that all nodes can mount"
        )
    storage = Storage(storage_class, folder) if folder else Storage(storage_class)
    with Place(cluster, name="dsort-e2e", image=image, storage=storage) as made:
        made.sweep()
        made.make_input()
        yield made


@pytest.fixture(scope="package")
def two_nodes(cluster: LiveCluster) -> None:
    """The test sees something of two nodes."""
    found = cluster.nodes()
    if len(found) < 2:
        unable(f"takes two nodes that pods can run on; the cluster has {len(found)}")


@dataclass(frozen=True, slots=True)
class Reference:
    """What `dsort run` makes on this machine of the input of all jobs. folder: that stands for the claim."""

    folder: Path
    place: Place

    def result(self, manifest: Object) -> Path:
        """The output of a job of the place, run here."""
        dsort(manifest, check=False, workers=2, more=("--quiet", f"--pvc={CLAIM}={self.folder}"))
        name: str = manifest["metadata"]["name"]
        return self.folder / self.place.run / name


@pytest.fixture(scope="package")
def reference(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """The same input here."""
    folder = tmp_path_factory.mktemp("reference")
    desk.make(str(folder / place.run / "in"), SHARDS, RECORDS)
    yield Reference(folder, place)
    shutil.rmtree(folder)


@pytest.fixture(scope="package")
def shards(reference: Reference) -> dict[str, str]:
    """sha256 of the shards that every job of the place has to write, by their names."""
    return digests(reference.result(reference.place.job("reference")))
