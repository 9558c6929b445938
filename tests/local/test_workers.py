"""What `spec.workers` says, with real ranks: how many there are; never what the output is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.reference import expected_shards
from tests.support.running import House, contents, job

SHUFFLED: dict[str, Any] = {"order": {"kind": "Shuffle", "seed": 3}, "output": {"shardCount": 5}}
TEMPLATE = {
    "metadata": {"labels": {"team": "data"}},
    "spec": {"nodeSelector": {"disk": "nvme"}, "resources": {"limits": {"memory": "128Mi", "cpu": "1m"}}},
}


@pytest.mark.parametrize(
    ("workers", "asked", "ranks"),
    [
        ({"lanes": 2}, None, 2),
        ({"placement": "Count", "count": 2, "lanes": 2}, None, 4),
        ({"placement": "OnePerNode", "template": TEMPLATE, "scratchSizeLimit": 1}, None, 1),
        ({"count": 4, "lanes": 4}, 3, 3),
        ({"lanes": 2, "shortCircuit": False}, None, 2),
    ],
    ids=["lanes", "count of lanes", "one per node", "asked for", "by way of the network"],
)
def test_ranks_are_those_of_all_pods_and_the_output_is_the_same(
    house: House,
    source: Path,
    shards: list[Path],
    tmp_path: Path,
    workers: dict[str, Any],
    asked: int | None,
    ranks: int,
) -> None:
    cluster = {"startDeadlineSeconds": 1, "ttlSecondsAfterFinished": 0, "managedBy": "example.com/other"}
    run = house.run(job(source, tmp_path / "out", workers=workers, **SHUFFLED, **cluster), workers=asked)
    assert run.result["ranks"] == ranks
    assert contents(tmp_path / "out") == expected_shards(
        shards, order=SHUFFLED["order"], output=SHUFFLED["output"]
    )
