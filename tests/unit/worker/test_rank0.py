"""What rank 0 decides with a disk at hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dsort_api.manifest import Manifest
from dsort_api.messages import JobDefinition
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import DSortJobSpec, job_fingerprint
from dsort_worker import steps
from dsort_worker.rank0 import RankZero
from dsort_worker.staging import MANIFEST, Commit, Staging
from tests.support.datasets import make_shards


class House:
    """An input of three shards, and rank 0 of a job over it in one life after another."""

    def __init__(self, folder: Path) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir()
        make_shards(self.input, shards=3, records=4)
        self.names = sorted(os.listdir(self.input))
        self.entries: list[str] = []

    def life(
        self, *, epoch: str = "e1", output_url: str | None = None, fingerprint: str = "", **parts: Any
    ) -> RankZero:
        output = {"url": output_url or f"file://{self.output}", "name": "o-{0..3}", "records_per_shard": 4}
        spec = DSortJobSpec.model_validate(
            {"input": {"url": f"file://{self.input}", "shards": self.entries}, "output": output, **parts}
        )
        root = (output_url or f"file://{self.output}").removeprefix("file://")
        self.staging = Staging(root, job="job", epoch=epoch)
        self.staging.create()
        return RankZero(
            JobDefinition(id="job", name="shuffle", spec=spec, ranks=2, fingerprint=fingerprint),
            staging=self.staging,
            input_root=str(self.input),
            output_root=root,
        )

    def listed(self, zero: RankZero) -> RankZero:
        zero.listed = steps.read_listed(zero.decides()[steps.LIST]([{}, {}]))
        return zero

    def commit(self, number: int, content: bytes = b"content") -> Commit:
        staged = self.staging.staged_name(number)
        Path(self.staging.staged_path(staged)).write_bytes(content)
        commit = Commit(number, f"o-{number}.tar", staged, len(content), 6, 12, "ab" * 16)
        self.staging.commit(commit)
        return commit

    def publish_two(self) -> None:
        for number in range(2):
            self.staging.publish(self.commit(number))


REPORTS: list[steps.Document] = [
    {
        "counts": {"records_in": 8, "members_in": 16},
        "records": {"0": 4, "1": 4},
        "findings": None,
    },
    {
        "counts": {
            "records_in": 5,
            "members_in": 9,
            "records_left_out": 1,
            "members_left_out": 1,
            "unsupported": 1,
        },
        "records": {"2": 4},
        "findings": "dsort-findings-00001.jsonl",
    },
]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def refused(zero: RankZero, step: str, reports: list[Any]) -> DSortError:
    with pytest.raises(DSortError) as caught:
        zero.decides()[step](reports)
    return caught.value


def cells(*counts: int) -> list[steps.Document]:
    reports: list[steps.Document] = []
    first = 0
    for count in counts:
        reports.append({"first": first, "last": first + max(0, count - 1), "count": count})
        first += count
    return reports


def test_the_listing_is_shared_out(house: House) -> None:
    zero = house.listed(house.life())
    assert [shard.name for shard in zero.listed.shards] == house.names
    assert (zero.listed.first[0], zero.listed.first[-1]) == (0, 3)
    assert zero.listed.manifest is None


@pytest.mark.parametrize("reaction", ["Warn", "Ignore"])
def test_missing_shards_are_listed(house: House, reaction: str) -> None:
    source = {
        "url": f"file://{house.input}",
        "shards": [*house.names, "gone-{0..1}.tar"],
        "missingShards": reaction,
    }
    zero = house.listed(house.life(input=source))
    assert zero.listed.missing == ("gone-0.tar", "gone-1.tar")


def test_inputs_that_changed_while_the_job_started_end_it(house: House) -> None:
    """What is staged under the id belongs to the inputs as they were; a manifest of others would not be known as the job's."""
    zero = house.life()
    root = zero.decides()[steps.LIST]([{}, {}])
    expected = job_fingerprint(zero._spec, steps.read_listed(root).shards)
    house.listed(house.life(fingerprint=expected))
    os.utime(house.input / house.names[1])
    error = refused(house.life(fingerprint=expected), steps.LIST, [{}, {}])
    assert error.reason is Reason.INPUT_CHANGED
    assert f"(shard {house.names[1]} was modified last)" in error.message


def test_too_few_names_are_told_before_anything_is_written(house: House) -> None:
    error = refused(house.listed(house.life()), steps.NUMBER, cells(3, 2))
    assert error.reason is Reason.OUTPUT_NAMES_EXHAUSTED
    assert "has 4 names, 5 are needed" in error.message
    assert house.life().decides()[steps.NUMBER](cells(3, 1))["shards"] == 4


def test_a_name_that_somebody_has_taken_is_told(house: House) -> None:
    zero = house.listed(house.life())
    (house.output / "o-3.tar").write_bytes(b"somebody's")
    assert zero.decides()[steps.NUMBER](cells(2, 1))["shards"] == 3  # a name that is not needed
    error = refused(zero, steps.NUMBER, cells(2, 2))
    assert error.reason is Reason.OUTPUT_EXISTS
    assert "o-3.tar exists already" in error.message


def test_own_shards_of_an_earlier_life_are_no_obstacle(house: House) -> None:
    house.life()
    house.publish_two()
    assert house.listed(house.life(epoch="e2")).decides()[steps.NUMBER](cells(2, 2))["shards"] == 4


def test_an_input_is_never_an_output(house: House) -> None:
    house.entries = house.names
    output = {"url": f"file://{house.input}", "name": house.names[0].removesuffix(".tar"), "shard_count": 1}
    zero = house.listed(house.life(output_url=f"file://{house.input}", output=output))
    error = refused(zero, steps.NUMBER, cells(1, 0))
    assert f"{house.names[0]} is an input of this job" in error.message


@pytest.mark.parametrize("below", ["", "/deeper/out"])
def test_an_output_in_an_input_of_which_all_is_read_is_refused(house: House, below: str) -> None:
    zero = house.life(output_url=f"file://{house.input}{below}")
    error = refused(zero, steps.LIST, [{}, {}])
    assert error.reason is Reason.INVALID_SPEC
    assert "spec.output.url" in error.message


def test_a_dry_run_looks_at_no_output(house: House) -> None:
    zero = house.listed(house.life(dryRun=True))
    (house.output / "o-0.tar").write_bytes(b"somebody's")
    (house.output / MANIFEST).write_text("somebody's")
    assert zero.decides()[steps.NUMBER](cells(1, 0))["shards"] == 1
    assert zero.decides()[steps.PLAN]([{"a": 1}, {"b": 2}]) == {"reports": [{"a": 1}, {"b": 2}]}
    assert house.listed(zero).listed.manifest is None


def test_the_manifest_proves_that_nothing_was_lost(house: House) -> None:
    zero = house.listed(house.life())
    house.publish_two()
    decision = zero.decides()[steps.PUBLISH](REPORTS)
    path = house.output / MANIFEST
    sizes = sum((house.input / name).stat().st_size for name in house.names)
    totals = {"records_in": 13, "records_out": 12, "bytes_in": sizes, "bytes_out": 14}
    assert decision == {"manifest": str(path), "totals": totals}
    manifest = Manifest.model_validate_json(path.read_text())
    manifest.counts.check()
    counts = manifest.counts
    assert (counts.records_in, counts.records_out, counts.records_left_out) == (13, 12, 1)
    assert (counts.members_in, counts.members_out, counts.members_left_out) == (25, 24, 1)
    assert (counts.shards_listed, counts.shards_missing, counts.unsupported) == (3, 0, 1)
    assert [(shard.name, shard.records) for shard in manifest.inputs] == [(name, 4) for name in house.names]
    assert [(shard.name, shard.bytes, shard.records, shard.members) for shard in manifest.outputs] == [
        ("o-0.tar", 7, 6, 12),
        ("o-1.tar", 7, 6, 12),
    ]
    assert manifest.outputs[0].checksum == "xxh128:" + "ab" * 16
    assert manifest.run.findings == ["dsort-findings-00001.jsonl"]
    assert (manifest.run.id, manifest.run.name, manifest.run.ranks) == ("job", "shuffle", 2)


@pytest.mark.parametrize("dies", [True, False])
def test_the_manifest_is_never_written_in_place(
    house: House, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    zero = house.listed(house.life())
    house.publish_two()
    with monkeypatch.context() as patched:
        if dies:  # the first life dies before it could remove the second name of the manifest
            patched.setattr("dsort_worker.rank0.os.unlink", lambda _: None)
        zero.decides()[steps.PUBLISH](REPORTS)
    before = (house.output / MANIFEST).read_bytes(), (house.output / MANIFEST).stat().st_mtime_ns
    again = house.life(epoch="e2")
    again.listed = zero.listed
    again.decides()[steps.PUBLISH](REPORTS)  # with the same process id, as in a container
    assert ((house.output / MANIFEST).read_bytes(), (house.output / MANIFEST).stat().st_mtime_ns) == before
    left = [name for name in os.listdir(house.staging.home) if name.startswith(MANIFEST)]
    assert left == ([f"{MANIFEST}.e1"] if dies else [])


def test_counts_that_do_not_add_up_make_no_manifest(house: House) -> None:
    zero = house.listed(house.life())
    house.publish_two()
    with pytest.raises(ValueError, match="records in"):
        zero.decides()[steps.PUBLISH](
            [REPORTS[0], {**REPORTS[1], "counts": {"records_in": 6, "members_in": 9}}]
        )
    assert not (house.output / MANIFEST).exists()


def test_a_rank_0_that_died_right_after_the_manifest_finds_its_own(house: House) -> None:
    zero = house.listed(house.life())
    house.publish_two()
    decision = zero.decides()[steps.PUBLISH](REPORTS)
    before = (house.output / MANIFEST).read_bytes()
    again = house.life(epoch="e2")
    again.listed = zero.listed
    assert again.decides()[steps.PUBLISH](REPORTS) == decision
    assert (house.output / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("theirs", ["another job", "other counts", "no manifest", "not UTF-8"])
def test_a_strangers_manifest_is_left_alone(house: House, theirs: str) -> None:
    zero = house.listed(house.life())
    house.publish_two()
    path = house.output / MANIFEST
    zero.decides()[steps.PUBLISH](REPORTS)
    match theirs:
        case "another job":
            path.write_text(path.read_text().replace('"id": "job"', '"id": "other"'))
        case "other counts":
            path.write_text(path.read_text().replace('"directories": 0', '"directories": 1'))
        case "no manifest":
            path.write_text("{}")
        case _:
            path.write_bytes(b"\xff")
    before = path.read_bytes()
    error = refused(zero, steps.PUBLISH, REPORTS)
    assert error.reason is Reason.OUTPUT_EXISTS
    assert "was put there while the job ran" in error.message
    assert path.read_bytes() == before


def test_a_disk_without_room_for_the_manifest_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = house.listed(house.life())
    house.publish_two()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = refused(zero, steps.PUBLISH, REPORTS)
    assert error.reason is Reason.OUTPUT_UNWRITABLE
    assert f"{MANIFEST}: No space left" in error.message


def test_the_result_of_another_job_is_an_obstacle(house: House) -> None:
    zero = house.listed(house.life())
    house.publish_two()
    zero.decides()[steps.PUBLISH](REPORTS)
    error = refused(house.life(order={"kind": "Key"}), steps.LIST, [{}, {}])
    assert error.reason is Reason.OUTPUT_EXISTS
    assert "is the result of another job (shuffle): spec.order.kind differs" in error.message
    shutil.copy(house.input / house.names[0], house.input / "new.tar")
    error = refused(house.life(), steps.LIST, [{}, {}])
    assert error.reason is Reason.OUTPUT_EXISTS
    assert ": the input shards have changed; move it away" in error.message


def test_a_manifest_that_cannot_be_read_is_an_obstacle(house: House) -> None:
    zero = house.life()
    path = house.output / MANIFEST
    for text, wrong in (("{}", "job: is needed and not there; "), ("{", "Invalid JSON: ")):
        path.write_text(text)
        error = refused(zero, steps.LIST, [{}, {}])
        assert error.reason is Reason.OUTPUT_EXISTS
        assert error.message.startswith(f"spec.output.url: {path}: no valid manifest: {wrong}")
        assert error.message.endswith("; move it away or choose another output")
    path.unlink()
    os.mkfifo(path)  # nobody will ever write to it
    error = refused(zero, steps.LIST, [{}, {}])
    assert error.reason is Reason.OUTPUT_EXISTS
    assert f"{path}: is not a regular file; " in error.message
