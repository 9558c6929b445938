"""The reference: what a job has to write, byte for byte, in some forty lines over Python's tarfile.

It shares no code with the product. Members are sliced out of the source file between the offsets that tarfile reports, from
the first extension header to the next member; the orders and the packing rules are the documented ones in plain integers.
It takes archives without unsupported members; of members with the same path it keeps the last.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

END: Final = bytes(1024)
_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Record:
    """A record: its place (shard, ordinal), its key, and its members' bytes."""

    shard: int
    ordinal: int
    key: bytes
    data: bytes


def record_key(name: bytes) -> bytes:
    """The path up to the first dot after the last slash; a leading dot of the base name is not that dot."""
    folder, slash, base = name.rpartition(b"/")
    dot = base.find(b".", 1)
    return folder + slash + (base if dot < 0 else base[:dot])


def read_members(path: Path) -> list[tuple[bytes, bytes]]:
    """(name, bytes with all headers) of every member that is not a directory, in the order of the archive."""
    members = []
    with (
        tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive,
        path.open("rb") as file,
    ):
        while (member := archive.next()) is not None:
            if not member.isdir():
                file.seek(member.offset)
                name = member.name.encode("utf-8", "surrogateescape")
                members.append((name, file.read(archive.offset - member.offset)))
    return members


def read_records(path: Path, *, shard: int = 0) -> list[Record]:
    """The records of one shard by place; of equal paths the last."""
    last: dict[bytes, tuple[int, bytes]] = {}
    for place, (name, data) in enumerate(read_members(path)):
        last[name] = (place, data)
    records: dict[bytes, list[bytes]] = {}
    for name, (_, data) in sorted(last.items(), key=lambda entry: entry[1][0]):
        records.setdefault(record_key(name), []).append(data)
    return [
        Record(shard, ordinal, key, b"".join(parts)) for ordinal, (key, parts) in enumerate(records.items())
    ]


def _mix(x: int) -> int:
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31


def shuffle_key(seed: int, shard: int, ordinal: int) -> int:
    """key = mix(mix(mix(seed + G) + shard G) + ordinal G), modulo 2**64, G the golden ratio of 64 bits."""
    inner = _mix((_mix((seed + _GOLDEN) & _MASK) + shard * _GOLDEN) & _MASK)
    return _mix((inner + ordinal * _GOLDEN) & _MASK)


def ordered(records: Sequence[Record], order: Mapping[str, Any]) -> list[Record]:
    """Records (in canonical order) in the order that spec.order asks for; ties stay."""
    match order.get("kind", "None"):
        case "None":
            return list(records)
        case "Shuffle":
            return sorted(records, key=lambda r: shuffle_key(order.get("seed", 0), r.shard, r.ordinal))
        case "Key":
            keys = [r.key for r in records]
        case _:
            keys = [hashlib.md5(r.key).digest() for r in records]
    # reverse=True keeps ties in place too, as sorted() promises.
    pairs = sorted(
        zip(keys, records, strict=True), key=lambda pair: pair[0], reverse=order.get("descending", False)
    )
    return [record for _, record in pairs]


def packed(records: Sequence[Record], output: Mapping[str, Any], *, names: int) -> list[list[Record]]:
    """Records (in output order) by output shard. names: of a bounded template, which counts where no rule is given."""
    total = sum(len(r.data) for r in records)
    cells: dict[int, list[Record]] = {}
    before = 0
    for number, record in enumerate(records):
        if "recordsPerShard" in output:
            cell = number // output["recordsPerShard"]
        elif "shardSize" in output:
            cell = before // output["shardSize"]
        else:
            cell = before * output.get("shardCount", names) // total
        cells.setdefault(cell, []).append(record)
        before += len(record.data)
    return list(cells.values())


def expected_shards(
    paths: Sequence[Path], *, order: Mapping[str, Any], output: Mapping[str, Any], names: int = 0
) -> list[bytes]:
    """The bytes of every output shard, by number."""
    records = [record for shard, path in enumerate(paths) for record in read_records(path, shard=shard)]
    shards = packed(ordered(records, order), output, names=names)
    return [b"".join(r.data for r in shard) + END for shard in shards]
