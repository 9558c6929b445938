"""Any small job writes what the reference says (item 1)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.datasets import Item, write_tar
from tests.support.reference import expected_shards
from tests.support.running import House, contents, job, shards_in

component = st.text(alphabet="ab.é-", min_size=1, max_size=5).filter(lambda text: text not in {".", ".."})
path = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from(["", "./", "x" * 90 + "/", "x" * 98 + "/y/"]),
    st.lists(component, min_size=1, max_size=3),
)
size = st.sampled_from([0, 1, 511, 512, 513, 3000]) | st.integers(0, 1500)
file = st.builds(
    lambda name, size, mtime, fill: Item(name, bytes([fill]) * size, mtime=mtime),
    path,
    size,
    st.sampled_from([0, 1_700_000_000, 1_700_000_000.5]),
    st.integers(0, 255),
)
link = st.builds(
    lambda name, to: Item(name, kind=b"2", link=to), path, st.text("ab/.", min_size=1, max_size=120)
)
folder = st.builds(lambda name: Item(name + "/", kind=b"5"), path)
items = st.lists(file | file | file | file | link | folder, max_size=14)
archive = st.tuples(items, st.sampled_from(["gnu", "gnu", "pax"]))
order: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.builds(
        lambda kind, down: {"kind": kind, "descending": down}, st.sampled_from(["Key", "MD5"]), st.booleans()
    ),
    st.builds(lambda seed: {"kind": "Shuffle", "seed": seed}, st.integers(0, (1 << 63) - 1)),
)
packing: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(lambda size: {"shardSize": size}, st.integers(1, 20_000)),
    st.builds(lambda count: {"recordsPerShard": count}, st.integers(1, 12)),
    st.builds(lambda count: {"shardCount": count}, st.integers(1, 12)),
    st.just({"name": "part-{0..6}.tar"}),
)
ranks = st.sampled_from([1, 1, 2, 3])


@pytest.mark.slow
@pytest.mark.timeout(300)
@settings(max_examples=120)
@given(
    st.lists(archive, min_size=1, max_size=4),
    order,
    packing,
    ranks,
    st.booleans(),
    st.sampled_from(["Warn", "Ignore"]),
)
def test_item_1_any_small_job_writes_what_the_reference_says(
    house: House,
    archives: list[tuple[list[Item], str]],
    order: dict[str, Any],
    packing: dict[str, Any],
    ranks: int,
    network: bool,
    reaction: str,
) -> None:
    work = Path(tempfile.mkdtemp(dir=tempfile.gettempdir()))
    try:
        paths = [
            write_tar(work / "in" / f"{number}.tar", items, dialect=dialect)
            for number, (items, dialect) in enumerate(archives)
        ]
        records = {"duplicates": reaction, "collisions": reaction}
        _ = house.run(
            job(work / "in", work / "out", order=order, output=packing, records=records),
            workers=ranks,
            network=network,
        ).result  # fails unless it is complete
        assert contents(work / "out") == expected_shards(paths, order=order, output=packing, names=7)
        names = list(shards_in(work / "out"))
        template = "part-%d.tar" if "name" in packing else "out-%06d.tar"
        assert names == [template % number for number in range(len(names))]
    finally:
        shutil.rmtree(work)
