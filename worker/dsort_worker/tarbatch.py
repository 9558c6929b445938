"""Tar headers by the thousand: matrices of header blocks, checked and read with numpy.

Only what is plain is decided here: regular files with numbers in octal digits, a right checksum and a whole name in the
header. Everything else is left to tarmember, which decides the same of a plain member too (a property test holds them
together). A word of a header is read as a little-endian u64, so that one operation looks at eight bytes.

Pure: arrays in, arrays out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dsort_worker.rows import U8, U64, Index
from dsort_worker.tarhash import hash_matrix
from dsort_worker.tarheaders import BLOCK
from dsort_worker.tarpax import PaxError, is_harmless, parse_records

Bools = npt.NDArray[np.bool_]

FIELDS: Final = 21
"""Words of a header that are looked at: the first 20 (name, numbers, type) and the one where a ustar prefix begins."""

_u = np.uint64
_NAME: Final = 100
_WIDTHS: Final = (24, 40, 64, 104)
_LONG_RUN: Final = 32
_NO_DIGIT: Final = _u(0xF8F8F8F8F8F8F8F8)
_ZEROS: Final = _u(0x3030303030303030)
_HIGH_HALF: Final = _u(0xFFFFFFFF00000000)
_EVEN: Final = _u(0x00FF00FF00FF00FF)
# _KEEP[n]: the mask that keeps the first n bytes of a name of 13 words.
_KEEP: Final = np.where(np.arange(104) < np.arange(105)[:, None], 255, 0).astype(np.uint8).view("<u8")


def octal(words: U64) -> U64:
    """The values of eight octal digits a word, the first one in the lowest byte, each byte 0..7: u64[n] below 2**24."""
    pairs = ((words << _u(3)) + (words >> _u(8))) & _EVEN
    fours = ((pairs << _u(6)) + (pairs >> _u(16))) & _u(0x0000FFFF0000FFFF)
    return ((fours << _u(12)) + (fours >> _u(32))) & _u(0xFFFFFFFF)


def take_fields(headers: U8, fields: U64, *, scratch: U64) -> U64:
    """Copy what is looked at of header blocks u8[n, 512] to fields u64[n, FIELDS]; the sums of the blocks' bytes: u64[n].

    The checksum fields count as spaces, and are overwritten with them. scratch: u64[2, n, 64].
    """
    words = headers.view("<u8")
    fields[:, :20] = words[:, :20]
    fields[:, 20] = words[:, 43]
    headers[:, 148:156] = 0x20
    return byte_sums(words, scratch=scratch)


def byte_sums(words: U64, *, scratch: U64) -> U64:
    """The sums of the bytes of blocks, as words u64[n, 64]: u64[n]. scratch: u64[2, n, 64]."""
    odd, even = scratch
    np.right_shift(words, _u(8), out=odd)
    np.bitwise_and(odd, _EVEN, out=odd)
    np.bitwise_and(words, _EVEN, out=even)
    np.add(odd, even, out=odd)
    # 16-bit lanes: 64 words times two bytes of at most 255 stay below 2**16.
    lanes = np.add.reduce(odd, axis=1)
    halves = (lanes & _u(0x0000FFFF0000FFFF)) + ((lanes >> _u(16)) & _u(0x0000FFFF0000FFFF))
    total: U64 = (halves + (halves >> _u(32))) & _u(0xFFFFFFFF)
    return total


def typeflags(fields: U64) -> U8:
    """The type flags: u8[n]."""
    return fields.view(np.uint8)[:, 156].copy()


def sizes(fields: U64) -> tuple[Index, Bools]:
    """The sizes in bytes, and whether their fields are eleven octal digits and a NUL or space (else they mean nothing)."""
    high = (fields[:, 15] ^ _ZEROS) & _HIGH_HALF
    end = fields[:, 16] >> _u(56)
    digits = (fields[:, 16] ^ _ZEROS) << _u(8)
    plain = (((high | digits) & _NO_DIGIT) == 0) & ((end == 0) | (end == _u(0x20)))
    value = (octal(high) << _u(21)) | octal(digits)
    return value.view(np.int64), plain


def sound_headers(fields: U64, sums: U64) -> Bools:
    """Which headers have a right checksum, in six plain octal digits, and no ustar prefix to their name."""
    # Bytes 148..155: six octal digits and a NUL or space, then whatever.
    claimed = (fields[:, 18] >> _u(32)) | (fields[:, 19] << _u(32))
    digits = (claimed ^ _ZEROS) << _u(16)
    end = (claimed >> _u(48)) & _u(0xFF)
    sound: Bools = octal(digits) == sums
    sound &= ((digits & _NO_DIGIT) == 0) & ((end == 0) | (end == _u(0x20)))
    sound &= (fields[:, 20] & _u(0xFF00)) == 0
    return sound


class NameFacts(NamedTuple):
    """The names of m plain headers. names and keys: words u64[m, w], zeros past their ends."""

    names: U64
    keys: U64
    lengths: Index
    key_lengths: Index
    odd: Bools
    """Empty, absolute, with two dots in a row, or with a slash at the end: to be looked at exactly."""

    def select(self, rows: Index) -> NameFacts:
        """Those of some rows."""
        if len(rows) == len(self.odd):
            return self
        return NameFacts(
            self.names[rows], self.keys[rows], self.lengths[rows], self.key_lengths[rows], self.odd[rows]
        )

    def name(self, row: int) -> bytes:
        """The name of one of them."""
        return bytes(self.names[row].tobytes()[: int(self.lengths[row])])

    def key(self, row: int) -> bytes:
        """The record key of one of them."""
        return bytes(self.keys[row].tobytes()[: int(self.key_lengths[row])])

    def same_keys(self) -> Bools:
        """Whether the key of each is that of the one before: bool[m], false for the first."""
        same = np.zeros(len(self.keys), dtype=bool)
        # A header's name has no NUL in it, so equal words are equal keys.
        same[1:] = _equal(self.keys, lag=1)
        return same

    def repeated(self, same: Bools) -> Index:
        """Rows whose name stands again in their run of `same` keys, and all of runs too long to be compared like this."""
        within = same[1:]
        again: list[Index] = []
        for lag in range(1, _LONG_RUN + 1):
            if not within.any():
                break
            again.append(np.flatnonzero(within & _equal(self.names, lag=lag)))
            within = within[:-1] & same[lag + 1 :]
        else:
            again.append(np.flatnonzero(within))
        return np.concatenate([np.empty(0, dtype=np.int64), *again])

    def key_hashes(self, rows: Index) -> U64:
        """The hashes of the record keys of `rows`."""
        return hash_matrix(self.keys[rows].T, self.key_lengths[rows])

    def packed_keys(self, rows: Index) -> U8:
        """The record keys of `rows`, packed."""
        matrix = self.keys[rows].view(np.uint8)
        return matrix[np.arange(matrix.shape[1]) < self.key_lengths[rows, None]]


def _equal(words: U64, *, lag: int) -> Bools:
    """Whether row i + lag equals row i: bool[n - lag]."""
    equal: Bools = words[lag:, -1] == words[:-lag, -1]
    for column in range(words.shape[1] - 1):
        equal &= words[lag:, column] == words[:-lag, column]
    return equal


def name_facts(fields: U64, rows: Index) -> NameFacts:
    """Look at the names of the headers `rows`."""
    words, lengths, rest = _names(fields, rows)
    width = 8 * words.shape[1]
    if rest != width * len(words) - int(lengths.sum()):  # something stands behind the NUL that ends a name
        words &= _KEEP[:, : width // 8][lengths]
    matrix = words.view(np.uint8)
    dots = matrix == 0x2E
    slashes = matrix == 0x2F
    odd = (lengths == 0) | slashes[:, 0]
    flat = dots.reshape(-1)
    if (flat[1:] & flat[:-1]).any():
        odd |= (dots[:, 1:] & dots[:, :-1]).any(axis=1)
    if slashes.any():
        behind = width - np.argmax(slashes[:, ::-1], axis=1)
        behind[~slashes.any(axis=1)] = 0
        dots &= np.arange(width) > behind[:, None]
        odd |= behind == lengths
    else:
        dots[:, 0] = False
    dot = np.argmax(dots, axis=1)
    key_lengths = np.where(dot > 0, dot, lengths)
    keys = words & _KEEP[:, : width // 8][key_lengths]
    return NameFacts(words, keys, lengths, key_lengths, odd)


def _names(fields: U64, rows: Index) -> tuple[U64, Index, int]:
    """The names as words, of the narrowest width that shows the end of each; their lengths, and the number of NULs."""
    for width in _WIDTHS:
        words = fields[:, : width // 8] if len(rows) == len(fields) else fields[rows, : width // 8]
        words = words.copy()
        matrix = words.view(np.uint8)
        matrix[:, _NAME:] = 0
        ends = matrix == 0
        lengths = np.argmax(ends, axis=1)
        if ends[lengths == 0, 0].all():  # argmax is 0 too where there is no end within the width
            return words, lengths, int(np.count_nonzero(ends))
    raise AssertionError("bytes 100..103 are zeros")


# Keywords that nearly every PAX header of a data set consists of, as (number of bytes with the "=", three masked words).
_PLAIN_KEYWORDS: Final = tuple(
    (len(keyword), *(np.frombuffer(keyword.ljust(24, b"\x00"), dtype="<u8").tolist()))
    for keyword in (
        b"mtime=", b"atime=", b"ctime=", b"uid=", b"gid=", b"uname=", b"gname=", b"comment=", b"SCHILY.dev=", b"SCHILY.ino=",
        b"SCHILY.nlink=", b"LIBARCHIVE.creationtime=",
    )
)  # fmt: skip


def harmless(data: U8, size: Index) -> Bools:
    """Which extended headers set nothing that changes what their member is: bool[k].

    size[k]: the bytes of each, false beyond 512. data u8[k + 1, 512]: their data blocks, and one block of anything, so that
    what begins in a block can be read over its end.
    """
    good = np.zeros(len(size), dtype=bool)
    flat = data.reshape(-1)
    # Every eight bytes of the data as a word, at whatever address.
    words = np.ndarray(len(flat) - 7, dtype="<u8", buffer=flat, strides=(1,))
    rows = np.flatnonzero(size <= BLOCK)
    position = np.zeros(len(rows), dtype=np.int64)
    while len(rows):
        at = rows * BLOCK + position
        finished = (position == size[rows]) | (flat[at] == 0)
        good[rows[finished]] = True
        going = ~finished
        rows, position, at = rows[going], position[going], at[going]
        length, after = _record_length(flat, at)
        end = position + length
        room = end - (position + after)
        plain = (length > 0) & (end <= size[rows]) & (flat[np.minimum(at + length, len(flat)) - 1] == 0x0A)
        plain &= _has_plain_keyword(words, at + after, room)
        for index in np.flatnonzero(~plain).tolist():
            row = int(rows[index])
            good[row] = _harmless_one(data[row, : int(size[row])].tobytes())
        rows, position = rows[plain], end[plain]
    return good


def _harmless_one(data: bytes) -> bool:
    try:
        return is_harmless(parse_records(data))
    except PaxError:
        return False


def _record_length(flat: U8, at: Index) -> tuple[Index, Index]:
    """The lengths of the records at `at`, and how many bytes their digits and the space take; 0, where not 1 to 3 digits."""
    length = np.zeros(len(at), dtype=np.int64)
    after = np.zeros(len(at), dtype=np.int64)
    value = np.zeros(len(at), dtype=np.int64)
    reading = np.ones(len(at), dtype=bool)
    for column in range(4):
        byte = flat[at + column]
        ended = reading & (byte == 0x20) & (column > 0)
        length[ended] = value[ended]
        after[ended] = column + 1
        digit = byte - np.uint8(0x30)
        reading &= digit < 10
        value = value * 10 + digit
    return length, after


def _has_plain_keyword(words: U64, at: Index, room: Index) -> Bools:
    """Whether one of the plain keywords and its "=" stand at `at`, within `room` bytes."""
    found = np.zeros(len(at), dtype=bool)
    first, second, third = words[at], words[at + 8], words[at + 16]
    for size, *wanted in _PLAIN_KEYWORDS:
        same = (first & _keep(size)) == _u(wanted[0])
        if size > 8 and same.any():
            same &= ((second & _keep(size - 8)) == _u(wanted[1])) & (
                (third & _keep(size - 16)) == _u(wanted[2])
            )
        found |= same & (room >= size)
    return found


def _keep(size: int) -> np.uint64:
    """The mask of the first `size` bytes of a word."""
    return _u((1 << (8 * min(max(size, 0), 8))) - 1)
