"""What the status of a DSortJob tells a person. Pure, and at ease with everything that an older or newer operator writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dsort_api.quantity import format_bytes
from dsort_api.reasons import EXIT_CODES, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

_WHOLE: Final = 100


@dataclass(frozen=True, slots=True)
class JobView:
    """One moment of a job. Numbers are 0 and texts empty where the status does not tell."""

    name: str
    namespace: str
    state: str
    """The one word: Pending, Starting, Running, ..., Complete, Failed."""
    phase: str = ""
    ready: str = ""
    """Ranks that are ready, and all: 2/4."""
    percent: int | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    records_done: int = 0
    records_total: int = 0
    throughput: int = 0
    """Payload bytes a second."""
    records: int = 0
    """Records of the result."""
    bytes: int = 0
    """Bytes of the result."""
    manifest: str = ""
    plan: Mapping[str, Any] | None = None
    """What a dry run would make: shards, records, bytes."""
    complete: bool = False
    failed: bool = False
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = field(default=())
    """What is not as it should be, by the conditions that are there for it."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.complete or self.failed

    @property
    def exit_code(self) -> int:
        """0, or the code of the reason; that of InternalError for a reason of a newer operator."""
        if not self.failed:
            return 0
        try:
            return EXIT_CODES[Reason(self.reason)]
        except ValueError:
            return EXIT_CODES[Reason.INTERNAL]

    def line(self) -> str:
        """The job in one line of plain text."""
        phase = self.phase if self.state == "Running" and self.phase else self.state
        parts = []
        if self.percent is not None:
            parts.append(f"{self.percent}%")
        if self.ready and self.state != "Running" and not self.notes:
            parts.append(f"{self.ready} ranks ready")
        if self.records_done:
            parts.append(f"{self.records_done:,} records")
        if self.bytes_done:
            parts.append(format_bytes(self.bytes_done))
        if self.throughput:
            parts.append(f"{format_bytes(self.throughput)}/s")
        parts += self.notes
        return f"{phase.lower()}: {', '.join(parts)}" if parts else phase.lower()

    def result(self) -> str:
        """The end of a job that is complete, in one line."""
        if self.plan is not None:
            amounts = self.plan
            shards, records, size = (_number(amounts.get(key)) for key in ("shards", "records", "bytes"))
            return f"{self.name} would make {shards:,} shards of {records:,} records, {format_bytes(size)}"
        manifest = f"; manifest {self.manifest}" if self.manifest else ""
        return f"{self.name} is complete: {self.records:,} records, {format_bytes(self.bytes)}{manifest}"

    def as_json(self) -> dict[str, Any]:
        """As plain JSON; amounts in bytes and records."""
        return {
            "name": self.name,
            "namespace": self.namespace,
            "state": self.state,
            "phase": self.phase,
            "ready": self.ready,
            "percent": self.percent,
            "bytesDone": self.bytes_done,
            "bytesTotal": self.bytes_total,
            "recordsDone": self.records_done,
            "recordsTotal": self.records_total,
            "bytesPerSecond": self.throughput,
            "notes": list(self.notes),
        }


def view(job: Mapping[str, Any]) -> JobView:
    """What the object of the API says."""
    metadata, status = _mapping(job.get("metadata")), _mapping(job.get("status"))
    progress = _mapping(status.get("progress"))
    conditions = {
        str(one.get("type")): one for one in map(_mapping, _list(status.get("conditions"))) if "type" in one
    }
    ended = next((kind for kind in ("Complete", "Failed") if _holds(conditions.get(kind))), "")
    told = _mapping(conditions.get(ended or "FailureTarget"))
    plan = status.get("plan")
    return JobView(
        name=_text(metadata.get("name")),
        namespace=_text(metadata.get("namespace")),
        state=ended or _text(status.get("state")) or "Pending",
        phase=_text(status.get("phase")),
        ready=_text(status.get("ready")),
        percent=_percent(_text(progress.get("share"))),
        bytes_done=_number(progress.get("bytesDone")),
        bytes_total=_number(progress.get("bytesTotal")),
        records_done=_number(progress.get("recordsDone")),
        records_total=_number(progress.get("recordsTotal")),
        throughput=_number(status.get("throughput")),
        records=_number(status.get("recordsOut")),
        bytes=_number(status.get("bytesOut")),
        manifest=_text(status.get("manifest")),
        plan=plan if isinstance(plan, dict) else None,
        complete=ended == "Complete",
        failed=ended == "Failed",
        reason=_text(told.get("reason")),
        message=_text(told.get("message")),
        notes=() if ended else tuple(_notes(conditions)),
    )


def _notes(conditions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The messages of conditions that say why a job is not getting on."""
    notes = []
    for kind, bad in (
        ("Suspended", "True"),
        ("WorkersReady", "False"),
        ("Throttled", "True"),
        ("FailureTarget", "True"),
    ):
        condition = conditions.get(kind)
        if condition is not None and condition.get("status") == bad:
            notes.append(_text(condition.get("message")) or _text(condition.get("reason")) or kind)
    return notes


def _holds(condition: Mapping[str, Any] | None) -> bool:
    return condition is not None and condition.get("status") == "True"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    """One line that leaves a terminal as it is."""
    if not isinstance(value, str):
        return ""
    return "".join(one if one.isprintable() else "?" for one in " ".join(value.split()))


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _percent(share: str) -> int | None:
    digits = share.removesuffix("%")
    return min(int(digits), _WHOLE) if digits.isascii() and digits.isdigit() else None
