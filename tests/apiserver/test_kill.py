"""The operator is killed after each single thing that it changes, and nothing is different in the end."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.apiproxy import ApiProxy, Call
from tests.support.playground import Place, Playground, await_that, conditions_of, has_finalizer

PARTS: Final = 4
"""The lives are spread over so many tests, each well within the limit of one."""
AT_ONCE: Final = 3


class Assassin:
    """Kills the operator when the API server has done what the operator asked for, and before it hears of it.

    at: the numbers of the calls, of those that change something; None for all of them.
    """

    def __init__(self, at: set[int] | None) -> None:
        self.at = at
        self.victim = 0
        self.calls: list[Call] = []
        self.killed: list[Call] = []
        self.struck = threading.Event()

    def answered(self, call: Call, status: int) -> bool:
        if not call.number or status >= 300:
            return True
        self.calls.append(call)
        if self.victim and (self.at is None or len(self.calls) in self.at):
            victim, self.victim = self.victim, 0
            os.kill(victim, signal.SIGKILL)
            self.killed.append(call)
            self.struck.set()
            return False
        return True


def end_state(place: Place, name: str) -> dict[str, Any]:
    """What is the same however often the operator died: no times, no names that are random, no rates."""
    job = place.job(name)
    status = job["status"]
    return {
        "finalizer": has_finalizer(job),
        "annotations": job["metadata"].get("annotations"),
        "state": status["state"],
        "ranks": status["ranks"],
        "seed": status.get("seed"),
        "manifest": status["manifest"].replace(name, "NAME"),
        "conditions": {kind: (one["status"], one["reason"]) for kind, one in conditions_of(job).items()},
        "children": {
            plural: len([one for one in place.items(path) if _belongs(one, job)])
            for plural, path in {
                "jobs": "/apis/batch/v1/jobs",
                "configmaps": "/api/v1/configmaps",
                "secrets": "/api/v1/secrets",
                "pods": "/api/v1/pods",
            }.items()
        },
    }


def _belongs(child: dict[str, Any], job: dict[str, Any]) -> bool:
    return bool(child["metadata"].get("labels", {}).get("dsort.dev/job-uid") == job["metadata"]["uid"])


def live(place: Place, name: str, assassin: Assassin) -> int:
    """A job's life with an operator that is started anew whenever it was killed; how often it was."""
    deaths = 0
    with ApiProxy(place.plane) as proxy, place.operator(url=proxy.url, measured=False) as operator:
        proxy.faults.answered = assassin.answered
        assassin.victim = operator.pid
        place.apply(name)
        while True:
            await_that(
                lambda: assassin.struck.is_set() or _is_over(place, name) or not operator.runs,
                f"{name} is complete, or the operator was killed",
                shows=operator.log,
            )
            if not assassin.struck.is_set():
                assert operator.runs or not assassin.victim, operator.log()
                operator.kill()
                return deaths
            deaths += 1
            operator.kill()
            assassin.struck.clear()
            operator.start()
            assassin.victim = operator.pid


def _is_over(place: Place, name: str) -> bool:
    job = place.job(name)
    return conditions_of(job).get("Complete", {}).get("status") == "True" and not has_finalizer(job)


@dataclass(frozen=True, slots=True)
class Quiet:
    """A life without a death: where, how it ended, its output, and how many calls changed something."""

    place: Place
    state: dict[str, Any]
    output: Path
    calls: int

    def check(self, place: Place, name: str) -> None:
        """Another life ended like this one."""
        assert end_state(place, name) == self.state
        place.check_output(name, like=self.output)


@pytest.fixture(scope="module")
def quiet(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    place = playground.place(tmp_path_factory.mktemp("quiet"))
    place.shards()
    assassin = Assassin(set())
    assert live(place, "a-job", assassin) == 0
    state = end_state(place, "a-job")
    assert state["children"] == {"jobs": 1, "configmaps": 1, "secrets": 1, "pods": 2}
    return Quiet(place, state, place.expect("a-job"), len(assassin.calls))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_an_operator_that_dies_at_any_of_its_calls_changes_nothing_in_the_end(
    playground: Playground, quiet: Quiet, tmp_path: Path, part: int
) -> None:
    def check(number: int) -> None:
        place = playground.place(tmp_path)
        place.share_shards(quiet.place)
        assassin = Assassin({number})
        deaths = live(place, "a-job", assassin)
        # How often progress is written depends on the time that a life takes.
        assert deaths == 1 or len(assassin.calls) < number
        quiet.check(place, "a-job")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        lives = {number: pool.submit(check, number) for number in range(1 + part, quiet.calls + 1, PARTS)}
    failed = {number: life.exception() for number, life in lives.items() if life.exception() is not None}
    assert failed == {}


@pytest.mark.slow
def test_an_operator_that_dies_at_every_call_still_gets_there(place: Place, quiet: Quiet) -> None:
    place.share_shards(quiet.place)
    assassin = Assassin(None)
    assert live(place, "a-job", assassin) >= 6
    quiet.check(place, "a-job")
