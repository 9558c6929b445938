"""The demo: shuffle labelled photographs with two workers, prove that nothing was lost, and draw a picture of it.

python examples/demo/demo.py [--cache DIR] [--records N]
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from photographs import PHOTOGRAPHS, write
from picture import THUMBNAILS, Reading, draw

EXAMPLES: Final = Path(__file__).resolve().parent.parent
JOB: Final = EXAMPLES / "shuffle.yaml"
INPUT: Final = "photos"
OUTPUT: Final = "photos-shuffled"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What webdataset's own reader met: how often each record (all its bytes), and the labels in order."""

    reading: Reading
    records: Counter[bytes]
    bytes: int


def heading(text: str) -> None:
    """Begin a step."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(*arguments: str) -> None:
    """Run one `dsort` command as a user would, shown first; ends the demo when it fails."""
    print(f"$ dsort {shlex.join(arguments)}", flush=True)
    code = subprocess.run([str(Path(sys.executable).with_name("dsort")), *arguments], check=False).returncode
    if code:
        sys.exit(f"error: dsort {arguments[0]} ended with {code}")


def members(folder: Path) -> Iterator[dict[str, Any]]:
    """Every sample of the dataset, as the webdataset library reads it, shard after shard."""
    import webdataset

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    yield from webdataset.WebDataset(shards, shardshuffle=False)


def read(folder: Path, *, title: str, count: int) -> Dataset:
    """Read a dataset back: its labels in order, a fingerprint of every record, and a picture in every so many."""
    labels: list[int] = []
    records: Counter[bytes] = Counter()
    thumbnails: list[bytes] = []
    size = 0
    for sample in members(folder):
        if len(labels) == len(thumbnails) * count // THUMBNAILS:
            thumbnails.append(sample["jpg"])
        labels.append(int(sample["cls"]))
        digest = hashlib.sha256(sample["__key__"].encode())
        for extension in sorted(name for name in sample if not name.startswith("__")):
            payload = sample[extension]
            digest.update(f"\0{extension}\0{len(payload)}\0".encode())
            digest.update(payload)
            size += len(payload)
        records[digest.digest()] += 1
    return Dataset(Reading(title, np.array(labels, dtype=np.int64), thumbnails), records=records, bytes=size)


def neighbours(labels: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """The share of records that have the label of the record before them."""
    return float(np.mean(labels[1:] == labels[:-1]))


def main() -> int:
    """Make, shuffle, verify, read back, draw, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, default=Path("dsort-demo"), help="where data and picture go")
    parser.add_argument("--records", type=int, default=20_000, help="how many crops to make")
    options = parser.parse_args()
    count = max(options.records, len(PHOTOGRAPHS))
    claim = options.cache.resolve() / f"{count}"
    claim.mkdir(parents=True, exist_ok=True)

    heading(
        f"1. {count:,} labelled crops of {len(PHOTOGRAPHS)} photographs, class after class, by webdataset's ShardWriter"
    )
    began = time.monotonic()
    size = write(claim / INPUT, count=count, step=lambda done: print(f"  {done:,} written", flush=True))
    shards = len(list((claim / INPUT).glob("*.tar")))
    print(f"  {shards} shards, {size / 2**20:.0f} MiB, in {claim / INPUT} ({time.monotonic() - began:.1f} s)")

    heading("2. Shuffle them with two workers")
    shutil.rmtree(claim / OUTPUT, ignore_errors=True)
    began = time.monotonic()
    run("run", "-f", str(JOB), "--pvc", f"datasets={claim}", "--workers", "2")
    seconds = time.monotonic() - began

    heading("3. Check every output shard against the manifest, and every record against the input")
    run("verify", str(claim / OUTPUT), "--deep", str(claim / INPUT))

    heading("4. Read both back with webdataset")
    with ProcessPoolExecutor(2) as pool:
        reading = pool.submit(read, claim / INPUT, title="before", count=count)
        after = pool.submit(read, claim / OUTPUT, title="after dsort run", count=count).result()
        before = reading.result()
    same = before.records == after.records
    chance = float(np.sum((np.bincount(before.reading.labels) / count) ** 2))
    picture = claim / "before-and-after.png"
    draw(picture, readings=(before.reading, after.reading), classes=len(PHOTOGRAPHS))

    heading("Summary")
    print(f"  records        {sum(before.records.values()):,} in, {sum(after.records.values()):,} out")
    print(f"  contents       {'the same, every byte of every member' if same else 'NOT THE SAME'}")
    print(f"  time           {seconds:.1f} s for {size / 2**20:.0f} MiB, start-up of two workers included")
    print("  neighbours with the same label:")
    print(f"    before       {neighbours(before.reading.labels):6.1%}")
    print(f"    after        {neighbours(after.reading.labels):6.1%}  (chance: {chance:.1%})")
    print(f"  manifest       {claim / OUTPUT / 'dsort-manifest.json'}")
    print(f"  picture        {picture}")
    shuffled = abs(neighbours(after.reading.labels) - chance) < 0.1
    if not (same and shuffled):
        print("error: the output is not a shuffle of the input", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
