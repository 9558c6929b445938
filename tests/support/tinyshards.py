"""Shards of very many tiny records, made as quickly as numpy fills headers: for what grows with their number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_NAME: Final = b"a folder that all share/0000000.txt"
_DIGITS: Final = 7
_DIGITS_AT: Final = _NAME.index(b"0")
_EXTENSION_AT: Final = len(_NAME) - 3
_CHECKSUM: Final = slice(148, 156)
_EVERY: Final = 64

Headers = npt.NDArray[np.uint8]


def make_tiny_shards(folder: Path, *, shards: int, records: int, seed: int = 0) -> list[Path]:
    """Shards of `records` records of one empty member each; of 64 records two have another one each, so interleaved that
    both lie in two slices.

    Every shard has the same keys, each in an order of its own; they differ past their first eight bytes only.
    """
    draw = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    paths = []
    for shard in range(shards):
        numbers = draw.permutation(records)
        first = np.arange(0, records - 1, _EVERY)
        # Behind records n and n + 1 come second members of both.
        second = np.repeat(first + 2, 2)
        members = np.insert(numbers, second, numbers[np.stack((first, first + 1), axis=1).reshape(-1)])
        seconds = np.insert(np.zeros(records, dtype=bool), second, np.ones(len(second), dtype=bool))
        path = folder / f"in-{shard:04d}.tar"
        with path.open("wb") as file:
            file.write(_headers(members, seconds).tobytes())
            file.write(bytes(1024))
        paths.append(path)
    return paths


def _headers(numbers: npt.NDArray[np.int64], seconds: npt.NDArray[np.bool_]) -> Headers:
    """A ustar header of an empty file for each number: u1[n, 512]."""
    one = np.zeros(512, dtype=np.uint8)
    _put(one, 0, _NAME)
    for at, text in ((100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, b"00000000000\0")):
        _put(one, at, text)
    _put(one, 136, b"14000000000\0")
    _put(one, 148, b" " * 8)
    _put(one, 156, b"0")
    _put(one, 257, b"ustar\x0000")
    headers = np.tile(one, (len(numbers), 1))
    for digit in range(_DIGITS):
        headers[:, _DIGITS_AT + _DIGITS - 1 - digit] += (numbers // 10**digit % 10).astype(np.uint8)
    headers[seconds, _EXTENSION_AT : _EXTENSION_AT + 3] = np.frombuffer(b"cls", dtype=np.uint8)
    sums = headers.sum(axis=1, dtype=np.int64)
    checksums = np.zeros((len(numbers), 8), dtype=np.uint8)
    for digit in range(6):
        checksums[:, 5 - digit] = (sums >> 3 * digit & 7) + ord("0")
    checksums[:, 7] = ord(" ")
    headers[:, _CHECKSUM] = checksums
    return headers


def _put(header: np.ndarray[Any, np.dtype[np.uint8]], at: int, text: bytes) -> None:
    header[at : at + len(text)] = np.frombuffer(text, dtype=np.uint8)
