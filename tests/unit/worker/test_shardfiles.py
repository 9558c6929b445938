"""Input shards as open files: as they were pinned, or the job is told which changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.listing import pin
from dsort_worker.shardfiles import ShardFiles


def shards(root: Path, count: int = 6) -> list[str]:
    for number in range(count):
        (root / f"{number}.tar").write_bytes(bytes([number]) * 100)
    return [f"{number}.tar" for number in range(count)]


def files_of(root: Path, *, capacity: int = 256) -> ShardFiles:
    return ShardFiles([pin(str(root), name) for name in shards(root)], root=str(root), capacity=capacity)


def open_shards(root: Path) -> set[str]:
    """Names of the shards that this process holds open."""
    names = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if path.startswith(str(root)):
            names.add(os.path.basename(path))
    return names


def test_files_stay_open_up_to_the_capacity(tmp_path: Path) -> None:
    files = files_of(tmp_path, capacity=2)
    assert len(files) == 6
    assert (files.name(3), files.size(3)) == ("3.tar", 100)
    for ordinal in range(4):
        with files.opened([ordinal]) as fds:
            assert os.pread(fds[ordinal], 1, 0) == bytes([ordinal])
    assert open_shards(tmp_path) == {"2.tar", "3.tar"}
    with files.opened([2]):  # used again: now 3 is the one that nobody needed for longest
        pass
    with files.opened([5]):
        pass
    assert open_shards(tmp_path) == {"2.tar", "5.tar"}
    files.close()
    assert open_shards(tmp_path) == set()


def test_a_file_in_use_is_never_closed(tmp_path: Path) -> None:
    files = files_of(tmp_path, capacity=1)
    with files.opened([0]) as first, files.opened([0, 1]) as both, files.opened([2]) as third:
        assert os.pread(first[0], 1, 0) == b"\0"
        assert os.pread(both[1], 1, 0) == b"\1"
        assert os.pread(third[2], 1, 0) == b"\2"
    with files.opened([3]):
        assert open_shards(tmp_path) == {"3.tar"}
    files.close()


def test_readers_in_many_threads(tmp_path: Path) -> None:
    files = files_of(tmp_path, capacity=2)
    wrong: list[object] = []

    def read(seed: int) -> None:
        for number in range(300):
            ordinal = (number * seed) % 6
            try:
                with files.opened([ordinal]) as fds:
                    if os.pread(fds[ordinal], 1, 7) != bytes([ordinal]):
                        wrong.append(ordinal)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in (1, 5, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    files.close()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(bytes(99))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (grow, "100 bytes when listed, 104 now"),
        (replace, "100 bytes when listed, 99 now"),
        (touch, "modification time"),
        (Path.unlink, "gone|No such file"),
    ],
)
def test_a_shard_that_changed_is_told_by_name(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    files = files_of(tmp_path)
    with files.opened([1]):
        pass
    change(tmp_path / "1.tar")
    change(tmp_path / "2.tar")
    for look in (lambda: files.check_unchanged([0, 1]), lambda: files.opened([0, 2]).__enter__()):
        with pytest.raises(
            DSortError, match=rf"shard [12]\.tar changed while the job ran: .*({words})"
        ) as caught:
            look()
        assert caught.value.reason is Reason.INPUT_CHANGED
    files.check_unchanged([0, 3])
    files.close()
    assert open_shards(tmp_path) == set()


def test_a_shard_that_may_not_be_read_is_unreadable(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    (tmp_path / "1.tar").unlink()
    (tmp_path / "1.tar").symlink_to("1.tar")
    with pytest.raises(DSortError, match=r"shard 1\.tar: Too many levels") as caught, files.opened([1]):
        pass
    assert caught.value.reason is Reason.INPUT_UNREADABLE
    files.close()
