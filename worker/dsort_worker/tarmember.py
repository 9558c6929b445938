"""One member of a tar, exactly: its header with the extension headers before it, by every rule of every dialect.

This is the path that is always right; tarbatch takes the plain members of well-behaved archives through numpy and leaves
the rest to this one. It reads through a `Source`, so that it needs no file to be tested.

Where several extension headers of one member name the same thing, the first one wins, as in Python's tarfile (which
webdataset reads with).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from dsort_worker.tarheaders import (
    BLOCK,
    DIRECTORY,
    FILE_TYPES,
    LINK,
    SYMLINK,
    WITHOUT_DATA,
    ZERO_BLOCK,
    Header,
    HeaderError,
    looks_like,
    name_fault,
    parse_header,
    shown,
    text,
)
from dsort_worker.tarpax import PaxError, is_sparse, parse_records, sparse_name

EXTENSION_LIMIT: Final = 1 << 20
"""Bytes of extension headers that one member may have. Real ones have a few hundred."""
EXTENSIONS: Final = b"xXLK"
"""Headers that describe the next member: PAX, Solaris PAX, GNU long name, GNU long link."""

_HEADERS_LIMIT: Final = 64
_X, _SOLARIS_X, _LONG_NAME, _LONG_LINK = EXTENSIONS
_GLOBAL: Final = 0x67
_SPARSE: Final = 0x53
_AREGTYPE: Final = 0
_UNSUPPORTED_TYPES: Final = {
    0x33: "a character device",
    0x34: "a block device",
    0x36: "a FIFO",
    0x56: "a GNU volume label",
    0x4D: "a GNU continuation of another volume",
    0x44: "a GNU dump directory",
    _SPARSE: "a sparse member",
}


class Kind(IntEnum):
    """What stands at a place in a tar."""

    FILE = 0
    SYMLINK = 1
    LINK = 2
    """A hard link: carried when its target stands before it in its own record and is kept."""
    DIRECTORY = 3
    GLOBAL = 4
    """A PAX global header; `fault` is empty when it sets nothing but a comment."""
    UNSUPPORTED = 5
    END = 6
    """The zero block that ends the archive."""


class Member(NamedTuple):
    """What stands in the blocks [start, end): name and link are raw bytes, fault says why it is unsupported."""

    kind: Kind
    start: int
    end: int
    name: bytes = b""
    link: bytes = b""
    fault: str = ""


class CorruptTar(Exception):
    """The archive is damaged or truncated. offset in bytes; member: the name that was reached, or b""."""

    def __init__(self, offset: int, detail: str, *, member: bytes = b"") -> None:
        super().__init__(detail)
        self.offset = offset
        self.detail = detail
        self.member = member


class Source(NamedTuple):
    """Where to read: read(offset, length) gives bytes of the file, all of them (offsets and lengths in bytes)."""

    size: int
    read: Callable[[int, int], bytes]


@dataclass(slots=True, eq=False, repr=False)
class _Extensions:
    """What the extension headers of one member said, and how much they took."""

    count: int = 0
    size: int = 0
    records: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes | None = None
    link: bytes | None = None
    fault: str = ""


def blocks(size: int) -> int:
    """Blocks that `size` bytes of data take."""
    return (size + BLOCK - 1) // BLOCK


def read_member(source: Source, start: int) -> Member:
    """Read the member, global header or end that begins at block `start`. Raises CorruptTar."""
    extensions = _Extensions()
    block = start
    while True:
        raw = _header_block(source, block, extensions)
        if raw == ZERO_BLOCK:
            if extensions.count:
                raise CorruptTar(
                    block * BLOCK, "the archive ends after an extension header", member=extensions.name or b""
                )
            return Member(Kind.END, start, block + 1)
        try:
            header = parse_header(raw)
        except HeaderError as error:
            if block == 0 and raw[257:262] != b"ustar":
                raise CorruptTar(0, f"this is no tar; it looks like {looks_like(raw)}") from None
            raise CorruptTar(
                block * BLOCK, f"bad header: {error}", member=extensions.name or text(raw[:100])
            ) from None
        if header.typeflag == _GLOBAL:
            records = _records(source, block, header)
            end = block + 1 + blocks(header.size)
            if not extensions.count:
                return Member(Kind.GLOBAL, start, end, header.name, fault=_global_fault(records))
            extensions.fault = "a global header stands between it and its extension header"
        elif header.typeflag in EXTENSIONS:
            _extend(extensions, source, block, header)
            end = block + 1 + blocks(header.size)
        else:
            return _member(source, start, block, header, extensions)
        extensions.count += 1
        if extensions.count > _HEADERS_LIMIT:
            raise CorruptTar(block * BLOCK, f"more than {_HEADERS_LIMIT} extension headers for one member")
        block = end


def _header_block(source: Source, block: int, extensions: _Extensions) -> bytes:
    offset = block * BLOCK
    left = source.size - offset
    if left >= BLOCK:
        return source.read(offset, BLOCK)
    member = extensions.name or b""
    if source.size == 0:
        raise CorruptTar(0, "the file is empty (not even an end-of-archive block)")
    if block == 0:
        head = source.read(0, left)
        raise CorruptTar(0, f"this is no tar; it looks like {looks_like(head)} of {left} bytes")
    if left > 0:
        raise CorruptTar(
            offset, f"truncated: the file ends within a header ({left} bytes of {BLOCK})", member=member
        )
    if extensions.count:
        raise CorruptTar(offset, "truncated: the file ends after an extension header", member=member)
    raise CorruptTar(offset, "truncated: the file ends without an end-of-archive block")


def _data(source: Source, block: int, header: Header) -> bytes:
    """The data of an extension header at `block`."""
    if header.size > EXTENSION_LIMIT:
        raise CorruptTar(
            block * BLOCK,
            f"an extension header of {header.size} bytes (at most {EXTENSION_LIMIT} are accepted)",
            member=header.name,
        )
    _check_complete(source, block, header.size, header.name)
    return source.read((block + 1) * BLOCK, header.size)


def _check_complete(source: Source, block: int, size: int, name: bytes) -> None:
    begin = (block + 1) * BLOCK
    if begin + size > source.size:
        raise CorruptTar(
            block * BLOCK,
            f"truncated: the file ends within the payload ({source.size - begin} bytes of {size})",
            member=name,
        )
    if begin + blocks(size) * BLOCK > source.size:
        raise CorruptTar(
            block * BLOCK, "truncated: the file ends within the padding of the payload", member=name
        )


def _records(source: Source, block: int, header: Header) -> dict[bytes, bytes]:
    try:
        return parse_records(_data(source, block, header))
    except PaxError as error:
        raise CorruptTar(block * BLOCK, f"bad extended header: {error}", member=header.name) from None


def _global_fault(records: dict[bytes, bytes]) -> str:
    more = sorted(records.keys() - {b"comment"})
    if not more:
        return ""
    return f"a PAX global header that sets {shown(more[0])}"


def _extend(extensions: _Extensions, source: Source, block: int, header: Header) -> None:
    """Take an extension header. What an earlier one said stays."""
    extensions.size += header.size
    if extensions.size > EXTENSION_LIMIT and extensions.count:
        raise CorruptTar(
            block * BLOCK,
            f"extension headers of more than {EXTENSION_LIMIT} bytes for one member",
            member=header.name,
        )
    if header.typeflag == _LONG_NAME:
        name = text(_data(source, block, header))
        extensions.name = name if extensions.name is None else extensions.name
    elif header.typeflag == _LONG_LINK:
        link = text(_data(source, block, header))
        extensions.link = link if extensions.link is None else extensions.link
    else:
        records = _records(source, block, header)
        for keyword in (b"path", b"linkpath"):
            if b"\x00" in records.get(keyword, b""):
                raise CorruptTar(
                    block * BLOCK, f"bad extended header: a NUL in {keyword.decode()}", member=header.name
                )
        extensions.name = records.get(b"path") if extensions.name is None else extensions.name
        extensions.link = records.get(b"linkpath") if extensions.link is None else extensions.link
        extensions.records = records | extensions.records
        if header.typeflag == _SOLARIS_X:
            extensions.fault = "a Solaris extended header (type X)"


def _member(source: Source, start: int, block: int, header: Header, extensions: _Extensions) -> Member:
    """The member whose own header stands at `block`."""
    name = header.name if extensions.name is None else extensions.name
    link = header.link if extensions.link is None else extensions.link
    typeflag = header.typeflag
    size = header.size
    fault = extensions.fault
    if extensions.records:
        size = _pax_size(extensions.records, size, block, name)
        if is_sparse(extensions.records):
            name = sparse_name(extensions.records) or name
            fault = fault or _UNSUPPORTED_TYPES[_SPARSE]
    directory = typeflag == DIRECTORY or (typeflag == _AREGTYPE and name.endswith(b"/"))
    if typeflag in WITHOUT_DATA or directory:
        size = 0
    before = _sparse_map(source, block, name) if header.more_sparse else 0
    _check_complete(source, block + before, size, name)
    end = block + 1 + before + blocks(size)
    if directory:
        return Member(Kind.DIRECTORY, start, end, name)
    if typeflag in FILE_TYPES:
        kind = Kind.FILE
    elif typeflag == SYMLINK:
        kind = Kind.SYMLINK
    elif typeflag == LINK:
        kind = Kind.LINK
    else:
        kind = Kind.UNSUPPORTED
        fault = fault or _UNSUPPORTED_TYPES.get(typeflag) or f"of the unknown type {chr(typeflag)!r}"
    fault = fault or name_fault(name) or ""
    return Member(Kind.UNSUPPORTED if fault else kind, start, end, name, link, fault)


def _pax_size(records: dict[bytes, bytes], size: int, block: int, name: bytes) -> int:
    value = records.get(b"size")
    if value is None:
        return size
    if not value.isdigit() or len(value) > 20:
        raise CorruptTar(block * BLOCK, "bad extended header: its size is not a number", member=name)
    return int(value)


def _sparse_map(source: Source, block: int, name: bytes) -> int:
    """The number of blocks by which the map of an old GNU sparse member goes on after its header."""
    count = 0
    while True:
        count += 1
        offset = (block + count) * BLOCK
        if offset + BLOCK > source.size:
            raise CorruptTar(
                offset, "truncated: the file ends within the map of a sparse member", member=name
            )
        if not source.read(offset, BLOCK)[504]:
            return count
