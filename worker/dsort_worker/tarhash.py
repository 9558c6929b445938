"""The 64-bit hash of names and record keys.

    h(s) = mix(len(s) * G + sum over j of fold(w[j] * K[j]))          modulo 2**64
    fold(x): x ^= x >> 32; x *= 0xD6E8FEB86659FD93; x ^ (x >> 29)

w[j] are the bytes of s as little-endian u64 words, the last one padded with zeros; K[j] = mix((j + 1) * G) | 1; mix is
the finalizer of the shuffle (dsort_worker.order), G its golden constant. A word of zeros adds nothing, so names may be
padded to any width: that lets a whole batch be hashed as one matrix. It is no secret hash: whoever needs certainty compares
the bytes of what is equal.

Pure: arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from dsort_worker.order import mix_array
from dsort_worker.rows import U64, Index

_G: Final = np.uint64(0x9E3779B97F4A7C15)
_FOLD: Final = np.uint64(0xD6E8FEB86659FD93)


def _multipliers(low: int, high: int) -> U64:
    index = np.arange(low + 1, high + 1, dtype=np.uint64) * _G
    return mix_array(index) | np.uint64(1)


_COMMON: Final = _multipliers(0, 64)


def multipliers(count: int) -> U64:
    """K[0..count)."""
    return _COMMON[:count] if count <= len(_COMMON) else _multipliers(0, count)


def _fold(x: U64) -> U64:
    """`fold`, in place. Linear functions alone would let the last bytes of two words cancel each other out."""
    x ^= x >> np.uint64(32)
    x *= _FOLD
    x ^= x >> np.uint64(29)
    return x


def hash_matrix(words: U64, lengths: Index) -> U64:
    """Hash the rows of a matrix of names: words u64[w, n] (a column per name, zeros past its end), lengths [n] in bytes."""
    total = lengths.astype(np.uint64) * _G
    for row, factor in zip(words, multipliers(len(words)), strict=True):
        total += _fold(row * factor)
    return mix_array(total)


def hash_names(names: Sequence[bytes]) -> U64:
    """Hash names of any lengths: u64[n]."""
    lengths = np.fromiter((len(name) for name in names), dtype=np.int64, count=len(names))
    counts = (lengths + 7) // 8
    starts = np.cumsum(counts) - counts
    packed = b"".join(name.ljust(int(count) * 8, b"\x00") for name, count in zip(names, counts, strict=True))
    words = np.frombuffer(packed, dtype="<u8")
    place = np.arange(len(words)) - np.repeat(starts, counts)
    mixed = _fold(words * multipliers(int(counts.max(initial=0)))[place])
    total = lengths.astype(np.uint64) * _G
    filled = counts > 0
    if len(words):
        total[filled] += np.add.reduceat(mixed, starts[filled])
    return mix_array(total)
