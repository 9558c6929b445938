from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import RecordReactions
from dsort_worker import tarmembers
from dsort_worker.findings import Finding
from dsort_worker.tarmember import Member, Source, read_member
from dsort_worker.tarscan import SHARD_LIMIT, ScanCounts, scan_tar
from dsort_worker.threads import WorkCancelled
from tests.support.datasets import BAD_ARCHIVES, DIALECTS, Item, odd_items, record, tar_bytes
from tests.support.tarblocks import END, base256, header, member, padded, pax
from tests.support.tarscans import ABORT, IGNORE, WARN, opened, scan


def by_tarfile(data: bytes) -> list[tuple[str, bytes, str]]:
    """(name, payload, link) of every member, as tarfile reads them."""
    with tarfile.open(
        fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as archive:
        found = []
        for info in archive:
            payload = archive.extractfile(info) if info.isfile() else None
            found.append((info.name, payload.read() if payload else b"", info.linkname))
        return found


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_comes_out_as_tarfile_reads_it(dialect: str) -> None:
    """Case 12."""
    data = tar_bytes(odd_items(dialect), dialect=dialect)
    found = scan(data, records=RecordReactions())
    # The same members; those of a record stand together now.
    assert len(b"".join(found.records) + END) == len(data)
    assert sorted(by_tarfile(b"".join(found.records) + END)) == sorted(by_tarfile(data))
    assert found.index.counts.members == len(by_tarfile(data))


@pytest.mark.timeout(40)  # squared, these would take minutes
@pytest.mark.parametrize("keys", [1, 2])
def test_tens_of_thousands_of_members_of_one_record(keys: int) -> None:
    count = 60_000
    data = b"".join(header(b"%d.%06d" % (number % keys, number)) for number in range(count)) + END
    found = scan(data, records=RecordReactions())
    assert found.index.members.tolist() == [count // keys] * keys


@pytest.mark.parametrize(
    ("layout", "length"),
    [(tarfile.USTAR_FORMAT, length) for length in (20, 99, 100, 101, 156)]
    + [(tarfile.GNU_FORMAT, length) for length in (20, 99, 100, 101, 156, 250, 256, 400, 3000)]
    + [(tarfile.PAX_FORMAT, length) for length in (20, 99, 100, 101, 156, 250, 256, 400, 3000)],
)
def test_names_of_any_length_that_tarfile_writes(layout: int, length: int) -> None:
    name = ("folder-é/" * 400)[:length].rstrip("/").ljust(length, "x")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for extension in (".jpg", ".txt"):
            info = tarfile.TarInfo(name + extension)
            info.size = 700
            info.mtime = 1700000000.25 if layout == tarfile.PAX_FORMAT else 1700000000
            archive.addfile(info, io.BytesIO(b"p" * 700))
    data = buffer.getvalue()
    found = scan(data)
    assert found.keys == [name.encode()]
    assert by_tarfile(found.records[0] + END) == by_tarfile(data)


def test_sizes_that_need_base_256_are_found_in_sparse_files() -> None:
    size = 9 << 30
    head = header(b"big.bin", size=base256(size))
    fd = os.memfd_create("shard")
    try:
        os.write(fd, head)
        os.pwrite(fd, member(b"next.bin", b"1") + END, 512 + size)
        found = scan_tar(
            fd, name="big.tar", size=512 + size + 2048, records=WARN, want_keys=False,
            report=lambda _: None, cancelled=lambda: False,
        )  # fmt: skip
    finally:
        os.close(fd)
    assert found.offset.tolist() == [0, 1 + size // 512]
    assert found.length.tolist() == [1 + size // 512, 2]


def test_columns_have_the_types_that_rows_are_made_of() -> None:
    index = scan(member(b"a.x") + member(b"b.x") + member(b"a.y") + END).index
    for column in ("offset", "length", "slices", "members", "extra", "key_length"):
        assert getattr(index, column).dtype == "u4", column
    assert index.key_hash.dtype == "u8"
    assert index.keys.dtype == "u1"
    assert index.extra.shape == (2, 2)
    without = scan(member(b"a.x") + END, want_keys=False).index
    assert (len(without.keys), len(without.key_length), len(without.key_hash)) == (0, 0, 1)
    empty = scan(END).index
    assert [len(getattr(empty, name)) for name in empty._fields if name != "counts"] == [0] * 8
    assert empty.extra.shape == (0, 2)
    assert empty.counts == ScanCounts()


def failure(data: bytes, *, records: RecordReactions | None = None) -> DSortError:
    with pytest.raises(DSortError) as caught:
        scan(data, records=records or RecordReactions())
    assert "\n" not in caught.value.message
    assert "shard.tar" in caught.value.message
    return caught.value


@pytest.mark.parametrize("make", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES.keys())
@pytest.mark.parametrize("records", [RecordReactions(), IGNORE])
def test_bad_archives_are_corrupt_whatever_the_reactions(
    make: Callable[[], bytes], records: RecordReactions
) -> None:
    """Case 15."""
    assert failure(make(), records=records).reason is Reason.CORRUPT_SHARD


def test_a_corrupt_shard_is_named_with_offset_and_member() -> None:
    data = bytearray(member(b"a.x", b"1") + member(b"b.x", b"1") + END)
    data[1024 + 130] ^= 1
    message = failure(bytes(data)).message
    assert message == "shard shard.tar: at offset 1024: member b.x: bad header: its checksum is wrong"


def test_every_cut_is_noticed_at_every_byte_class() -> None:
    parts = [
        member(b"a.x", b"1" * 700), pax({b"mtime": b"1.5"}) + member(b"a.y", b"2"), member(b"d", kind=b"5"),
        member(b"a.z", kind=b"2", link=b"l"), pax({b"path": b"n" * 300}) + member(b"n", b"3"), member(b"e.x"),
    ]  # fmt: skip
    data = b"".join(parts)
    for block in range(len(data) // 512 + 1):
        for byte in (0, 1, 148, 255, 511):
            cut = data[: block * 512 + byte]
            if len(cut) < len(data) + 1:
                assert failure(cut).reason is Reason.CORRUPT_SHARD, (block, byte)
    # The end is one zero block; what is missing of a second one is no loss.
    for end in (512, 600, 1024, 10240):
        assert len(scan(data + bytes(end)).records) == 3


@pytest.mark.parametrize("at", [0, 99, 100, 124, 135, 148, 153, 156, 257, 345, 511])
def test_every_flipped_header_is_noticed(at: int) -> None:
    data = bytearray(tar_bytes([*record("a", seed=1), *record("b", seed=2)], dialect="pax"))
    second = scan(bytes(data)).index.offset[1] * 512
    data[second + at] ^= 0x04
    assert failure(bytes(data)).reason is Reason.CORRUPT_SHARD


def test_the_copy_that_stands_last_is_kept_and_the_others_are_counted() -> None:
    """Case 9."""
    once = [Item(f"r{number:02}.{extension}", b"x") for number in range(50) for extension in ("jpg", "cls")]
    again = [Item(f"r{number:02}.jpg", b"the copy") for number in range(50)]
    data = tar_bytes(once + again)
    warned, ignored = scan(data, records=WARN), scan(data, records=IGNORE)
    for found in (warned, ignored):
        assert found.index.counts.duplicates == 50
        assert found.index.counts.members_left_out == 50
        assert found.index.members.tolist() == [2] * 50
        assert all(b"the copy" in one for one in found.records)
    assert [finding.member for finding in warned.findings] == [f"r{number:02}.jpg" for number in range(50)]
    assert ignored.findings == []
    error = failure(data)
    assert error.reason is Reason.DUPLICATE_RECORDS
    assert "member r00.jpg" in error.message
    assert "offset 0" in error.message


UNSUPPORTED = member(b"a.x") + member(b"a.fifo", kind=b"6") + member(b"b.l", kind=b"1", link=b"a.x") + END


def test_unsupported_members_follow_their_reaction() -> None:
    error = failure(UNSUPPORTED)
    assert error.reason is Reason.UNSUPPORTED_MEMBER
    assert "offset 512: member a.fifo: a FIFO" in error.message
    found = scan(UNSUPPORTED, records=WARN)
    assert found.keys == [b"a"]
    assert [(one.kind, one.member, one.offset) for one in found.findings] == [
        ("unsupported", "a.fifo", 512),
        ("unsupported", "b.l", 1024),
    ]
    assert found.index.counts.unsupported == 2
    assert scan(UNSUPPORTED, records=IGNORE).findings == []


def test_a_global_header_is_dropped_and_its_shard_stays() -> None:
    comment, path = pax({b"comment": b"git"}, kind=b"g"), pax({b"path": b"p"}, kind=b"g")
    data = comment + member(b"a.x") + path + member(b"a.y") + END
    found = scan(data)
    assert found.records == [member(b"a.x") + member(b"a.y")]
    assert (found.index.counts.global_headers, found.index.counts.unsupported) == (2, 1)
    assert (found.index.counts.members, found.index.counts.members_left_out) == (2, 0)
    assert "sets path" in found.findings[0].detail
    assert failure(data).reason is Reason.UNSUPPORTED_MEMBER
    assert len(scan(comment + member(b"a.x") + END, records=RecordReactions()).records) == 1


@pytest.mark.parametrize(
    ("tail", "trailing"),
    [(bytes(512), 0), (bytes(9000), 0), (bytes(3 << 20), 0), (bytes(700) + b"x", 1), (member(b"b.x") + END, 1),
     (bytes(2 << 20) + b"x" + bytes(99), 1)],
)  # fmt: skip
def test_what_follows_the_end_is_not_read_and_reported_once(tail: bytes, trailing: int) -> None:
    data = member(b"a.x") + bytes(512) + tail
    found = scan(data)
    assert found.keys == [b"a"]
    assert found.index.counts.trailing_data == trailing == len(found.findings)
    if trailing:
        error = failure(data, records=ABORT)
        assert error.reason is Reason.TRAILING_DATA
        at = next(offset for offset in range(1024, len(data)) if data[offset])
        assert f"offset {at}" in error.message
    else:
        scan(data, records=ABORT)


def test_a_corrupt_shard_reports_nothing_else() -> None:
    data = UNSUPPORTED[:-1024] + b"garbage"
    reported: list[Finding] = []
    with opened(data) as fd, pytest.raises(DSortError) as caught:
        scan_tar(
            fd,
            name="s",
            size=len(data),
            records=WARN,
            want_keys=False,
            report=reported.append,
            cancelled=lambda: False,
        )
    assert caught.value.reason is Reason.CORRUPT_SHARD
    assert not reported


def test_names_are_shown_as_one_printable_line() -> None:
    data = member(b"a\n\x1b[2J\xff\xc3\xbc.fifo", kind=b"6") + END
    assert scan(data).findings[0].member == "a\\n\\x1b[2J\\xffü.fifo"


def test_a_scan_can_be_cancelled_at_every_batch() -> None:
    odd = b"".join(header(b"%d" % number, size=b"          0 ") for number in range(300))
    doubles = b"".join(member(b"%d.x" % number) * 2 for number in range(2000))
    data = odd + doubles + bytes(3 << 20)
    calls = 0

    def cancelled() -> bool:
        nonlocal calls
        calls += 1
        return calls > allowed

    allowed = 1 << 30  # calls before it is cancelled
    with opened(data) as fd:
        scan_tar(
            fd, name="s", size=len(data), records=IGNORE, want_keys=False, report=print, cancelled=cancelled
        )
        asked = calls
        for before in range(asked):
            allowed, calls = before, 0
            with pytest.raises(WorkCancelled):
                scan_tar(
                    fd,
                    name="s",
                    size=len(data),
                    records=IGNORE,
                    want_keys=False,
                    report=print,
                    cancelled=cancelled,
                )
    assert asked > 5


def test_a_file_that_shrank_since_the_listing_is_a_changed_input() -> None:
    data = member(b"a.x") + END
    with opened(data) as fd, pytest.raises(DSortError) as caught:
        scan_tar(
            fd, name="s.tar", size=len(data) + 4096, records=WARN, want_keys=False,
            report=print, cancelled=lambda: False,
        )  # fmt: skip
    assert caught.value.reason is Reason.INPUT_CHANGED
    assert "s.tar" in caught.value.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: object) -> None:
    fd = os.open(str(tmp_path), os.O_RDONLY)
    try:
        with pytest.raises(DSortError) as caught:
            scan_tar(
                fd,
                name="s.tar",
                size=4096,
                records=WARN,
                want_keys=False,
                report=print,
                cancelled=lambda: False,
            )
    finally:
        os.close(fd)
    assert caught.value.reason is Reason.INPUT_UNREADABLE
    assert "s.tar" in caught.value.message


def test_an_exact_read_that_fails_is_named_too(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarmembers.Scan, "_by_batch", lambda self: False)
    test_a_file_that_cannot_be_read_is_named(tmp_path)


def test_shards_beyond_the_reach_of_offsets_are_refused() -> None:
    with pytest.raises(DSortError, match="2 TiB") as caught:
        scan_tar(
            -1,
            name="s.tar",
            size=SHARD_LIMIT + 1,
            records=WARN,
            want_keys=False,
            report=print,
            cancelled=lambda: False,
        )
    assert caught.value.reason is Reason.INPUT_UNREADABLE


def test_a_record_within_a_payload_is_payload() -> None:
    inner = padded(member(b"inner.x") + END)
    data = b"".join(member(b"%03d.tar" % number, inner) for number in range(200)) + END
    found = scan(data)
    assert len(found.records) == 200
    assert found.index.counts.members == 200


def test_plain_archives_are_read_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    exact: list[int] = []

    def counted(source: Source, block: int) -> Member:
        exact.append(block)
        return read_member(source, block)

    monkeypatch.setattr(tarmembers, "read_member", counted)
    wds = {"mtime": "1700000000.5", "uname": "bigdata", "gname": "bigdata"}
    items = [Item(f"d/r{number:05}.{extension}", bytes(number), pax=wds)
             for number in range(900) for extension in ("jpg", "txt")]  # fmt: skip
    for dialect, limit in (("ustar", 3), ("gnu", 3), ("v7", 3), ("pax", 3)):
        exact.clear()
        assert len(scan(tar_bytes(items, dialect=dialect)).records) == 900
        assert len(exact) <= limit, dialect


def test_a_shard_with_its_extensions_one_after_the_other() -> None:
    items = [
        Item(f"r{number:04}.{extension}", bytes(number))
        for extension in ("jpg", "txt")
        for number in range(1500)
    ]
    found = scan(tar_bytes(items))
    assert found.keys == [b"r%04d" % number for number in range(1500)]
    assert found.index.slices.tolist() == [2] * 1500
    expected = [scan(tar_bytes(items[number::1500])).records[0] for number in (0, 700, 1499)]
    assert [found.records[number] for number in (0, 700, 1499)] == expected


def test_counts_add_up() -> None:
    one = ScanCounts(members=3, records=2, duplicates=1)
    assert one + ScanCounts(members=1, unsupported=4) == ScanCounts(
        members=4, records=2, duplicates=1, unsupported=4
    )
