"""Speed against memory: the same jobs with budgets from 64 MiB to 1 GiB a rank, in both exchange modes.

    python -m benchmarks.memory_throughput                             # four minutes
    python -m benchmarks.memory_throughput --docs docs/performance.md  # and put table and plot there

As in `python -m benchmarks`, each run stands beside a `cp -r` of the same minute, on tmpfs, and what counts is the ratio of the
two: its median over the rounds. Exit code 1 when a bound of benchmarks/bounds.yaml does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from benchmarks import compare, report
from benchmarks.contenders import CONTENDERS, RANKS, with_memory
from benchmarks.datasets import KINDS, default_cache, make
from benchmarks.plot import line_chart
from benchmarks.workspace import Clock, Workspace, source_in

_BOUNDS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bounds.yaml")
_BUDGETS: Final = (64, 128, 256, 512, 1024)
"""MiB of a rank."""
_MARKERS: Final = "memory"
_PLOT: Final = "memory-throughput.svg"


@dataclass(frozen=True, slots=True)
class Line:
    """One dataset in one mode. results: for each budget, ascending."""

    dataset: str
    mode: str
    results: tuple[compare.Result, ...]

    @property
    def name(self) -> str:
        """Of the dataset and the mode."""
        return f"{self.dataset}, {self.mode}"

    @property
    def shares(self) -> list[float]:
        """Throughput as a share of `cp -r`'s, by budget."""
        return [result.share_of_cp.median for result in self.results]

    @property
    def of_the_most(self) -> list[float]:
        """Throughput as a share of that with the greatest budget."""
        return [share / self.shares[-1] for share in self.shares]


def measure(datasets: Sequence[str], *, budgets: Sequence[int], options: argparse.Namespace) -> list[Line]:
    """Compare. Raises SystemExit when a run fails: a rank with the least memory ends its job like any other."""
    say = Clock()
    lines = []
    for name in datasets:
        dataset = make(KINDS[name], cache=options.cache, shards=options.shards)
        candidates = [with_memory(contender, budget) for contender in CONTENDERS for budget in budgets]
        with Workspace("tmpfs", cache=options.cache) as workspace:
            compare.prefault(4 * dataset.size / 2**30)
            results = compare.compare(
                dataset,
                candidates,
                place=compare.Place("tmpfs", workspace),
                source=source_in(workspace, dataset=dataset, place="tmpfs"),
                rounds=options.rounds,
                say=say,
            )
        by_name = {result.candidate: result for result in results}
        for result in results:
            if result.failure:
                raise SystemExit(f"{result.candidate}: {result.failure}")
        for contender in CONTENDERS:
            own = tuple(by_name[with_memory(contender, budget).name] for budget in budgets)
            lines.append(Line(dataset.name, contender.name, own))
    return lines


def table(lines: Sequence[Line], *, budgets: Sequence[int]) -> str:
    """A markdown table: share of `cp`, share of the speed with the greatest budget, and the largest process."""
    parts = [
        f"| | {' | '.join(f'{budget} MiB' for budget in budgets)} |",
        f"|---|{'---|' * len(budgets)}",
    ]
    for line in lines:
        cells = [
            f"{share:.2f} ({ratio:.0%}, {result.peak_rss / 2**20:.0f} MiB)"
            for share, ratio, result in zip(line.shares, line.of_the_most, line.results, strict=True)
        ]
        parts.append(f"| {line.name} | {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


def judge(lines: Sequence[Line], *, budgets: Sequence[int], bounds: dict[int, float]) -> list[str]:
    """One line for every bound that does not hold. bounds: by budget (MiB), the least share of the speed with the most."""
    return [
        f"{line.name}: with {budget} MiB {ratio:.2f} of the speed with {budgets[-1]} MiB, at least {bounds[budget]} is asked for"
        for line in lines
        for budget, ratio in zip(budgets, line.of_the_most, strict=True)
        if budget in bounds and ratio < bounds[budget]
    ]


def _plot(lines: Sequence[Line], *, budgets: Sequence[int]) -> str:
    return line_chart(
        "Throughput as a share of cp -r, by the budget of a rank",
        columns=[f"{budget} MiB" for budget in budgets],
        lines={line.name: line.shares for line in lines},
        unit=f"memory of each of {RANKS} ranks",
    )


def _text(lines: Sequence[Line], *, budgets: Sequence[int], machine: dict[str, Any], rounds: int) -> str:
    where = (
        f"Throughput as a share of that of `cp -r` (in brackets: of the speed with {budgets[-1]} MiB, and the largest process), on "
        f"tmpfs, {RANKS} ranks, median of {rounds}; {machine['processors']} processors, load {machine['load'][0]} at the start."
    )
    picture = f"![Throughput as a share of cp, by the budget of a rank]({_PLOT})"
    return f"{where}\n\n{table(lines, budgets=budgets)}\n{picture}\n"


def main() -> int:
    """Measure, report, hold it against the bounds."""
    options = _options()
    os.makedirs(options.cache, exist_ok=True)
    budgets, machine = sorted(options.budgets), report.machine()
    lines = measure(options.datasets, budgets=budgets, options=options)
    print(f"\n{table(lines, budgets=budgets)}")
    with open(options.json or os.path.join(options.cache, "memory.json"), "w", encoding="utf-8") as file:
        entries = [report.figures(result) for line in lines for result in line.results]
        json.dump({"machine": machine, "results": entries}, file, indent=1)
    if options.docs:
        text = _text(lines, budgets=budgets, machine=machine, rounds=options.rounds)
        report.put_between_markers(options.docs, text, name=_MARKERS)
        with open(os.path.join(os.path.dirname(options.docs), _PLOT), "w", encoding="utf-8") as file:
            file.write(_plot(lines, budgets=budgets))
    with open(_BOUNDS, encoding="utf-8") as file:
        bounds = yaml.safe_load(file)["memory_throughput"]
    broken = judge(lines, budgets=budgets, bounds=bounds["share_of_most"])
    for line in broken:
        print(f"bound: {line}", file=sys.stderr)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory_throughput", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--datasets", nargs="+", choices=list(KINDS), default=["images", "small"])
    parser.add_argument("--budgets", nargs="+", type=int, default=list(_BUDGETS), help="MiB of a rank")
    parser.add_argument("--shards", type=int, help="of each dataset, instead of its usual number")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--cache", default=default_cache(), help="folder of datasets (default %(default)s)")
    parser.add_argument("--json", help="file for all figures (default: memory.json in the cache folder)")
    parser.add_argument(
        "--docs", help="document to put the table into, between its markers; the plot beside it"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
