"""A job is suspended, deleted and aborted in each of its phases: its pods are freed, and what is visible is whole or nothing.

One rank is held at the beginning of a phase until the pods are told to end. The jobs of a test, one a phase, share an operator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gates import PHASES, Gate
from tests.support.playground import Place, await_that, conditions_of, has_finalizer
from tests.support.running import left_in

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def held(place: Place, folder: Path) -> Iterator[dict[str, Gate]]:
    """A job in each phase, by name; rank 0 of each is there and goes no further."""
    gates = {f"{place.namespace}-{phase.lower()}": Gate(folder / phase, phase) for phase in PHASES}
    try:
        for name, gate in gates.items():
            place.playground.kubelet.environment[name] = gate.environment
            place.apply(name)
        for gate in gates.values():
            gate.reached()
        yield gates
    finally:
        for gate in gates.values():
            gate.open()


def pods_of(place: Place, name: str) -> list[str]:
    """The pods of a job that have not ended, deleted ones too."""
    return [
        pod["metadata"]["name"]
        for pod in place.pods
        if pod["metadata"]["labels"].get("dsort.dev/job-name") == name
        and pod["status"].get("phase") not in {"Succeeded", "Failed"}
    ]


def freed(place: Place, name: str) -> None:
    """Wait until no pod of the job runs."""
    await_that(lambda: not pods_of(place, name), f"the pods of {name} are freed")


def nothing_is_visible(place: Place, name: str) -> None:
    """The output folder is not there, or empty."""
    assert left_in(place.output(name)) == []


def test_suspended_in_any_phase_a_job_frees_its_pods_and_resumes_to_the_same_bytes(
    place: Place, tmp_path: Path
) -> None:
    place.shards()
    expected = place.expect("any")
    with place.operator(), held(place, tmp_path) as gates:
        for name in gates:
            place.change(name, suspend=True)
        for name in gates:
            job = place.await_job(name, Suspended=True)
            assert job["status"]["state"] in {"Suspended", "Stopping"}
            freed(place, name)
            assert place.playground.kubelet.processes(name) == []
            assert has_finalizer(place.job(name))
        for name, gate in gates.items():
            gate.open()
            place.change(name, suspend=False)
        for name in gates:
            place.await_job(name, Complete=True, Suspended=False)
            place.check_output(name, like=expected)


def test_deleted_in_any_phase_a_job_is_gone_with_its_pods_within_30_seconds(
    place: Place, tmp_path: Path
) -> None:
    place.shards()
    with place.operator(), held(place, tmp_path) as gates:
        for name in gates:
            place.delete(name)
        for name in gates:
            place.await_gone(name, seconds=30)
            assert pods_of(place, name) == []
            assert place.playground.kubelet.processes(name) == []
            nothing_is_visible(place, name)
        await_that(lambda: not place.items("/api/v1/secrets"), "the tokens are collected")


def test_namespace_is_deleted_whatever_phase_its_jobs_are_in(place: Place, tmp_path: Path) -> None:
    place.shards()
    with place.operator(), held(place, tmp_path) as gates:
        place.delete_namespace(seconds=90)
        for name in gates:
            assert place.playground.kubelet.processes(name) == []
            assert {entry.partition("/")[0] for entry in left_in(place.output(name))} <= {".dsort"}


def test_aborted_in_any_phase_a_job_fails_with_aborted_and_leaves_nothing(
    place: Place, tmp_path: Path
) -> None:
    place.shards()
    with place.operator(), held(place, tmp_path) as gates:
        for name in gates:
            place.change(name, abort=True)
        for name in gates:
            job = place.await_job(name, Failed=True, seconds=60)
            assert conditions_of(job)["Failed"]["reason"] == "Aborted"
            assert conditions_of(job)["FailureTarget"]["reason"] == "Aborted"
            place.await_let_go(name)
            assert pods_of(place, name) == []
            nothing_is_visible(place, name)
