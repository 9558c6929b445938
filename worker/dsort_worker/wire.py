"""The exchange on the wire: paths, headers, the body of a slices request and the checksum that ends a stream.

A stream is a body with Content-Length: the payload, then its xxh3-64 as eight bytes, little endian. Offsets and lengths in
requests are in blocks of 512 bytes.

Pure: no I/O.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from typing import Final

import numpy as np
import xxhash

from dsort_worker.gather import Slices
from dsort_worker.rows import BLOCK

EPOCH_HEADER: Final = "X-Dsort-Epoch"
"""The epoch of the rank that is addressed: a request meant for another life of it is refused with 409."""
PLAN_HEADER: Final = "X-Dsort-Job"
"""The job's id: a request of another job is refused with 409."""
PROTOCOL_HEADER: Final = "X-Dsort-Protocol"
FROM_HEADER: Final = "X-Dsort-Rank"
SIZE_HEADER: Final = "X-Dsort-Size"
"""Bytes of payload that the asker expects, where it knows."""
DEADLINE_HEADER: Final = "X-Dsort-Deadline"
"""Seconds that the asker is going to wait for the answer to begin."""
TICKET_HEADER: Final = "X-Dsort-Ticket"
"""In a refusal (503): holds the asker's place until it comes back, when Retry-After says; in the request that comes back: that."""

CHECKSUM_SIZE: Final = 8
MAX_SLICES: Final = 1 << 17
_COUNT: Final = struct.Struct("<I")
MOST_REQUEST: Final = _COUNT.size + 12 * MAX_SLICES
"""Bytes of the body of a slices request."""

Checksum = xxhash.xxh3_64


def http_url(host: str, port: int) -> str:
    """The url of an endpoint; an IPv6 address stands in brackets there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_bearer(headers: Mapping[str, str], token: str) -> bool:
    """Whether a request carries this bearer token. It takes as long to say so of any other of that length."""
    given = headers.get("Authorization", "").encode(errors="surrogateescape")
    return hmac.compare_digest(given, f"Bearer {token}".encode())


def checksum_bytes(checksum: xxhash.xxh3_64) -> bytes:
    """The eight bytes that end a stream."""
    return checksum.intdigest().to_bytes(CHECKSUM_SIZE, "little")


def encode_slices(slices: Slices) -> bytes:
    """A slices request: u4 count, then shard ordinals, offsets and lengths, each u4[count], little endian."""
    columns = np.empty((3, len(slices)), dtype="<u4")
    columns[0] = slices.shard
    columns[1] = slices.offset // BLOCK
    columns[2] = slices.length // BLOCK
    return _COUNT.pack(len(slices)) + columns.tobytes()


def decode_slices(body: bytes) -> Slices:
    """Inverse of `encode_slices`. Raises ValueError for a body that is none."""
    if len(body) < _COUNT.size:
        raise ValueError("a slices request of less than four bytes")
    (count,) = _COUNT.unpack_from(body)
    if count > MAX_SLICES or len(body) != _COUNT.size + 12 * count:
        raise ValueError(f"a slices request of {len(body)} bytes says that it has {count} slices")
    columns = np.frombuffer(body, dtype="<u4", offset=_COUNT.size).reshape(3, count).astype(np.int64)
    return Slices(columns[0], columns[1] * BLOCK, columns[2] * BLOCK)
