"""The lock of a job: shared by its pods, alone for who removes it, harmless where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from dsort_worker.joblock import Hold, lock, try_lock


def held(folder: Path, hold: Hold) -> int:
    fd = try_lock(str(folder), hold)
    assert fd is not None
    return fd


def test_many_share_it_or_one_has_it_alone(tmp_path: Path) -> None:
    shared = [held(tmp_path, Hold.SHARED), held(tmp_path, Hold.SHARED)]
    assert try_lock(str(tmp_path), Hold.ALONE) is None
    for fd in shared:
        os.close(fd)
    alone = held(tmp_path, Hold.ALONE)
    assert try_lock(str(tmp_path), Hold.ALONE) is None
    assert try_lock(str(tmp_path), Hold.SHARED) is None
    os.close(alone)
    os.close(held(tmp_path, Hold.SHARED))


def test_waiting_ends_with_the_lock_or_with_the_patience(tmp_path: Path) -> None:
    first = held(tmp_path, Hold.SHARED)
    naps: list[float] = []
    assert lock(str(tmp_path), Hold.ALONE, patience=0.5, sleep=naps.append) is None
    assert sum(naps) == pytest.approx(0.5)
    second = lock(str(tmp_path), Hold.ALONE, patience=0.5, sleep=lambda _: os.close(first))
    assert second is not None
    os.close(second)


def test_a_lock_that_was_removed_while_it_was_opened_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def late(fd: int, how: int) -> None:
        os.unlink(tmp_path / "lock")
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert try_lock(str(tmp_path), Hold.SHARED) is None


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_in_the_file_system_everybody_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for fd in (held(tmp_path, Hold.ALONE), held(tmp_path, Hold.ALONE)):
        os.close(fd)


def test_other_errors_are_raised_and_keep_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Input/output"):
        try_lock(str(tmp_path), Hold.SHARED)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(FileNotFoundError):
        try_lock(str(tmp_path / "none"), Hold.SHARED)
