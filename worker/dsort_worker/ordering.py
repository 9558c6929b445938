"""The order step: a rank's rows, from the scan to the sorted rows of its key range, in memory or past it.

What fits into the rank's room for rows stays in memory, and that is the normal case. Where the scan finds more, every full
block becomes a sorted run on disk, and the runs are merged into the store from which the other ranks pull. Where a rank's key
range is more, it goes to disk as it comes, rank by rank, and is merged into a file whose pages are the block that is packed.
The result is the same, byte for byte: it takes longer, and twice the metadata's bytes of scratch space.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from dsort_api.spec import Order, OrderKind
from dsort_worker.merge import Run, Runs, Sorting, whole
from dsort_worker.order import sample_size, sort_order
from dsort_worker.rows import Extent, Index, RowBlock, extend_rows, join_blocks, permute_rows
from dsort_worker.rowsreceiver import RowsReceiver
from dsort_worker.rowstore import RowStore, RowWriter, count_pairs, stored
from dsort_worker.scratch import Scratch

_COPIED: Final = 1 << 14
"""Rows that are copied from one file to another at a time."""


class Ordering:
    """Brings rows into the output order. Its methods take long: they are for a thread, except `receiver`.

    room: bytes of memory for rows. folder: where scratch files go. on_spill: told of bytes that go there for want of room.
    `how` says all of it to others that sort rows.
    """

    def __init__(
        self,
        order: Order,
        *,
        ranks: int,
        room: int,
        folder: str | None,
        on_spill: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._kind = order.kind
        self._descending = order.descending
        self._ranks = ranks
        self.how = Sorting(
            room=room,
            sort=self._sort_order,
            folder=folder,
            descending=order.descending,
            on_spill=on_spill,
            cancelled=cancelled,
        )
        self._scanned = Runs(self.how)
        self._lock = threading.Lock()
        self._taken: dict[int, int] = {}
        """Bytes of the room by the rank whose rows have them; -1: the rows that are here already."""
        self._arrivals: Scratch | None = None
        self._places: dict[int, int] = {}
        """Where in `_arrivals` a rank's rows are: at the same place when they come again."""
        self._store: RowStore | None = None

    @property
    def room(self) -> int:
        """Bytes of memory for rows."""
        return self.how.room

    # The rank's own rows, as the scan finds them

    def spill(self, block: RowBlock) -> None:
        """The scan has found more than the room holds: a block of rows, in canonical order. Raises DSortError (no space)."""
        self._scanned.add(block)

    def sort_alone(self, block: RowBlock) -> RowBlock:
        """The rows of a job of one rank in order: what was spilled, and the last block."""
        if not len(self._scanned):
            self._sort(block)
            return block
        self._scanned.add(block)
        self._store = self._scanned.merge(keys=False)
        return self._store.map()

    def store(self, block: RowBlock) -> RowStore:
        """The store from which the ranks pull: what was spilled, and the last block. Raises DSortError (no space)."""
        sample = sample_size(self._ranks)
        if not len(self._scanned):
            return RowStore.write(
                block, self._sort_order(block), scratch=Scratch(self.how.folder), sample=sample
            )
        self._scanned.add(block)
        return self._scanned.merge(sample=sample)

    # The rows of the key range, from all ranks

    def receiver(self, rank: int, *, has_keys: bool) -> RowsReceiver:
        """Takes the rows that come from a rank. One that is asked again takes the place of the first."""
        return RowsReceiver(
            has_keys=has_keys, to_disk=lambda extent: self._place(rank, extent, has_keys=has_keys)
        )

    def own_range(self, store: RowStore, low: int, high: int, *, rank: int) -> RowBlock | Run:
        """The part of the key range that this rank has scanned itself."""
        run = Run(store, low, high)
        return store.load(low, high) if self._fits(rank, run.extent) else run

    def join(self, arrived: list[RowBlock | RowStore | Run]) -> RowBlock:
        """The key range in order, from the parts of all ranks, which stand in the order of the ranks; empties the list.

        Ranks scan runs of shards in order, and each part is sorted, so equal keys stand in canonical order.
        """
        blocks = [part for part in arrived if isinstance(part, RowBlock)]
        if len(blocks) == len(arrived):
            arrived.clear()
            block = join_blocks(blocks)
            self._sort(block)
            self._taken = {-1: block.rows.nbytes + block.extra.nbytes}
            return block
        del blocks
        runs = Runs(self.how)
        for number, part in enumerate(arrived):
            runs.add_sorted(whole(part) if isinstance(part, RowStore) else part)
            arrived[number] = RowBlock.empty()  # its memory is free for the next
        self._taken.clear()
        self._store = runs.merge(keys=False)
        self._forget_arrivals()
        return self._store.map()

    # What ranks need of each other's shards

    def head(self, block: RowBlock, count: int) -> Run:
        """The first rows of the block that came of `join`, for the rank that builds the shard they belong to."""
        if self._store is not None:
            return Run(self._store, 0, count)
        head = RowBlock(block.rows[:count], block.extra)
        return whole(RowStore.write(head, np.arange(count), scratch=Scratch(self.how.folder)))

    def extend(self, block: RowBlock, first: int, later: Sequence[RowBlock | RowStore]) -> RowBlock:
        """The rows of a block from `first` on, and those of later ranks behind them, with their slice pairs."""
        if not later:
            return RowBlock(block.rows[first:], block.extra)
        blocks = [part for part in later if isinstance(part, RowBlock)]
        if not block.mapped and len(blocks) == len(later):
            extend_rows(block, blocks)
            return RowBlock(block.rows[first:], block.extra)
        parts = [RowBlock(block.rows[first:], block.extra), *(_block_of(part) for part in later)]
        extent = Extent(sum(map(len, parts)), sum(map(count_pairs, parts)))
        writer = RowWriter(self.how.scratch(), extent, has_keys=False)
        for part in parts:
            for low in range(0, len(part), _COPIED):
                writer.append(part, np.arange(low, min(low + _COPIED, len(part))))
        self._forget_arrivals()
        return writer.finish().map()

    def _sort_order(self, block: RowBlock) -> Index:
        """Blocks stand in canonical order, so order None has nothing to do."""
        if self._kind is OrderKind.NONE:
            return np.arange(len(block))
        return sort_order(block, descending=self._descending)

    def _sort(self, block: RowBlock) -> None:
        """Sort a block in place."""
        if self._kind is OrderKind.NONE:
            return
        order = self._sort_order(block)
        block.drop_keys()
        permute_rows(block.rows, order)

    def _fits(self, rank: int, extent: Extent) -> bool:
        with self._lock:
            others = sum(cost for other, cost in self._taken.items() if other != rank)
            fits = others + extent.cost <= self.how.room
            self._taken[rank] = extent.cost if fits else 0
        return fits

    def _place(self, rank: int, extent: Extent, *, has_keys: bool) -> tuple[Scratch, int] | None:
        if self._fits(rank, extent):
            return None
        if self._arrivals is None:
            self._arrivals = self.how.scratch()
        if rank not in self._places:
            self._places[rank] = self._arrivals.reserve(stored(extent, has_keys=has_keys))
        return self._arrivals, self._places[rank]

    def _forget_arrivals(self) -> None:
        if self._arrivals is not None:
            self._arrivals.close()
        self._arrivals = None
        self._places.clear()


def _block_of(part: RowBlock | RowStore) -> RowBlock:
    """Rows that came from a later rank: the first of a store there, so their pairs begin at 0 on disk as well."""
    return part if isinstance(part, RowBlock) else part.map()
