"""The last words of a run: what was made, how fast, and where the manifest is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from dsort_api.quantity import format_bytes, several
from dsort_cli.figures import clock

if TYPE_CHECKING:
    from dsort_api.messages import PlannedOutput

_MOST_PLANNED = 40
"""Planned shards shown as rows; --json has all of them."""


class Summary(NamedTuple):
    """What a successful run did. `seconds` is the whole of it, start-up included; `output` and `manifest` are
    paths, None for a plan.
    """

    state: str
    job: str
    ranks: int
    seconds: float
    records: int
    shards: int
    bytes: int
    output: str
    manifest: str | None = None
    plan: PlannedOutput | None = None
    peak_rss: tuple[int, ...] = ()
    restarts: int = 0
    warnings: int = 0

    def lines(self) -> list[str]:
        """For people."""
        size, shards = format_bytes(self.bytes), several(self.shards, "shard")
        amounts = f"{several(self.records, 'record')}, {size}, {shards}"
        if self.plan is not None:
            return [
                *plan_table(self.plan),
                f"planned {amounts} in {clock(self.seconds)}; nothing was written",
            ]
        if self.state == "AlreadyComplete":
            return [
                f"already complete: {amounts} in {self.output}, as its manifest says",
                f"manifest {self.manifest}",
            ]
        rate = f"{format_bytes(int(self.bytes / self.seconds))}/s" if self.seconds > 0 else "-"
        memory = f", peak memory per rank {format_bytes(max(self.peak_rss))}" if any(self.peak_rss) else ""
        return [
            f"complete: {amounts} in {self.seconds:.2f} s ({rate}) with {several(self.ranks, 'rank')}{memory}",
            f"manifest {self.manifest}",
        ]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        result: dict[str, Any] = {
            "state": self.state,
            "job": self.job,
            "ranks": self.ranks,
            "seconds": round(self.seconds, 3),
            "records": self.records,
            "shards": self.shards,
            "bytes": self.bytes,
            "output": self.output,
            "manifest": self.manifest,
            "peakRss": list(self.peak_rss),
            "restarts": self.restarts,
            "warnings": self.warnings,
        }
        if self.plan is not None:
            result["plan"] = self.plan.model_dump(mode="json", by_alias=True, exclude_none=True)
        return result


def completed_amounts(manifest: str) -> tuple[int, int, int]:
    """Records, shards and bytes of the output that a manifest describes. Raises OSError, ValueError."""
    with open(manifest, encoding="utf-8") as file:
        outputs = json.load(file)["outputs"]
    return sum(shard["records"] for shard in outputs), len(outputs), sum(shard["bytes"] for shard in outputs)


def plan_table(plan: PlannedOutput) -> list[str]:
    """The planned shards as rows of plain text, and what was passed over."""
    shown = plan.shards[:_MOST_PLANNED]
    width = max([len("shard"), *(len(shard.name) for shard in shown)])
    rows = [f"{'shard':<{width}}  {'records':>10}  {'bytes':>14}"]
    rows += [f"{shard.name:<{width}}  {shard.records:>10,}  {shard.bytes:>14,}" for shard in shown]
    if len(plan.shards) > len(shown):
        rows.append(f"... and {len(plan.shards) - len(shown):,} more (--json lists all)")
    counts = plan.counts.model_dump()
    passed = [
        f"{name.replace('_', ' ')} {value:,}"
        for name, value in counts.items()
        if name in _REACTIONS and value
    ]
    return [*rows, f"passed over: {', '.join(passed)}"] if passed else rows


_REACTIONS = frozenset(
    {
        "shards_missing",
        "shards_corrupt",
        "directories",
        "duplicates",
        "unsupported",
        "global_headers",
        "trailing_data",
        "collisions",
        "records_left_out",
        "members_left_out",
    }
)
"""Counts of what a job met and did not carry over as it is."""
