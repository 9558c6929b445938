"""Whatever is wrong with the input, the spec or the command line: one error line, an exit code, and no trace (item 3)."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dsort_api.reasons import EXIT_CODES, Reason
from dsort_api.spec import DSortJobSpec
from tests.support.datasets import BAD_ARCHIVES, Item, header, tar_bytes, write_tar
from tests.support.reference import expected_shards
from tests.support.running import House, Run, contents, dsort, findings_in, job, left_in, manifest_of

# ------------------------------------------------------------------------------------------- damaged archives (case 15)


@pytest.fixture(params=sorted(BAD_ARCHIVES))
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of two good shards with a bad one between them."""
    folder = tmp_path / "in"
    write_tar(folder / "0.tar", [Item("good/0.txt", b"zero"), Item("good/1.txt", b"one")])
    (folder / "1-bad.tar").write_bytes(BAD_ARCHIVES[request.param]())
    write_tar(folder / "2.tar", [Item("good/2.txt", b"two")])
    return folder


def test_case_15_a_damaged_tar_fails_the_job_in_one_line(house: House, damaged: Path, tmp_path: Path) -> None:
    run = house.run(job(damaged, tmp_path / "out", output={"name": "all"}), workers=2)
    assert run.code == EXIT_CODES[Reason.CORRUPT_SHARD]
    assert "1-bad.tar" in run.error
    assert "offset" in run.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reaction", ["Warn", "Ignore"])
def test_case_15_a_damaged_tar_is_left_out_whole_and_counted(
    house: House, damaged: Path, tmp_path: Path, reaction: str
) -> None:
    manifest = job(damaged, tmp_path / "out", output={"name": "all"}, records={"corruptShards": reaction})
    run = house.run(manifest, workers=2)
    good = [damaged / "0.tar", damaged / "2.tar"]
    assert contents(tmp_path / "out") == expected_shards(good, order={}, output={"shardCount": 1})
    counts = manifest_of(tmp_path / "out")["counts"]
    assert (counts["shardsListed"], counts["shardsCorrupt"], counts["recordsIn"]) == (3, 1, 3)
    named = [
        (one["shard"], f"at offset {one['offset']}: " in one["detail"])
        for one in findings_in(tmp_path / "out")
    ]
    assert named == [("1-bad.tar", True)] * (reaction == "Warn")
    assert any("1-bad.tar" in line for line in run.warnings) == (reaction == "Warn")


def test_case_15_an_archive_whose_checksums_are_right_and_whose_size_lies(
    house: House, tmp_path: Path
) -> None:
    data = bytearray(tar_bytes([Item("a.txt", b"x" * 5000)]))
    data[:512] = header(b"a.txt", 1 << 40, magic=b"ustar\x0000", base256=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").write_bytes(data)
    run = house.run(job(tmp_path / "in", tmp_path / "out", output={"name": "all"}))
    assert run.code == EXIT_CODES[Reason.CORRUPT_SHARD]
    assert "a.txt" in run.error


# --------------------------------------------------------------------------------------- locations (cases 2 and 3)


def test_case_2_missing_input_location_fails_at_the_start(house: House, tmp_path: Path) -> None:
    run = house.run(job(tmp_path / "nowhere", tmp_path / "out", output={"name": "all"}))
    assert run.code == EXIT_CODES[Reason.INPUT_UNREADABLE]
    assert str(tmp_path / "nowhere") in run.error
    assert not (tmp_path / "out").exists()


def test_case_2_missing_output_location_is_created(house: House, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "c"
    assert house.run(job(source, target, output={"name": "all"})).result["shards"] == 1
    assert left_in(target) == ["all.tar", "dsort-manifest.json"]


def test_an_input_that_is_a_file_and_an_output_that_is_one(
    house: House, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    run = house.run(job(tmp_path / "file", tmp_path / "out", output={"name": "all"}))
    assert run.code == EXIT_CODES[Reason.INPUT_UNREADABLE]
    run = house.run(job(source, tmp_path / "file", output={"name": "all"}))
    assert run.code == EXIT_CODES[Reason.OUTPUT_UNWRITABLE]
    assert "spec.output.url" in run.error


def test_case_3_a_hundred_names_and_no_shard(house: House, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    wanted = {"shards": ["x-{000..099}.tar"], "missingShards": "Ignore"}
    run = house.run(job(tmp_path / "in", tmp_path / "out", input=wanted, output={"name": "all"}))
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
    assert "no input" in run.error
    run = house.run(job(tmp_path / "in", tmp_path / "out", output={"name": "all"}))
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def ninety_percent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 names of which 50 are missing."""
    folder = tmp_path_factory.mktemp("in")
    for number in range(500):
        if number % 10 != 3:
            write_tar(folder / f"x-{number:03d}.tar", [Item(f"{number}.txt", str(number).encode())])
    return folder


@pytest.mark.parametrize("reaction", ["Abort", "Warn", "Ignore"])
def test_case_3_fifty_of_five_hundred_missing(
    house: House, ninety_percent: Path, tmp_path: Path, reaction: str
) -> None:
    wanted = {"shards": ["x-{000..499}.tar"], "missingShards": reaction}
    run = house.run(job(ninety_percent, tmp_path / "out", input=wanted, output={"name": "all"}), workers=2)
    missing = [f"x-{number:03d}.tar" for number in range(3, 500, 10)]
    if reaction == "Abort":
        assert run.code == EXIT_CODES[Reason.MISSING_SHARDS]
        assert "x-003.tar" in run.error
        assert "49 more" in run.error
        return
    document = manifest_of(tmp_path / "out")
    counts = document["counts"]
    assert (counts["shardsMissing"], counts["shardsListed"], counts["recordsOut"]) == (50, 450, 450)
    assert document["missing"] == missing
    named = [finding["shard"] for finding in findings_in(tmp_path / "out")]
    assert named == (missing if reaction == "Warn" else [])
    assert bool(run.warnings) == (reaction == "Warn")


@pytest.mark.parametrize(
    "entry",
    [
        "x-{0..9}.rar",
        "notes.txt",
        "x-{9..0}.tar",
        "x-{0..9.tar",
        "x-%06d.tar",
        "/abs.tar",
        "../up.tar",
        "x-{0..9}*.tar",
    ],
)
def test_an_entry_that_names_no_archive_is_refused_naming_the_text(
    house: House, source: Path, tmp_path: Path, entry: str
) -> None:
    run = house.run(job(source, tmp_path / "out", input={"shards": [entry]}, output={"name": "all"}))
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
    assert "spec.input.shards" in run.error
    assert entry.partition(".")[0] in run.error


# ------------------------------------------------------------------------------------------------- the output's names


def test_output_names_that_run_out_fail_before_payload_moves(
    house: House, source: Path, tmp_path: Path
) -> None:
    for name, packing in (("part-{0..9}", {"recordsPerShard": 10}), ("one", {"recordsPerShard": 199})):
        run = house.run(job(source, tmp_path / "out", output={"name": name, **packing}), workers=2)
        assert run.code == EXIT_CODES[Reason.OUTPUT_NAMES_EXHAUSTED]
        assert f"{20 if name != 'one' else 2} are needed" in run.error
        assert not (tmp_path / "out").exists()


def test_an_output_name_that_is_taken_is_refused(house: House, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "out-000004.tar").write_bytes(b"mine")
    run = house.run(job(source, target, output={"recordsPerShard": 20}), workers=2, check=False)
    assert run.code == EXIT_CODES[Reason.OUTPUT_EXISTS]
    assert "out-000004.tar" in run.error
    assert left_in(target) == ["out-000004.tar"]
    assert (target / "out-000004.tar").read_bytes() == b"mine"


@pytest.mark.parametrize("alias", ["same folder", "symbolic link"])
def test_outputs_that_equal_inputs_are_refused(
    house: House, shards: list[Path], tmp_path: Path, alias: str
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(shards[0].parent, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    target = folder
    if alias == "symbolic link":
        target = tmp_path / "link"
        target.symlink_to(folder)
    parts = {
        "input": {"shards": sorted(before)},
        "order": {"kind": "Shuffle"},
        "output": {"name": "in-{0000..0004}", "shardCount": 5},
    }
    run = house.run(job(folder, target, **parts), workers=2, check=False)
    assert run.code == EXIT_CODES[Reason.OUTPUT_EXISTS]
    assert "input" in run.error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_output_among_inputs_that_are_not_named_is_refused(house: House, source: Path) -> None:
    before = left_in(source)
    run = house.run(job(source, source / "out", output={"name": "a-%d", "shardCount": 2}))
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
    assert "spec.output.url" in run.error
    assert left_in(source) == before


def test_the_result_of_another_job_is_not_overwritten(house: House, source: Path, tmp_path: Path) -> None:
    house.run(job(source, tmp_path / "out", output={"name": "a-%d", "shardCount": 2}))
    before = left_in(tmp_path / "out")
    run = house.run(job(source, tmp_path / "out", output={"name": "b-%d", "shardCount": 2}))
    assert run.code == EXIT_CODES[Reason.OUTPUT_EXISTS]
    assert "another job" in run.error
    assert left_in(tmp_path / "out") == before


# ----------------------------------------------------------------------------------------------- the spec, field by field

BAD_FIELDS: dict[str, list[Any]] = {
    "input.url": [
        "s3://bucket/x",
        "file://host/x",
        "file:///a/../b",
        "pvc://Not_A_Claim/x",
        "/plain/path",
        "",
        5,
        None,
    ],
    "input.shards": [["x-{9..0}.tar"], ["x-{0..9.tar"], [""], "x.tar", [7], ["/x.tar"]],
    "input.missingShards": ["abort", "Skip", True, 1],
    "output.url": ["s3://bucket/x", "out", "file:///a/../b", "pvc:///x"],
    "output.name": ["", "a/b", ".hidden", "x-{9..0}", "x-{0..9", "x-*", "%06d-%06d", "x-%s", 7],
    "output.shardSize": [0, -1, "1.5", "64mb", True, "", "1e-9", 1.5],
    "output.recordsPerShard": [0, -5, "many", 1.5, True],
    "output.shardCount": [0, -5, "many", 10_000_001],
    "order.kind": ["key", "Random", "Content", 1],
    "order.seed": [-1, 1 << 63, "x", 1.5],
    "order.descending": [True, "yes"],
    "records.duplicates": ["warn", "Keep"],
    "records.unsupported": ["warn", 0],
    "records.trailingData": ["warn", []],
    "records.collisions": ["warn", {}],
    "records.corruptShards": ["warn", False],
    "workers.placement": ["count", "Everywhere", 1],
    "workers.count": [0, -1, 1025, "two", 1.5],
    "workers.lanes": [0, 65, "two", True],
    "workers.shortCircuit": ["yes", 1],
    "workers.scratchSizeLimit": [0, "much", True],
    "workers.template": [5, [], "x"],
    "memory.budget": ["63Mi", 1, "lots", 0, True, "0%", "101%"],
    "memory.throttleAt": [85, "1Gi", True],
    "memory.resumeAt": [75, "0%", "x"],
    "memory.abortAt": [0.95, "100", ""],
    "memory.abortAfterSeconds": [0, "30s", 1.5],
    "dryRun": ["maybe", 2],
    "suspend": ["no", 0],
    "abort": ["no", 0],
    "backoffLimit": [-1, 1001, "x"],
    "activeDeadlineSeconds": [0, -1, "soon"],
    "startDeadlineSeconds": [0, -1, "soon"],
    "ttlSecondsAfterFinished": [-1, "later", 1.5],
    "managedBy": ["", 5, "-/-"],
}


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The fields of the spec that have no fields of their own."""
    for field in model.model_fields.values():
        name = f"{path}{field.alias}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{name}.")
        else:
            yield name


def test_every_field_of_the_spec_has_its_bad_values() -> None:
    assert set(leaves(DSortJobSpec)) == set(BAD_FIELDS)


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_bad_field_is_refused_naming_it(house: House, source: Path, tmp_path: Path, field: str) -> None:
    for value in BAD_FIELDS[field]:
        manifest = job(source, tmp_path / "out", output={"shardCount": 3})
        part = manifest["spec"]
        *parents, last = field.split(".")
        for parent in parents:
            part = part.setdefault(parent, {})
        if last in {"shardSize", "recordsPerShard"}:
            del part["shardCount"]
        part[last] = value
        run = house.run(manifest, check=False)
        refused(run, tmp_path, f"spec.{field}")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"spec": {"output": {"shardSize": 5, "shardCount": 3}}}, "spec.output"),
        ({"spec": {"output": {"recordsPerShard": 5}}}, "spec.output"),
        ({"spec": {"output": {"shardCount": None}}}, "spec.output"),
        ({"spec": {"order": {"kind": "Shuffle", "descending": True}}}, "spec.order"),
        ({"spec": {"order": {"kind": "Key", "seed": 1}}}, "spec.order"),
        ({"spec": {"format": "Tar"}}, "spec.format"),
        ({"spec": {"records": {"duplicate": "Warn"}}}, "spec.records.duplicate"),
        ({"kind": "Job"}, "kind"),
        ({"apiVersion": "dsort.dev/v2"}, "apiVersion"),
        ({"extra": 1}, "extra"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields_that_exclude_each_other_or_do_not_exist(
    house: House, source: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    manifest = job(source, tmp_path / "out", output={"shardCount": 3})
    refused(house.run(merged(manifest, change), check=False), tmp_path, named)


@pytest.mark.parametrize(
    "missing",
    ["spec", "kind", "apiVersion", "spec.input", "spec.output", "spec.input.url", "spec.output.name"],
)
def test_a_missing_field_is_named(house: House, source: Path, tmp_path: Path, missing: str) -> None:
    manifest = job(source, tmp_path / "out", output={"shardCount": 3})
    *parents, last = missing.split(".")
    part = manifest
    for parent in parents:
        part = part[parent]
    del part[last]
    refused(house.run(manifest, check=False), tmp_path, missing)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("just text", "mapping"),
        ("a: [", "line"),
        ("kind: DSortJob\nkind: DSortJob\n", "twice"),
        ("a: \x00", "job"),
        ("&a [*a]", "mapping"),
    ],
)
def test_a_file_that_is_no_manifest(house: House, text: str, said: str) -> None:
    run = house.run(text)
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
    assert said in run.error


def merged(document: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for key, value in change.items():
        result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def refused(run: Run, folder: Path, named: str) -> None:
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC], (named, run)
    assert run.error.startswith(named), run
    assert not (folder / "out").exists()


# ---------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["walk"],
        ["run"],
        ["run", "-f"],
        ["run", "-f", "job.yaml", "--workers", "0"],
        ["run", "-f", "job.yaml", "--workers", "two"],
        ["run", "-f", "job.yaml", "--pvc", "x"],
        ["run", "-f", "job.yaml", "--pvc", "x=/no/such/folder"],
        ["run", "-f", "job.yaml", "--fast"],
        ["verify"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(house: House, line: list[str]) -> None:
    run = house.call(line)
    assert run.code == 2
    assert run.error


def test_a_wrong_option_value_or_file_is_named(house: House, source: Path, tmp_path: Path) -> None:
    for memory in ("63Mi", "lots", "70%"):
        run = house.run(job(source, tmp_path / "out", output={"name": "all"}), memory=memory)
        assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
        assert f"--memory {memory}" in run.error
    run = house.call(["run", "-f", str(tmp_path / "none.yaml")])
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
    assert "none.yaml" in run.error


def test_a_claim_is_a_folder_of_the_command_line(house: House, source: Path, tmp_path: Path) -> None:
    manifest = job("pvc://data/sub", "pvc://results/deep/er", output={"name": "all"})
    run = house.run(manifest, check=False)
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
    assert "data" in run.error
    (tmp_path / "data").mkdir()
    (tmp_path / "results").mkdir()
    shutil.copytree(source, tmp_path / "data" / "sub")
    claims = ["--pvc", f"data={tmp_path / 'data'}", "--pvc", f"results={tmp_path / 'results'}"]
    assert house.run(manifest, check=False, workers=2, more=("--json", *claims)).result["records"] == 200
    assert left_in(tmp_path / "results") == [
        "deep",
        *(f"deep/er{x}" for x in ("", "/all.tar", "/dsort-manifest.json")),
    ]


def test_errors_of_a_command_are_on_standard_error_alone(source: Path, tmp_path: Path) -> None:
    run = dsort(job(source, tmp_path / "out", order={"kind": "Backwards"}, output={"name": "all"}), more=())
    assert run.code == EXIT_CODES[Reason.INVALID_SPEC]
    assert run.stdout == ""
    assert "Backwards" in run.error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system that is full")
def test_a_full_disk_is_told_in_one_line_and_the_next_run_continues(
    source: Path, tmp_path: Path, small_disk: Path
) -> None:
    target = small_disk / "out"
    manifest = job(source, target, order={"kind": "Shuffle"}, output={"recordsPerShard": 20})
    run = dsort(manifest, workers=2, check=False)
    assert run.code == EXIT_CODES[Reason.OUTPUT_UNWRITABLE]
    assert "No space left" in run.error
    assert [name for name in left_in(target) if not name.startswith(".dsort")] == []
    os.remove(small_disk / "ballast")
    assert dsort(manifest, workers=2).result["state"] == "Complete"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with half a megabyte left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        (disk / "ballast").write_bytes(bytes(2_600_000))
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
