"""Records: sorted whole, duplicates, extensions, members left out, collisions (cases 1, 9, 11, 17)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.datasets import END, Item, header, padded, pax_header, tar_bytes, write_tar
from tests.support.readers import by_tarfile
from tests.support.reference import expected_shards, read_members, read_records
from tests.support.running import House, contents, findings_in, job, manifest_of, shards_in

ENTRIES = {
    "range": ["in-{0000..0004}.tar"],
    "list": [f"in-000{number}.tar" for number in (3, 0, 4, 1, 2)],
    "at": ["in-@0004.tar"],
}


@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("network", [False, True], ids=["short-circuit", "network"])
def test_case_1_sorts_shards_from_a_range_and_a_list(
    house: House, source: Path, shards: list[Path], tmp_path: Path, entries: str, network: bool
) -> None:
    untouched = [(path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest()) for path in shards]
    order = {"kind": "Key"}
    manifest = job(
        source,
        tmp_path / "out",
        input={"shards": ENTRIES[entries]},
        order=order,
        output={"shardSize": "64Ki"},
    )
    house.run(manifest, workers=3, network=network)
    outputs = list(shards_in(tmp_path / "out").values())
    keys = [record.key for path in outputs for record in read_records(path)]
    assert keys == sorted(keys)
    assert len(keys) == 200 == len(set(keys))
    for path in outputs:
        names = [name for name, _ in read_members(path)]
        assert [name.partition(b".")[2] for name in names] == [b"jpg", b"txt", b"cls"] * (len(names) // 3)
    assert by_tarfile(outputs) == by_tarfile(shards)
    assert contents(tmp_path / "out") == expected_shards(shards, order=order, output={"shardSize": 65536})
    assert [
        (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest()) for path in shards
    ] == untouched


def test_input_entries_keep_their_order_and_a_shard_counts_once(
    house: House, source: Path, shards: list[Path], tmp_path: Path
) -> None:
    entries = [
        "in-0003.tar",
        "in-*1.tar",
        "in-{0004..0000..2}.tar".replace("0004..0000", "0000..0004"),
        "in-0003.tar",
    ]
    house.run(job(source, tmp_path / "out", input={"shards": entries}, output={"recordsPerShard": 1000}))
    wanted = [shards[number] for number in (3, 1, 0, 2, 4)]
    assert contents(tmp_path / "out") == expected_shards(wanted, order={}, output={"recordsPerShard": 1000})
    assert [entry["name"] for entry in manifest_of(tmp_path / "out")["inputs"]] == [
        path.name for path in wanted
    ]


def test_every_archive_below_the_url_is_read_and_hidden_ones_are_not(house: House, tmp_path: Path) -> None:
    for name in ("b.tar", "a/z.tar", "a.tar", "a/b/c.tar", ".hidden.tar", ".folder/x.tar", "a/notes.txt"):
        write_tar(tmp_path / "in" / name, [Item(f"{name}.bin", name.encode())])
    house.run(job(tmp_path / "in", tmp_path / "out", output={"name": "all"}))
    inputs = [entry["name"] for entry in manifest_of(tmp_path / "out")["inputs"]]
    assert inputs == ["a.tar", "a/b/c.tar", "a/z.tar", "b.tar"]
    house.run(job(tmp_path / "in", tmp_path / "under", input={"shards": ["a/"]}, output={"name": "all"}))
    assert [entry["name"] for entry in manifest_of(tmp_path / "under")["inputs"]] == ["a/b/c.tar", "a/z.tar"]


# ------------------------------------------------------------------------------------------------ duplicates (case 9)


def with_duplicates(folder: Path) -> list[Path]:
    """Two shards of 60 records, 50 of whose members come twice, in one of them far from the first copy."""
    first = [item for n in range(60) for item in (Item(f"k{n:03d}.a", b"old" * n), Item(f"k{n:03d}.b", b"b"))]
    again = [Item(f"k{n:03d}.a", b"new" * n) for n in range(25)]
    near = [
        item
        for n in range(60)
        for item in [Item(f"n{n:03d}.a", b"1"), *[Item(f"n{n:03d}.a", b"2")] * (n < 25)]
    ]
    return [write_tar(folder / "0.tar", [*first, *again]), write_tar(folder / "1.tar", near)]


@pytest.mark.parametrize("reaction", ["Abort", "Warn", "Ignore"])
@pytest.mark.parametrize("workers", [1, 2])
def test_case_9_duplicates_are_counted_and_the_last_copy_wins(
    house: House, tmp_path: Path, reaction: str, workers: int
) -> None:
    paths = with_duplicates(tmp_path / "in")
    manifest = job(
        tmp_path / "in", tmp_path / "out", records={"duplicates": reaction}, output={"recordsPerShard": 50}
    )
    run = house.run(manifest, workers=workers)
    if reaction == "Abort":
        assert run.code == 7
        culprits = [("0.tar", "k000.a"), ("1.tar", "n000.a")][:workers]  # each rank scans a shard of its own
        assert any(shard in run.error and member in run.error for shard, member in culprits)
        return
    counts = manifest_of(tmp_path / "out")["counts"]
    assert (counts["duplicates"], counts["membersLeftOut"]) == (50, 50)
    assert (counts["recordsIn"], counts["recordsOut"], counts["membersIn"]) == (120, 120, 230)
    assert contents(tmp_path / "out") == expected_shards(paths, order={}, output={"recordsPerShard": 50})
    named = [(finding["shard"], finding["member"]) for finding in findings_in(tmp_path / "out")]
    expected = [("0.tar", f"k{n:03d}.a") for n in range(25)] + [("1.tar", f"n{n:03d}.a") for n in range(25)]
    assert sorted(named) == (expected if reaction == "Warn" else [])
    assert bool(run.warnings) == (reaction == "Warn")


def test_warnings_name_twenty_and_the_findings_file_names_all(house: House, tmp_path: Path) -> None:
    with_duplicates(tmp_path / "in")
    manifest = job(tmp_path / "in", tmp_path / "out", records={"duplicates": "Warn"}, output={"name": "all"})
    run = house.run(manifest, more=("--quiet",))
    assert len([line for line in run.warnings if "the same path" in line]) == 20
    assert any("50 findings" in line for line in run.warnings)
    assert len(findings_in(tmp_path / "out")) == 50
    assert run.stdout == ""


# -------------------------------------------------------------------------------------------- extensions (case 11)


@pytest.mark.parametrize(
    "order",
    [{}, {"kind": "Key"}, {"kind": "MD5"}, {"kind": "Shuffle"}],
    ids=lambda order: order.get("kind", "None"),
)
def test_case_11_extensions_keep_their_order_and_stay_together(
    house: House, tmp_path: Path, order: dict[str, Any]
) -> None:
    extensions = [".txt", ".json.info", ".info", ".json"]
    for shard in range(2):
        # Members of a record stand apart: all .txt first, then all .json.info, and so on.
        items = [
            Item(f"dir.d/{shard}-{n}{extension}", extension.encode() * n)
            for extension in extensions
            for n in range(30)
        ]
        write_tar(tmp_path / "in" / f"{shard}.tar", items)
    house.run(
        job(tmp_path / "in", tmp_path / "out", order=order, output={"shardCount": 7}), workers=2, network=True
    )
    for path in shards_in(tmp_path / "out").values():
        names = [name.decode() for name, _ in read_members(path)]
        records = [names[start : start + 4] for start in range(0, len(names), 4)]
        for record in records:
            assert len({name.partition(".d/")[2].partition(".")[0] for name in record}) == 1
            assert [
                name.partition(".d/")[2].partition(".")[1] + name.partition(".d/")[2].partition(".")[2]
                for name in record
            ] == extensions


# ------------------------------------------------------------------------------------------------ what is not carried


UNSUPPORTED = {
    "hard link out of its record": Item("x.l", kind=b"1", link="a.txt"),
    "hard link before its target": Item("y.l", kind=b"1", link="y.zzz"),
    "character device": Item("dev.c", kind=b"3"),
    "block device": Item("dev.b", kind=b"4"),
    "fifo": Item("pipe.p", kind=b"6"),
    "volume label": Item("label", kind=b"V"),
    "unknown type": Item("odd.q", b"q" * 600, kind=b"Q"),
    "absolute name": Item("/etc/passwd", b"root"),
    "name with ..": Item("a/../b.txt", b"dots"),
    "empty name": Item("", b"nameless"),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported_members_are_refused_or_left_out_and_named(
    house: House, tmp_path: Path, what: str
) -> None:
    good = [Item("a.txt", b"a"), Item("b.txt", b"b")]
    write_tar(tmp_path / "in" / "0.tar", [good[0], UNSUPPORTED[what], good[1]], dialect="gnu")
    for reaction in ("Abort", "Warn", "Ignore"):
        target = tmp_path / reaction
        run = house.run(
            job(tmp_path / "in", target, records={"unsupported": reaction}, output={"name": "all"})
        )
        if reaction == "Abort":
            assert run.code == 8
            assert "0.tar" in run.error
            continue
        assert contents(target) == [tar_bytes(good, dialect="gnu")]
        counts = manifest_of(target)["counts"]
        assert (counts["unsupported"], counts["membersLeftOut"], counts["recordsLeftOut"]) == (1, 1, 1)
        assert len(findings_in(target)) == (reaction == "Warn")
        assert len(run.warnings) == (2 if reaction == "Warn" else 0)


def test_directories_and_comments_are_not_carried_and_counted(house: House, tmp_path: Path) -> None:
    directories = tar_bytes(
        [Item("d/", kind=b"5"), Item("d/a.txt", b"a"), Item("d/e/", kind=b"5")], end=b"", dialect="gnu"
    )
    v7_directory = tar_bytes([Item("old/", kind=b"0")], end=b"", dialect="v7")
    comment = pax_header({"comment": b"made by git archive"}, kind=b"g")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").write_bytes(comment + directories + v7_directory + END)
    house.run(job(tmp_path / "in", tmp_path / "out", output={"name": "all"}))
    assert contents(tmp_path / "out") == [tar_bytes([Item("d/a.txt", b"a")], dialect="gnu")]
    counts = manifest_of(tmp_path / "out")["counts"]
    assert (counts["directories"], counts["globalHeaders"], counts["membersIn"]) == (3, 1, 1)


@pytest.mark.parametrize(("reaction", "code"), [("Abort", 9), ("Warn", 0), ("Ignore", 0)])
def test_data_behind_the_end_of_an_archive_is_refused_or_counted(
    house: House, tmp_path: Path, reaction: str, code: int
) -> None:
    one, two = (tar_bytes([Item(name, name.encode())]) for name in ("a.txt", "b.txt"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").write_bytes(one + two)
    run = house.run(
        job(tmp_path / "in", tmp_path / "out", records={"trailingData": reaction}, output={"name": "all"})
    )
    assert run.code == code
    if code:
        assert "0.tar" in run.error
        return
    assert contents(tmp_path / "out") == [one]
    assert manifest_of(tmp_path / "out")["counts"]["trailingData"] == 1
    assert len(findings_in(tmp_path / "out")) == (reaction == "Warn")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("reaction", "code"), [("Abort", 10), ("Warn", 0), ("Ignore", 0)])
def test_equal_keys_of_two_shards_in_one_output_shard_are_counted(
    house: House, tmp_path: Path, reaction: str, code: int, workers: int
) -> None:
    for shard in range(3):
        write_tar(tmp_path / "in" / f"{shard}.tar", [Item(f"same{n}.{shard}", bytes(600)) for n in range(10)])
    manifest = job(
        tmp_path / "in",
        tmp_path / "out",
        records={"collisions": reaction},
        order={"kind": "Key"},
        output={"recordsPerShard": 3},
    )
    run = house.run(manifest, workers=workers)
    assert run.code == code
    if code:
        return
    counts = manifest_of(tmp_path / "out")["counts"]
    assert (counts["collisions"], counts["recordsOut"], counts["membersOut"]) == (20, 30, 30)
    assert len(findings_in(tmp_path / "out")) == (20 if reaction == "Warn" else 0)


@pytest.mark.parametrize("order", ["None", "Key", "Shuffle"])
def test_records_that_share_a_key_and_a_shard_are_verified_by_their_members(
    house: House, tmp_path: Path, order: str
) -> None:
    twice = [Item("a.jpg", b"old"), Item("a.jpg", b"1")]  # a duplicate, too: the last copy is kept
    write_tar(tmp_path / "in" / "0.tar", [*twice, Item("b.jpg", b"2"), Item("b.txt", b"3")])
    write_tar(tmp_path / "in" / "1.tar", [Item("a.jpg", b"4"), Item("b.txt", b"5"), Item("c.jpg", b"6")])
    target = tmp_path / "out"
    manifest = job(
        tmp_path / "in",
        target,
        order={"kind": order},
        output={"name": "all"},
        records={"duplicates": "Ignore"},
    )
    house.run(manifest)
    counts = manifest_of(target)["counts"]
    assert (counts["collisions"], counts["recordsOut"], counts["membersOut"]) == (2, 5, 6)
    assert house.call(["verify", str(target)]).code == 0
    deep = house.call(["verify", str(target), "--deep", str(tmp_path / "in")])
    assert (deep.code, "5 records compared" in deep.stdout) == (0, True)
    write_tar(tmp_path / "in" / "1.tar", [Item("a.jpg", b"4"), Item("b.txt", b"5"), Item("c.jpg", b"7")])
    changed = house.call(["verify", str(target), "--deep", str(tmp_path / "in")])
    assert changed.code == 15
    assert "record c is in the inputs and not in the output" in changed.stdout
    assert "record b" not in changed.stdout


def test_a_hard_link_travels_with_its_target(house: House, tmp_path: Path) -> None:
    items = [Item("a.txt", b"target"), Item("a.link", kind=b"1", link="a.txt"), Item("b.txt", b"b")]
    write_tar(tmp_path / "in" / "0.tar", items, dialect="gnu")
    house.run(job(tmp_path / "in", tmp_path / "out", output={"name": "all"}))
    assert contents(tmp_path / "out") == [tar_bytes(items, dialect="gnu")]


def test_only_empty_archives_make_a_manifest_and_no_shards(house: House, tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / "in" / f"{number}.tar", [])
    for workers in (1, 3):
        target = tmp_path / f"out{workers}"
        run = house.run(
            job(tmp_path / "in", target, order={"kind": "Shuffle"}, output={"shardSize": "1Mi"}),
            workers=workers,
        )
        assert run.result["shards"] == 0
        assert shards_in(target) == {}
        assert manifest_of(target)["counts"]["shardsListed"] == 3


def test_a_header_of_another_kind_of_zero_is_not_the_end(house: House, tmp_path: Path) -> None:
    """Padding of a payload is zeros up to a block; a whole zero block within a payload ends nothing."""
    items = [Item("a.bin", bytes(4096)), Item("b.bin", b"b")]
    write_tar(tmp_path / "in" / "0.tar", items)
    house.run(job(tmp_path / "in", tmp_path / "out", output={"name": "all"}))
    assert contents(tmp_path / "out") == [tar_bytes(items)]
    assert (
        header(b"a.bin", 4096, magic=b"ustar\x0000") + padded(bytes(4096))
        == contents(tmp_path / "out")[0][: 512 + 4096]
    )
