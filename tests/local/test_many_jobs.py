"""Jobs beside and after each other disturb nobody and leave nothing behind (item 4, case 4)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests.support.datasets import Item, write_tar
from tests.support.readers import by_tarfile
from tests.support.reference import expected_shards
from tests.support.running import (
    Command,
    House,
    children_of,
    contents,
    dsort,
    job,
    left_in,
    marked,
    shards_in,
)


def test_item_4_two_jobs_at_once_over_the_same_inputs(
    source: Path, shards: list[Path], tmp_path: Path
) -> None:
    orders = [{"kind": "Shuffle", "seed": 1}, {"kind": "Key", "descending": True}]
    output = {"recordsPerShard": 30}
    with contextlib.ExitStack() as stack:
        commands = [
            stack.enter_context(
                Command(
                    job(source, tmp_path / str(n), order=order, output=output),
                    {"workers": 2, "network": n == 0},
                )
            )
            for n, order in enumerate(orders)
        ]
        for command in commands:
            assert command.end().result["state"] == "Complete"
    for number, order in enumerate(orders):
        assert contents(tmp_path / str(number)) == expected_shards(shards, order=order, output=output)


def test_case_4_five_jobs_at_once_do_not_disturb_each_other(
    source: Path, shards: list[Path], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        commands = [
            stack.enter_context(
                Command(
                    job(
                        source,
                        tmp_path / str(n),
                        order={"kind": "Shuffle", "seed": n},
                        output={"shardCount": 4},
                    ),
                    {"workers": 1},
                )
            )
            for n in range(5)
        ]
        for command in commands:
            assert command.end().result["records"] == 200
    for number in range(5):
        order = {"kind": "Shuffle", "seed": number}
        assert contents(tmp_path / str(number)) == expected_shards(
            shards, order=order, output={"shardCount": 4}
        )


def test_two_jobs_at_once_into_one_folder_do_not_mix(source: Path, tmp_path: Path) -> None:
    """One of them wins the manifest; the other one says so and takes its own shards back."""
    with contextlib.ExitStack() as stack:
        commands = [
            stack.enter_context(
                Command(
                    job(source, tmp_path / "out", output={"name": f"{name}-%d", "shardCount": 3}),
                    {"workers": 1},
                )
            )
            for name in ("a", "b")
        ]
        runs = [command.end() for command in commands]
    assert sorted(run.code for run in runs) == [0, 12]
    winner = "ab"[[run.code for run in runs].index(0)]
    assert left_in(tmp_path / "out") == [*(f"{winner}-{n}.tar" for n in range(3)), "dsort-manifest.json"]


def test_the_same_job_twice_at_once_is_done_once(source: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        manifest = job(source, tmp_path / "out", output={"shardCount": 3})
        commands = [stack.enter_context(Command(manifest, {"workers": 1})) for _ in range(2)]
        states = sorted(command.end().result["state"] for command in commands)
    assert states == ["AlreadyComplete", "Complete"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_item_4_a_hundred_tiny_jobs_leave_no_file_socket_or_process(
    house: House, scratch: Path, tmp_path: Path
) -> None:
    """One after the other in one process tree: this process, the nursery, and the ranks that come and go."""
    paths = [
        write_tar(tmp_path / "in" / f"{n}.tar", [Item(f"{n}-{m}.txt", b"x" * m) for m in range(5)])
        for n in range(3)
    ]

    def once(number: int) -> None:
        order = {"kind": "Shuffle", "seed": number}
        manifest = job(tmp_path / "in", tmp_path / f"out{number}", order=order, output={"recordsPerShard": 4})
        run = house.run(manifest, workers=1 + number % 2, network=number % 4 == 1)
        assert run.result["records"] == 15
        assert contents(tmp_path / f"out{number}") == expected_shards(
            paths, order=order, output={"recordsPerShard": 4}
        )

    for number in range(4):
        once(number)  # what is opened once and kept
    children = children_of(os.getpid())
    assert house.nursery.pid in children
    before = open_files(os.getpid()), open_files(house.nursery.pid), shared_memory()
    files = left_in(scratch)
    for number in range(4, 104):
        once(number)
    assert children_of(house.nursery.pid) == []
    assert children_of(os.getpid()) == children  # other layers have theirs: a cluster, for example
    assert (open_files(os.getpid()), open_files(house.nursery.pid), shared_memory()) == before
    assert left_in(scratch) == files
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["in", *(f"out{n}" for n in range(104))]
    )


def test_five_commands_one_after_the_other_leave_nothing(source: Path, scratch: Path, tmp_path: Path) -> None:
    files, memory = left_in(scratch), shared_memory()
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    for number in range(5):
        manifest = job(source, tmp_path / "out" / str(number), output={"shardCount": 3})
        with Command(manifest, {"workers": 2, "network": True}, home) as command:
            assert command.end().result["records"] == 200
            assert marked(command.mark) == []
    assert (left_in(scratch), shared_memory(), left_in(tmp_path / "home")) == (files, memory, [])
    assert by_tarfile(shards_in(tmp_path / "out" / "4").values()).total() == 600
    assert (
        dsort(job(source, tmp_path / "plan", output={"shardCount": 3}), command="plan").result["state"]
        == "Planned"
    )
    assert not (tmp_path / "plan").exists()


def open_files(pid: int) -> list[str]:
    """What a process has open, sockets and pipes by kind."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # that of this very listing
            found.append(os.readlink(entry).partition(":")[0])
    return sorted(name for name in found if not name.startswith("/proc/"))


def shared_memory() -> set[str]:
    """Names in /dev/shm that a run could have left there: not those of tests and benchmarks beside this one."""
    others = ("dsort-test", "dsort-bench")
    return {name for name in os.listdir("/dev/shm") if "dsort" in name and not name.startswith(others)}
