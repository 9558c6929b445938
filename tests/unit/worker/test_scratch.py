"""Scratch files: nameless, mapped, and clear about a disk that is full."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.scratch import Array, Scratch


def test_the_file_has_no_name(tmp_path: Path) -> None:
    with Scratch(str(tmp_path)) as scratch:
        scratch.write(scratch.reserve(3), memoryview(b"abc"))
        assert list(tmp_path.iterdir()) == []
        assert os.fstat(scratch.fd).st_nlink == 0


def test_regions_are_read_and_mapped_as_they_were_written() -> None:
    counted: list[int] = []
    with Scratch(None, on_write=counted.append) as scratch:
        bases = [scratch.reserve(size) for size in (5, 0, 9000, 1)]
        arrays: list[Array] = [
            np.arange(5, dtype=np.uint8),
            np.empty(0, np.uint8),
            np.arange(2250, dtype=np.uint32),
        ]
        for base, array in zip(bases, arrays, strict=False):
            scratch.write(base, array)
        scratch.write(bases[0] + 1, arrays[0][::2])  # not contiguous
        into = np.empty(2250, dtype=np.uint32)
        scratch.read(bases[2], into)
        assert into.tolist() == arrays[2].tolist()
        pages = scratch.map(bases[2], 9000)
        assert counted == [5, 0, 9000, 3]
    assert np.frombuffer(pages, np.uint32).tolist() == arrays[2].tolist()  # longer than the file is open
    with pytest.raises(TypeError, match=r"readonly|read-only"):
        pages[0] = 1


def test_what_was_never_written_cannot_be_read() -> None:
    with Scratch(None) as scratch, pytest.raises(ValueError, match="ends before"):
        scratch.read(scratch.reserve(8), np.empty(8, dtype=np.uint8))


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file of this process may grow past 64 KiB: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield 1 << 16
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path, small_files: int) -> None:
    with Scratch(str(tmp_path)) as scratch, pytest.raises(DSortError) as caught:
        scratch.write(scratch.reserve(small_files + 1), np.zeros(small_files + 1, dtype=np.uint8))
    assert caught.value.reason is Reason.OUTPUT_UNWRITABLE
    assert caught.value.message.startswith(f"scratch folder {tmp_path}: {os.strerror(errno.EFBIG)}; ")
    assert "--scratch" in caught.value.message
    assert "memory budget" in caught.value.message


def test_what_is_no_want_of_space_is_not_called_one(tmp_path: Path) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, files[1]))
    try:
        with pytest.raises(DSortError, match=r"Too many open files; .*mend that") as caught:
            Scratch(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
    assert "make room" not in caught.value.message


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DSortError, match=r"scratch folder .*gone: No such file"):
        Scratch(str(tmp_path / "gone"))
