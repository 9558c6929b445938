"""Staging at every point where a machine may stop, on file systems with and without hard links."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.findings import Finding, FindingsLog
from dsort_worker.staging import (
    FINDINGS,
    MANIFEST,
    Commit,
    Staging,
    make_folder,
    place,
    sync_folder,
    unwritable,
)
from dsort_worker.state import RankState


@pytest.fixture(params=["hard links", "no hard links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "no hard links":
        without_links(monkeypatch)
    return bool(request.param == "hard links")


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)


def staging_of(output: Path, *, epoch: str = "e1", job: str = "job") -> Staging:
    staging = Staging(str(output), job=job, epoch=epoch)
    staging.create()
    return staging


def stage(staging: Staging, number: int, data: bytes = b"content") -> Commit:
    staged = staging.staged_name(number)
    Path(staging.staged_path(staged)).write_bytes(data)
    return Commit(number, f"out-{number}.tar", staged, len(data), 1, 2, "ab" * 16)


def record_path(staging: Staging, number: int) -> Path:
    return Path(staging.home) / "commits" / f"{number:08d}.json"


def test_folders_are_made_with_the_output_folder(tmp_path: Path) -> None:
    output = tmp_path / "new" / "output"
    staging = staging_of(output)
    staging.create()
    assert sorted(os.listdir(staging.home)) == ["commits", "made", "plan", "stage"]
    assert os.path.isdir(staging.scratch)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DSortError, match="file: Not a directory") as caught:
        staging_of(tmp_path / "file")
    assert caught.value.reason is Reason.OUTPUT_UNWRITABLE


def test_what_is_committed_is_found_by_every_epoch(tmp_path: Path, links: bool) -> None:
    staging = staging_of(tmp_path)
    commits = [stage(staging, number, b"x" * number) for number in (2, 0, 1)]
    for commit in commits:
        staging.commit(commit)
    again = staging_of(tmp_path, epoch="e2")
    assert again.committed_numbers() == {0, 1, 2}
    assert list(again.commits()) == sorted(commits, key=lambda commit: commit.number)
    assert again.committed(1) == commits[2]
    assert again.committed(7) is None
    assert sorted(os.listdir(tmp_path / ".dsort" / "job" / "commits")) == [f"{n:08d}.json" for n in range(3)]


def test_of_two_writers_the_first_wins(tmp_path: Path, links: bool) -> None:
    first, second = staging_of(tmp_path), staging_of(tmp_path, epoch="e2")
    commit = stage(first, 0)
    first.commit(commit)
    second.commit(stage(second, 0))
    assert second.committed(0) == commit
    assert list(second.commits()) == [commit]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"number": 0}', '{"number": 0, "guess": 1}'])
def test_a_void_commit_record_counts_as_none_and_gives_way(tmp_path: Path, content: str, links: bool) -> None:
    # The machine stopped after the record had its name and before its bytes were on disk.
    staging = staging_of(tmp_path, epoch="e2")
    record_path(staging, 0).write_text(content)
    assert staging.committed_numbers() == {0}
    assert staging.committed(0) is None
    assert list(staging.commits()) == []
    commit = stage(staging, 0)
    staging.commit(commit)
    assert staging.committed(0) == commit
    assert os.listdir(record_path(staging, 0).parent) == ["00000000.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../victim"},
        {"name": "/victim"},
        {"name": "a/../../victim"},
        {"name": "vic\0tim"},
        {"name": None},
        {"staged": "../../../victim"},
        {"staged": "sub/victim"},
        {"staged": None},
        {"bytes": "6"},
    ],
    ids=str,
)
def test_a_record_that_names_what_no_rank_has_written_is_void(
    tmp_path: Path, change: dict[str, object]
) -> None:
    (tmp_path / "victim").write_bytes(b"content")
    staging = staging_of(tmp_path / "out")
    commit = stage(staging, 0)
    record_path(staging, 0).write_text(json.dumps({**commit._asdict(), **change}))
    assert staging.committed(0) is None
    assert staging.take_back() == 0
    staging.remove()
    assert (tmp_path / "victim").read_bytes() == b"content"


def test_other_names_beside_commit_records_are_nobodys(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    staging.commit(stage(staging, 0))
    folder = record_path(staging, 0).parent
    for name in ("x.json", "1.json", "00000001.json.e1", "-0000001.json"):
        (folder / name).write_text("{}")
    os.mkfifo(folder / "00000002.json")
    (folder / "00000003.json").mkdir()
    assert staging.committed_numbers() == {0, 2, 3}
    assert [commit.number for commit in staging.commits()] == [0]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_no_manifest(tmp_path: Path, make: Callable[[Path], None]) -> None:
    staging = staging_of(tmp_path)
    make(tmp_path / MANIFEST)
    assert staging.published() is None
    assert staging.take_back() == 0


def test_a_record_whose_file_is_gone_or_another_is_void(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    gone, short = stage(staging, 0), stage(staging, 1)
    staging.commit(gone)
    staging.commit(short)
    os.unlink(staging.staged_path(gone.staged))
    os.truncate(staging.staged_path(short.staged), 3)
    assert staging.committed(0) is None
    assert staging.committed(1) is None
    again = staging_of(tmp_path, epoch="e2")
    again.commit(stage(again, 0))
    assert again.committed(0) == Commit(0, "out-0.tar", "00000000.e2", 7, 1, 2, "ab" * 16)


def test_publishing_gives_a_name_once_and_again_is_no_error(tmp_path: Path, links: bool) -> None:
    staging = staging_of(tmp_path)
    commit = stage(staging, 0)
    staging.commit(commit)
    assert not staging.is_mine(commit)
    for _ in range(2):
        staging.publish(commit)
        assert staging.is_mine(commit)
        assert (tmp_path / "out-0.tar").read_bytes() == b"content"
        assert staging.committed(0) == commit
    again = staging_of(tmp_path, epoch="e2")  # a new life publishes from the record alone
    again.publish(commit)
    assert os.path.exists(staging.staged_path(commit.staged)) == links


def test_the_file_of_a_stranger_is_never_overwritten(tmp_path: Path, links: bool) -> None:
    staging = staging_of(tmp_path)
    commit = stage(staging, 0)
    staging.commit(commit)
    (tmp_path / "out-0.tar").write_bytes(b"CONTENT")  # as long as ours
    with pytest.raises(DSortError, match=r"out-0\.tar was put there while the job ran") as caught:
        staging.publish(commit)
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert (tmp_path / "out-0.tar").read_bytes() == b"CONTENT"
    assert staging.take_back() == 0
    assert (tmp_path / "out-0.tar").read_bytes() == b"CONTENT"


def test_a_staged_file_that_is_gone_is_told(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    commit = stage(staging, 0)
    os.unlink(staging.staged_path(commit.staged))
    with pytest.raises(DSortError, match="out-0"):
        staging.publish(commit)


def test_take_back_removes_what_this_job_published_and_nothing_else(tmp_path: Path, links: bool) -> None:
    mine, other = staging_of(tmp_path), staging_of(tmp_path, job="other")
    for number in range(3):
        commit = stage(mine, number)
        mine.commit(commit)
        if number:
            mine.publish(commit)
    foreign = stage(other, 9)
    other.commit(foreign)
    other.publish(foreign)
    (tmp_path / "out-0.tar").write_bytes(b"somebody's, and longer")
    (tmp_path / "README").write_text("mine")
    for staging, rank in ((mine, 0), (other, 1)):
        log = FindingsLog(RankState(rank=rank, epoch="e1"), staging=staging)
        log.report(Finding("duplicates", f"{rank}.tar", "", 0, "is there twice"))
        log.close()
        log.publish()
    (tmp_path / f"{FINDINGS}00007.jsonl").write_text("a stranger's\n")
    assert mine.take_back() == 3
    assert sorted(name for name in os.listdir(tmp_path) if name != ".dsort") == [
        "README",
        f"{FINDINGS}00001.jsonl",
        f"{FINDINGS}00007.jsonl",
        "out-0.tar",
        "out-9.tar",
    ]
    assert mine.take_back() == 0


def test_names_are_taken_back_and_what_is_staged_goes_on(tmp_path: Path, links: bool) -> None:
    staging = staging_of(tmp_path)
    commit = stage(staging, 0)
    staging.commit(commit)
    staging.publish(commit)
    content = (tmp_path / "out-0.tar").read_bytes()
    assert staging.take_back(keep=True) == 1
    assert os.listdir(tmp_path) == [".dsort"]
    again = staging_of(tmp_path, epoch="e2")
    assert again.committed(0) == commit
    again.publish(commit)
    assert (tmp_path / "out-0.tar").read_bytes() == content


def test_a_file_that_a_manifest_names_is_a_result_and_not_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)  # where only the size tells whose file it is
    staging = staging_of(tmp_path)
    for number in range(2):
        commit = stage(staging, number)
        staging.commit(commit)
        staging.publish(commit)
    (tmp_path / MANIFEST).write_text(json.dumps({"run": {"id": "other"}, "outputs": [{"name": "out-0.tar"}]}))
    assert staging.take_back() == 1
    assert sorted(os.listdir(tmp_path)) == [".dsort", MANIFEST, "out-0.tar"]


@pytest.mark.parametrize("twice", [False, True])
def test_what_is_sealed_is_published_by_nobody_and_still_known(
    tmp_path: Path, links: bool, twice: bool
) -> None:
    staging, lost = staging_of(tmp_path), staging_of(tmp_path, epoch="e0")
    commits = [stage(lost, number) for number in range(3)]
    for commit in commits[:2]:
        lost.commit(commit)
    lost.publish(commits[0])
    staging.seal()
    with pytest.raises(DSortError):
        lost.publish(commits[1])
    if twice:  # the removal is broken off, and a run of the same job begins and dies
        again = staging_of(tmp_path, epoch="e2")
        late = stage(again, 2)
        again.commit(late)
        again.publish(late)
        staging_of(tmp_path).seal()
    staging.take_back()
    assert os.listdir(tmp_path) == [".dsort"]
    staging.remove()
    staging.seal()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"run": null}', '{"run": {"id": "other"}}'])
def test_a_manifest_that_is_not_of_this_job_does_not_end_it(tmp_path: Path, text: str) -> None:
    staging = staging_of(tmp_path)
    assert staging.published() is None
    (tmp_path / MANIFEST).write_text(text)
    assert staging.published() is None


def test_a_job_is_published_when_the_manifest_has_its_id_whatever_is_left_of_its_staging(
    tmp_path: Path,
) -> None:
    staging = Staging(str(tmp_path), job="job", epoch="e9", ranks=7)  # another number of ranks, too
    staging.create()
    (tmp_path / MANIFEST).write_text('{"run": {"id": "job"}}')
    assert staging.published() == str(tmp_path / MANIFEST)
    staging.remove()
    assert staging.published() == str(tmp_path / MANIFEST)


def test_a_job_is_publishing_from_the_decision_that_all_is_committed(tmp_path: Path) -> None:
    staging = staging_of(tmp_path)
    assert not staging.publishing()
    other = Staging(str(tmp_path), job="job", epoch="e1", ranks=3)
    other.create()
    (Path(other.plan) / "commit.json").write_text("{}")
    assert staging.publishing()
    staging.remove()
    assert not staging.publishing()


def test_what_was_made_for_a_job_is_known_to_every_life_of_it(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    first = staging_of(output)
    assert first.made() == [str(output), str(output.parent)]
    assert staging_of(output, epoch="e2").made() == first.made()
    there = staging_of(tmp_path)
    assert there.made() == []
    gap = staging_of(tmp_path, job="gap")
    gap.record_made([str(tmp_path.parent)])  # somebody else made the folder between
    assert gap.made() == []


def test_a_folder_that_cannot_be_made_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def refuse(path: str) -> None:
        if path.endswith("c"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        mkdir(path)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(PermissionError):
        make_folder(str(tmp_path / "a" / "b" / "c"))
    assert os.listdir(tmp_path) == []


def test_removing_leaves_other_jobs_their_staging(tmp_path: Path) -> None:
    mine, other = staging_of(tmp_path), staging_of(tmp_path, job="other")
    stage(mine, 0)
    mine.remove()
    assert os.listdir(tmp_path / ".dsort") == ["other"]
    assert mine.committed_numbers() == set()
    assert mine.take_back() == 0
    other.remove()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(DSortError, match="/out/x: No space left on device") as caught, unwritable("/out/x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.reason is Reason.OUTPUT_UNWRITABLE


def test_another_error_of_linking_is_not_taken_for_a_lack_of_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    (tmp_path / "a").write_text("a")
    with pytest.raises(OSError, match="No space"):
        place(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_flushed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sync_folder(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(FileNotFoundError):
        sync_folder(str(tmp_path / "gone"))
