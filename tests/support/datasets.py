"""Small archives for tests: every tar dialect, header by header, and every way in which a tar can be damaged.

Python's tarfile writes GNU, PAX and ustar but neither V7 nor small sizes in base 256, and is slow on 100,000 members; so
headers are made here, by the formats' own descriptions (POSIX.1-2017 pax, GNU tar's tar.h). All content is a function of a
seed.
"""

from __future__ import annotations

import io
import random
import struct
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

BLOCK: Final = 512
END: Final = bytes(1024)
DIALECTS: Final = ("v7", "ustar", "gnu", "pax")
MTIME: Final = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """A member to be written. kind: the type flag; pax: more keywords of a PAX header; base256: size and mtime so."""

    name: str | bytes
    data: bytes = b""
    mode: int = 0o644
    mtime: float = MTIME
    kind: bytes = b"0"
    link: str | bytes = b""
    pax: dict[str, str] = field(default_factory=dict)
    base256: bool = False


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _number(value: int, width: int, *, base256: bool = False) -> bytes:
    if base256:
        return b"\x80" + value.to_bytes(width - 1, "big")
    return b"%0*o\0" % (width - 1, value)


def header(
    name: bytes,
    size: int,
    *,
    kind: bytes = b"0",
    mode: int = 0o644,
    mtime: int = MTIME,
    link: bytes = b"",
    magic: bytes,
    prefix: bytes = b"",
    base256: bool = False,
) -> bytes:
    """One header block with its checksum. magic: 8 bytes, zeros for V7."""
    block = struct.pack(
        "100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x",
        name,
        _number(mode, 8),
        _number(1000, 8),
        _number(1000, 8),
        _number(size, 12, base256=base256),
        _number(mtime, 12, base256=base256),
        b" " * 8,
        kind,
        link,
        magic,
        b"user" if magic.strip(b"\0") else b"",
        b"group" if magic.strip(b"\0") else b"",
        b"",
        b"",
        prefix,
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    """Data with zeros up to the next block."""
    return data + bytes(-len(data) % BLOCK)


_USTAR: Final = b"ustar\x0000"
_GNU: Final = b"ustar  \0"


def pax_header(records: dict[str, bytes], *, kind: bytes = b"x") -> bytes:
    """A PAX extended header with its data."""
    body = b""
    for keyword, value in records.items():
        line = b" %s=%s\n" % (keyword.encode(), value)
        length = len(line) + 1
        while len(str(length)) + len(line) != length:
            length = len(str(length)) + len(line)
        body += b"%d%s" % (length, line)
    return header(b"PaxHeaders/x", len(body), kind=kind, magic=_USTAR) + padded(body)


def _gnu_long(kind: bytes, text: bytes) -> bytes:
    return header(b"././@LongLink", len(text) + 1, kind=kind, mtime=0, magic=_GNU) + padded(text + b"\0")


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """A name as ustar's (prefix, name); None where it does not fit."""
    if len(name) <= 100:
        return b"", name
    for cut in range(len(name) - 101, min(156, len(name))):
        if name[cut : cut + 1] == b"/" and cut:
            return name[:cut], name[cut + 1 :]
    return None


def member(item: Item, *, dialect: str) -> bytes:
    """A member with the extension headers that its dialect needs for it, and its padding."""
    name, link, size, mtime = _raw(item.name), _raw(item.link), len(item.data), int(item.mtime)
    plain = {"kind": item.kind, "mode": item.mode, "mtime": mtime, "base256": item.base256}
    before = prefix = b""
    match dialect:
        case "v7":
            assert len(name) <= 100, "V7 has no longer names"
            assert len(link) <= 100, "V7 has no longer links"
            magic = bytes(8)
            plain["kind"] = b"\0" if item.kind == b"0" else item.kind
        case "ustar":
            magic = _USTAR
            split = _split(name)
            assert split is not None, "the name does not fit into prefix and name"
            prefix, name = split
        case "gnu":
            magic = _GNU
            if len(link) > 100:
                before += _gnu_long(b"K", link)
            if len(name) > 100:
                before += _gnu_long(b"L", name)
        case "pax":
            magic = _USTAR
            records = {
                keyword: value.encode("utf-8", "surrogateescape") for keyword, value in item.pax.items()
            }
            if len(name) > 100 or not name.isascii():
                records["path"] = name
            if len(link) > 100 or not link.isascii():
                records["linkpath"] = link
            if item.mtime != mtime:
                records["mtime"] = str(item.mtime).encode()
            before = pax_header(records) if records else b""
        case _:
            raise AssertionError(dialect)
    block = header(name[:100], size, link=link[:100], magic=magic, prefix=prefix, **plain)  # type: ignore[arg-type]
    return before + block + padded(item.data)


def tar_bytes(items: Iterable[Item], *, dialect: str = "ustar", end: bytes = END) -> bytes:
    """A whole archive."""
    return b"".join(member(item, dialect=dialect) for item in items) + end


def write_tar(path: Path, items: Iterable[Item], *, dialect: str = "ustar", end: bytes = END) -> Path:
    """Write an archive; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for item in items:
            file.write(member(item, dialect=dialect))
        file.write(end)
    return path


def record(
    key: str,
    *,
    seed: int,
    sizes: Sequence[int] = (3000, 20),
    extensions: Sequence[str] = (".jpg", ".cls"),
    mtime: float = MTIME,
) -> list[Item]:
    """The members of one record with random content."""
    draw = random.Random(seed)
    return [
        Item(key + extension, draw.randbytes(size), mtime=mtime)
        for extension, size in zip(extensions, sizes, strict=True)
    ]


def make_shards(
    folder: Path,
    *,
    shards: int,
    records: int,
    largest: int = 6000,
    seed: int = 0,
    name: str = "in-%04d.tar",
    dialect: str = "gnu",
) -> list[Path]:
    """Shards of `records` records each: an image of random size up to `largest`, a caption and a label.

    Keys come in no order, the sizes differ, and no path stands in two shards.
    """
    draw = random.Random(seed)
    numbers = list(range(shards * records))
    draw.shuffle(numbers)
    paths = []
    for shard in range(shards):
        items: list[Item] = []
        for number in numbers[shard * records : (shard + 1) * records]:
            sizes = (draw.randrange(largest), draw.randrange(300), 2)
            items += record(
                f"class{number % 7}/{number:06d}",
                seed=number,
                sizes=sizes,
                extensions=(".jpg", ".txt", ".cls"),
                mtime=MTIME + number,
            )
        paths.append(write_tar(folder / (name % shard), items, dialect=dialect))
    return paths


# ------------------------------------------------------------------------------------------------ dialects (case 12)


def odd_items(dialect: str) -> list[Item]:
    """Records with all that a dialect can say: long and non-ASCII names, long links, base 256, fractions of seconds."""
    over_100 = "folder/" * 14 + "a-name-of-more-than-100-bytes"
    over_255 = ("d" * 60 + "/") * 5 + "name"
    short = [
        Item("plain.txt", b"plain"),
        Item("ümläut.txt", "ü".encode()),
        Item("日本.jpg", b"\xff" * 700, mode=0o600),
    ]
    short += [
        Item(".hidden.txt", b"h"),
        Item("no-extension", b"n"),
        Item("dir.with.dots/name.a.b", b"ab"),
        Item("empty.bin"),
    ]
    short += [
        Item("link.a", b"target"),
        Item("link.b", kind=b"2", link="../anywhere/else"),
        Item("link.c", kind=b"1", link="link.a"),
    ]
    big = [Item("sized.bin", b"s" * 1000, base256=True)]
    match dialect:
        case "v7":
            return short
        case "ustar":
            within_prefix = ("e" * 50 + "/") * 3 + "name-in-the-prefix-field" * 4
            return [
                *short,
                Item(over_100 + ".jpg", b"1" * 999),
                Item(over_100 + ".cls", b"2"),
                Item(within_prefix + ".x", b"p"),
            ]
        case "gnu":
            long = [
                Item(over_100 + ".jpg", b"1" * 999),
                Item(over_100 + ".cls", b"2"),
                Item(over_255 + ".é", b"3"),
            ]
            return [
                *short,
                *big,
                *long,
                Item("far.l", kind=b"2", link="x" * 140),
                Item(over_255 + ".l", kind=b"2", link="ÿ" * 90),
            ]
        case _:
            long = [
                Item(over_100 + ".jpg", b"1" * 999),
                Item(over_100 + ".cls", b"2", mtime=MTIME + 0.25),
                Item(over_255 + ".é", b"3"),
            ]
            wds = {"mtime": f"{MTIME}.5", "uname": "bigdata", "SCHILY.xattr.user.note": "été"}
            more = [
                Item("as-webdataset-writes.jpg", b"w" * 600, pax=wds),
                Item("sized-in-pax.bin", b"z" * 70, pax={"size": "70"}),
            ]
            return [
                *short,
                *big,
                *long,
                *more,
                Item("far.l", kind=b"2", link="x" * 140),
                Item("fär.l", kind=b"2", link="ÿ" * 90),
            ]


# -------------------------------------------------------------------------------------------- bad archives (case 15)


def _good() -> bytes:
    return tar_bytes([*record("a", seed=1), *record("b", seed=2), *record("c", seed=3)], dialect="gnu")


def _flipped(at: int) -> bytes:
    data = bytearray(_good())
    data[at] ^= 0x04
    return bytes(data)


_MEMBER_C: Final = 2 * (BLOCK + 3072 + BLOCK + BLOCK)

BAD_ARCHIVES: Final[dict[str, Callable[[], bytes]]] = {
    "truncated-in-a-header": lambda: _good()[: _MEMBER_C + 300],
    "truncated-in-a-payload": lambda: _good()[: _MEMBER_C + BLOCK + 1000],
    "truncated-in-the-padding": lambda: _good()[: _MEMBER_C + BLOCK + 3010],
    "truncated-after-a-payload": lambda: _good()[: _MEMBER_C + BLOCK + 3072],
    "missing-end-blocks": lambda: _good()[:-1024],
    "bit-flipped-name": lambda: _flipped(_MEMBER_C),
    "bit-flipped-size": lambda: _flipped(_MEMBER_C + 130),
    "bit-flipped-checksum": lambda: _flipped(_MEMBER_C + 150),
    "truncated-in-a-pax-header": lambda: tar_bytes([Item("x" * 120, b"data")], dialect="pax")[: BLOCK + 40],
    "ends-after-an-extension-header": lambda: _gnu_long(b"L", b"n" * 120),
    "bad-pax-record": lambda: header(b"p", 9, kind=b"x", magic=_USTAR) + padded(b"99 path=a") + END,
    "empty-file": lambda: b"",
    "text": lambda: b"This is no archive, whatever its name says.\n" * 40,
    "short-text": lambda: b"no archive\n",
    "gzip": lambda: b"\x1f\x8b\x08\x00" + random.Random(5).randbytes(2000),
    "random-bytes": lambda: random.Random(6).randbytes(4096),
}
"""Archives that are damaged, or none at all, by what is wrong with them."""


# -------------------------------------------------------------------------------------------------------- what is in it


@dataclass(frozen=True, slots=True)
class Fact:
    """What a reader sees of a member: its path, what it is, the sha256 (or where a link points), mode and mtime."""

    path: str
    content: str
    mode: int
    mtime: float


def without_times(fact: Fact) -> Fact:
    """For readers that show neither."""
    return replace(fact, mode=0, mtime=0)


def tarfile_bytes(items: Iterable[Item], *, layout: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive written by Python's tarfile: an independent writer."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=layout, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for item in items:
            info = tarfile.TarInfo(_raw(item.name).decode("utf-8", "surrogateescape"))
            info.size, info.mode, info.mtime, info.type = len(item.data), item.mode, item.mtime, item.kind
            info.linkname = _raw(item.link).decode("utf-8", "surrogateescape")
            archive.addfile(info, io.BytesIO(item.data))
    return buffer.getvalue()
