"""The receive window: every byte goes to its place, whatever pieces it comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker.window import Placer


@given(st.lists(st.binary(max_size=20)), st.randoms(use_true_random=False), st.lists(st.integers(1, 30)))
def test_pieces_of_any_size_go_to_their_places(slices: list[bytes], random: object, sizes: list[int]) -> None:
    # The slices lie in the window in another order than they are asked for.
    order = list(range(len(slices)))
    random.shuffle(order)  # type: ignore[attr-defined]
    places, at = [0] * len(slices), 0
    for number in order:
        places[number] = at
        at += len(slices[number])
    out = bytearray(at)
    placer = Placer(
        memoryview(out),
        places=np.array(places, dtype=np.int64),
        lengths=np.array([len(s) for s in slices], dtype=np.int64),
    )
    stream, low = b"".join(slices), 0
    for size in [*sizes, len(stream)]:
        placer.feed(memoryview(stream[low : low + size]))
        low += size
    assert bytes(out) == b"".join(slices[number] for number in order)
    with pytest.raises(ValueError, match="more bytes"):
        placer.feed(memoryview(b"x"))
    assert bytes(out) == b"".join(slices[number] for number in order)
