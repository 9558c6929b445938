"""The merge: sorted runs, which together do not fit into memory, become one sorted store.

The runs are cut at the same places of the output order into pieces that do fit, the least first; each piece is read, sorted
as rows in memory are, and written. A place to cut is found in the runs themselves: the middle of one of them, so chosen that
both sides are at least about a quarter of what is cut. So it does not matter how the keys are distributed, and one that
occurs a million times is cut between two records, as a splitter may.

Runs must stand in canonical order (every row of one before every row of the next, were they not sorted): then the stable
sort of a piece, read run after run, keeps equal keys in canonical order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dsort_worker.order import Bound, compare_bounds, cut
from dsort_worker.rows import Extent, Index, RowBlock, join_blocks
from dsort_worker.rowstore import RowStore, RowWriter
from dsort_worker.scratch import Scratch
from dsort_worker.threads import WorkCancelled

FAN_IN: Final = 64
"""Runs that are merged at once; a piece is read from each of them, so with more the pieces would be cut into crumbs."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Run:
    """Rows [low, high) of a store."""

    store: RowStore
    low: int
    high: int

    def __len__(self) -> int:
        return self.high - self.low

    @property
    def extent(self) -> Extent:
        """How much it is."""
        return self.store.extent_of(self.low, self.high)


def whole(store: RowStore) -> Run:
    """All rows of a store."""
    return Run(store, 0, store.rows)


class Sorting(NamedTuple):
    """How rows are sorted with a bounded memory.

    room: bytes of memory for rows (a single row may take more). sort: the permutation that sorts a block in memory.
    folder: where scratch files go. on_spill: told of bytes written to them. cancelled is asked at every piece.
    """

    room: int
    sort: Callable[[RowBlock], Index]
    folder: str | None
    descending: bool = False
    on_spill: Callable[[int], None] = lambda _: None
    cancelled: Callable[[], bool] = lambda: False

    def scratch(self) -> Scratch:
        """A scratch file for rows that do not fit into memory."""
        return Scratch(self.folder, on_write=self.on_spill)


class Runs:
    """Blocks of rows, in canonical order, as sorted runs in scratch files, until they are merged."""

    def __init__(self, how: Sorting) -> None:
        self._how = how
        self._runs: list[Run] = []
        self._scratch: Scratch | None = None

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, block: RowBlock) -> None:
        """The next rows, in canonical order. Raises DSortError (no space)."""
        self._write(block, self._how.sort(block))

    def add_sorted(self, rows: RowBlock | Run) -> None:
        """The next rows, which are sorted already. Raises DSortError (no space)."""
        if isinstance(rows, Run):
            self._runs.append(rows)
        else:
            self._write(rows, np.arange(len(rows)))

    def merge(self, *, keys: bool = True, sample: int = 0) -> RowStore:
        """One sorted store of all rows, with their key bytes where `keys` says so, and with up to `sample` bounds.

        The runs are gone afterwards. Raises DSortError (no space), WorkCancelled.
        """
        files = [self._scratch] if self._scratch is not None else []
        runs, self._runs, self._scratch = self._runs, [], None
        try:
            while len(runs) > FAN_IN:
                files.append(self._how.scratch())
                runs = [
                    whole(merge_runs(runs[low : low + FAN_IN], into=files[-1], how=self._how))
                    for low in range(0, len(runs), FAN_IN)
                ]
                while len(files) > 1:
                    files.pop(0).close()
            files.append(self._how.scratch())
            store = merge_runs(runs, into=files[-1], how=self._how, keys=keys, sample=sample)
            files.pop()
            return store
        finally:
            for file in files:
                file.close()

    def _write(self, block: RowBlock, order: Index) -> None:
        if self._scratch is None:
            self._scratch = self._how.scratch()
        self._runs.append(whole(RowStore.write(block, order, scratch=self._scratch)))


def merge_runs(
    runs: Sequence[Run], *, into: Scratch, how: Sorting, keys: bool = True, sample: int = 0
) -> RowStore:
    """Merge at most some FAN_IN runs; see `Runs.merge`."""
    extent = sum((run.extent for run in runs), Extent())
    has_keys = keys and any(run.store.has_keys for run in runs)
    writer = RowWriter(
        into,
        extent if has_keys else Extent(extent.rows, extent.pairs),
        has_keys=has_keys,
        blocks=sum(run.store.blocks for run in runs) if sample else 0,
        sample=sample,
    )
    for piece in _pieces(runs, room=how.room, descending=how.descending):
        if how.cancelled():
            raise WorkCancelled
        block = join_blocks([run.store.load(run.low, run.high) for run in piece])
        writer.append(block, np.arange(len(block)) if len(piece) == 1 else how.sort(block))
    return writer.finish()


def _pieces(runs: Sequence[Run], *, room: int, descending: bool) -> Iterator[list[Run]]:
    """Cut the runs into pieces that fit the room, in the order of the output."""
    waiting = [[run for run in runs if len(run)]]
    while waiting:
        piece = waiting.pop()
        if len(piece) <= 1 and sum(map(len, piece)) <= 1:
            if piece:
                yield piece
            continue
        if sum((run.extent for run in piece), Extent()).cost <= room:
            yield piece
            continue
        splitter = _middle(piece, descending=descending)
        cuts = [_cut(run, splitter, descending=descending) for run in piece]
        waiting.append(
            [Run(run.store, at, run.high) for run, at in zip(piece, cuts, strict=True) if at < run.high]
        )
        waiting.append(
            [Run(run.store, run.low, at) for run, at in zip(piece, cuts, strict=True) if at > run.low]
        )


def _middle(runs: Sequence[Run], *, descending: bool) -> Bound:
    """The weighted median of the middles of the runs; some row is before it."""
    place = compare_bounds(descending=descending)
    middles = sorted(
        ((run.store.bound((run.low + run.high) // 2), len(run)) for run in runs),
        key=lambda pair: place(pair[0]),
    )
    seen = np.cumsum([weight for _, weight in middles])
    return middles[int(np.searchsorted(seen, seen[-1] / 2, side="right"))][0]


def _cut(run: Run, splitter: Bound, *, descending: bool) -> int:
    """The first row of the run that is not before the splitter."""
    low = run.low
    return (
        low + cut(lambda index: run.store.bound(low + index), len(run), [splitter], descending=descending)[1]
    )
