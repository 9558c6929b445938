"""Staging: output shards appear whole or not at all.

    OUTPUT/.dsort/<job>/plan/<ranks>/  rank 0's decisions, for that number of ranks
    OUTPUT/.dsort/<job>/stage/         shards being written, <number>.<epoch>
    OUTPUT/.dsort/<job>/commits/       commit records of shards that are whole and on disk, <number>.json
    OUTPUT/.dsort/<job>/made/          which folders were made for this job: 0 the output folder, 1 its parent, ...
    OUTPUT/.dsort/<job>/lock           held while a process of the job lives (see `joblock`)

A shard is written under a name that carries the epoch of its writer, flushed to disk, and **committed** by an exclusive link
of its commit record: of two writers (a rank and its replacement) one wins, and the bytes are the same. When every shard
is committed, each is **published** by a hard link under its own name, which never overwrites, and the manifest comes last.
Publishing works from commit records alone. What a job published can be told from what was there: it is the same file as
the staged one, so it can be taken back.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, get_type_hints

from dsort_api.reasons import DSortError, Reason
from dsort_api.templates import is_below
from dsort_worker.joblock import LOCK
from dsort_worker.regular import NotRegularError, read_regular

FOLDER: Final = ".dsort"
MANIFEST: Final = "dsort-manifest.json"
FINDINGS: Final = "dsort-findings-"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})
"""Errors of a file system that has no hard links."""
_RECORD: Final = re.compile(r"[0-9]{8,}\.json")


class Commit(NamedTuple):
    """A shard that is whole and on disk: its output name, the staged file, bytes, counts and checksum (xxh128, hex)."""

    number: int
    name: str
    staged: str
    bytes: int
    records: int
    members: int
    checksum: str


_KINDS: Final = get_type_hints(Commit)
"""The types of a commit record's fields, by name."""


class Staging:
    """The staging folder of one job in one output folder. Methods raise DSortError OutputUnwritable, OutputExists."""

    def __init__(self, output: str, *, job: str, epoch: str, ranks: int = 0) -> None:
        self.output = output
        self.home = os.path.join(output, FOLDER, job)
        self.plan = os.path.join(self.home, "plan", str(ranks))
        self._job = job
        self._plans = os.path.join(self.home, "plan")
        self._stage = os.path.join(self.home, "stage")
        self._commits = os.path.join(self.home, "commits")
        self._made = os.path.join(self.home, "made")
        self._epoch = epoch

    def create(self) -> None:
        """Make the folders, the output folder as well."""
        with unwritable(self.output):
            made = make_folder(self.output)
        for folder in (self.plan, self._stage, self._commits):
            with unwritable(folder):
                os.makedirs(folder, exist_ok=True)
        self.record_made(made)

    def record_made(self, made: Sequence[str]) -> None:
        """Keep on disk which folders were made for this job: the output folder and those above it."""
        depth = os.path.abspath(self.output).count(os.sep)
        with unwritable(self._made):
            for path in made:
                os.makedirs(self._made, exist_ok=True)
                with open(os.path.join(self._made, str(depth - path.count(os.sep))), "wb"):
                    pass

    def made(self) -> list[str]:
        """The folders that were made for this job, the output folder first, as far up as there is no gap."""
        levels, path = set(self._names(self._made)), os.path.abspath(self.output)
        made: list[str] = []
        while str(len(made)) in levels:
            made.append(path)
            path = os.path.dirname(path)
        return made

    def staged_name(self, number: int) -> str:
        """The name of a shard while this epoch writes it."""
        return f"{number:08d}.{self._epoch}"

    def staged_path(self, staged: str) -> str:
        """Where a staged file lies."""
        return os.path.join(self._stage, staged)

    @property
    def scratch(self) -> str:
        """A folder for unlinked scratch files."""
        return self._stage

    def committed(self, number: int) -> Commit | None:
        """The shard's commit record, where there is one and its file is still as it says."""
        try:
            commit = _read_commit(self._record(number))
        except (FileNotFoundError, NotRegularError, ValueError):
            return None  # none, or the machine stopped before it was on disk
        try:
            size = os.stat(self.staged_path(commit.staged)).st_size
        except FileNotFoundError:
            return commit if self.is_mine(commit) else None
        return commit if size == commit.bytes else None

    def committed_numbers(self) -> set[int]:
        """Numbers that have a commit record (it may turn out to be void)."""
        return {int(name[:-5]) for name in self._names(self._commits) if _RECORD.fullmatch(name)}

    def commit(self, commit: Commit) -> None:
        """Commit a shard whose bytes are on disk. A shard that was committed already stays as it is."""
        path = self._record(commit.number)
        temporary = f"{path}.{self._epoch}"
        with unwritable(path):
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(commit._asdict(), file)
            try:
                place(temporary, path)
            except FileExistsError:
                if self.committed(commit.number) is None:  # void: what it named never reached the disk
                    os.replace(temporary, path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def publish(self, commit: Commit) -> None:
        """Give a committed shard its name in the output folder; again is no error."""
        final = os.path.join(self.output, commit.name)
        staged = self.staged_path(commit.staged)
        with unwritable(final):
            try:
                place(staged, final)
            except (FileExistsError, FileNotFoundError):
                if not self.is_mine(commit):
                    raise _put_there(final) from None

    def is_mine(self, commit: Commit) -> bool:
        """Whether the file of that name in the output folder is the one this job staged."""
        final = os.path.join(self.output, commit.name)
        staged = self.staged_path(commit.staged)
        try:
            if os.path.exists(staged):
                return os.path.samefile(staged, final)
            return os.stat(final).st_size == commit.bytes  # it was moved, where there are no hard links
        except FileNotFoundError:
            return False

    def commits(self) -> Iterator[Commit]:
        """All valid commit records, by number."""
        for number in sorted(self.committed_numbers()):
            commit = self.committed(number)
            if commit is not None:
                yield commit

    def published(self) -> str | None:
        """The manifest, when it was written under this job's id: every shard is in its place.

        Where the id is one life of the job (a resource's uid) there is nothing left to do. An id that comes of a fingerprint
        is that of every run of the job: see `publishing`.
        """
        path = os.path.join(self.output, MANIFEST)
        run = _manifest(path).get("run")
        return path if isinstance(run, dict) and run.get("id") == self._job else None

    def publishing(self) -> bool:
        """Whether the job got as far as publishing, and its staging is still there."""
        plans = self._names(self._plans)
        return any(os.path.exists(os.path.join(self._plans, ranks, "commit.json")) for ranks in plans)

    def seal(self) -> None:
        """Let nobody publish any more, not even a rank that nobody can reach: what is staged lies elsewhere from now on."""
        sealed = os.path.join(self.home, "sealed")
        with unwritable(self._stage):
            try:
                os.rename(self._stage, sealed)
            except FileNotFoundError:
                pass  # nothing was staged
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                for name in self._names(
                    self._stage
                ):  # the job was begun anew after a removal that was broken off
                    os.rename(os.path.join(self._stage, name), os.path.join(sealed, name))
        self._stage = sealed

    def take_back(self, *, keep: bool = False) -> int:
        """Remove what this job published (never the file of somebody else); the number of files removed. With `keep` only
        the names in the output folder go: what is staged is all there afterwards, so that the job can go on.
        """
        removed = 0
        others = {
            entry.get("name") for entry in _manifest(os.path.join(self.output, MANIFEST)).get("outputs", [])
        }
        for commit in self.commits():
            if commit.name not in others and self.is_mine(commit):
                final, staged = os.path.join(self.output, commit.name), self.staged_path(commit.staged)
                if keep and not os.path.exists(staged):  # it was moved, where there are no hard links
                    os.rename(final, staged)
                else:
                    os.unlink(final)
                removed += 1
        for name in self._names(self.output):
            if name.startswith(FINDINGS) and self._is_my_findings(name):
                os.unlink(os.path.join(self.output, name))
                removed += 1
        return removed

    def manifest_path(self) -> str:
        """Where this epoch of rank 0 writes the manifest."""
        return os.path.join(self.home, f"{MANIFEST}.{self._epoch}")

    def findings_path(self, rank: int) -> str:
        """Where this epoch of a rank collects its findings."""
        return os.path.join(self.home, f"{FINDINGS}{rank:05d}.{self._epoch}.jsonl")

    def publish_findings(self, collected: str, name: str) -> None:
        """Give a file of findings its name in the output folder, in place of the list of an older life of that rank."""
        final = os.path.join(self.output, name)
        with unwritable(final):
            if self._is_my_findings(name):
                os.unlink(final)
            try:
                place(collected, final)
            except FileExistsError:
                if not os.path.samefile(collected, final):  # else it was done, and the answer was lost
                    raise _put_there(final) from None
            if not os.path.exists(
                collected
            ):  # it was moved; a copy stays, by which it can be told from a stranger's
                shutil.copyfile(final, collected)

    def _is_my_findings(self, name: str) -> bool:
        final = os.path.join(self.output, name)
        return os.path.exists(final) and any(
            filecmp.cmp(os.path.join(self.home, mine), final, shallow=False)  # the same file, or a copy of it
            for mine in self._names(self.home)
            if mine.startswith(FINDINGS)
        )

    @staticmethod
    def _names(folder: str) -> list[str]:
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []

    def empty(self) -> None:
        """Remove all that is in the staging folder, but the lock."""
        with unwritable(self.home):
            for name in self._names(self.home):
                path = os.path.join(self.home, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                elif name != LOCK:
                    os.unlink(path)

    def remove(self) -> None:
        """Remove the staging folder, the lock last, so that who waits for it meets no folder half removed; and `.dsort` when
        no other job has one there.
        """
        self.empty()
        with unwritable(self.home):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.home, LOCK))
            try:
                os.rmdir(self.home)
            except OSError as error:
                # It was not there, or who waited for the lock has the folder now.
                if error.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}:
                    raise
        with contextlib.suppress(OSError):  # another job's staging is in it
            os.rmdir(os.path.join(self.output, FOLDER))

    def _record(self, number: int) -> str:
        return os.path.join(self._commits, f"{number:08d}.json")


def make_folder(path: str) -> tuple[str, ...]:
    """Make a folder and its parents; the absolute paths of those that were not there, the outermost first.

    Raises OSError, and leaves nothing that it made then.
    """
    path = here = os.path.abspath(path)
    missing: list[str] = []
    while not os.path.lexists(here):
        missing.append(here)
        here = os.path.dirname(here)
    made: list[str] = []
    try:
        for here in reversed(missing):
            try:
                os.mkdir(here)
            except FileExistsError:
                continue  # another one made it just now, so it is not this one's to remove
            made.append(here)
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    except OSError:
        remove_made(reversed(made))
        raise
    return tuple(made)


def remove_made(folders: Iterable[str]) -> None:
    """Remove folders, the innermost first, up to the first that holds something."""
    for path in folders:
        try:
            os.rmdir(path)
        except OSError:
            return


def _read_commit(path: str) -> Commit:
    """The record there. Raises ValueError for what no rank has written: it must not name a file that is none of the job's."""
    document = json.loads(read_regular(path))
    if not isinstance(document, dict) or {name: type(value) for name, value in document.items()} != _KINDS:
        raise ValueError(f"{path} is no commit record")
    commit = Commit(**document)
    if not is_below(commit.name) or not is_below(commit.staged) or "/" in commit.staged:
        raise ValueError(f"{path} names a file that is none of the job's")
    return commit


def _put_there(final: str) -> DSortError:
    return DSortError(
        Reason.OUTPUT_EXISTS,
        f"spec.output: {final} was put there while the job ran; move it away or choose another output",
    )


def _manifest(path: str) -> dict[str, Any]:
    """The manifest there; an empty one where there is none that can be read."""
    try:
        document = json.loads(read_regular(path))
    except (FileNotFoundError, NotADirectoryError, NotRegularError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def place(source: str, target: str) -> None:
    """Give a file a second name, never over another file: FileExistsError. Where there are no hard links it is moved."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(source, target)


@contextlib.contextmanager
def unwritable(path: str) -> Iterator[None]:
    """Turn an OSError of writing into DSortError OutputUnwritable that names the path."""
    try:
        yield
    except OSError as error:
        full = "; free some space" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
        raise DSortError(Reason.OUTPUT_UNWRITABLE, f"{path}: {error.strerror or error}{full}") from error


def sync_folder(path: str) -> None:
    """Flush a folder's entries to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
