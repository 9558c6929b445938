"""The job folder: made, locked, found dead, removed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_cli.folder import claim, is_complete, job_ids, live, remove_dead, remove_job
from dsort_worker.joblock import Hold, try_lock

if TYPE_CHECKING:
    from pathlib import Path


def test_claim_makes_the_folders_and_release_removes_what_it_made(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    folder = claim(str(output), "job1")
    assert os.path.isdir(folder.path)
    assert live(str(output)) == ["job1"]
    folder.release(keep=False)
    assert not (tmp_path / "a").exists()


def test_a_folder_that_was_there_or_holds_something_stays(tmp_path: Path) -> None:
    output = tmp_path / "made" / "out"
    folder = claim(str(output), "job1")
    (output / "result.tar").touch()
    folder.release(keep=False)
    assert os.listdir(output) == ["result.tar"]
    folder = claim(str(tmp_path), "job2")
    folder.release(keep=False)
    assert tmp_path.is_dir()
    assert not (tmp_path / ".dsort").exists()


def test_what_is_kept_is_there_for_the_next_run_and_is_not_live(tmp_path: Path) -> None:
    folder = claim(str(tmp_path), "job1")
    os.makedirs(f"{folder.path}/stage")
    folder.release(keep=True)
    assert (job_ids(str(tmp_path)), live(str(tmp_path))) == (["job1"], [])
    again = claim(str(tmp_path), "job1")
    assert os.path.isdir(f"{again.path}/stage")
    again.release(keep=False)


def test_a_held_lock_is_job_busy_after_a_bounded_wait(tmp_path: Path) -> None:
    first = claim(str(tmp_path), "job1")
    naps: list[float] = []
    with pytest.raises(DSortError) as error:
        claim(str(tmp_path), "job1", patience=1.0, sleep=naps.append)
    assert error.value.reason is Reason.JOB_BUSY
    assert sum(naps) == pytest.approx(1.0)
    first.release(keep=False)


def test_a_dying_predecessor_is_waited_for(tmp_path: Path) -> None:
    first = claim(str(tmp_path), "job1")
    second = claim(str(tmp_path), "job1", sleep=lambda _: first.release(keep=False))
    assert live(str(tmp_path)) == ["job1"]
    second.release(keep=False)


def test_the_lock_is_held_as_long_as_a_rank_has_it(tmp_path: Path) -> None:
    folder = claim(str(tmp_path), "job1")
    inherited = os.dup(folder.lock_fd)
    os.close(folder.lock_fd)
    assert live(str(tmp_path)) == ["job1"]
    os.close(inherited)
    assert live(str(tmp_path)) == []


def test_dead_siblings_are_removed_and_live_ones_are_not(tmp_path: Path) -> None:
    claim(str(tmp_path), "dead").release(keep=True)
    (tmp_path / ".dsort" / "without-lock").mkdir()
    alive = claim(str(tmp_path), "alive")
    assert job_ids(str(tmp_path)) == ["alive"]
    other = claim(str(tmp_path), "other")
    assert job_ids(str(tmp_path)) == ["alive", "other"]
    assert remove_dead(str(tmp_path)) == []
    other.release(keep=False)
    alive.release(keep=False)


def _commit(output: Path, job_id: str, *, name: str = "o-0.tar") -> None:
    """As a rank does: a staged shard, its commit record, and its name in the output folder."""
    from dsort_worker.staging import Commit, Staging

    staging = Staging(str(output), job=job_id, epoch="e")
    staging.create()
    path = staging.staged_path(staging.staged_name(0))
    with open(path, "wb") as file:
        file.write(b"shard")
    commit = Commit(0, name, staging.staged_name(0), 5, 1, 1, "00")
    staging.commit(commit)
    staging.publish(commit)


def test_what_is_kept_has_no_name_in_the_output_folder(tmp_path: Path) -> None:
    folder = claim(str(tmp_path), "0123456789abcdef")
    _commit(tmp_path, folder.job_id)
    (tmp_path / "o-1.tar").write_bytes(b"somebody else's")
    staged = os.listdir(f"{folder.path}/stage")
    folder.release(keep=True)
    assert sorted(os.listdir(tmp_path)) == [".dsort", "o-1.tar"]
    assert os.listdir(f"{folder.path}/stage") == staged


def test_what_a_rank_that_still_lives_may_publish_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsort_cli.folder.LOCK_SECONDS", 0.1)
    folder = claim(str(tmp_path), "0123456789abcdef")
    _commit(tmp_path, folder.job_id)
    inherited = os.dup(folder.lock_fd)
    folder.release(keep=True)
    assert sorted(os.listdir(tmp_path)) == [".dsort", "o-0.tar"]
    os.close(inherited)


def test_what_a_dead_job_published_is_taken_back_and_what_is_others_stays(tmp_path: Path) -> None:
    folder = claim(str(tmp_path), "0123456789abcdef")
    _commit(tmp_path, folder.job_id)
    (tmp_path / "o-1.tar").write_bytes(b"somebody else's")
    os.close(folder.lock_fd)  # as the kernel does
    assert remove_dead(str(tmp_path)) == ["0123456789abcdef"]
    assert os.listdir(tmp_path) == ["o-1.tar"]


def test_one_job_is_removed_and_the_others_stay(tmp_path: Path) -> None:
    output = tmp_path / "made" / "out"
    for job_id in ("uid-1", "uid-2"):
        _commit(output, job_id, name=f"{job_id}.tar")
    assert remove_job(str(output), "uid-1")
    assert sorted(os.listdir(output)) == [".dsort", "uid-2.tar"]
    assert not remove_job(str(output), "uid-1")
    assert remove_job(str(output), "uid-2")
    assert os.listdir(tmp_path / "made") == ["out"], "it was made for the first"


def test_the_output_folder_that_was_made_for_the_job_goes_with_it_unless_it_holds_something(
    tmp_path: Path,
) -> None:
    for name in ("empty", "used"):
        _commit(tmp_path / name / "out", "uid")
    (tmp_path / "used" / "notes.txt").touch()
    for name in ("empty", "used", "never-there"):
        assert remove_job(str(tmp_path / name / "out"), "uid") == (name != "never-there")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["notes.txt", "used"]


def test_a_job_that_a_pod_holds_is_busy_after_a_bounded_wait(tmp_path: Path) -> None:
    _commit(tmp_path, "uid")
    pods = [try_lock(str(tmp_path / ".dsort" / "uid"), Hold.SHARED) for _ in range(2)]
    with pytest.raises(DSortError, match="still running") as error:
        remove_job(str(tmp_path), "uid", patience=0.1)
    assert error.value.reason is Reason.JOB_BUSY
    assert live(str(tmp_path)) == ["uid"]
    assert remove_dead(str(tmp_path)) == []
    for pod in pods:
        assert pod is not None
        os.close(pod)
    assert remove_job(str(tmp_path), "uid", patience=0.1)


@pytest.mark.parametrize("job_id", ["1f0e6b1e-uid", "0123456789abcdef"])
def test_a_job_is_complete_by_the_id_or_the_fingerprint_of_the_manifest(tmp_path: Path, job_id: str) -> None:
    manifest = tmp_path / "dsort-manifest.json"
    for text in ("", "[]", '{"run": 1}', '{"run": {"id": "x"}}', '{"job": {"fingerprint": 7}}'):
        manifest.write_text(text)
        assert not is_complete(str(tmp_path), job_id)
    manifest.write_text(
        json.dumps({"run": {"id": "1f0e6b1e-uid"}, "job": {"fingerprint": "0123456789abcdef" * 4}})
    )
    assert is_complete(str(tmp_path), job_id)
    _commit(tmp_path, job_id)
    assert remove_job(str(tmp_path), job_id)
    assert sorted(os.listdir(tmp_path)) == ["dsort-manifest.json", "o-0.tar"]


def test_what_a_run_that_was_killed_made_is_removed_by_the_next(tmp_path: Path) -> None:
    output = tmp_path / "made" / "out"
    claim(str(output), "job1").release(keep=True)  # as the kernel does
    claim(str(output), "job1").release(keep=False)
    assert os.listdir(tmp_path) == []


def test_a_result_with_its_manifest_is_never_taken_back(tmp_path: Path) -> None:
    folder = claim(str(tmp_path), "0123456789abcdef")
    _commit(tmp_path, folder.job_id)
    (tmp_path / "dsort-manifest.json").write_text(
        json.dumps({"job": {"fingerprint": "0123456789abcdef" * 4}})
    )
    folder.release(keep=False)
    assert sorted(os.listdir(tmp_path)) == ["dsort-manifest.json", "o-0.tar"]


def test_an_output_that_cannot_be_made_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DSortError) as error:
            claim(str(output), "job1")
        assert error.value.reason is Reason.OUTPUT_UNWRITABLE
        assert str(tmp_path / "file") in error.value.message
    assert os.listdir(tmp_path) == ["file"]
