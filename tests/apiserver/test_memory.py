"""Worker processes in a control group with a memory limit that another process of the group takes: what the operator makes of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import hog
from tests.support.controlgroups import ControlGroup
from tests.support.gates import Gate
from tests.support.playground import Place, await_that, conditions_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("control_groups")]

LIMIT: Final = 640 << 20
"""Of the group that both pods are in; what they use of it by themselves is below all marks."""
MARKS: Final = {"throttleAt": "80%", "resumeAt": "70%", "abortAt": "85%"}
FULL: Final = 90


class Group:
    """The control group of a job's pods, and the process that takes memory of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def take(self, percent: int) -> None:
        """Hold so much of the group's limit; 0 gives all back."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{percent}\n")
        self._process.stdin.flush()


@contextmanager
def grouped(place: Place, name: str) -> Iterator[Group]:
    """The pods of a job, which is to be applied, are in one group."""
    with ControlGroup(limit=LIMIT) as group:
        place.playground.kubelet.groups[name] = group
        line = group.command([sys.executable, hog.__file__, "hold", str(group.folder)])
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            yield Group(process)
        finally:
            del place.playground.kubelet.groups[name]
            process.kill()
            process.communicate()
            for pid in place.playground.kubelet.processes(name):
                await_that(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"{pid} has ended")  # type: ignore[misc]


def level(place: Place, name: str) -> int:
    """The throttle level."""
    memory: dict[str, Any] = place.job(name).get("status", {}).get("memory", {})
    return int(memory.get("level", 0))


def throttled(place: Place, name: str) -> dict[str, Any]:
    """The condition."""
    return conditions_of(place.job(name)).get("Throttled", {})


def test_job_is_throttled_and_let_go_by_whichever_operator_there_is(place: Place, tmp_path: Path) -> None:
    place.shards()
    expected = place.expect("pressed")
    gate = Gate(tmp_path / "gate", "Create")
    place.playground.kubelet.environment["pressed"] = gate.environment
    with grouped(place, "pressed") as group, place.operator(measured=False) as operator:
        place.apply("pressed", memory={"budget": "64Mi", **MARKS, "abortAt": "99%"})
        gate.reached()
        await_that(lambda: throttled(place, "pressed").get("reason") == "NotThrottled", "all is well")
        group.take(FULL)
        await_that(lambda: level(place, "pressed") >= 2, "the level rises", shows=operator.log)
        now = throttled(place, "pressed")
        assert (now["status"], now["reason"]) == ("True", "MemoryPressure")
        assert "of 640.00 MiB" in now["message"]
        before = level(place, "pressed")
        operator.kill()
        operator.start()
        await_that(lambda: level(place, "pressed") > before or before == 4, "another goes on from there")
        group.take(0)
        await_that(
            lambda: throttled(place, "pressed")["status"] == "False", "it is let go", shows=operator.log
        )
        gate.open()
        place.await_job("pressed", Complete=True)
        place.check_output("pressed", like=expected)
        reasons = [
            line["message"].partition(":")[0]
            for line in operator.lines()
            if line["logger"].endswith("reconcile")
        ]
        assert reasons.count("MemoryPressure") == reasons.count("MemoryRelieved") <= 4


def test_job_that_nothing_relieves_is_ended_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    place.shards()
    gate = Gate(tmp_path / "gate", "Create")
    place.playground.kubelet.environment["smothered"] = gate.environment
    with grouped(place, "smothered") as group, place.operator(measured=False):
        place.apply("smothered", memory={"budget": "64Mi", **MARKS, "abortAfterSeconds": 1})
        gate.reached()
        group.take(FULL)
        job = place.await_job("smothered", Failed=True)
        failed = conditions_of(job)["Failed"]
        assert failed["reason"] == "MemoryLimitExceeded"
        assert "of 640.00 MiB" in failed["message"]
        assert conditions_of(job)["Throttled"]["status"] == "False"
        assert not place.output("smothered").exists() or not list(place.output("smothered").iterdir())
        gate.open()
