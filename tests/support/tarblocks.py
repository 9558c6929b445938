"""Tars block by block: headers with any field as a test wants it, right or wrong.

tests.support.datasets writes archives as real writers do; this writes what a parser has to survive.
"""

from __future__ import annotations

from typing import Final

BLOCK: Final = 512
END: Final = bytes(1024)
POSIX: Final = b"ustar\x0000"
GNU: Final = b"ustar  \x00"
V7: Final = bytes(8)


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    size: int | bytes = 0,
    link: bytes = b"",
    magic: bytes = POSIX,
    prefix: bytes = b"",
    checksum: str | bytes = "unsigned",
    extra: dict[int, bytes] | None = None,
) -> bytes:
    """One header block. size, checksum: a number in octal, or the field's bytes; extra: bytes to put at offsets."""
    block = bytearray(BLOCK)
    for offset, value in (
        (0, name), (100, b"0000644\x00"), (108, b"0001750\x00"), (116, b"0001750\x00"), (136, b"14524770400\x00"),
        (148, b" " * 8), (156, kind), (157, link), (257, magic), (345, prefix),
        (124, size if isinstance(size, bytes) else b"%011o\x00" % size), *(extra or {}).items(),
    ):  # fmt: skip
        block[offset : offset + len(value)] = value
    if isinstance(checksum, bytes):
        block[148 : 148 + len(checksum)] = checksum
    else:
        signed = 256 * sum(byte > 127 for byte in block) if checksum == "signed" else 0
        block[148:156] = b"%06o\x00 " % (sum(block) - signed)
    assert len(block) == BLOCK
    return bytes(block)


def member(
    name: bytes, data: bytes = b"", *, kind: bytes = b"0", link: bytes = b"", magic: bytes = POSIX
) -> bytes:
    """A member with its payload."""
    return header(name, kind=kind, size=len(data), link=link, magic=magic) + padded(data)


def record(keyword: bytes, value: bytes) -> bytes:
    """One record of a PAX header."""
    body = b" " + keyword + b"=" + value + b"\n"
    length = len(body) + 1
    while length != len(body) + len(b"%d" % length):
        length += 1
    return b"%d" % length + body


def pax(records: dict[bytes, bytes] | bytes, *, kind: bytes = b"x") -> bytes:
    """An extended header, of keywords and values or of data as it is."""
    data = records if isinstance(records, bytes) else b"".join(record(*item) for item in records.items())
    return header(b"././@PaxHeader", kind=kind, size=len(data)) + padded(data)


def long_name(name: bytes, *, kind: bytes = b"L") -> bytes:
    """A GNU header of a long name (L) or link (K)."""
    return header(b"././@LongLink", kind=kind, size=len(name) + 1, magic=GNU) + padded(name + b"\x00")


def base256(value: int, *, width: int = 12) -> bytes:
    """A number field in base 256."""
    return bytes([0x80]) + value.to_bytes(width - 1, "big")
