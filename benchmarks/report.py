"""What the runs say: figures for programs, tables for people, and whether the bounds hold."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterable, Sequence
from typing import Any, Final

from benchmarks.compare import Result, Spread
from benchmarks.prefault import available

MAIN: Final = "benchmark"
"""The name in the markers of `make bench`'s own tables."""


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processors": len(os.sched_getaffinity(0)),
        "model": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "memory_available_gib": round(available() / 2**30, 1),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def figures(result: Result) -> dict[str, Any]:
    """A result as JSON: every run, and what is derived from them."""
    entry: dict[str, Any] = {
        "dataset": result.dataset,
        "place": result.place,
        "candidate": result.candidate,
        "bytes": result.size,
        "failure": result.failure,
        "runs": [
            {"usage": dataclasses.asdict(usage), "cp_seconds": copy.seconds} for usage, copy in result.pairs
        ],
    }
    if result.pairs:
        entry["seconds"] = dataclasses.asdict(result.seconds)
        entry["share_of_cp"] = dataclasses.asdict(result.share_of_cp)
        entry["peak_rss"] = result.peak_rss
    return entry


def table(results: Iterable[Result]) -> str:
    """A markdown table for each place and dataset."""
    parts: list[str] = []
    for result in results:
        if not result.pairs and not result.failure:
            continue
        heading = f"**{result.dataset}** on {result.place}, {result.size / 1e9:.2f} GB"
        if heading not in parts:
            parts += [
                "",
                heading,
                "",
                "| | seconds | GB/s | share of `cp` | user s/GB | system s/GB | faults/GB | largest process |",
                "|---|---|---|---|---|---|---|---|",
            ]
        parts.append(_row(result))
    return "\n".join(parts).strip() + "\n"


def metadata_table(figures: Sequence[dict[str, Any]]) -> str:
    """A markdown table of what planning without payload takes."""
    if not figures:
        return ""
    lines = [
        "",
        f"**Metadata**: {figures[0]['records']:,} records, no payload, {figures[0]['ranks']} ranks",
        "",
        "| order | bytes per record, all ranks | allowed | peak of each rank | seconds | processor seconds |",
        "|---|---|---|---|---|---|",
    ]
    little = [
        "",
        f"With the least budget, {figures[0]['little']['budget'] / 2**20:.0f} MiB a rank, most rows are sorted on disk:",
        "",
        "| order | anonymous memory of each rank at its peak | spilled | seconds | processor seconds |",
        "|---|---|---|---|---|",
    ]
    for one in figures:
        peaks = " + ".join(f"{peak / 2**20:.0f}" for peak in one["peaks"])
        lines.append(
            f"| {one['order']} | {one['bytes_per_record']:.0f} | {one['allowed']} | {peaks} MiB "
            f"| {one['seconds']:.1f} | {one['processor_seconds']:.1f} |"
        )
        less = one["little"]
        anonymous = " + ".join(f"{peak / 2**20:.0f}" for peak in less["anonymous"])
        little.append(
            f"| {one['order']} | {anonymous} MiB | {less['spilled'] / 2**30:.1f} GiB "
            f"| {less['seconds']:.1f} | {less['processor_seconds']:.1f} |"
        )
    return "\n".join(lines + little) + "\n"


def _row(result: Result) -> str:
    if not result.pairs:
        return f"| {result.candidate} | failed | | | | | | |"
    cells = [
        result.candidate,
        f"{result.seconds.median:.2f}",
        f"{result.throughput / 1e9:.2f}",
        _spread(result.share_of_cp) if result.candidate != "cp -r" else "1",
        f"{result.per_gb(lambda usage: usage.user_seconds):.2f}",
        f"{result.per_gb(lambda usage: usage.system_seconds):.2f}",
        f"{result.per_gb(lambda usage: usage.minor_faults + usage.major_faults) / 1000:.0f} k",
        f"{result.peak_rss / 2**20:.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.least:.2f} to {spread.greatest:.2f})"


def judge(results: Sequence[Result], bounds: dict[str, Any]) -> list[str]:
    """One line for every bound that does not hold."""
    broken = []
    for result in results:
        mode = bounds["share_of_cp"].get(result.candidate)
        if mode is None:
            continue
        where = f"{result.candidate}, {result.dataset} on {result.place}"
        if result.failure:
            broken.append(f"{where}: failed")
            continue
        if not result.pairs:
            continue
        least = mode.get(result.dataset)
        if least is not None and result.place == "tmpfs" and result.share_of_cp.median < least:
            broken.append(f"{where}: {result.share_of_cp.median:.2f} of cp, at least {least} is asked for")
        if result.peak_rss > bounds["peak_rss_mib_per_rank"] * 2**20:
            broken.append(
                f"{where}: {result.peak_rss / 2**20:.0f} MiB in one process, "
                f"at most {bounds['peak_rss_mib_per_rank']} are allowed"
            )
    return broken


def put_between_markers(path: str, text: str, *, name: str = MAIN) -> None:
    """Replace what stands between the markers of this name in a document. Raises ValueError when they are not there."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    with open(path, encoding="utf-8") as file:
        document = file.read()
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path}: no {begin} … {end}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}\n{text.strip()}\n{end}{after}")
