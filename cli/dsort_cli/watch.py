"""`dsort watch`: show a DSortJob of a cluster until it has ended."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Final, Protocol, Self

from dsort_cli.cluster import Cluster
from dsort_cli.follow import follow
from dsort_cli.jobview import JobView, view
from dsort_cli.report import say, tell

if TYPE_CHECKING:
    import argparse

    from rich.console import Group
    from rich.live import Live

    from dsort_cli.cluster import Object

EXIT_SIGINT: Final = 130
_LINE_SECONDS: Final = 5.0


def watch(options: argparse.Namespace) -> int:
    """Show the job that the command line names until it ends; its exit code. Raises ClusterError."""
    with Cluster.of(options) as cluster:
        return watch_job(cluster, cluster.job(options.name), as_json=options.json)


def watch_job(cluster: Cluster, job: Object, *, as_json: bool) -> int:
    """Show the job until it ends. The exit code of its end, or that of Ctrl-C, which leaves the job alone."""
    name = job["metadata"]["name"]
    try:
        with _screen(as_json=as_json) as screen:
            changes = map(view, follow(cluster, job))
            while not (seen := next(changes)).ended:
                screen.show(seen)
            screen.end(seen)
    except KeyboardInterrupt:
        tell(f"job {name} goes on; `dsort watch {name}` shows it again, `dsort abort {name}` ends it")
        return EXIT_SIGINT
    return seen.exit_code


class Screen(Protocol):
    """Where a job is shown. A context manager."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""

    def show(self, seen: JobView) -> None:
        """The job as it is now."""

    def end(self, seen: JobView) -> None:
        """How the job ended."""


def _screen(*, as_json: bool) -> Screen:
    if as_json:
        return JsonScreen()
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveScreen()
    return LineScreen()


class LineScreen:
    """A line on standard error when something other than the progress changed, and every few seconds."""

    def __init__(self) -> None:
        self._said: tuple[object, ...] = ()
        self._when = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to give back."""

    def show(self, seen: JobView) -> None:
        """Perhaps a line."""
        now = time.monotonic()
        saying = (seen.state, seen.phase, seen.notes)
        if saying != self._said or now - self._when >= _LINE_SECONDS:
            self._said, self._when = saying, now
            tell(seen.line())

    def end(self, seen: JobView) -> None:
        """The result on standard output, or the error."""
        _conclude(seen)


class JsonScreen:
    """One JSON object a line on standard output: `progress` at every change, then `result` or `error`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to give back."""

    def show(self, seen: JobView) -> None:
        """Event `progress`."""
        _write(event="progress", **seen.as_json())

    def end(self, seen: JobView) -> None:
        """Event `result` or `error`."""
        if seen.failed:
            _write(event="error", reason=seen.reason, message=seen.message, exitCode=seen.exit_code)
            say("error", _failure(seen))
        else:
            _write(
                event="result",
                state=seen.state,
                name=seen.name,
                namespace=seen.namespace,
                records=seen.records,
                bytes=seen.bytes,
                manifest=seen.manifest,
                plan=seen.plan,
            )


class LiveScreen:
    """A display on a terminal that stays in its place."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._live: Live | None = None
        self._seen: JobView | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, seen: JobView) -> None:
        """Draw."""
        self._seen = seen
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            # It draws by itself, too: a clock that stands still looks like a command that hangs.
            self._live = Live(
                console=Console(stderr=True),
                get_renderable=self.picture,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        self._live.refresh()

    def end(self, seen: JobView) -> None:
        """The display goes, the result stays."""
        self.__exit__()
        _conclude(seen)

    def picture(self) -> Group:
        """The job as rich draws it."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        from dsort_cli.figures import clock

        seen = self._seen
        if seen is None:
            return Group()
        elapsed = clock(time.monotonic() - self._began)
        head = Text(f"{seen.namespace}/{seen.name}", style="bold", no_wrap=True, overflow="ellipsis")
        head.append(f"  {seen.state}", style="cyan")
        head.append(f"  {elapsed}", style="dim")
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(
                total=100 if seen.percent is not None else None, completed=seen.percent or 0, width=32
            ),
            Text(seen.line(), no_wrap=True, overflow="ellipsis"),
        )
        return Group(head, bar)


def _conclude(seen: JobView) -> None:
    if seen.failed:
        say("error", _failure(seen))
    else:
        print(seen.result())


def _failure(seen: JobView) -> str:
    return f"{seen.name} failed: {seen.reason}: {seen.message}"


def _write(**event: object) -> None:
    print(json.dumps(event), flush=True)
