"""Order: keys, the stable sort of rows, and the splitters that give each rank a key range.

The output order is total: by order key, then by the record's canonical place (shard ordinal, record ordinal). So equal
keys never depend on timing, and a splitter can fall between two records of the same key.

Shuffle is a sort by a keyed 64-bit mix, with splitmix64's finalizer (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014):

    mix(x) = (x ^= x >> 30) *= 0xBF58476D1CE4E5B9; (x ^= x >> 27) *= 0x94D049BB133111EB; x ^ (x >> 31)
    key(seed, shard, ordinal) = mix(mix(mix(seed + G) + shard * G) + ordinal * G)    G = 0x9E3779B97F4A7C15, modulo 2**64

The permutation depends on the seed and on places alone, never on the number of ranks. These formulas are part of the
contract: an output made by one version is remade by the next.

Pure: numpy in, numpy out.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dsort_worker.rows import U8, U32, U64, Index, RowBlock

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1
_CHUNK: Final = 1 << 13
_PIECE: Final = 1 << 19
"""Rows that are refined at a time: it bounds the temporary arrays of a sort by keys."""

Bools = npt.NDArray[np.bool_]
WORD: Final = 8
"""Key bytes that one comparison takes: the width of the `key` column."""


def mix(x: int) -> int:
    """splitmix64's finalizer on one integer below 2**64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def mix_array(x: U64) -> U64:
    """`mix` on an array, in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def shuffle_keys(count: int, *, seed: int, shard: int, first: int = 0) -> U64:
    """Order keys of `count` of a shard's records from number `first` on under Shuffle: u8[count]."""
    base = mix((mix((seed + _GOLDEN) & _MASK) + shard * _GOLDEN) & _MASK)
    keys = np.arange(first, first + count, dtype=np.uint64)
    keys *= np.uint64(_GOLDEN)
    keys += np.uint64(base)
    return mix_array(keys)


def md5_keys(keys: U8, lengths: U32) -> tuple[U8, U32]:
    """The md5 digests of packed keys, packed: order keys of kind MD5."""
    data = keys.tobytes()
    digests = bytearray()
    end = 0
    for length in lengths.tolist():
        digests += hashlib.md5(data[end : end + length], usedforsecurity=False).digest()
        end += length
    return np.frombuffer(digests, dtype=np.uint8), np.full(len(lengths), 16, dtype=np.uint32)


def key_words(keys: U8, starts: Index | U32, lengths: Index | U32, *, level: int) -> U64:
    """Bytes [8 * level, 8 * level + 8) of each key as a big-endian number, zeros past its end: u8[n]."""
    words = np.empty(len(starts), dtype=np.uint64)
    if not len(keys):
        words[:] = 0
        return words
    columns = np.arange(level * WORD, level * WORD + WORD)
    for low in range(0, len(starts), _CHUNK):
        part = slice(low, low + _CHUNK)
        index = starts[part, None].astype(np.int64) + columns
        block = keys[np.minimum(index, len(keys) - 1)]
        block[columns >= lengths[part, None]] = 0
        words[part] = block.view(">u8")[:, 0]
    return words


def sort_order(block: RowBlock, *, descending: bool = False) -> Index:
    """The permutation that sorts rows by (order key, canonical place): i8[n].

    Rows must stand in canonical order: the sort is stable. With key bytes, ties of the first word are refined word by
    word, and at last by length (a key comes before the keys that it begins).
    """
    if not block.has_keys:
        return _sort_words(block.rows["key"], descending=descending)
    sorter = _KeySorter(block, descending=descending)
    order = np.arange(len(block), dtype=np.int64)
    sorter.sort(order, level=0)
    return order


def _sort_words(column: U64, *, descending: bool) -> Index:
    """Stable order of a column of words.

    A plain sort of the words with their index in the low bits is several times faster than an argsort; the few words that
    are equal in the bits which are left are put right afterwards.
    """
    bits = max(1, (len(column) - 1).bit_length())
    low = np.uint64((1 << bits) - 1)
    marked = column ^ np.uint64(_MASK if descending else 0)
    marked &= ~low
    marked |= np.arange(len(column), dtype=np.uint64)
    marked.sort()
    order = (marked & low).astype(np.int64)
    marked >>= np.uint64(bits)
    same = np.zeros(len(column), dtype=bool)
    np.equal(marked[1:], marked[:-1], out=same[1:])
    del marked
    runs = _runs(same)
    position = np.flatnonzero(runs >= 0)
    if len(position):
        rows = order[position]
        word = column[rows] ^ np.uint64(_MASK if descending else 0)
        order[position] = rows[np.lexsort((word, runs[position]))]
    return order


class _KeySorter:
    """Sorts rows by their key bytes, word by word, with temporary arrays of bounded size beside three words a row."""

    def __init__(self, block: RowBlock, *, descending: bool) -> None:
        self._block = block
        # Half the memory where 32 bits are enough for every place in the packed keys.
        fits = len(block.keys) <= np.iinfo(np.uint32).max
        starts = block.key_starts()[:-1]
        self._starts: Index | U32 = starts.astype(np.uint32) if fits else starts
        self._longest = int(block.key_lengths.max(initial=0))
        self._flip = np.uint64(_MASK if descending else 0)

    def sort(self, order: Index, *, level: int) -> None:
        """Sort, in place, rows `order` whose keys are equal in the first `level` words."""
        while len(order) > 1:
            word, last = self._words(order, level)
            if not last and bool((word == word[:1]).all()):
                level += 1  # a prefix that all share, as the paths of a data set do
                continue
            inner = np.argsort(word, kind="stable")
            same = np.zeros(len(order), dtype=bool)
            for low in range(
                1, len(order), _CHUNK
            ):  # in parts: the sorted words as a whole would be one array more
                part = word[inner[low - 1 : low + _CHUNK]]
                np.equal(part[1:], part[:-1], out=same[low : low + _CHUNK])
            del word
            order[:] = order[inner]
            del inner
            if not last:
                self._sort_runs(order, same, level=level + 1)
            return

    def _sort_runs(self, order: Index, same: Bools, *, level: int) -> None:
        """Sort the runs of rows that are equal so far: large ones alone, small ones many at a time."""
        starts = np.flatnonzero(~same)
        low = 0
        while low < len(starts):
            begin = int(starts[low])
            upto = int(np.searchsorted(starts, begin + _PIECE, side="right")) - 1
            if upto <= low:  # one run of more than a piece
                end = int(starts[low + 1]) if low + 1 < len(starts) else len(order)
                if end - begin > 1:
                    self.sort(order[begin:end], level=level)
                low += 1
                continue
            end = int(starts[upto])
            self._refine(order[begin:end], same[begin:end], level=level)
            low = upto

    def _refine(self, order: Index, same: Bools, *, level: int) -> None:
        """Sort a piece of many runs: all of them at once, word by word."""
        runs = _runs(same)
        position = np.flatnonzero(runs >= 0)
        group = runs[position]
        while len(position):
            rows = order[position]
            word, last = self._words(rows, level)
            inner = np.lexsort((word, group))
            order[position] = rows[inner]
            if last:
                return
            group, word = group[inner], word[inner]
            same = np.zeros(len(position), dtype=bool)
            same[1:] = (group[1:] == group[:-1]) & (word[1:] == word[:-1])
            runs = _runs(same)
            position, group = position[runs >= 0], runs[runs >= 0]
            level += 1

    def _words(self, rows: Index, level: int) -> tuple[U64, bool]:
        """The next word of each key; or, past the end of all keys, their lengths, which decide (last: True)."""
        block = self._block
        whole = len(rows) == len(block)
        longest = self._longest if whole else int(block.key_lengths[rows].max(initial=0))
        last = longest <= level * WORD
        words = np.empty(len(rows), dtype=np.uint64)
        for low in range(0, len(rows), _CHUNK):
            part = rows[low : low + _CHUNK]
            lengths = block.key_lengths[part]
            if last:
                words[low : low + _CHUNK] = lengths
            elif level == 0:
                words[low : low + _CHUNK] = block.rows["key"][part]
            else:
                words[low : low + _CHUNK] = key_words(block.keys, self._starts[part], lengths, level=level)
        words ^= self._flip
        return words, last


def _runs(same: Bools) -> Index:
    """same[i]: element i belongs to the run of element i - 1. The run's number, -1 for runs of one."""
    runs = np.cumsum(~same)
    alone = ~same
    alone[:-1] &= ~same[1:]
    runs[alone] = -1
    return runs.astype(np.int64, copy=False)


class Bound(NamedTuple):
    """A place in the output order: key bytes (the u64 column as 8 big-endian bytes where there are no key bytes)."""

    key: bytes
    shard: int
    ordinal: int


class Sample(NamedTuple):
    """Bounds taken at equal steps of bytes through a rank's sorted rows, each standing for `weight` blocks."""

    bounds: tuple[Bound, ...]
    weight: float


def _comparison(*, descending: bool) -> Callable[[Bound, Bound], int]:
    def compare(a: Bound, b: Bound) -> int:
        if a.key != b.key:
            return 1 if (a.key > b.key) != descending else -1
        mine, other = (a.shard, a.ordinal), (b.shard, b.ordinal)
        return (mine > other) - (mine < other)

    return compare


def compare_bounds(*, descending: bool = False) -> Callable[[Bound], Any]:
    """A key for sorting bounds by their place in the output order."""
    return functools.cmp_to_key(_comparison(descending=descending))


def equal_steps(total: int, count: int) -> Index:
    """The middles of `count` equal parts of [0, total): i8[count]."""
    return (np.arange(count, dtype=np.int64) * 2 + 1) * total // max(1, 2 * count)


def cut(
    bound_at: Callable[[int], Bound], count: int, splitters: Sequence[Bound], *, descending: bool = False
) -> list[int]:
    """Where each range begins among `count` sorted rows, and the end of the last: len(splitters) + 2 row numbers.

    bound_at(i) is the place of row i; about log2(count) of them are looked at for each splitter.
    """
    compare = _comparison(descending=descending)
    result = [0]
    for splitter in splitters:
        low, high = result[-1], count
        while low < high:
            middle = (low + high) // 2
            if compare(bound_at(middle), splitter) < 0:
                low = middle + 1
            else:
                high = middle
        result.append(low)
    return [*result, count]


_NEARLY_ONE: Final = 1 + 1e-6
"""Sums of weights are not exact."""

FEWEST: Final = 16
"""Bounds that a rank reports at the least, where it has as many rows."""

LONGEST_KEY: Final = 1024
"""Bytes of a key that a bound keeps. Any point of the order may split it; ranges are the more even the closer it is to a row."""

_KEY_BYTES: Final = 64
"""Key bytes of a bound on the average; where keys are longer there are fewer bounds."""


def sample_size(ranks: int) -> int:
    """Bounds that each rank reports: enough for an even split. Rank 0 holds those of all, so over all they are bounded."""
    return max(FEWEST, min(1024, 16384 // ranks))


def sample_of(bounds: Sequence[Bound], *, blocks: int, size: int) -> Sample:
    """A sample of `blocks` blocks from bounds at equal steps: as many as a sample of `size` bounds has memory for."""
    while len(bounds) >= 2 * FEWEST and sum(len(bound.key) for bound in bounds) > size * _KEY_BYTES:
        bounds = bounds[len(bounds) % 2 :: 2]
    return Sample(tuple(bounds), blocks / len(bounds))


def choose_splitters(
    samples: Sequence[Sample], *, ranks: int, shard: float = 0.0, descending: bool = False
) -> list[Bound]:
    """Up to ranks - 1 bounds that split the bytes evenly, as far as the samples tell. Fewer when there are too few records.

    Row x goes to the first rank whose range ends after it: range r begins at splitter r - 1. shard: see `_places_to_cut`.
    """
    place = compare_bounds(descending=descending)
    weighted = sorted(
        ((bound, s.weight) for s in samples for bound in s.bounds), key=lambda pair: place(pair[0])
    )
    total = sum(weight for _, weight in weighted)
    cuts = _places_to_cut(total, ranks=ranks, shard=shard)
    splitters: list[Bound] = []
    seen = 0.0
    for bound, weight in weighted:
        while len(splitters) < len(cuts) and seen + weight / 2 >= cuts[len(splitters)]:
            splitters.append(bound)
        seen += weight
    return splitters


def _places_to_cut(total: float, *, ranks: int, shard: float) -> list[float]:
    """Where to cut `total` blocks for so many ranks. shard: blocks of an output shard on the average, 0 when it is not known.

    A rank builds the shards that begin in its range. A cut close to the edge of one could give a rank one shard more than
    the next has, by chance; a quarter of a shard away from either edge it does not. So where there are two shards or more for
    each rank a cut moves to such a place, less than a shard away, and the ranks before it build `round` of their share.
    """
    even = [total * rank / ranks for rank in range(1, ranks)]
    if not 0 < 2 * ranks * shard <= total * _NEARLY_ONE:
        return even
    cuts = []
    for cut_at in even:
        share = cut_at / shard
        whole = round(share)
        cuts.append(min(max(share, whole - 0.75), whole - 0.25) * shard)
    return cuts
