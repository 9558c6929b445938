"""Output bytes are a function of the input and the spec: never of ranks, network or memory (item 1, case 5)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.support.datasets import Item, make_shards, record, write_tar
from tests.support.reference import expected_shards, read_records
from tests.support.running import House, comparable, contents, job, manifest_of, shards_in

ORDERS: dict[str, dict[str, Any]] = {
    "none": {},
    "key": {"kind": "Key"},
    "key-descending": {"kind": "Key", "descending": True},
    "md5": {"kind": "MD5"},
    "md5-descending": {"kind": "MD5", "descending": True},
    "shuffle": {"kind": "Shuffle", "seed": 7},
}
PACKINGS: dict[str, dict[str, Any]] = {
    "shardSize": {"shardSize": 700_000},
    "recordsPerShard": {"recordsPerShard": 17},
    "shardCount": {"shardCount": 9},
    "bounded-name": {"name": "part-{00..10}"},
}
RANKS = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven shards, 7 MB: records of nothing and of a megabyte, equal keys in several shards, and members apart."""
    folder = tmp_path_factory.mktemp("mixed")
    paths = make_shards(folder, shards=4, records=30, largest=60_000, seed=3)
    large = [item for number in range(3) for item in record(f"z/{number}", seed=number, sizes=(1_000_000, 5))]
    same = [
        [Item(f"same/{number}.{shard}", bytes([shard]) * 3000) for number in range(20)] for shard in range(2)
    ]
    apart = [
        Item(f"apart/{number}.{part}", part.encode() * 2000) for part in ("a", "b") for number in range(9)
    ]
    paths.append(write_tar(folder / "more-0.tar", [*large, *same[0]], dialect="pax"))
    paths.append(write_tar(folder / "more-1.tar", [*same[1], *apart, Item("zero")], dialect="gnu"))
    paths.append(write_tar(folder / "more-2.tar", []))
    return paths


NETWORKS_AND_BUDGETS = ((False, "64Mi"), (True, "64Mi"), (False, "1Gi"), (True, "1Gi"))


def check_same_bytes(
    house: House,
    mixed: list[Path],
    tmp_path: Path,
    *,
    order: str,
    packing: str,
    runs: list[tuple[int, bool, str]],
) -> None:
    rule = PACKINGS[packing]
    expected = expected_shards(mixed, order=ORDERS[order], output=rule, names=11)
    manifests = []
    for ranks, network, memory in runs:
        target = tmp_path / f"{ranks}-{network}-{memory}"
        manifest = job(
            mixed[0].parent, target, order=ORDERS[order], output=rule, records={"collisions": "Ignore"}
        )
        assert (
            house.run(manifest, workers=ranks, network=network, memory=memory).result["state"] == "Complete"
        )
        assert contents(target) == expected, f"{ranks} ranks, network {network}, budget {memory}"
        manifests.append(comparable(target))
    assert all(manifest == manifests[0] for manifest in manifests)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("order", "packing"), list(zip(ORDERS, [*PACKINGS, "shardSize", "recordsPerShard"], strict=True))
)
def test_item_1_same_bytes_with_any_ranks_network_and_budget(
    house: House, mixed: list[Path], tmp_path: Path, order: str, packing: str
) -> None:
    runs = [(ranks, *rest) for ranks in RANKS for rest in NETWORKS_AND_BUDGETS]
    check_same_bytes(house, mixed, tmp_path, order=order, packing=packing, runs=runs)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("order", ORDERS)
def test_item_1_every_order_with_every_packing(
    house: House, mixed: list[Path], tmp_path: Path, order: str, packing: str
) -> None:
    runs = [(1, False, "64Mi"), (3, True, "64Mi")]
    check_same_bytes(house, mixed, tmp_path, order=order, packing=packing, runs=runs)


def places(target: Path) -> list[int]:
    """Where each record of the output stood in the input, as far as its number says."""
    keys = [record.key for path in shards_in(target).values() for record in read_records(path)]
    numbers = [int(key.rpartition(b"/")[2]) for key in keys]
    assert len(set(numbers)) == len(numbers)
    return numbers


def test_case_5_shuffle_is_a_permutation_and_the_seed_decides_it(
    house: House, source: Path, shards: list[Path], tmp_path: Path
) -> None:
    canonical = [int(r.key.rpartition(b"/")[2]) for path in shards for r in read_records(path)]
    place = {number: index for index, number in enumerate(canonical)}
    found = {}
    for seed in (None, 0, 1):
        order = {"kind": "Shuffle"} | ({} if seed is None else {"seed": seed})
        house.run(job(source, tmp_path / str(seed), order=order, output={"recordsPerShard": 25}), workers=2)
        numbers = places(tmp_path / str(seed))
        assert sorted(numbers) == sorted(canonical)
        order_of_places = [place[number] for number in numbers]
        pairs = list(itertools.combinations(order_of_places, 2))
        inversions = sum(a > b for a, b in pairs) / len(pairs)
        assert 0.4 < inversions < 0.6
        found[seed] = contents(tmp_path / str(seed))
    assert found[None] == found[0]
    assert found[1] != found[0]
    assert manifest_of(tmp_path / "None")["seed"] == 0
    assert manifest_of(tmp_path / "1")["seed"] == 1
