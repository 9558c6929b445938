"""The job folder `OUTPUT/.dsort/<job id>/`: made, locked, found dead, removed.

The runner takes its lock alone and its ranks inherit it; a pod of a job in a cluster shares it with the others (see
`dsort_worker.joblock`). So it can be had alone only when no process of the job is left; the kernel gives it back when they
are killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsort_api.reasons import DSortError, Reason
from dsort_worker.joblock import LOCK, Hold, lock, try_lock
from dsort_worker.regular import read_regular
from dsort_worker.staging import FOLDER, MANIFEST, Staging, make_folder, remove_made

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK_SECONDS = 3.0
"""How long a predecessor that is being killed may take to let go of the lock."""

POD_LOCK_SECONDS = 30.0
"""Likewise the pods of a job in a cluster, which may take as long to end."""


@dataclass(slots=True, eq=False, repr=False)
class JobFolder:
    """A locked job folder; owns the lock."""

    output: str
    job_id: str
    lock_fd: int
    was_complete: bool = False
    """Whether an earlier run of the job left its manifest there."""

    @property
    def path(self) -> str:
        """`OUTPUT/.dsort/<job id>`."""
        return os.path.join(self.output, FOLDER, self.job_id)

    def release(self, *, keep: bool) -> None:
        """Give the lock back. Unless `keep`, remove what is staged, and the folders that were made for this
        job and that are empty now. What was published of a job that is not complete is taken back in any case.
        """
        try:
            if not keep:
                remove_job_folder(self.output, self.job_id)
        finally:
            os.close(self.lock_fd)
        if keep:
            _take_names_back(self.output, self.job_id)


def claim(
    output: str, job_id: str, *, patience: float = LOCK_SECONDS, sleep: Callable[[float], object] = time.sleep
) -> JobFolder:
    """Make and lock the job folder of `job_id`, and remove those of dead jobs beside it.

    Raises DSortError JobBusy when another process holds the lock for longer than `patience` seconds,
    OutputUnwritable when the folder cannot be made.
    """
    try:
        made = make_folder(output)
    except OSError as error:
        raise _unwritable(error, output) from None
    try:
        lock_fd = _lock(output, job_id, patience=patience, sleep=sleep)
        folder = JobFolder(output, job_id, lock_fd)
        try:
            staging = Staging(output, job=job_id, epoch="")
            if is_complete(output, job_id):
                # Its runner was killed at the very end. What it left would tell the ranks of this run that they are at theirs.
                folder.was_complete = True
                staging.empty()
            staging.record_made(made)
            remove_dead(output, besides=job_id)
        except BaseException:
            folder.release(keep=True)
            raise
    except BaseException:
        remove_made(reversed(made))
        raise
    return folder


def remove_dead(output: str, *, besides: str | None = None) -> list[str]:
    """Remove the job folders in `output` that no process holds; returns the ids removed."""
    removed = []
    for job_id in job_ids(output):
        if job_id != besides and (fd := _held_by_nobody(output, job_id)) is not None:
            try:
                remove_job_folder(output, job_id)
                removed.append(job_id)
            finally:
                os.close(fd)
    return removed


def remove_job(output: str, job_id: str, *, patience: float = POD_LOCK_SECONDS) -> bool:
    """Remove the folder of one job and, unless it is complete, what it published; False when nothing of it is there.

    Raises DSortError JobBusy when a process of the job is still alive after `patience` seconds.
    """
    path = os.path.join(output, FOLDER, job_id)
    try:
        fd = lock(path, Hold.ALONE, patience=patience)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unremovable(error, path) from None
    if fd is None:
        raise DSortError(
            Reason.JOB_BUSY,
            f"{output}: job {job_id} is still running (a process holds {path}/{LOCK}); stop it first",
        )
    try:
        remove_job_folder(output, job_id)
    finally:
        os.close(fd)
    return True


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
        fd = _held_by_nobody(output, job_id)
        if fd is None:
            alive.append(job_id)
        else:
            os.close(fd)
    return alive


def is_complete(output: str, job_id: str) -> bool:
    """Whether the manifest in `output` is that of this job: it comes last, so the shards beside it are a
    result.

    It says under which id it was written: a resource's uid, or the beginning of the fingerprint. A result of the
    same fingerprint is this job's, too, whoever made it.
    """
    try:
        manifest = json.loads(read_regular(os.path.join(output, MANIFEST)))
        run, fingerprint = manifest.get("run", {}).get("id"), manifest["job"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return run == job_id or str(fingerprint).startswith(job_id)


def remove_job_folder(output: str, job_id: str) -> None:
    """Take back what the job has published, unless it got as far as the manifest, and remove its folder, and
    the folders that were made for it and that are empty now; the caller holds the lock.

    Raises DSortError OutputUnwritable when something cannot be removed.
    """
    staging = Staging(output, job=job_id, epoch="")
    made = staging.made()
    try:
        if not is_complete(output, job_id):
            staging.seal()
            staging.take_back()
        staging.remove()
    except OSError as error:
        raise _unremovable(error, staging.home) from None
    remove_made(made)


def _take_names_back(output: str, job_id: str) -> None:
    """Leave nothing that looks like a result of a job that is not complete; what is staged stays.

    Its ranks share the lock of its runner, and where their nursery was killed they may take a moment to die: none of
    them must write a manifest after this, so it is done only with the lock in hand again.
    """
    with contextlib.suppress(
        OSError
    ):  # why the job failed is what there is to tell; `dsort clean` tells of this
        fd = lock(os.path.join(output, FOLDER, job_id), Hold.ALONE, patience=LOCK_SECONDS)
        if fd is not None:
            try:
                if not is_complete(output, job_id):
                    Staging(output, job=job_id, epoch="").take_back(keep=True)
            finally:
                os.close(fd)


def _lock(output: str, job_id: str, *, patience: float, sleep: Callable[[float], object]) -> int:
    path = os.path.join(output, FOLDER, job_id)
    for _ in range(3):  # its last owner may remove the folder between two calls
        try:
            os.makedirs(path, exist_ok=True)
            fd = lock(path, Hold.ALONE, patience=patience, sleep=sleep)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unwritable(error, path) from None
        if fd is not None:
            return fd
        break
    raise DSortError(
        Reason.JOB_BUSY,
        f"another process is running this job (it holds {os.path.join(path, LOCK)}); wait for it, or stop it",
    )


def _held_by_nobody(output: str, job_id: str) -> int | None:
    """The lock, taken, or None when somebody has it."""
    path = os.path.join(output, FOLDER, job_id)
    try:
        return try_lock(path, Hold.ALONE)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return None  # removed just now, by whoever has it
        raise _unremovable(error, path) from None


def _unwritable(error: OSError, path: str) -> DSortError:
    return DSortError(
        Reason.OUTPUT_UNWRITABLE,
        f"spec.output.url: {error.filename or path}: cannot be made: {error.strerror}",
    )


def _unremovable(error: OSError, path: str) -> DSortError:
    return DSortError(
        Reason.OUTPUT_UNWRITABLE, f"{error.filename or path}: cannot be removed: {error.strerror}"
    )
