"""Five ranks at the least budget, one of them slow, one still for a while, one killed: the job takes longer, and that is all."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

import pytest

from dsort_api.messages import Peer
from dsort_api.spec import LEAST_BUDGET
from dsort_cli import board
from tests.support.datasets import make_shards
from tests.support.links import Incident, Links, Pace
from tests.support.reference import expected_shards
from tests.support.running import House, contents, job

RANKS: Final = 5
SLOW, STILL, KILLED = 1, 2, 3
SPEED: Final = 1.4e6
"""Bytes a second of the slow rank's line: a hundredth of what a rank moves over the loopback (docs/performance.md)."""
STILL_SECONDS: Final = float(os.environ.get("DSORT_TEST_STILL_SECONDS", "3"))
"""How long a rank's line carries nothing in the middle of a body."""
ORDER: Final[dict[str, Any]] = {"kind": "Shuffle", "seed": 5}
OUTPUT: Final = {"shardCount": 15}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten shards of 24 MB in all."""
    return make_shards(tmp_path_factory.mktemp("large"), shards=10, records=48, largest=100_000)


@pytest.mark.slow
def test_a_slow_a_still_and_a_killed_rank_cost_time_and_nothing_else(
    house: House, large: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Pace(SPEED)
    still = Incident(STILL, after=1 << 20, seconds=STILL_SECONDS)
    killed = Incident(KILLED, after=1 << 20, action=lambda: house.nursery.kill(KILLED))
    began = time.monotonic()
    with Links(ranks=RANKS, paces={SLOW: slow}, incidents=[still, killed]) as links:
        monkeypatch.setattr(
            board,
            "Peer",
            lambda *, rank, url, epoch: Peer(rank=rank, url=links.front(rank, url), epoch=epoch),
        )
        run = house.run(
            job(large[0].parent, tmp_path / "out", order=ORDER, output=OUTPUT),
            workers=RANKS,
            memory=f"{LEAST_BUDGET >> 20}Mi",
            network=True,
        )
    seconds = time.monotonic() - began
    assert run.result["restarts"] == 1
    assert contents(tmp_path / "out") == expected_shards(large, order=ORDER, output=OUTPUT)
    assert killed.happened
    assert still.held >= 1
    assert slow.carried > 2 << 20
    assert seconds > max(STILL_SECONDS, slow.carried / SPEED)
