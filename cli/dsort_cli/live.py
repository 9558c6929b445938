"""The live display on a terminal: phases that are over with their seconds, the current one with a bar, a line
per rank.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dsort_api.messages import Phase
from dsort_api.quantity import format_bytes
from dsort_cli.figures import STORY, Figures, Meter, clock
from dsort_cli.report import QuietReporter, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Group
    from rich.live import Live

    from dsort_api.messages import Observed
    from dsort_cli.summary import Summary

_MOST_RANKS = 16
_FIRST_LOOK = 0.25
"""Seconds before the display appears: a job that is over by then needs none, nor the import of what draws it.
"""


class LiveReporter(QuietReporter):
    """Draws on standard error with rich; the summary goes to standard output."""

    wait_seconds = 0.15

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._meter = Meter(began=self._began)
        self._live: Live | None = None
        self._title = ""
        self._phase = Phase.STARTING
        self._since = self._began
        self._past: dict[Phase, float] = {}

    def started(self, job: str, *, name: str, ranks: int, output: str) -> None:
        """Becomes the title."""
        self._title = f"{name} ({job}): {ranks} {'rank' if ranks == 1 else 'ranks'}, output in {output}"

    def progress(self, observed: Mapping[int, Observed | None]) -> None:
        """Draw."""
        now = time.monotonic()
        figures = self._meter.read(observed, now=now)
        if figures.phase is not self._phase:
            self._past[self._phase] = self._past.get(self._phase, 0.0) + now - self._since
            self._phase, self._since = figures.phase, now
        if now - self._began < _FIRST_LOOK or (self._live is None and not figures.bytes_total):
            return
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self.picture(figures), refresh=True)

    def warning(self, text: str) -> None:
        """Above the display."""
        self._clear()
        super().warning(text)

    def restarted(self, rank: int, *, how: str, restarts: int, limit: int) -> None:
        """Above the display."""
        self._clear()
        super().restarted(rank, how=how, restarts=restarts, limit=limit)

    def result(self, summary: Summary) -> None:
        """The display goes, the summary stays."""
        self.close()
        print("\n".join(summary.lines()))

    def close(self) -> None:
        """Take the display off the terminal."""
        self._clear()

    def picture(self, figures: Figures) -> Group:
        """The display as rich draws it."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Text(self._title, style="bold", no_wrap=True, overflow="ellipsis")
        story = Text()
        for phase in STORY[1:-1]:
            if phase in self._past:
                story.append(f"{phase.value} {self._past[phase]:.1f} s   ", style="green")
            elif phase is figures.phase:
                story.append(f"{phase.value}   ", style="bold cyan")
            else:
                story.append(f"{phase.value}   ", style="dim")
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=figures.bytes_total or None, completed=figures.bytes_done, width=32),
            Text(amount(figures) if figures.bytes_total or figures.bytes_done else ""),
            Text(f"{format_bytes(int(figures.rate))}/s" if figures.rate else "", style="cyan"),
            Text(f"{clock(figures.seconds_left)} left" if figures.seconds_left is not None else ""),
        )
        counts = Text(", ".join(_counts(figures)), style="dim")
        ranks = Table.grid(padding=(0, 2))
        for rank in figures.ranks[:_MOST_RANKS]:
            share = f" of {format_bytes(rank.budget)}" if rank.budget else ""
            ranks.add_row(
                Text(f"rank {rank.rank}"),
                Text(rank.phase.value, style="cyan"),
                Text(f"memory {format_bytes(rank.rss)}{share}, peak {format_bytes(rank.peak_rss)}"),
                Text(f"short of memory, level {rank.level}" if rank.level else "", style="yellow"),
            )
        if len(figures.ranks) > _MOST_RANKS:
            ranks.add_row(Text(f"and {len(figures.ranks) - _MOST_RANKS} more ranks", style="dim"))
        return Group(head, story, bar, counts, ranks)

    def _clear(self) -> None:
        if self._live is not None:
            self._live.update("")
            self._live.stop()
            self._live = None


def _counts(figures: Figures) -> list[str]:
    """Records and shards, as far as they are known in this phase."""
    result = []
    for done, total, what in (
        (figures.records_done, figures.records_total, "records"),
        (figures.shards_done, figures.shards_total, "shards"),
    ):
        if total:
            result.append(f"{done:,} of {total:,} {what}")
        elif done:
            result.append(f"{done:,} {what}")
    return result
