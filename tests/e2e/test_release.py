"""The chart's release: its own test, an upgrade, and an uninstall while a job runs."""

from __future__ import annotations

import pytest

from tests.support.liveplace import CLAIM, Place
from tests.support.release import Release


def test_helm_test_runs_a_job(place: Place, release: Release) -> None:
    place.make_claim(release.namespace)
    release.install(f"--set=test.claim={CLAIM},test.workers=2")
    said = release.test()
    assert said.count("Phase:          Succeeded") == said.count("TEST SUITE:") > 1, said


def test_upgrade_replaces_the_operator_and_no_job(place: Place, release: Release) -> None:
    job = place.submit(place.slow_job("upgraded"))
    job.hold()
    pods = [pod["metadata"]["uid"] for pod in job.workers()]
    before = [pod["metadata"]["uid"] for pod in release.operators()]
    release.install("--set=logging.level=debug")
    assert not set(before) & {pod["metadata"]["uid"] for pod in release.operators()}
    assert [pod["metadata"]["uid"] for pod in job.workers()] == pods
    job.let_go()
    job.complete()


def test_uninstall_leaves_nothing_that_blocks(
    place: Place, release: Release, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(release.install)
    with place.another("dsort-e2e-left") as left:
        left.make_input()
        job = left.submit(left.slow_job("left"))
        job.hold()
        release.uninstall()
        assert "finalizers" not in job.body["metadata"]
        assert len(job.workers()) == 2
        left.cluster.delete(job.path)
        job.without_pods(seconds=60)
