"""The receive window: a buffer whose every byte has its place before it is asked for.

What arrives is copied once, from the piece that the client hands over to its place in the window. Order of arrival among the
sources does not matter.
"""

from __future__ import annotations

from dsort_worker.rows import Index


class Placer:
    """Takes a source's slices, one after the other as they were asked for, to their places in a window.

    places and lengths: bytes, i8[n], in the order of the request.
    """

    def __init__(self, out: memoryview, *, places: Index, lengths: Index) -> None:
        self._out = out
        self._places = places.tolist()
        self._lengths = lengths.tolist()
        self._next = 0
        self._at = 0
        self._left = 0

    def feed(self, piece: memoryview) -> None:
        """Copy a piece of the stream. Raises ValueError when it has more bytes than were asked for."""
        out, places, lengths = self._out, self._places, self._lengths
        at, left, following = self._at, self._left, self._next
        low, size = 0, len(piece)
        while low < size:
            if not left:
                if following == len(lengths):
                    raise ValueError("more bytes than were asked for")
                at, left = places[following], lengths[following]
                following += 1
            take = min(size - low, left)
            out[at : at + take] = piece[low : low + take]
            at += take
            left -= take
            low += take
        self._at, self._left, self._next = at, left, following
