"""What a run tells its user while it goes on: as lines, as JSON, or only what went wrong (see `live`, too)."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from dsort_api.messages import Observed, Phase
from dsort_api.quantity import format_bytes
from dsort_cli.figures import Figures, Meter, clock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dsort_api.messages import Failure
    from dsort_cli.summary import Summary

_LINE_SECONDS = 5.0
_JSON_SECONDS = 1.0


class Reporter(Protocol):
    """Takes what happens in a run, in its order. `wait_seconds`: how fresh the progress has to be."""

    wait_seconds: float

    def started(self, job: str, *, name: str, ranks: int, output: str) -> None:
        """The ranks were asked for."""

    def progress(self, observed: Mapping[int, Observed | None]) -> None:
        """What every rank said last; called often."""

    def warning(self, text: str) -> None:
        """Something was passed over by a declared reaction."""

    def restarted(self, rank: int, *, how: str, restarts: int, limit: int) -> None:
        """A rank's process ended (`how`, in words) and a new one was asked for."""

    def result(self, summary: Summary) -> None:
        """The job is complete, was complete, or is planned."""

    def failed(self, failure: Failure, *, exit_code: int, hint: str) -> None:
        """The job failed. `hint` is what to do with what it left, or empty."""

    def close(self) -> None:
        """Give the terminal back."""


class QuietReporter:
    """Warnings and errors on standard error, the result nowhere."""

    wait_seconds = 5.0

    def started(self, job: str, *, name: str, ranks: int, output: str) -> None:
        """Nothing to say."""

    def progress(self, observed: Mapping[int, Observed | None]) -> None:
        """Nothing to say."""

    def warning(self, text: str) -> None:
        """One line."""
        say("warning", text)

    def restarted(self, rank: int, *, how: str, restarts: int, limit: int) -> None:
        """One line: an operator wants to know."""
        say("warning", f"rank {rank} {how}; started it again ({restarts} of {limit} restarts)")

    def result(self, summary: Summary) -> None:
        """Nothing to say."""

    def failed(self, failure: Failure, *, exit_code: int, hint: str) -> None:  # noqa: ARG002 - it is a line
        """One line."""
        say("error", f"{failure.message}{'; ' + hint if hint else ''}")

    def close(self) -> None:
        """Nothing to give back."""


class LineReporter(QuietReporter):
    """Progress as plain lines on standard error, at phase changes and every few seconds; the summary on
    standard output.
    """

    wait_seconds = 0.5

    def __init__(self) -> None:
        self._meter = Meter(began=time.monotonic())
        self._phase: Phase | None = None
        self._said = 0.0

    def started(self, job: str, *, name: str, ranks: int, output: str) -> None:
        """One line."""
        tell(f"job {name} ({job}): {ranks} {'rank' if ranks == 1 else 'ranks'}, output in {output}")

    def progress(self, observed: Mapping[int, Observed | None]) -> None:
        """A line when the phase is another or some seconds are over."""
        now = time.monotonic()
        figures = self._meter.read(observed, now=now)
        if figures.phase is self._phase and now - self._said < _LINE_SECONDS:
            return
        self._phase, self._said = figures.phase, now
        tell(line(figures))

    def result(self, summary: Summary) -> None:
        """The summary's lines."""
        print("\n".join(summary.lines()))


class JsonReporter:
    """One JSON object a line on standard output, and nothing else there."""

    wait_seconds = 0.5

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._meter = Meter(began=time.monotonic())
        self._phase: Phase | None = None
        self._said = 0.0

    def started(self, job: str, *, name: str, ranks: int, output: str) -> None:
        """Event `started`."""
        self._write("started", job=job, name=name, ranks=ranks, output=output)

    def progress(self, observed: Mapping[int, Observed | None]) -> None:
        """Event `progress`, at phase changes and every second."""
        now = time.monotonic()
        figures = self._meter.read(observed, now=now)
        if figures.phase is self._phase and now - self._said < _JSON_SECONDS:
            return
        self._phase, self._said = figures.phase, now
        self._write("progress", **figures_as_json(figures))

    def warning(self, text: str) -> None:
        """Event `warning`."""
        self._write("warning", message=text)

    def restarted(self, rank: int, *, how: str, restarts: int, limit: int) -> None:
        """Event `restarted`."""
        self._write("restarted", rank=rank, how=how, restarts=restarts, limit=limit)

    def result(self, summary: Summary) -> None:
        """Event `result`."""
        self._write("result", **summary.as_json())

    def failed(self, failure: Failure, *, exit_code: int, hint: str) -> None:
        """Event `error`, and the line on standard error that every command ends with."""
        self._write("error", reason=failure.reason, message=failure.message, exitCode=exit_code, hint=hint)
        say("error", f"{failure.message}{'; ' + hint if hint else ''}")

    def close(self) -> None:
        """Nothing to give back."""

    def _write(self, event: str, **fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._out.write(json.dumps({"event": event, **fields}) + "\n")
            self._out.flush()


def say(kind: str, text: str) -> None:
    """One line on standard error that begins with its kind; line breaks in names cannot make it two."""
    tell(f"{kind}: {' '.join(text.splitlines())}")


def tell(text: str) -> None:
    """A line on standard error. That nobody reads it any more is no reason to end a job."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr)


def line(figures: Figures) -> str:
    """The job's progress as one line of plain text."""
    parts = [f"{figures.phase.value.lower()}:"]
    amounts = []
    if figures.records_done or figures.records_total:
        amounts.append(f"{figures.records_done:,} records")
    if figures.bytes_done or figures.bytes_total:
        amounts.append(amount(figures))
    if figures.rate:
        amounts.append(f"{format_bytes(int(figures.rate))}/s")
    if figures.seconds_left is not None:
        amounts.append(f"{clock(figures.seconds_left)} left")
    memory = max((rank.rss for rank in figures.ranks), default=0)
    if memory:
        amounts.append(f"memory {format_bytes(memory)} a rank")
    amounts.append(f"at {clock(figures.elapsed)}")
    return " ".join([*parts, ", ".join(amounts)])


def amount(figures: Figures) -> str:
    """As "1.20 GiB of 2.00 GiB (60%)", without the rest where the total is not known."""
    if not figures.bytes_total:
        return format_bytes(figures.bytes_done)
    percent = 100 * figures.bytes_done // figures.bytes_total
    return f"{format_bytes(figures.bytes_done)} of {format_bytes(figures.bytes_total)} ({percent}%)"


def figures_as_json(figures: Figures) -> dict[str, Any]:
    """The figures as plain JSON, in bytes, records and seconds."""
    return {
        "phase": figures.phase.value,
        "seconds": round(figures.elapsed, 3),
        "recordsDone": figures.records_done,
        "recordsTotal": figures.records_total,
        "bytesDone": figures.bytes_done,
        "bytesTotal": figures.bytes_total,
        "shardsDone": figures.shards_done,
        "shardsTotal": figures.shards_total,
        "bytesPerSecond": round(figures.rate),
        "recordsPerSecond": round(figures.records_rate),
        "secondsLeft": None if figures.seconds_left is None else round(figures.seconds_left, 1),
        "ranks": [
            {
                "rank": rank.rank,
                "phase": rank.phase.value,
                "rss": rank.rss,
                "peakRss": rank.peak_rss,
                "budget": rank.budget,
                "level": rank.level,
            }
            for rank in figures.ranks
        ],
    }
