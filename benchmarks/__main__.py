"""`make bench`: dsort against `cp -r` and against what people use, as whole processes, on data made for it.

    python -m benchmarks                              # everything: some seven minutes
    python -m benchmarks --datasets images --places tmpfs --rounds 9 --no-competitors
    python -m benchmarks --docs docs/performance.md   # and put the tables there

Exit code 1 when a bound of benchmarks/bounds.yaml does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from benchmarks import compare, report
from benchmarks.competitors import COPY_AND_SYNC, SLOW_COMPETITORS, Competitor
from benchmarks.contenders import CONTENDERS
from benchmarks.datasets import KINDS, Dataset, default_cache, make
from benchmarks.workspace import Clock, Workspace, source_in

_BOUNDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bounds.yaml")
_PLACES = ("tmpfs", "disk")
_PARTS = ("payload", "metadata")
_PART = 4
"""The slow competitors get a quarter of the shards: their seconds per GB are the same, and the reader waits less."""


def main() -> int:
    """Make the data, compare, report; returns the exit code."""
    options = _options()
    say = Clock()
    results: list[compare.Result] = []
    machine = report.machine()
    for name in options.datasets if "payload" in options.parts else ():
        say(f"{name}: made, or taken from {options.cache}")
        dataset = make(KINDS[name], cache=options.cache, shards=options.shards)
        for place in options.places:
            rounds = options.rounds if place == "tmpfs" else options.disk_rounds
            flushed = [] if place == "tmpfs" else [COPY_AND_SYNC]
            results += _compare(
                dataset, [*CONTENDERS, *flushed], place=place, rounds=rounds, options=options, say=say
            )
        if not options.no_competitors:
            part = make(KINDS[name], cache=options.cache, shards=max(1, dataset.shards // _PART))
            candidates = [CONTENDERS[0], *SLOW_COMPETITORS]
            results += _compare(
                part,
                candidates,
                place=options.places[0],
                rounds=options.slow_rounds,
                options=options,
                say=say,
            )
    metadata, metadata_holds = _metadata_scale(options, say) if "metadata" in options.parts else ([], True)
    text = report.table(results) + report.metadata_table(metadata)
    print(f"\n{text}")
    with open(options.json, "w", encoding="utf-8") as file:
        entries = [report.figures(one) for one in results]
        json.dump({"machine": machine, "results": entries, "metadata": metadata}, file, indent=1)
    say(f"all figures: {options.json}")
    if options.docs:
        report.put_between_markers(options.docs, text)
    with open(_BOUNDS, encoding="utf-8") as file:
        broken = report.judge(results, yaml.safe_load(file))
    for line in broken:
        print(f"bound: {line}", file=sys.stderr)
    return 1 if broken or not metadata_holds else 0


def _compare(
    dataset: Dataset,
    candidates: Sequence[Competitor],
    *,
    place: str,
    rounds: int,
    options: argparse.Namespace,
    say: Callable[[str], None],
) -> list[compare.Result]:
    with Workspace(place, cache=options.cache) as workspace:
        compare.prefault(4 * dataset.size / 2**30)
        return compare.compare(
            dataset,
            candidates,
            place=compare.Place(place, workspace),
            source=source_in(workspace, dataset=dataset, place=place),
            rounds=rounds,
            say=say,
        )


def _metadata_scale(
    options: argparse.Namespace, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], bool]:
    """Ten million rows, in processes of their own: this one stays small, as its children inherit its high-water mark."""
    say("metadata: 10,000,000 records without payload")
    path = f"{options.json}.metadata"
    command = [sys.executable, "-m", "benchmarks.metadata_scale", "--json", path]
    holds = subprocess.run(command, check=False).returncode == 0
    if not os.path.exists(path):
        return [], False
    with open(path, encoding="utf-8") as file:
        figures: list[dict[str, Any]] = json.load(file)
    os.unlink(path)
    return figures, holds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--datasets", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--places", nargs="+", choices=_PLACES, default=list(_PLACES))
    parser.add_argument("--shards", type=int, help="of each dataset, instead of its usual number")
    parser.add_argument("--rounds", type=int, default=5, help="on tmpfs (default 5)")
    parser.add_argument("--disk-rounds", type=int, default=3, help="on disk (default 3)")
    parser.add_argument(
        "--slow-rounds", type=int, default=1, help="with the slow competitors, on the first place (default 1)"
    )
    parser.add_argument("--no-competitors", action="store_true", help="cp and dsort only")
    parser.add_argument(
        "--cache", default=default_cache(), help="folder of datasets and results (default %(default)s)"
    )
    parser.add_argument("--json", help="file for all figures (default: result.json in the cache folder)")
    parser.add_argument("--docs", help="document to put the tables into, between its markers")
    options = parser.parse_args()
    options.cache = os.path.abspath(options.cache)
    os.makedirs(options.cache, exist_ok=True)
    options.json = options.json or os.path.join(options.cache, "result.json")
    return options


if __name__ == "__main__":
    sys.exit(main())
