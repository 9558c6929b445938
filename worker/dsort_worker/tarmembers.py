"""All members of one tar: batches of plain ones through numpy, the others one by one, in the order of the archive.

Both ways say the same of a member that both can read; which one was taken is visible in time only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final, assert_never

import numpy as np

from dsort_worker.rows import Index
from dsort_worker.shardreader import ShardReader
from dsort_worker.tarbatch import Bools, NameFacts, harmless, name_facts, sizes, sound_headers, typeflags
from dsort_worker.tarhash import hash_names
from dsort_worker.tarheaders import BLOCK, FILE_TYPES, record_key
from dsort_worker.tarmember import EXTENSIONS, Kind, Member, Source, read_member
from dsort_worker.tarrecords import Batch, LeftOut, MemberLog
from dsort_worker.tarwalk import Collected, Walker
from dsort_worker.threads import WorkCancelled

_EXACT: Final = 64
"""Members that are read one by one when the walk was wrong, before it is tried again; doubled each time."""
_EXACT_LIMIT: Final = 4096
_FILES: Final = np.isin(np.arange(256), list(FILE_TYPES))
_EXTENSIONS: Final = np.isin(np.arange(256), list(EXTENSIONS))


class Scan:
    """The walk through one archive, and what it met."""

    def __init__(self, reader: ShardReader, *, want_keys: bool, cancelled: Callable[[], bool]) -> None:
        self.source = Source(reader.size, reader.read)
        self.log = MemberLog()
        self.lost_keys: set[bytes] = set()
        self.left_out: list[LeftOut] = []
        self.members = 0
        self.directories = 0
        self.global_headers = 0
        self.position = 0
        """The next block to look at; at the end, the one behind the end of the archive."""
        self.ended = False
        self._walker = Walker(reader.fd)
        self._reader = reader
        self._want_keys = want_keys
        self._cancelled = cancelled
        self._last_key: bytes | None = None
        self._distrust = _EXACT

    def again(self, block: int) -> Member:
        """The member that starts at `block`. Raises CorruptTar."""
        return read_member(self.source, block)

    def walk(self, *, plainly: bool = True) -> None:
        """Go to the end of the archive. plainly=False: every member by itself. Raises CorruptTar, WorkCancelled."""
        while not self.ended:
            if self._cancelled():
                raise WorkCancelled
            if plainly and self._by_batch():
                self._distrust = _EXACT
            elif not self.ended:
                self._one_by_one(self._distrust)
                self._distrust = min(2 * self._distrust, _EXACT_LIMIT)

    def _one_by_one(self, count: int) -> None:
        """Take up to `count` members."""
        taken: list[Member] = []
        for _ in range(count):
            member = read_member(self.source, self.position)
            self.position = member.end
            if self._take(member):
                taken.append(member)
            if self.ended:
                break
        self._add_mixed(taken)

    def _by_batch(self) -> bool:
        """Take the members of a batch of headers; False where the walk was wrong about where they are."""
        try:
            batch = _with_their_members(self._walker.collect(self.position))
        except OSError as error:
            raise self._reader.unreadable(self.position * BLOCK, error) from error
        count = len(batch.places)
        if not count:
            return False
        typeflag = typeflags(batch.fields)
        size, octal = sizes(batch.fields)
        ends = batch.places + 1 + (size + (BLOCK - 1)) // BLOCK
        sound = sound_headers(batch.fields, batch.sums) & octal & (ends <= self.source.size // BLOCK)
        sound[:-1] &= ends[:-1] == batch.places[1:]
        plain_rows = np.flatnonzero(sound & _FILES[typeflag])
        names = name_facts(batch.fields, plain_rows)
        plain = np.zeros(count, dtype=bool)
        plain[plain_rows[~names.odd]] = True
        good, starts, settled = _chains(plain, _EXTENSIONS[typeflag], _harmless(batch, size, sound))
        taken: list[tuple[int, Member]] = []
        resume = 0
        trusted = True
        self.position = int(ends[-1])
        for row in np.flatnonzero(~settled).tolist():
            if row < resume:
                continue
            member = self.again(int(batch.places[row]))
            resume = int(np.searchsorted(batch.places, member.end))
            good[row + 1 : resume] = False
            # What looked like an extended header before the next one was payload of this one.
            starts[resume : resume + 1] = np.maximum(starts[resume : resume + 1], resume)
            if self._take(member):
                taken.append((row, member))
            if self.ended or resume == count or batch.places[resume] != member.end:
                trusted = self.ended or resume == count
                good[resume:] = False
                self.position = member.end
                break
        rows = np.flatnonzero(good)
        self.members += len(rows)
        start = batch.places[starts[rows]]
        index = np.searchsorted(plain_rows, rows)
        if taken:
            numbers = zip(rows.tolist(), start.tolist(), ends[rows].tolist(), index.tolist(), strict=True)
            for row, begin, end, number in numbers:
                taken.append((row, Member(Kind.FILE, begin, end, names.name(number))))
            self._add_mixed([member for _, member in sorted(taken, key=itemgetter(0))])
        else:
            self._add_plain(start, ends[rows] - start, names.select(index))
        if not trusted:
            self._walker.stumbled()
        return trusted

    def _take(self, member: Member) -> bool:
        """Count a member; whether it may be carried."""
        match member.kind:
            case Kind.END:
                self.ended = True
            case Kind.DIRECTORY:
                self.directories += 1
            case Kind.GLOBAL:
                self.global_headers += 1
                if member.fault:
                    self.left_out.append(LeftOut("unsupported", member.start, member.name, member.fault))
            case Kind.UNSUPPORTED:
                self.members += 1
                self.lost_keys.add(record_key(member.name))
                self.left_out.append(LeftOut("unsupported", member.start, member.name, member.fault))
            case Kind.FILE | Kind.SYMLINK | Kind.LINK:
                self.members += 1
                return True
            case unknown:
                assert_never(unknown)
        return False

    def _add_plain(self, start: Index, length: Index, names: NameFacts) -> None:
        """Log members by their name facts, row by row."""
        if not len(start):
            return
        same = names.same_keys()
        unsettled = names.repeated(same).tolist()
        if names.key(0) == self._last_key:
            same[0] = True
            unsettled.append(0)  # the names before it are no longer here
        self._last_key = names.key(-1)
        firsts = np.flatnonzero(~same)
        wanted = firsts if self._want_keys else firsts[:0]
        batch = Batch(
            start=start.astype(np.uint32),
            length=length.astype(np.uint32),
            same=same,
            key_hash=names.key_hashes(firsts),
            keys=names.packed_keys(wanted),
            key_lengths=names.key_lengths[wanted].astype(np.uint32),
        )
        self.log.add(batch, unsettled)

    def _add_mixed(self, members: Sequence[Member]) -> None:
        """Log members of any names."""
        if not members:
            return
        keys = [record_key(member.name) for member in members]
        same = [key == before for key, before in zip(keys, [self._last_key, *keys], strict=False)]
        self._last_key = keys[-1]
        unsettled = [0] if same[0] else []
        seen: set[bytes] = set()
        for index, (member, again) in enumerate(zip(members, same, strict=True)):
            if not again:
                seen.clear()
            if member.name in seen or member.kind is Kind.LINK:
                unsettled.append(index)
            seen.add(member.name)
        firsts = [key for key, again in zip(keys, same, strict=True) if not again]
        wanted = firsts if self._want_keys else []
        batch = Batch(
            start=np.array([member.start for member in members], dtype=np.uint32),
            length=np.array([member.end - member.start for member in members], dtype=np.uint32),
            same=np.array(same),
            key_hash=hash_names(firsts),
            keys=np.frombuffer(b"".join(wanted), dtype=np.uint8),
            key_lengths=np.array([len(key) for key in wanted], dtype=np.uint32),
        )
        self.log.add(batch, unsettled)


def _with_their_members(batch: Collected) -> Collected:
    """Without an extended header at its very end: the next batch has it beside its member, and this one has nothing odd."""
    last = len(batch.places) - 1
    if last < 1 or not _EXTENSIONS[typeflags(batch.fields[last:])[0]]:
        return batch
    pax_rows = batch.pax_rows[: np.searchsorted(batch.pax_rows, last)]
    return Collected(
        batch.places[:last],
        batch.fields[:last],
        batch.sums[:last],
        pax_rows,
        batch.pax_data[: len(pax_rows) + 1],
    )


def _harmless(batch: Collected, size: Index, sound: Bools) -> Bools:
    """Which rows are extended headers that change nothing: bool[n]."""
    result = np.zeros(len(sound), dtype=bool)
    rows = batch.pax_rows
    if len(rows):
        result[rows] = harmless(batch.pax_data, size[rows]) & sound[rows]
    return result


def _chains(plain: Bools, extension: Bools, harmless: Bools) -> tuple[Bools, Index, Bools]:
    """Which rows are the own headers of plain members, where their members start, and which rows that settles.

    A plain member is a plain header with nothing or one harmless extended header before it.
    """
    rows = np.arange(len(plain))
    before = np.concatenate([[False], extension[:-1]])
    alone = plain & ~before
    opening = harmless & ~before
    extended = plain & np.concatenate([[False], opening[:-1]])
    settled = alone | extended
    settled[:-1] |= extended[1:]
    return alone | extended, rows - extended, settled
