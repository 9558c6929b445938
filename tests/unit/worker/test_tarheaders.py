from __future__ import annotations

import pytest

from dsort_worker.tarheaders import (
    HeaderError,
    checksum_matches,
    looks_like,
    name_fault,
    parse_header,
    parse_number,
    record_key,
)
from tests.support.tarblocks import GNU, POSIX, V7, base256, header


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"00000000017\x00", 15),
        (b"00000000017 ", 15),
        (b"000000000017", 15),
        (b"         17 ", 15),
        (b"17\x00garbage..", 15),
        (b"17 8        ", 15),
        (bytes(12), 0),
        (b" " * 12, 0),
        (base256(15), 15),
        (base256(2**40 + 1), 2**40 + 1),
    ],
)
def test_a_number_is_octal_or_base_256(field: bytes, value: int) -> None:
    assert parse_number(field) == value


@pytest.mark.parametrize(
    "field",
    [b"0000000001x\x00", b"00000000018\x00", b"+0000000001\x00", b"0_1", b"\xff" * 12, b"\xc0" + bytes(11)],
)
def test_what_is_no_number_is_refused(field: bytes) -> None:
    with pytest.raises(HeaderError):
        parse_number(field)


@pytest.mark.parametrize("name", [b"plain.txt", b"\xc3\xbcml\xc3\xa4ut.txt"])
@pytest.mark.parametrize("checksum", ["unsigned", "signed"])
def test_sums_of_signed_and_of_unsigned_bytes_are_right(name: bytes, checksum: str) -> None:
    assert checksum_matches(header(name, checksum=checksum))


def test_a_checksum_of_any_spelling_is_right_and_any_other_number_is_wrong() -> None:
    right = sum(header(b"a")[:148]) + 8 * 32 + sum(header(b"a")[156:])
    for spelling in (b"%06o\x00 ", b"%07o\x00", b"%07o ", b"%6o \x00", b"%08o"):
        assert checksum_matches(header(b"a", checksum=spelling % right)), spelling
    assert not checksum_matches(header(b"a", checksum=b"%06o\x00 " % (right + 1)))
    assert not checksum_matches(header(b"a", checksum=b"none\x00\x00\x00\x00"))
    assert not checksum_matches(bytes(512))


def test_every_flipped_bit_of_a_header_is_noticed_unless_it_is_no_number_either_way() -> None:
    block = header(b"\xc3\xbc.txt", size=77, link=b"l", prefix=b"p")
    for at in range(512):
        if 148 <= at < 156:
            continue
        flipped = bytearray(block)
        flipped[at] ^= 0x10
        with pytest.raises(HeaderError, match="checksum"):
            parse_header(bytes(flipped))


def test_a_header_gives_name_type_size_and_link() -> None:
    parsed = parse_header(header(b"n" * 100, size=0o17, kind=b"1", link=b"l" * 100))
    assert (parsed.name, parsed.typeflag, parsed.size, parsed.link) == (b"n" * 100, ord("1"), 15, b"l" * 100)
    assert not parsed.more_sparse
    with pytest.raises(HeaderError, match="size"):
        parse_header(header(b"a", size=b"many\x00"))


@pytest.mark.parametrize(("magic", "name"), [(POSIX, b"pre/fix/a.x"), (GNU, b"a.x"), (V7, b"a.x")])
def test_only_posix_has_a_prefix(magic: bytes, name: bytes) -> None:
    assert parse_header(header(b"a.x", magic=magic, prefix=b"pre/fix")).name == name


def test_a_prefix_may_fill_its_field() -> None:
    assert parse_header(header(b"n" * 100, prefix=b"p" * 155)).name == b"p" * 155 + b"/" + b"n" * 100


@pytest.mark.parametrize("kind", [b"S", b"0"])
def test_only_a_sparse_member_has_more_of_a_map(kind: bytes) -> None:
    assert parse_header(header(b"a", kind=kind, extra={482: b"\x01"})).more_sparse == (kind == b"S")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"a.txt", b"a"),
        (b"a/b.seg.png", b"a/b"),
        (b"a.d/b.png", b"a.d/b"),
        (b"a.d/b", b"a.d/b"),
        (b".a.txt", b".a"),
        (b"..a", b"."),
        (b"d/.hidden", b"d/.hidden"),
        (b"d/.hidden.txt", b"d/.hidden"),
        (b"./a.x", b"./a"),
        (b"a", b"a"),
        (b"a.", b"a"),
        (b".", b"."),
        (b"d/", b"d/"),
        (b"d.x/", b"d.x/"),
        (b"", b""),
        (b"\xff\xfe.x", b"\xff\xfe"),
    ],
)
def test_a_record_key_is_the_path_up_to_the_first_dot_of_the_base_name(name: bytes, key: bytes) -> None:
    assert record_key(name) == key


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (b"", "empty"),
        (b"/a", "absolute"),
        (b"..", "'..'"),
        (b"a/../b", "'..'"),
        (b"../b", "'..'"),
        (b"a/..", "'..'"),
        (b"a..b", None),
        (b"..a/b", None),
        (b"...", None),
        (b"./a", None),
    ],
)
def test_names_that_lead_elsewhere_are_unsupported(name: bytes, fault: str | None) -> None:
    found = name_fault(name)
    assert found is None if fault is None else found is not None and fault in found


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"BZh9", "bzip2"),
        (b"<html>", "HTML or XML"),
        (b'{"a": 1}', "JSON"),
        (b"some words\n", "text"),
        (b"\x00\x01\x02", "binary data"),
        (b"", "binary data"),
    ],
)
def test_what_is_no_tar_is_named(head: bytes, what: str) -> None:
    assert looks_like(head) == what
