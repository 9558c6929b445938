"""The job folder `OUTPUT/.dsort/<job id>/`: made, locked, found dead, removed.

The lock is flock(2) on `lock` in that folder. The runner takes it and its ranks inherit it, so it is free
only when no process of the job is left; the kernel gives it back when they are killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dsort_api.reasons import DSortError, Reason
from dsort_worker.staging import FOLDER, MANIFEST, Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK = "lock"

LOCK_SECONDS = 3.0
"""How long a predecessor that is being killed may take to let go of the lock."""


@dataclass(slots=True)
class JobFolder:
    """A locked job folder; owns the lock and knows which folders it had to make."""

    output: str
    job_id: str
    lock_fd: int
    made: tuple[str, ...] = field(default=())

    @property
    def path(self) -> str:
        """`OUTPUT/.dsort/<job id>`."""
        return os.path.join(self.output, FOLDER, self.job_id)

    def release(self, *, keep: bool) -> None:
        """Give the lock back. Unless `keep`, remove what is staged, and the folders that this run made and
        that are empty now.
        """
        try:
            if not keep:
                remove_job_folder(self.output, self.job_id)
                for path in reversed(self.made):
                    try:
                        os.rmdir(path)
                    except OSError:
                        break
        finally:
            os.close(self.lock_fd)


def claim(
    output: str, job_id: str, *, patience: float = LOCK_SECONDS, sleep: Callable[[float], object] = time.sleep
) -> JobFolder:
    """Make and lock the job folder of `job_id`, and remove those of dead jobs beside it.

    Raises DSortError JobBusy when another process holds the lock for longer than `patience` seconds,
    OutputUnwritable when the folder cannot be made.
    """
    made = _make(os.path.abspath(output))
    try:
        lock_fd = _lock(output, job_id, patience=patience, sleep=sleep)
        folder = JobFolder(output, job_id, lock_fd, made)
        try:
            remove_dead(output, besides=job_id)
        except BaseException:
            folder.release(keep=True)
            raise
    except BaseException:
        for path in reversed(made):
            try:
                os.rmdir(path)
            except OSError:
                break
        raise
    return folder


def remove_dead(output: str, *, besides: str | None = None) -> list[str]:
    """Remove the job folders in `output` that no process holds; returns the ids removed."""
    removed = []
    for job_id in job_ids(output):
        if job_id != besides and (fd := _try_lock(output, job_id)) is not None:
            try:
                remove_job_folder(output, job_id)
                removed.append(job_id)
            finally:
                os.close(fd)
    return removed


def job_ids(output: str) -> list[str]:
    """The ids of the job folders in `output`, live and dead."""
    try:
        with os.scandir(os.path.join(output, FOLDER)) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def live(output: str) -> list[str]:
    """The ids of the jobs in `output` that a process holds."""
    alive = []
    for job_id in job_ids(output):
        fd = _try_lock(output, job_id)
        if fd is None:
            alive.append(job_id)
        else:
            os.close(fd)
    return alive


def is_complete(output: str, job_id: str) -> bool:
    """Whether the manifest in `output` is that of this job: it comes last, so the shards beside it are a
    result.
    """
    import json

    try:
        with open(os.path.join(output, MANIFEST), encoding="utf-8") as file:
            return str(json.load(file)["job"]["fingerprint"]).startswith(job_id)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_job_folder(output: str, job_id: str) -> None:
    """Take back what the job has published, unless it got as far as the manifest, and remove its folder; the
    caller holds the lock.

    Raises DSortError OutputUnwritable when something cannot be removed.
    """
    path = os.path.join(output, FOLDER, job_id)
    try:
        if not is_complete(output, job_id):
            Staging(output, job=job_id, epoch="").take_back()
        for entry in list(os.scandir(path)):
            if entry.name == LOCK:
                continue  # last, so that a run that waits for it does not meet a folder half removed
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        os.unlink(os.path.join(path, LOCK))
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DSortError(
            Reason.OUTPUT_UNWRITABLE, f"{error.filename or path}: cannot be removed: {error.strerror}"
        ) from None
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass  # another job's folder stands beside it


def _make(path: str) -> tuple[str, ...]:
    """Make a folder and its parents; returns those that were not there, the outermost first."""
    missing = list(_missing(path))[::-1]
    made: list[str] = []
    try:
        for here in missing:
            try:
                os.mkdir(here)
            except FileExistsError:
                continue  # another job made it just now, so it is not this one's to remove
            made.append(here)
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    except OSError as error:
        for here in reversed(made):
            os.rmdir(here)
        raise _unwritable(error, path) from None
    return tuple(made)


def _missing(path: str) -> Iterator[str]:
    while not os.path.lexists(path):
        yield path
        path = os.path.dirname(path)


def _lock(output: str, job_id: str, *, patience: float, sleep: Callable[[float], object]) -> int:
    path = os.path.join(output, FOLDER, job_id)
    attempts = max(1, round(patience / 0.05))
    for _ in range(attempts):
        try:
            os.makedirs(path, exist_ok=True)
            fd = _try_lock(output, job_id, create=True)
        except FileNotFoundError:
            continue  # its last owner removed it between the two
        except OSError as error:
            raise _unwritable(error, path) from None
        if fd is not None:
            return fd
        sleep(0.05)
    raise DSortError(
        Reason.JOB_BUSY,
        f"another process is running this job (it holds {os.path.join(path, LOCK)}); wait for it, or stop it",
    )


def _try_lock(output: str, job_id: str, *, create: bool = False) -> int | None:
    """The locked file, or None when somebody else has it. Without `create` a folder that has no lock file
    counts as dead, too.
    """
    path = os.path.join(output, FOLDER, job_id, LOCK)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        if create:
            raise
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)  # held, or removed by its last owner after it was opened
    return None


def _unwritable(error: OSError, path: str) -> DSortError:
    return DSortError(
        Reason.OUTPUT_UNWRITABLE,
        f"spec.output.url: {error.filename or path}: cannot be made: {error.strerror}",
    )
