"""dsort verify: every way in which an output can differ is found and named."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xxhash

from dsort_api.reasons import EXIT_CODES, DSortError, Reason
from dsort_cli.main import main
from dsort_worker import recordset
from dsort_worker.verify import verify_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BAD = EXIT_CODES[Reason.VERIFICATION_FAILED]

Record = tuple[str, bytes]


def write_tar(path: Path, members: Iterable[Record]) -> bytes:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, payload in members:
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
    return path.read_bytes()


def members(*keys: str) -> list[Record]:
    return [
        (f"{key}.{extension}", f"{key} {extension}".encode() * 99)
        for key in keys
        for extension in ("jpg", "txt")
    ]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Six records of two inputs in three outputs, with their manifest."""
    folder, inputs = tmp_path / "out", tmp_path / "in"
    folder.mkdir()
    inputs.mkdir()
    write_tar(inputs / "a.tar", members("a", "b", "c"))
    write_tar(inputs / "b.tar", members("d", "e", "f"))
    outputs = []
    for name, keys in (("o-0.tar", "fa"), ("o-1.tar", "be"), ("o-2.tar", "cd")):
        content = write_tar(folder / name, members(*keys))
        outputs.append(
            {
                "name": name,
                "bytes": len(content),
                "records": 2,
                "members": 4,
                "checksum": f"xxh128:{xxhash.xxh3_128_hexdigest(content)}",
            }
        )
    manifest: dict[str, Any] = {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortManifest",
        "job": {"fingerprint": "ab" * 32},
        "spec": {
            "input": {"url": f"file://{inputs}"},
            "output": {"url": f"file://{folder}", "name": "o-%d", "recordsPerShard": 2},
        },
        "seed": 0,
        "counts": {"shardsListed": 2, "recordsIn": 6, "membersIn": 12, "recordsOut": 6, "membersOut": 12},
        "inputs": [
            {"name": name, "size": (inputs / name).stat().st_size, "mtimeNs": 0, "records": 3}
            for name in ("a.tar", "b.tar")
        ],
        "outputs": outputs,
        "run": {
            "id": "x",
            "name": "x",
            "inputUrl": "",
            "outputUrl": "",
            "started": "",
            "finished": "",
            "seconds": 1.0,
            "ranks": 1,
            "version": "0",
        },
    }
    (folder / "dsort-manifest.json").write_text(json.dumps(manifest))
    return folder


def change_manifest(output: Path, change: dict[str, Any]) -> None:
    """Say something else of the first shard, and in the sums, so that the manifest does not contradict itself."""
    path = output / "dsort-manifest.json"
    manifest = json.loads(path.read_text())
    outputs, inputs, counts = (manifest[part] for part in ("outputs", "inputs", "counts"))
    outputs[0].update(change)
    for what in ("records", "members"):
        total = sum(shard[what] for shard in outputs)
        counts[f"{what}In"] = counts[f"{what}Out"] = total
    inputs[0]["records"] = counts["recordsOut"] - inputs[1]["records"]
    path.write_text(json.dumps(manifest))


def test_a_good_output(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = output.parent / "in"
    assert main(["verify", str(output)]) == 0
    assert main(["verify", f"file://{output}", "--deep", f"file://{inputs}"]) == 0
    assert (
        main(
            ["verify", f"pvc://all/{output.name}", "--deep", "pvc://all/in", "--pvc", f"all={output.parent}"]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("as the manifest says: 3 shards, 6 records") == 3
    assert captured.out.count("6 records compared with the inputs") == 2
    assert verify_output(str(output)).records == 6


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        pytest.param(lambda out: (out / "o-1.tar").unlink(), "shard o-1.tar: is missing", id="missing"),
        pytest.param(lambda out: flip(out / "o-1.tar", 600), "shard o-1.tar: checksum", id="flipped bit"),
        pytest.param(
            lambda out: (out / "o-1.tar").write_bytes(b"x"), "shard o-1.tar: 1 bytes", id="other size"
        ),
        pytest.param(
            lambda out: write_tar(out / "p.tar", []), "shard p.tar: is not in the manifest", id="unexpected"
        ),
        pytest.param(
            lambda out: change_manifest(out, {"records": 3}),
            "shard o-0.tar: 2 records of 4 members, the manifest says 3 of 4",
            id="other count",
        ),
    ],
)
def test_a_difference_is_named(
    harm: Any, expected: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(output)
    assert main(["verify", str(output)]) == BAD
    captured = capsys.readouterr()
    assert captured.out.startswith(expected)
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1


def raised(*names: str) -> Callable[[dict[str, Any]], object]:
    """Counts that are one more than they are."""
    return lambda manifest: manifest["counts"].update({name: manifest["counts"][name] + 1 for name in names})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (raised("recordsIn", "recordsOut"), "6 records of the outputs, and 7 by its counts"),
        (raised("membersIn", "membersOut"), "12 members of the outputs, and 13 by its counts"),
        (raised("recordsIn"), "7 records in, 6 out and 0 left out do not add up"),
        (raised("shardsListed"), "2 input shards, and 3 by its counts"),
        (lambda manifest: manifest["outputs"].pop(), "4 records of the outputs, and 6 by its counts"),
        (lambda manifest: manifest["inputs"].pop(), "3 records of the inputs, and 6 by its counts"),
        (
            lambda manifest: manifest["outputs"].__setitem__(1, manifest["outputs"][0]),
            "output o-0.tar stands there 2 times",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_named(
    change: Callable[[dict[str, Any]], object],
    said: str,
    output: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = output / "dsort-manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    for name in {one.name for one in output.glob("*.tar")} - {one["name"] for one in manifest["outputs"]}:
        (output / name).unlink()
    assert main(["verify", str(output)]) == BAD
    assert capsys.readouterr().out.splitlines()[0].startswith(f"dsort-manifest.json: {said}")


@pytest.mark.parametrize("name", ["o-1.tar", "dsort-manifest.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_named_and_not_waited_for(
    name: str, make: Callable[[Path], None], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (output / name).unlink()
    make(output / name)
    assert main(["verify", str(output)]) == EXIT_CODES[Reason.INPUT_UNREADABLE]
    assert f"{output / name}: is not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x\0y.tar", "/etc/x.tar", "../x.tar", "a//b.tar", ""])
def test_a_manifest_names_files_of_its_folders_alone(
    name: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = output / "dsort-manifest.json"
    manifest = json.loads(path.read_text())
    manifest["inputs"][0]["name"] = name
    path.write_text(json.dumps(manifest))
    assert main(["verify", str(output)]) == BAD
    assert "inputs[0].name: " in capsys.readouterr().err


def test_verify_output_names_the_first_difference_and_counts_the_rest(output: Path) -> None:
    (output / "o-0.tar").unlink()
    (output / "o-2.tar").unlink()
    with pytest.raises(DSortError, match=r"o-0.tar: is missing \(and 1 more\)") as error:
        verify_output(str(output))
    assert error.value.reason is Reason.VERIFICATION_FAILED


def test_inputs_beside_the_outputs_are_not_unexpected(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.tar", "b.tar"):
        os.rename(output.parent / "in" / name, output / name)
    path = output / "dsort-manifest.json"
    path.write_text(path.read_text().replace(f"{output.parent}/in", str(output)))
    assert main(["verify", str(output)]) == 0
    assert main(["verify", str(output), "--deep", str(output)]) == 0
    capsys.readouterr()


def test_no_manifest_and_a_damaged_one(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = output / "dsort-manifest.json"
    path.write_text("{}")
    assert main(["verify", str(output)]) == BAD
    assert "no valid manifest" in capsys.readouterr().err
    path.unlink()
    assert main(["verify", str(output)]) == EXIT_CODES[Reason.INPUT_UNREADABLE]
    assert "dsort-manifest.json" in capsys.readouterr().err


def deep(output: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main(["verify", str(output), "--deep", str(output.parent / "in"), "--json"])
    result = json.loads(capsys.readouterr().out)
    return code, [f"{difference['shard']}: {difference['detail']}" for difference in result["differences"]]


def rewrite(output: Path, keys: str) -> None:
    """Shard o-0.tar with other records, and a manifest that believes it: only the inputs can tell."""
    content = write_tar(output / "o-0.tar", members(*keys))
    change_manifest(
        output,
        {
            "bytes": len(content),
            "records": len(keys),
            "members": 2 * len(keys),
            "checksum": f"xxh128:{xxhash.xxh3_128_hexdigest(content)}",
        },
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "f",
            [
                "a.tar: record a is in the inputs and not in the output",
                "*: the inputs hold 6 records of 12 members, the manifest says 5 of 10",
            ],
        ),
        (
            "fax",
            [
                "o-0.tar: record x is in the output and not in the inputs",
                "*: the inputs hold 6 records of 12 members, the manifest says 7 of 14",
            ],
        ),
        (
            "fab",
            [
                "o-0.tar: record b is 2 times in the output and 1 times in the inputs",
                "*: the inputs hold 6 records of 12 members, the manifest says 7 of 14",
            ],
        ),
        ("fb", ["a.tar: record a is in the inputs and not", "o-0.tar: record b is 2 times in the output"]),
    ],
    ids=["lost", "invented", "twice", "one for another"],
)
def test_records_that_are_not_the_inputs_are_named(
    keys: str, expected: list[str], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(output, keys)
    code, differences = deep(output, capsys)
    assert code == BAD
    assert len(differences) == len(expected)
    for difference, start in zip(differences, expected, strict=True):
        assert difference.startswith(start)


def test_a_changed_byte_of_an_input_is_a_lost_and_an_invented_record(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(output.parent / "in" / "a.tar", 600)
    code, differences = deep(output, capsys)
    assert code == BAD
    assert [difference.partition(" is ")[0] for difference in differences] == [
        "a.tar: record a",
        "o-0.tar: record a",
    ]


def test_an_input_that_is_gone_is_named(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (output.parent / "in" / "b.tar").unlink()
    code, differences = deep(output, capsys)
    assert code == BAD
    assert differences[0].startswith("b.tar: is an input")


def test_many_differences_are_counted_past_twenty(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(output, "".join(chr(ord("A") + number) for number in range(26)))
    _, differences = deep(output, capsys)
    assert "*: 6 more records of the output are not, or not as often, in the inputs" in differences


def test_members_that_are_not_adjacent_and_records_larger_than_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordset, "_BUFFER", 2048)
    big = b"x" * 10_000
    write_tar(
        tmp_path / "in.tar", [("a.1", big), ("b.1", b"b"), ("a.2", b"y"), ("c.1", b"z" * 900), ("b.2", big)]
    )
    write_tar(
        tmp_path / "out.tar", [("c.1", b"z" * 900), ("b.1", b"b"), ("b.2", big), ("a.1", big), ("a.2", b"y")]
    )
    write_tar(
        tmp_path / "bad.tar", [("c.1", b"z" * 900), ("b.1", b"b"), ("b.2", big), ("a.2", b"y"), ("a.1", big)]
    )
    inputs, outputs, others = (
        recordset.collect([(str(tmp_path), f"{name}.tar")])[0] for name in ("in", "out", "bad")
    )
    assert (len(inputs), inputs.members) == (3, 5)
    assert recordset.compare(inputs, outputs) == []
    assert len(recordset.compare(inputs, others)) == 2


def test_nothing_compared_with_nothing() -> None:
    empty, unreadable = recordset.collect([])
    assert (recordset.compare(empty, empty), unreadable) == ([], [])


def test_a_corrupt_input_is_left_out_only_where_the_job_did_so(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all")
    _, unreadable = recordset.collect([(str(tmp_path), "a.tar")])
    assert [difference.shard for difference in unreadable] == ["a.tar"]
    assert recordset.collect([(str(tmp_path), "a.tar")], skip_corrupt=lambda name: name == "a.tar")[1] == []
