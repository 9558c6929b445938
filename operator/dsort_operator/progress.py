"""How far a job is, from what all its ranks say. Pure.

What the status already says is the floor: an operator that has just started, or a rank that starts again, takes nothing back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dsort_api.messages import Phase, PlannedOutput, Progress
from dsort_api.quantity import format_bytes
from dsort_api.status import DSortJobStatus, JobProgress, PlanSummary
from dsort_operator.world import Report

WEIGHTS: Final[Mapping[Phase, int]] = {
    Phase.STARTING: 0,
    Phase.LIST: 1,
    Phase.SCAN: 14,
    Phase.ORDER: 5,
    Phase.PACK: 2,
    Phase.CREATE: 75,
    Phase.PUBLISH: 3,
}
"""What each phase is of a job, in percent. Payload moves in Create alone, Scan reads headers, the others move metadata."""

_PLANNING: Final[Mapping[Phase, int]] = {
    Phase.STARTING: 0,
    Phase.LIST: 2,
    Phase.SCAN: 70,
    Phase.ORDER: 20,
    Phase.PACK: 8,
}
"""The same of a dry run."""

_STORY: Final = (*WEIGHTS, Phase.COMPLETE)
_COUNTS: Final = ("records_done", "records_total", "bytes_done", "bytes_total", "shards_done", "shards_total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The numbers of a status; see there."""

    phase: Phase | None
    progress: JobProgress | None
    records_in: int | None
    records_out: int | None
    bytes_in: int | None
    bytes_out: int | None
    throughput: int | None
    plan: PlanSummary | None

    @property
    def rate(self) -> str | None:
        """throughput, for people."""
        return None if self.throughput is None else f"{format_bytes(self.throughput)}/s"


def figures(
    reports: Mapping[int, Report], *, ranks: int, dry_run: bool, before: DSortJobStatus, started: bool
) -> Figures:
    """The numbers now. Until every rank was heard they stay as they were; the manifest, once it is written, has the
    last word.
    """
    counted = _counted(reports, ranks=ranks, dry_run=dry_run, before=before, started=started)
    outcomes = (report.observed.outcome for report in reports.values())
    totals = next((outcome.totals for outcome in outcomes if outcome is not None and outcome.totals), None)
    return counted if totals is None else replace(counted, **totals.model_dump())


def _counted(
    reports: Mapping[int, Report], *, ranks: int, dry_run: bool, before: DSortJobStatus, started: bool
) -> Figures:
    planned = _planned(reports)
    plan = _summary(planned) if planned is not None else before.plan
    heard = [reports[rank] for rank in range(ranks) if rank in reports]
    if not ranks or len(heard) < ranks:
        return Figures(
            phase=before.phase or (Phase.STARTING if started else None),
            progress=before.progress,
            records_in=before.records_in,
            records_out=before.records_out,
            bytes_in=before.bytes_in,
            bytes_out=before.bytes_out,
            throughput=before.throughput,
            plan=plan,
        )
    phase = slowest([report.observed.phase for report in heard]) or before.phase
    scanned = [_part(report, Phase.SCAN) for report in heard]
    created = [_part(report, Phase.CREATE) for report in heard]
    return Figures(
        phase=phase,
        progress=_progress(heard, phase=phase, dry_run=dry_run, before=before),
        records_in=_most(before.records_in, sum(part.records_done for part in scanned)),
        records_out=None
        if dry_run
        else _most(before.records_out, sum(part.records_done for part in created)),
        bytes_in=_most(before.bytes_in, sum(part.bytes_done for part in scanned)),
        bytes_out=None if dry_run else _most(before.bytes_out, sum(part.bytes_done for part in created)),
        throughput=None if dry_run else int(sum(report.rate for report in heard)),
        plan=plan,
    )


def at_end(last: Figures, *, seconds: float, dry_run: bool) -> Figures:
    """The numbers of a job that is complete, and was active for so long: all is done, at this rate on the whole."""
    progress = last.progress or JobProgress()
    whole = JobProgress(
        share="100%",
        records_done=max(progress.records_done, progress.records_total),
        records_total=progress.records_total,
        bytes_done=max(progress.bytes_done, progress.bytes_total),
        bytes_total=progress.bytes_total,
        shards_done=max(progress.shards_done, progress.shards_total),
        shards_total=progress.shards_total,
    )
    overall = int(last.bytes_out / max(1.0, seconds)) if last.bytes_out else None
    return Figures(
        phase=Phase.COMPLETE,
        progress=whole,
        records_in=last.records_in,
        records_out=last.records_out,
        bytes_in=last.bytes_in,
        bytes_out=last.bytes_out,
        throughput=None if dry_run else overall,
        plan=last.plan,
    )


def slowest(phases: Sequence[Phase]) -> Phase | None:
    """The phase of the rank that is furthest behind; None when all have failed or were stopped."""
    return min((phase for phase in phases if phase in _STORY), key=_STORY.index, default=None)


def _progress(
    heard: Sequence[Report], *, phase: Phase | None, dry_run: bool, before: DSortJobStatus
) -> JobProgress | None:
    if phase is None:
        return before.progress
    parts = [_part(report, phase) for report in heard]
    counts = {name: sum(getattr(part, name) for part in parts) for name in _COUNTS}
    was = before.progress
    if was is not None and before.phase is phase:
        counts = {name: max(count, getattr(was, name)) for name, count in counts.items()}
    weights = _PLANNING if dry_run else WEIGHTS
    percent = int(sum(_percent(report, weights=weights) for report in heard) / len(heard))
    percent = max(min(percent, 99), _percent_before(was))
    return JobProgress(share=f"{percent}%", **counts)


def _percent(report: Report, *, weights: Mapping[Phase, int]) -> float:
    """How much of its share of the job a rank has done: ranks have equal shares, by bytes."""
    now = report.observed.phase
    if now not in weights:
        return 100.0 if now is Phase.COMPLETE else 0.0
    done = sum(weight for phase, weight in weights.items() if _STORY.index(phase) < _STORY.index(now))
    part = report.observed.progress
    share = part.bytes_done / part.bytes_total if part.bytes_total else 0.0
    return done + weights[now] * min(1.0, share)


def _percent_before(progress: JobProgress | None) -> int:
    found = re.fullmatch(r"(\d{1,3})%", progress.share) if progress is not None else None
    return int(found[1]) if found else 0


def _part(report: Report, phase: Phase) -> Progress:
    """What a rank did of a phase. One that is past it has done all of it."""
    observed = report.observed
    if observed.phase is phase:
        return observed.progress
    said = report.past.get(phase, Progress())
    if observed.phase not in _STORY or _STORY.index(observed.phase) < _STORY.index(phase):
        return said
    return said.model_copy(
        update={
            "records_done": max(said.records_done, said.records_total),
            "bytes_done": max(said.bytes_done, said.bytes_total),
            "shards_done": max(said.shards_done, said.shards_total),
        }
    )


def _most(before: int | None, now: int) -> int | None:
    """The larger of the two; nothing while nothing was counted."""
    return max(before or 0, now) or before


def _planned(reports: Mapping[int, Report]) -> PlannedOutput | None:
    outcomes = (report.observed.outcome for report in reports.values())
    return next((outcome.plan for outcome in outcomes if outcome is not None and outcome.plan), None)


def _summary(planned: PlannedOutput) -> PlanSummary:
    return PlanSummary(**planned.totals.model_dump())
