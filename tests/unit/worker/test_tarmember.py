from __future__ import annotations

import pytest

from dsort_worker.tarmember import EXTENSION_LIMIT, CorruptTar, Kind, Member, Source, read_member
from tests.support.tarblocks import END, GNU, V7, base256, header, long_name, member, padded, pax, record


def read(data: bytes, *, start: int = 0) -> Member:
    """The member at a block of an archive; nothing is read past its end."""

    def within(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(data)
        assert length <= EXTENSION_LIMIT
        return data[offset : offset + length]

    return read_member(Source(len(data), within), start)


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (member(b"a.x", b"1"), Kind.FILE),
        (member(b"a.x", b"1", kind=b"\x00", magic=V7), Kind.FILE),
        (member(b"a.x", b"1", kind=b"7"), Kind.FILE),
        (member(b"a.x", kind=b"2", link=b"/any/where"), Kind.SYMLINK),
        (member(b"a.x", kind=b"1", link=b"a.y"), Kind.LINK),
        (member(b"a", kind=b"5"), Kind.DIRECTORY),
        (member(b"a/", kind=b"\x00", magic=V7), Kind.DIRECTORY),
        (member(b"../", kind=b"5"), Kind.DIRECTORY),
        (member(b"a/", b"", kind=b"0"), Kind.FILE),
        (pax({b"comment": b"c"}, kind=b"g"), Kind.GLOBAL),
        (bytes(512), Kind.END),
    ],
)
def test_types(block: bytes, kind: Kind) -> None:
    found = read(block + END)
    assert (found.kind, found.fault, found.start, found.end) == (kind, "", 0, len(block) // 512)


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        (member(b"a.x", kind=b"3"), "a character device"),
        (member(b"a.x", kind=b"4"), "a block device"),
        (member(b"a.x", kind=b"6"), "a FIFO"),
        (member(b"a.x", kind=b"V", magic=GNU), "volume label"),
        (member(b"a.x", b"12", kind=b"M", magic=GNU), "continuation"),
        (member(b"a.x", b"12", kind=b"D", magic=GNU), "dump directory"),
        (member(b"a.x", b"12", kind=b"S", magic=GNU), "sparse"),
        (member(b"a.x", b"12", kind=b"A"), "unknown type 'A'"),
        (member(b"a.x", b"12", kind=b"\xfe"), "unknown type"),
        (pax({b"GNU.sparse.realsize": b"9"}) + member(b"a.x", b"12"), "sparse"),
        (
            pax({b"GNU.sparse.major": b"1", b"GNU.sparse.name": b"r.x"})
            + member(b"GNUSparseFile.1/r.x", b"12"),
            "sparse",
        ),
        (pax({b"path": b"b.x"}, kind=b"X") + member(b"a.x", b"12"), "Solaris"),
        (pax({b"mtime": b"1"}) + pax({b"comment": b"1"}, kind=b"g") + member(b"a.x", b"12"), "global header"),
        (member(b"", b"12"), "empty"),
        (member(b"/a.x", b"12"), "absolute"),
        (member(b"a/../b.x", kind=b"2"), "'..'"),
        (long_name(b"../b") + member(b"b", b"12"), "'..'"),
        (pax({b"path": b"/b"}) + member(b"b", b"12"), "absolute"),
        (pax({b"path": b""}) + member(b"b", b"12"), "empty"),
        (pax({b"path": b"b", b"uid": b"1"}, kind=b"g"), "sets path"),
    ],
)
def test_unsupported_members_say_why_and_end_where_they_end(block: bytes, fault: str) -> None:
    found = read(block + END)
    assert found.kind in {Kind.UNSUPPORTED, Kind.GLOBAL}
    assert fault in found.fault
    assert found.end == len(block) // 512


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_links_directories_and_devices_have_no_data_whatever_their_size_says(kind: bytes) -> None:
    assert read(header(b"a", kind=kind, size=999) + END).end == 1
    assert read(pax({b"size": b"999"}) + header(b"a", kind=kind) + END).end == 3


def test_a_sparse_map_goes_on_behind_its_header() -> None:
    more, last = bytearray(512), bytes(512)
    more[504] = 1
    block = (
        header(b"s", kind=b"S", size=5, magic=GNU, extra={482: b"\x01"})
        + bytes(more)
        + last
        + padded(b"12345")
    )
    assert read(block + END).end == 4
    for cut in (512, 1024, 1100, 1536 - 1):
        with pytest.raises(CorruptTar, match="sparse"):
            read(block[:cut])


NAME = b"n" * 150
LONG = b"d/" * 150 + b"x"


@pytest.mark.parametrize(
    ("block", "name", "link"),
    [
        (long_name(NAME) + member(NAME[:100], b"1"), NAME, b""),
        (long_name(LONG) + member(LONG[:100], b"1"), LONG, b""),
        (pax({b"path": LONG}) + member(b"short", b"1"), LONG, b""),
        (pax({b"path": b"\xff\xfe/\xc3\xbc"}) + member(b"short", b"1"), b"\xff\xfe/\xc3\xbc", b""),
        (long_name(LONG, kind=b"K") + member(b"a", kind=b"2", link=LONG[:100]), b"a", LONG),
        (long_name(LONG, kind=b"K") + long_name(NAME) + member(b"a", kind=b"1", link=b"l"), NAME, LONG),
        (long_name(NAME) + long_name(LONG, kind=b"K") + member(b"a", kind=b"1", link=b"l"), NAME, LONG),
        (pax({b"linkpath": LONG}) + member(b"a", kind=b"2", link=b"l"), b"a", LONG),
        # Where two headers name the same, the first one wins, as in Python's tarfile.
        (pax({b"path": b"p"}) + long_name(b"L") + member(b"a"), b"p", b""),
        (long_name(b"L") + pax({b"path": b"p", b"linkpath": b"l"}) + member(b"a"), b"L", b"l"),
        (pax({b"mtime": b"1"}) + long_name(b"L") + member(b"a"), b"L", b""),
        (pax({b"path": b"1"}) + pax({b"path": b"2", b"linkpath": b"l"}) + member(b"a"), b"1", b"l"),
        (long_name(b"1") + long_name(b"2") + member(b"a"), b"1", b""),
        (long_name(b"1", kind=b"K") + long_name(b"2", kind=b"K") + member(b"a", kind=b"2"), b"a", b"1"),
        (header(b"b", prefix=b"a"), b"a/b", b""),
        (pax({b"path": b"p"}) + header(b"b", prefix=b"a"), b"p", b""),
    ],
)
def test_extension_headers_name_the_next_member(block: bytes, name: bytes, link: bytes) -> None:
    found = read(b"\0" * 1024 + block + END, start=2)
    assert (found.name, found.link, found.start, found.end) == (name, link, 2, 2 + len(block) // 512)
    assert not found.fault


@pytest.mark.parametrize(
    "block",
    [
        header(b"a", size=base256(700)) + bytes(1024),
        pax({b"size": b"700"}) + header(b"a", size=0) + bytes(1024),
        pax({b"size": b"0700"}) + header(b"a", size=5) + bytes(1024),
        pax({b"size": b"700"}) + pax({b"size": b"3"}) + header(b"a") + bytes(1024),
        pax({b"size": b"700"}) + long_name(b"L") + header(b"a") + bytes(1024),
    ],
)
def test_sizes_in_base_256_and_in_pax_headers_count(block: bytes) -> None:
    assert read(block + END).end == len(block) // 512


def corrupt(data: bytes, *, start: int = 0) -> CorruptTar:
    with pytest.raises(CorruptTar) as caught:
        read(data, start=start)
    return caught.value


@pytest.mark.parametrize(
    ("data", "offset", "detail"),
    [
        (b"", 0, "empty"),
        (b"hello", 0, "text"),
        (b"\x1f\x8b" * 500, 0, "gzip"),
        (header(b"a", checksum=b"0000000\x00"), 0, "checksum"),
        (header(b"a", size=b"x" * 12), 0, "size"),
        (header(b"a", size=b"\xff" * 12), 0, "negative"),
        (header(b"a", size=100), 0, "within the payload (0 bytes of 100)"),
        (header(b"a", size=100) + b"1" * 60, 0, "within the payload (60 bytes of 100)"),
        (header(b"a", size=100) + b"1" * 100, 0, "padding"),
        (header(b"a", size=base256(2**70)) + END, 0, "within the payload"),
        (pax({b"size": b"9" * 18}) + header(b"a") + END, 1024, "within the payload"),
        (pax({b"size": b"9" * 21}) + header(b"a") + END, 1024, "size is not a number"),
        (pax({b"size": b""}) + header(b"a") + END, 1024, "size is not a number"),
        (pax({b"size": b"1.5"}) + header(b"a") + END, 1024, "size is not a number"),
        (pax({b"path": b"a\x00b"}) + header(b"a") + END, 0, "NUL in path"),
        (pax({b"linkpath": b"a\x00b"}) + header(b"a") + END, 0, "NUL in linkpath"),
        (pax(b"99 path=a") + member(b"a") + END, 0, "not as long as it says"),
        (pax(b"nonsense", kind=b"g") + member(b"a") + END, 0, "bad extended header"),
        (pax({b"mtime": b"1"}) + END, 1024, "ends after an extension header"),
        (pax({b"mtime": b"1"}), 1024, "truncated: the file ends after an extension header"),
        (pax({b"mtime": b"1"})[:520], 0, "within the payload (8 bytes of 11)"),
        (pax({b"mtime": b"1"})[:1000], 0, "padding"),
        (pax({b"mtime": b"1"}) + header(b"a")[:100], 1024, "within a header (100 bytes of 512)"),
        (header(b"p", kind=b"x", size=EXTENSION_LIMIT + 1) + bytes(EXTENSION_LIMIT + 512), 0, "extension header of"),
        (header(b"p", kind=b"L", size=base256(2**60)) + END, 0, "extension header of"),
        (long_name(b"n" * 600_000) * 2 + member(b"a") + END, 1173 * 512, "extension headers of more than"),
        (long_name(b"n") * 65 + member(b"a") + END, 128 * 512, "more than 64 extension headers"),
    ],
)  # fmt: skip
def test_damage_is_named_where_it_is(data: bytes, offset: int, detail: str) -> None:
    error = corrupt(data)
    assert detail in error.detail
    assert error.offset == offset


def test_damage_behind_the_first_header_names_the_member() -> None:
    first = member(b"a.x", b"1")
    assert corrupt(first, start=2).detail == "truncated: the file ends without an end-of-archive block"
    assert corrupt(first + b"rest" * 4, start=2).offset == 1024
    flipped = bytearray(member(b"b.x"))
    flipped[1] ^= 1
    error = corrupt(first + flipped, start=2)
    assert (error.offset, error.member) == (1024, b"b/x")
    error = corrupt(long_name(NAME) + flipped)
    assert (error.offset, error.member) == (1024, NAME)


def test_an_extension_of_the_greatest_size_is_read() -> None:
    value = b"v" * (EXTENSION_LIMIT - len(b"1048576 comment=\n"))
    assert len(record(b"comment", value)) == EXTENSION_LIMIT
    assert read(pax({b"comment": value}) + member(b"a.x") + END).name == b"a.x"
