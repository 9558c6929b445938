"""The exchange on the wire."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker.gather import Slices
from dsort_worker.wire import MAX_SLICES, Checksum, checksum_bytes, decode_slices, encode_slices, http_url

U4 = st.integers(0, 2**32 - 1)


def slices_of(entries: list[tuple[int, int, int]]) -> Slices:
    columns = np.array(entries, dtype=np.int64).reshape(-1, 3).T
    return Slices(columns[0], columns[1] * 512, columns[2] * 512)


@given(st.lists(st.tuples(U4, U4, U4)))
def test_slices_arrive_as_they_were_asked_for(entries: list[tuple[int, int, int]]) -> None:
    slices = slices_of(entries)
    body = encode_slices(slices)
    assert len(body) == 4 + 12 * len(entries)
    found = decode_slices(body)
    for column in ("shard", "offset", "length"):
        assert getattr(found, column).tolist() == getattr(slices, column).tolist()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        struct.pack("<I", 1),
        struct.pack("<I", 1) + bytes(13),
        struct.pack("<I", 0) + b"x",
        struct.pack("<I", MAX_SLICES + 1) + bytes(12 * (MAX_SLICES + 1)),
        struct.pack("<I", 2**32 - 1),
    ],
    ids=lambda body: f"{len(body)} bytes",
)
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="slices"):
        decode_slices(body)


def test_a_stream_ends_with_its_xxh3_in_little_endian() -> None:
    checksum = Checksum()
    checksum.update(b"abc")
    assert checksum_bytes(checksum) == xxhash.xxh3_64_intdigest(b"abc").to_bytes(8, "little")


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert http_url("10.1.2.3", 7400) == "http://10.1.2.3:7400"
    assert http_url("fd00::7", 7400) == "http://[fd00::7]:7400"
