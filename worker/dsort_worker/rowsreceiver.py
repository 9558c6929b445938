"""Takes ranges of rows off the wire (see `rowstore` for what they look like there), to memory or to disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dsort_worker.rows import Extent, RowBlock
from dsort_worker.rowstore import HEADER, RowStore, begin_pairs_at_zero, stored
from dsort_worker.scratch import Scratch


class RowsReceiver:
    """Takes a range of rows off the wire, straight into its arrays, or into a scratch file where it does not fit.

    `feed` gets the body piece by piece, in order, in pieces of any size; `finish` gives the range when all has come.
    to_disk is asked once, with the extent that the header announces: where in which scratch file to put the range, or None
    for memory.
    """

    def __init__(
        self, *, has_keys: bool, to_disk: Callable[[Extent], tuple[Scratch, int] | None] = lambda _: None
    ) -> None:
        self._has_keys = has_keys
        self._to_disk = to_disk
        self._header = bytearray()
        self._views: list[memoryview] = []
        self._block = RowBlock.empty()
        self._store: RowStore | None = None
        self._at = self._left = 0

    def feed(self, piece: memoryview) -> None:
        """Copy a piece to its place. Raises ValueError when more comes than the header announced, DSortError (no space)."""
        if len(self._header) < HEADER.size:
            taken = piece[: HEADER.size - len(self._header)]
            self._header += taken
            piece = piece[len(taken) :]
            if len(self._header) < HEADER.size:
                return
            self._make_room()
        if len(piece) > self._left:
            raise ValueError("more bytes than the header of the range announced")
        self._left -= len(piece)
        if self._store is not None:
            self._store.scratch.write(self._at, piece)
            self._at += len(piece)
            return
        while len(piece):
            view = self._views[0]
            size = min(len(view), len(piece))
            view[:size] = piece[:size]
            piece = piece[size:]
            if size == len(view):
                self._views.pop(0)
            else:
                self._views[0] = view[size:]

    def finish(self) -> RowBlock | RowStore:
        """The range, in memory or on disk. Raises ValueError when it is not complete."""
        if len(self._header) < HEADER.size or self._left:
            raise ValueError("the range of rows ended early")
        if self._store is None:
            begin_pairs_at_zero(self._block.rows)
            return self._block
        self._store.count_marks()
        return self._store

    def _make_room(self) -> None:
        extent = Extent(*HEADER.unpack(self._header))
        place = self._to_disk(extent)
        self._left = stored(extent, has_keys=self._has_keys)
        if place is not None:
            scratch, self._at = place
            self._store = RowStore(scratch, self._at, extent, has_keys=self._has_keys)
            return
        self._block = block = RowBlock.sized(extent, has_keys=self._has_keys)
        arrays: list[np.ndarray[Any, Any]] = [block.rows, block.key_lengths, block.keys, block.extra]
        self._views = [array.reshape(-1).view(np.uint8).data for array in arrays if array.size]
