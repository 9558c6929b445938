"""Findings: every culprit in the file, the first few to the driver, from any thread."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.findings import Finding, FindingsLog
from dsort_worker.staging import Staging
from dsort_worker.state import MOST_WARNINGS, RankState


def finding(number: int) -> Finding:
    return Finding("duplicates", f"{number}.tar", "a\\xff.txt", 512 * number, "is there twice")


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    staging = Staging(str(tmp_path), job="job", epoch="e1")
    staging.create()
    return staging


def test_every_culprit_is_in_the_file_beside_the_output(staging: Staging, tmp_path: Path) -> None:
    state = RankState(rank=3, epoch="e1")
    log = FindingsLog(state, staging=staging)

    def report(low: int) -> None:
        for number in range(3000):
            log.report(finding(low + number))

    threads = [threading.Thread(target=report, args=(low,)) for low in (0, 10_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    log.close()
    assert log.name == "dsort-findings-00003.jsonl"
    log.publish()
    lines = [json.loads(line) for line in (tmp_path / log.name).read_text().splitlines()]
    assert len(lines) == log.count == 6000
    assert sorted(line["offset"] // 512 for line in lines) == [*range(3000), *range(10_000, 13_000)]
    assert lines[0].keys() == {"kind", "shard", "member", "offset", "detail"}
    observed = state.observed()
    assert len(observed.warnings) == MOST_WARNINGS
    assert observed.warning_count == 6000
    assert staging.take_back() == 1


def test_a_message_names_shard_and_member() -> None:
    assert finding(1).message == "shard 1.tar: member a\\xff.txt: is there twice"
    assert Finding("missingShards", "x.tar", "", 0, "is missing").message == "shard x.tar: is missing"


def test_nothing_to_name_makes_no_file(staging: Staging, tmp_path: Path) -> None:
    log = FindingsLog(RankState(rank=0, epoch="e1"), staging=staging)
    log.close()
    log.publish()
    assert log.name is None
    assert os.listdir(tmp_path) == [".dsort"]
    assert not os.path.exists(staging.findings_path(0))


def test_a_dry_run_tells_the_driver_and_writes_nothing(tmp_path: Path) -> None:
    state = RankState(rank=0, epoch="e1")
    log = FindingsLog(state, staging=None)
    log.report(finding(1))
    log.close()
    log.publish()
    assert [notice.message for notice in state.observed().warnings] == [finding(1).message]
    assert os.listdir(tmp_path) == []


def test_what_lies_there_of_somebody_else_is_left_alone(staging: Staging, tmp_path: Path) -> None:
    (tmp_path / "dsort-findings-00000.jsonl").write_text("a stranger's\n")
    log = FindingsLog(RankState(rank=0, epoch="e1"), staging=staging)
    log.report(finding(1))
    log.close()
    with pytest.raises(
        DSortError, match=r"dsort-findings-00000\.jsonl was put there while the job ran"
    ) as caught:
        log.publish()
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert (tmp_path / "dsort-findings-00000.jsonl").read_text() == "a stranger's\n"


def test_publishing_again_is_no_error(
    staging: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a link that was made, though the answer of a file server that said so was lost."""
    log = FindingsLog(RankState(rank=0, epoch="e1"), staging=staging)
    log.report(finding(1))
    log.close()
    log.publish()
    log.publish()
    link = os.link

    def answered_twice(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", answered_twice)
    log.publish()
    assert len((tmp_path / "dsort-findings-00000.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("when", ["reported", "closed"])
def test_a_full_disk_is_told_as_one(staging: Staging, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = FindingsLog(RankState(rank=0, epoch="e1"), staging=staging)
    if when == "reported":
        monkeypatch.setattr("dsort_worker.findings.open", full, raising=False)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DSortError, match="No space left on device") as caught:
        for number in range(5000):
            log.report(finding(number))
        log.close()
    assert caught.value.reason is Reason.OUTPUT_UNWRITABLE


def test_a_new_life_takes_the_place_of_the_older_list(staging: Staging, tmp_path: Path) -> None:
    for epoch, count in (("e1", 5), ("e2", 2)):
        life = Staging(str(tmp_path), job="job", epoch=epoch)
        log = FindingsLog(RankState(rank=0, epoch=epoch), staging=life)
        for number in range(count):
            log.report(finding(number))
        log.close()
        log.publish()
    assert len((tmp_path / "dsort-findings-00000.jsonl").read_text().splitlines()) == 2
