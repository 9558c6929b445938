"""Run `dsort` in tests: as a command of its own, or in this process with ranks from one long-lived nursery.

Both go through the whole product (command line, control exchange, real rank processes). The command costs half a second
of start-up for each job, the nursery a fork; what a signal, a dead process or a fresh start can change is tested with the
command. Every process of a command carries a mark in its environment, so that none can hide.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest
import xxhash

from dsort_cli import processes
from dsort_cli.main import main
from tests.support.measuring import unmeasured

ROOT: Final = Path(__file__).resolve().parents[2]
MANIFEST: Final = "dsort-manifest.json"
FINDINGS: Final = "dsort-findings-"
MARK: Final = "DSORT_TEST_MARK"
PATIENCE: Final = 100.0
"""Seconds after which a command is killed and its test fails: below the limit of a test, so that it fails by name."""


def job(source: Path | str, target: Path | str, **spec: Any) -> dict[str, Any]:
    """A DSortJob. Parts of the spec come by their names and are merged into the urls: input, output, order, records, ..."""
    parts = dict(spec)
    urls = [f"file://{folder}" if isinstance(folder, Path) else folder for folder in (source, target)]
    parts["input"] = {"url": urls[0], **parts.get("input", {})}
    parts["output"] = {"url": urls[1], "name": "out-%06d", **parts.get("output", {})}
    return {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortJob",
        "metadata": {"name": "test"},
        "spec": parts,
    }


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended. events: of --json."""

    code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of --json, in order."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]

    @property
    def result(self) -> dict[str, Any]:
        """The event `result` of a run that succeeded."""
        assert self.code == 0, self
        return next(event for event in self.events if event["event"] == "result")

    @property
    def error(self) -> str:
        """The one error line of a run that failed, which is all that it says on standard error."""
        lines = self.stderr.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, self
        assert [line for line in lines if not line.startswith(("error: ", "warning: "))] == [], self
        return errors[0].removeprefix("error: ")

    @property
    def warnings(self) -> list[str]:
        """Warnings: lines on standard error, or events of --json."""
        lines = [line[9:] for line in self.stderr.splitlines() if line.startswith("warning: ")]
        return [*lines, *(event["message"] for event in self.events if event["event"] == "warning")]


@contextlib.contextmanager
def job_file(manifest: Mapping[str, Any] | str) -> Iterator[Path]:
    """A manifest as a file, outside every folder that a test looks at."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"dsort-job-{uuid.uuid4().hex}.yaml"
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    try:
        yield path
    finally:
        path.unlink()


def arguments(
    path: Path,
    *,
    command: str = "run",
    workers: int | None = None,
    memory: str | None = None,
    network: bool = False,
    more: Sequence[str] = ("--json",),
) -> list[str]:
    """The command line. network: no short circuit."""
    line = [command, "-f", str(path), *more]
    line += ["--workers", str(workers)] if workers else []
    line += ["--memory", memory] if memory else []
    return line + (["--no-short-circuit"] if network else [])


# ------------------------------------------------------------------------------------------------------ in this process


class _Lent(processes.Nursery):
    """A nursery that outlives the runs that it is lent to."""

    def close(self) -> None:
        """The run has ended; so have its ranks, or the nursery is of no use to the next run."""
        if children_of(self.pid):
            self.end()

    def end(self) -> None:
        """End the nursery and every rank."""
        super().close()

    @property
    def pid(self) -> int:
        """Of the nursery's process."""
        return self._pid

    @property
    def usable(self) -> bool:
        """Whether another run may have it."""
        return self._open


class House:
    """Runs jobs in this process, one after the other, with ranks from one nursery. A context manager."""

    def __init__(self) -> None:
        self._nursery: _Lent | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nursery is not None:
            self._nursery.end()

    @property
    def nursery(self) -> _Lent:
        """The nursery, started when it is needed."""
        if self._nursery is None or not self._nursery.usable:
            self._nursery = _Lent()
        return self._nursery

    def call(self, line: Sequence[str]) -> Run:
        """Give `dsort` a command line."""
        out, err, nursery = io.StringIO(), io.StringIO(), self.nursery
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(processes, "Nursery", lambda: nursery)
            try:
                code = main(line)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
        return Run(code, out.getvalue(), err.getvalue())

    def run(self, manifest: Mapping[str, Any] | str, *, check: bool = True, **options: Any) -> Run:
        """Run a job to its end. options: of `arguments`. check: see `check_ended`."""
        with job_file(manifest) as path:
            run = self.call(arguments(path, **options))
        if check and isinstance(manifest, Mapping):
            check_ended(manifest, run, planned=options.get("command") == "plan")
        return run


# ------------------------------------------------------------------------------------------------------- as a command


@dataclass(slots=True)
class Command:
    """A `dsort` that was started. Leaving the context kills what is left of it, and fails when there was anything."""

    manifest: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    within: Callable[[Sequence[str]], Sequence[str]] = tuple
    """Makes the command line another, that runs it somewhere."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[str] = field(init=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        path = self._stack.enter_context(job_file(self.manifest))
        # Buffered output would be lost by a kill, and the events are what tests wait for.
        environment = {**unmeasured(), **self.environment, MARK: self.mark, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            self.within([sys.executable, "-m", "dsort_cli", *arguments(path, **self.options)]),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            left = [] if kind else marked(self.mark)
            for pid in marked(self.mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.communicate()
            assert left == [], "processes were left"
        finally:
            self._stack.close()

    def until(self, event: str) -> dict[str, Any]:
        """Read events up to the first of this kind."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert select.select([self.process.stdout], [], [], PATIENCE)[0], f"no event {event}"
            line = self.process.stdout.readline()
            assert line, f"it ended before {event}: {self.process.stderr and self.process.stderr.read()}"
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return found
        raise AssertionError(f"no event {event}")

    def end(self, *, within: float = PATIENCE) -> Run:
        """Wait for its end, and for that of all its processes."""
        out, err = self.process.communicate(timeout=within)
        wait_until(lambda: not marked(self.mark), what="all processes to end")
        return Run(self.process.returncode, out, err)

    def ranks(self, count: int) -> list[int]:
        """The processes of its ranks, once there are so many."""

        def found() -> list[int]:
            return [pid for child in children_of(self.process.pid) for pid in children_of(child)]

        wait_until(lambda: len(found()) >= count, what=f"{count} ranks")
        return found()


def dsort(manifest: Mapping[str, Any], *, check: bool = True, **options: Any) -> Run:
    """Run a job with the command, and check that it left nothing behind."""
    with Command(manifest, options) as command:
        run = command.end()
    if check:
        check_ended(manifest, run, planned=options.get("command") == "plan")
    return run


def marked(mark: str) -> list[int]:
    """Processes that carry the mark in their environment, zombies aside."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                environment = Path("/proc", entry, "environ").read_bytes()
                if wanted in environment.split(b"\0"):
                    found.append(int(entry))
    return found


def children_of(pid: int) -> list[int]:
    """Processes that this one has started and not yet reaped."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def wait_until(condition: Callable[[], object], *, what: str, seconds: float = PATIENCE) -> None:
    """Ask until it holds; fails after `seconds`, saying what for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        select.select([], [], [], 0.005)


# ---------------------------------------------------------------------------------------------------------- the output


def shards_in(folder: Path) -> dict[str, Path]:
    """The output shards by name."""
    if not folder.is_dir():
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if path.name.endswith(".tar")}


def contents(folder: Path) -> list[bytes]:
    """The bytes of the output shards, by name."""
    return [path.read_bytes() for path in shards_in(folder).values()]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every output shard, for comparisons of large ones."""
    result = {}
    for name, path in shards_in(folder).items():
        with path.open("rb") as file:
            result[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return result


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest beside the shards."""
    document: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return document


def comparable(folder: Path) -> dict[str, Any]:
    """The manifest without the facts of the run, and without what has no part in the output's bytes."""
    document = manifest_of(folder)
    del document["run"]
    for part in ("memory", "workers", "dryRun", "backoffLimit", "activeDeadlineSeconds"):
        document["spec"].pop(part, None)
    document["spec"]["output"].pop("url")
    document["job"].pop("fingerprint")  # of the output's url, too
    return document


def findings_in(folder: Path) -> list[dict[str, Any]]:
    """All findings, of the files that the manifest names."""
    names = manifest_of(folder)["run"].get("findings", [])
    assert sorted(names) == sorted(path.name for path in folder.iterdir() if path.name.startswith(FINDINGS))
    return [json.loads(line) for name in names for line in (folder / name).read_text().splitlines()]


def left_in(folder: Path) -> list[str]:
    """Everything in a folder, hidden or not; nothing where there is no folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.is_dir() else []


def check_ended(manifest: Mapping[str, Any], run: Run, *, planned: bool = False) -> None:
    """What holds after every run: a whole and checked result, or one error line and no trace."""
    url: str = manifest["spec"]["output"]["url"]
    target = Path(url.removeprefix("file://"))
    if run.code == 0:
        if not planned and not manifest["spec"].get("dryRun"):
            check_result(target)
        return
    assert run.error
    if url.startswith("file:///"):
        assert left_in(target) == [] or (target / MANIFEST).exists(), f"left in the output: {left_in(target)}"


def check_result(target: Path) -> None:
    """The output is what the manifest says, to the byte, and its counts add up (case 17)."""
    document = manifest_of(target)
    counts, outputs = document["counts"], document["outputs"]
    names = {entry["name"] for entry in outputs} | {MANIFEST, *document["run"].get("findings", [])}
    assert set(left_in(target)) == names
    for entry in outputs:
        data = (target / entry["name"]).read_bytes()
        assert entry["bytes"] == len(data)
        assert entry["checksum"] == f"xxh128:{xxhash.xxh3_128_hexdigest(data)}"
        assert data.endswith(bytes(1024))
    assert sum(entry["records"] for entry in outputs) == counts["recordsOut"]
    assert sum(entry["members"] for entry in outputs) == counts["membersOut"]
    assert sum(entry["records"] for entry in document["inputs"]) == counts["recordsOut"]
    assert counts["recordsIn"] == counts["recordsOut"] + counts["recordsLeftOut"]
    assert counts["membersIn"] == counts["membersOut"] + counts["membersLeftOut"]
    assert counts["shardsListed"] == len(document["inputs"])
    assert counts["shardsMissing"] == len(document.get("missing", []))
