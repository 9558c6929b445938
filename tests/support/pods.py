"""Pods of a job as processes of this machine: each has an address of its own on the loopback, and the ports of a pod.

They are driven as an operator does, through their control endpoints and nothing else: a thread tells every rank the budget
and the newest peer table, and keeps what it says.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dsort_api.labels import CONTROL_PORT, METRICS_PORT
from dsort_api.messages import Desired, JobDefinition, Observed, Peer, PeerTable, Stop
from dsort_api.spec import DSortJob
from tests.support.measuring import measured, unmeasured
from tests.support.running import MARK, PATIENCE, marked, wait_until

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pod ended: exit code (as subprocess), what it logged, its termination message."""

    code: int
    stderr: str
    message: str

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.stderr.splitlines()]

    @property
    def words(self) -> dict[str, Any]:
        """Its termination message."""
        words: dict[str, Any] = json.loads(self.message)
        return words


@dataclass(slots=True)
class Pods:
    """The pods of one job. folder: for what they are given and what they leave, apart from the output.

    measured: whether they are (see `measuring`). environment: of the pods by index. within: makes a pod's command line one
    that runs where it should, by index. hear: gets all that ranks say. Leaving the context kills what is left of them.
    """

    manifest: Mapping[str, Any]
    folder: Path
    pods: int = 2
    lanes: int = 1
    uid: str = field(default_factory=lambda: f"uid-{secrets.token_hex(4)}")
    budget: int = 128 * MIB
    more: Sequence[str] = ()
    within: Callable[[int, list[str]], list[str]] = lambda _, line: line
    hear: Callable[[Observed], None] = lambda _: None
    observed: dict[int, Observed] = field(default_factory=dict)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    stop: Stop | None = None
    measured: bool = False
    _net: str = field(default_factory=lambda: f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}")
    _over: threading.Event = field(default_factory=threading.Event)
    _driver: threading.Thread | None = None
    _table: PeerTable | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir()
        spec = DSortJob.model_validate(self.manifest).spec
        definition = JobDefinition(
            id=self.uid, name="test", spec=spec, ranks=self.pods * self.lanes, lanes=self.lanes
        )
        self.definition.write_text(definition.model_dump_json(by_alias=True, exclude_none=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave_alone()
        left = [] if kind else marked(self.mark)
        for pid in marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait(PATIENCE)
        assert left == [], "processes were left"

    @property
    def definition(self) -> Path:
        """What a pod finds mounted."""
        return self.folder / "job.json"

    def host(self, index: int) -> str:
        """The address of a pod."""
        return f"{self._net}.{index + 1}"

    def start(self, index: int, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a pod, or its replacement."""
        scratch = self.folder / f"scratch-{index}"
        scratch.mkdir(exist_ok=True)
        line = ["--job", str(self.definition), "--host", self.host(index), "--scratch", str(scratch)]
        line += ["--termination-log", str(self._message(index)), *self.more]
        variables = {"JOB_COMPLETION_INDEX": str(index), "DSORT_TOKEN": "secret", MARK: self.mark}
        with self._log(index).open("wb") as log:
            self.processes[index] = subprocess.Popen(
                self.within(index, [sys.executable, "-m", "dsort_cli", "worker", *line]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**(measured() if self.measured else unmeasured()), **(environment or {}), **variables},
                start_new_session=True,
            )
        return self.processes[index]

    def start_all(self, environments: Mapping[int, Mapping[str, str]] | None = None) -> None:
        """Start every pod, and drive them. environments: by index."""
        for index in range(self.pods):
            self.start(index, (environments or {}).get(index))
        self.drive()

    def drive(self) -> None:
        """Tell the ranks what an operator would, until `leave_alone`."""
        self._over.clear()
        self._driver = threading.Thread(target=self._drive, daemon=True)
        self._driver.start()

    def leave_alone(self) -> None:
        """The operator is away."""
        self._over.set()
        if self._driver is not None:
            self._driver.join(PATIENCE)
            self._driver = None

    def end(self, index: int, *, within: float = PATIENCE) -> Ended:
        """Wait for the end of a pod."""
        code = self.processes[index].wait(within)
        message = self._message(index)
        return Ended(code, self._log(index).read_text(), message.read_text() if message.exists() else "")

    def end_all(self) -> list[Ended]:
        """Wait for the end of every pod."""
        return [self.end(index) for index in range(self.pods)]

    def until(self, rank: int, phase: str) -> None:
        """Wait until a rank says that it is in this phase."""
        wait_until(lambda: rank in self.observed and self.observed[rank].phase.value == phase, what=phase)

    def scrape(self, rank: int) -> str:
        """The metrics of a rank."""
        index, lane = divmod(rank, self.lanes)
        return _ask(self.host(index), METRICS_PORT + lane, "GET", "/metrics")[1]

    def _message(self, index: int) -> Path:
        return self.folder / f"termination-{index}"

    def _log(self, index: int) -> Path:
        return self.folder / f"log-{index}"

    def _drive(self) -> None:
        while not self._over.wait(0.02):
            for rank in range(self.pods * self.lanes):
                self._exchange(rank)
            self._renew()

    def _exchange(self, rank: int) -> None:
        index, lane = divmod(rank, self.lanes)
        desired = Desired(peers=self._table, memory_budget=self.budget, stop=self.stop)
        try:
            code, text = _ask(
                self.host(index), CONTROL_PORT + lane, "PUT", "/v1/control", desired.model_dump_json()
            )
        except (OSError, http.client.HTTPException):
            return  # not there yet, or not any more
        assert code == 200, text
        self.observed[rank] = Observed.model_validate_json(text)
        self.hear(self.observed[rank])

    def _renew(self) -> None:
        seen = [self.observed[rank] for rank in sorted(self.observed)]
        if len(seen) < self.pods * self.lanes or not all(one.data_url for one in seen):
            return
        peers = [Peer(rank=one.rank, url=one.data_url, epoch=one.epoch) for one in seen]
        if self._table is None or self._table.peers != peers:
            self._table = PeerTable(version=self._table.version + 1 if self._table else 1, peers=peers)


def _ask(host: str, port: int, method: str, path: str, body: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, body, {"Authorization": "Bearer secret"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
