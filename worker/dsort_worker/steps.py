"""What ranks report to rank 0 and what it decides, as JSON documents: one pair of functions a step.

    list     the listing, pinned; which rank scans which shards
    split    samples of the order -> splitters
    total    rows and bytes of each rank's key range -> all of them
    number   cells of each rank's rows -> output shard numbers
    plan     (dry run) the shards that each rank would build -> all of them
    commit   every shard is committed -> publishing may begin
    publish  every shard has its name, with each rank's counts -> the manifest is written

Pure: documents in, documents out. What needs a disk is in `rank0`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from dsort_api.manifest import Counts, PinnedInput
from dsort_worker.order import Bound, Sample, choose_splitters
from dsort_worker.packing import CellRange, Numbering, PackingRule, Total, number_shards, shard_blocks

Document = Mapping[str, Any]

LIST: Final = "list"
SPLIT: Final = "split"
TOTAL: Final = "total"
NUMBER: Final = "number"
PLAN: Final = "plan"
COMMIT: Final = "commit"
PUBLISH: Final = "publish"


class Listed(NamedTuple):
    """The pinned listing as every rank sees it. first: rank r scans shards first[r] to first[r + 1] - 1.

    manifest: the path of the manifest, when this very job was completed before.
    """

    shards: tuple[PinnedInput, ...]
    missing: tuple[str, ...]
    first: tuple[int, ...]
    manifest: str | None = None


def assign(sizes: Sequence[int], *, ranks: int) -> tuple[int, ...]:
    """Runs of shards of about equal bytes: rank r scans shards [result[r], result[r + 1]).

    A shard goes to the rank in whose part of all bytes its middle lies. Runs keep rows in canonical order.
    """
    if not any(sizes):
        sizes = [1] * len(sizes)
    total = max(1, sum(sizes))
    result = [0]
    before = 0
    for ordinal, size in enumerate(sizes):
        rank = min(ranks - 1, (2 * before + size) * ranks // (2 * total))
        result += [ordinal] * (rank - len(result) + 1)
        before += size
    return (*result, *[len(sizes)] * (ranks + 1 - len(result)))


def listed_document(listed: Listed) -> Document:
    """The decision of `list`."""
    return {
        "shards": [[shard.name, shard.size, shard.mtime_ns] for shard in listed.shards],
        "missing": list(listed.missing),
        "first": list(listed.first),
        "manifest": listed.manifest,
    }


def read_listed(document: Document) -> Listed:
    """Inverse of `listed_document`."""
    return Listed(
        tuple(PinnedInput(name=name, size=size, mtime_ns=mtime) for name, size, mtime in document["shards"]),
        tuple(document["missing"]),
        tuple(document["first"]),
        document["manifest"],
    )


def sample_report(sample: Sample, *, records: int) -> Document:
    """A rank's report to `split`, of so many records."""
    return {
        "records": records,
        "bounds": [[bound.key.hex(), bound.shard, bound.ordinal] for bound in sample.bounds],
        "weight": sample.weight,
    }


def split(reports: Sequence[Document], rule: PackingRule, *, descending: bool) -> Document:
    """The decision of `split`."""
    samples = [Sample(_bounds(report["bounds"]), report["weight"]) for report in reports]
    everything = Total(
        sum(report.get("records", 0) for report in reports),
        round(sum(sample.weight * len(sample.bounds) for sample in samples)),
    )
    splitters = choose_splitters(
        samples, ranks=len(reports), shard=shard_blocks(rule, everything), descending=descending
    )
    return {"splitters": [[bound.key.hex(), bound.shard, bound.ordinal] for bound in splitters]}


def read_splitters(document: Document) -> tuple[Bound, ...]:
    """The splitters of the decision of `split`."""
    return _bounds(document["splitters"])


def _bounds(entries: Sequence[Sequence[Any]]) -> tuple[Bound, ...]:
    return tuple(Bound(bytes.fromhex(key), shard, ordinal) for key, shard, ordinal in entries)


def total_report(total: Total) -> Document:
    """A rank's report to `total`."""
    return {"records": total.records, "blocks": total.blocks}


def total(reports: Sequence[Document]) -> Document:
    """The decision of `total`: the reports."""
    return {"totals": [[report["records"], report["blocks"]] for report in reports]}


def read_totals(document: Document) -> list[Total]:
    """The totals by rank."""
    return [Total(records, blocks) for records, blocks in document["totals"]]


def cells_report(cells: CellRange) -> Document:
    """A rank's report to `number`."""
    return {"first": cells.first, "last": cells.last, "count": cells.count}


def number(reports: Sequence[Document]) -> Document:
    """The decision of `number`."""
    ranges = [CellRange(report["first"], report["last"], report["count"]) for report in reports]
    numbering, shards = number_shards(ranges)
    return {
        "numbering": [[one.first_number, one.first_is_foreign, list(one.continues_on)] for one in numbering],
        "shards": shards,
    }


def read_numbering(document: Document, *, rank: int) -> Numbering:
    """A rank's numbering."""
    first, foreign, later = document["numbering"][rank]
    return Numbering(first, foreign, tuple(later))


def add_counts(reports: Sequence[Document]) -> Counts:
    """The sum of all ranks' counts."""
    result: dict[str, int] = {}
    for report in reports:
        for field, value in report["counts"].items():
            result[field] = result.get(field, 0) + value
    return Counts(**result)
