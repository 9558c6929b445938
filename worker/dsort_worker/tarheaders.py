"""Tar headers: what the fields of a 512-byte header block say, one block at a time.

Dialects: V7, POSIX ustar, GNU and PAX (POSIX.1-2024, pax; GNU tar manual, "Basic Tar Format"). A number is octal text, or
base 256 where the top bit of its first byte is set.

Pure: bytes in, values out.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

BLOCK: Final = 512
"""Bytes in a tar block."""

ZERO_BLOCK: Final = bytes(BLOCK)
"""The block that ends an archive."""

FILE_TYPES: Final = b"0\x007"
"""Regular files; type 7 (contiguous) and NUL (V7) are files too."""
LINK, SYMLINK, DIRECTORY = b"125"
WITHOUT_DATA: Final = b"123456"
"""Links, devices, directories and FIFOs: no data follows the header, whatever its size field says."""

_SPARSE_CONTINUES: Final = 482
_MAGIC_POSIX: Final = b"ustar\x00"


class HeaderError(ValueError):
    """A block is not a tar header; the message says why."""


class Header(NamedTuple):
    """A header block. name and link are raw bytes, with a ustar prefix and without the padding; size is in bytes."""

    name: bytes
    typeflag: int
    size: int
    link: bytes
    more_sparse: bool
    """An old GNU sparse member whose map goes on in further blocks."""


def parse_number(field: bytes) -> int:
    """A number field: octal digits after spaces, up to a space or NUL, nothing for 0; or base 256. Raises HeaderError."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise HeaderError("a number is negative")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    digits = field.partition(b"\x00")[0].strip(b" ").partition(b" ")[0]
    if not digits:
        return 0
    # int() alone would take signs, underscores and prefixes too.
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise HeaderError("a number is not octal")
    return int(digits, 8)


def byte_sum(block: bytes) -> int:
    """The sum of the bytes of at most one block."""
    if block.isascii():
        # Adler-32's low half is 1 + the sum modulo 65521, and 512 bytes below 128 stay under that: 8 times faster than sum().
        return (zlib.adler32(block) & 0xFFFF) - 1
    return sum(block)


def checksum_matches(block: bytes) -> bool:
    """Whether a header's checksum is that of its bytes, the checksum's own field taken as spaces.

    Some historic writers summed signed bytes; both sums are accepted, as POSIX asks.
    """
    try:
        claimed = parse_number(block[148:156])
    except HeaderError:
        return False
    counted = block[:148] + block[156:]
    unsigned = byte_sum(counted) + 8 * 0x20
    if claimed == unsigned:
        return True
    return claimed == unsigned - 256 * sum(byte > 0x7F for byte in counted)


def text(field: bytes) -> bytes:
    """A text field up to its first NUL."""
    return field.partition(b"\x00")[0]


def parse_header(block: bytes) -> Header:
    """Read a header block of BLOCK bytes. Raises HeaderError."""
    if not checksum_matches(block):
        raise HeaderError("its checksum is wrong")
    name = text(block[:100])
    # Only POSIX has a prefix; GNU keeps times in the same place, V7 has nothing there that means anything.
    if block[345] and block[257:263] == _MAGIC_POSIX:
        name = text(block[345:500]) + b"/" + name
    try:
        size = parse_number(block[124:136])
    except HeaderError as error:
        raise HeaderError(f"its size field: {error}") from None
    return Header(
        name=name,
        typeflag=block[156],
        size=size,
        link=text(block[157:257]),
        more_sparse=block[156] == 0x53 and block[_SPARSE_CONTINUES] != 0,
    )


def record_key(name: bytes) -> bytes:
    """The record key in a member's name: all of it up to the first dot after the last slash.

    The first character of the base name is never that dot; without a dot the whole name is the key.
    """
    dot = name.find(b".", name.rfind(b"/") + 2)
    return name if dot < 0 else name[:dot]


def name_fault(name: bytes) -> str | None:
    """Why a member's name is unsupported, or None."""
    if not name:
        return "its name is empty"
    if name[0] == 0x2F:
        return "its name is absolute"
    if b".." in name and b".." in name.split(b"/"):
        return "its name has a '..' component"
    return None


def shown(name: bytes) -> str:
    """A name as one line of text: what is not UTF-8 or not printable is escaped."""
    decoded = name.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in decoded)


def looks_like(head: bytes) -> str:
    """What a file that is no tar seems to be, from its first bytes (512 are enough)."""
    for magic, what in _MAGICS:
        if head.startswith(magic):
            return what
    printable = sum(byte in b"\t\n\r\f" or byte >= 0x20 for byte in head)
    if head and printable == len(head):
        return "text"
    return "binary data"


_MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "an empty zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"PAR1", "Parquet"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)
