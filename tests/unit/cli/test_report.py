"""What is said while a job runs, and at its end."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest

from dsort_api.manifest import Counts
from dsort_api.messages import Failure, Memory, Observed, Phase, Progress
from dsort_api.reasons import Reason
from dsort_cli.figures import Figures, RankFigures
from dsort_cli.live import LiveReporter
from dsort_cli.report import JsonReporter, LineReporter, QuietReporter, line, say
from dsort_cli.signals import Signals
from dsort_cli.summary import Summary, plan_table
from tests.support.worlds import plan_of

FIGURES = Figures(
    phase=Phase.CREATE,
    elapsed=12.0,
    records_done=1234,
    records_total=5000,
    bytes_done=1 << 30,
    bytes_total=1 << 32,
    shards_done=3,
    shards_total=16,
    rate=float(1 << 29),
    seconds_left=6.0,
    ranks=(
        RankFigures(rank=0, phase=Phase.CREATE, rss=100 << 20, peak_rss=120 << 20, budget=512 << 20, level=3),
    ),
)
SUMMARY = Summary(
    state="Complete",
    job="0123456789abcdef",
    ranks=2,
    seconds=2.0,
    records=1000,
    shards=3,
    bytes=1 << 30,
    output="/out",
    manifest="/out/dsort-manifest.json",
    peak_rss=(100 << 20, 90 << 20),
)
REPORT = Observed(
    epoch="e",
    rank=0,
    version=1,
    phase=Phase.SCAN,
    progress=Progress(bytes_done=5, bytes_total=10),
    memory=Memory(rss=1 << 20, peak_rss=2 << 20, budget=3 << 20),
)


def test_a_line_has_records_bytes_rate_time_left_and_memory() -> None:
    text = line(FIGURES)
    for part in ("create: 1,234 records", "(25%)", "/s", "6.0 s left", "memory 100", "a rank"):
        assert part in text


def test_a_line_says_nothing_of_what_is_not_known() -> None:
    assert line(Figures(phase=Phase.LIST, elapsed=0.3)) == "list: at 0.3 s"


def test_a_name_with_a_line_break_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("error", "shard a\nb.tar: bad")
    assert capsys.readouterr().err == "error: shard a b.tar: bad\n"


def test_plain_lines_come_at_phase_changes_only(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = LineReporter()
    for _ in range(3):
        reporter.progress({0: REPORT})
    reporter.progress({0: REPORT.model_copy(update={"phase": Phase.ORDER})})
    captured = capsys.readouterr()
    assert [text.partition(":")[0] for text in captured.err.splitlines()] == ["scan", "order"]
    assert captured.out == ""


def test_json_events() -> None:
    out = io.StringIO()
    reporter = JsonReporter(out)
    reporter.started("id", name="n", ranks=2, output="/out")
    reporter.progress({0: REPORT, 1: None})
    reporter.warning("shard a: x")
    reporter.restarted(1, how="was killed by signal 9 (SIGKILL)", restarts=1, limit=6)
    reporter.result(SUMMARY)
    events = [json.loads(text) for text in out.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["started", "progress", "warning", "restarted", "result"]
    assert [rank["phase"] for rank in events[1]["ranks"]] == ["Scan", "Starting"]
    assert events[-1]["manifest"] == "/out/dsort-manifest.json"


def test_a_failure_is_one_line_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Failure(reason=Reason.OUTPUT_UNWRITABLE, message="/out/o.tar: No space left on device")
    QuietReporter().failed(failure, exit_code=14, hint="run again")
    JsonReporter(io.StringIO()).failed(failure, exit_code=14, hint="")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: /out/o.tar: No space left on device; run again"
    assert second == "error: /out/o.tar: No space left on device"


def test_the_summary_has_amounts_rate_memory_and_the_manifest() -> None:
    first, second = SUMMARY.lines()
    for part in ("1,000 records", "3 shards", "2.00 s", "512", "2 ranks", "100"):
        assert part in first
    assert second == "manifest /out/dsort-manifest.json"


def test_a_long_plan_is_cut_and_says_so() -> None:
    shards = [(f"o-{number}.tar", 1024, 2) for number in range(50)]
    rows = plan_table(plan_of(*shards, counts=Counts(duplicates=3, records_in=100)))
    assert rows[1].split() == ["o-0.tar", "2", "1,024"]
    assert rows[-2] == "... and 10 more (--json lists all)"
    assert rows[-1] == "passed over: duplicates 3"


def test_the_live_picture_has_phases_a_bar_and_a_line_per_rank() -> None:
    from rich.console import Console

    reporter = LiveReporter()
    reporter.started("id", name="pets", ranks=1, output="/out")
    reporter._past[Phase.SCAN] = 0.25
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(reporter.picture(FIGURES))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "pets (id)",
        "Scan 0.2 s",
        "Create",
        "(25%)",
        "6.0 s left",
        "1,234 of 5,000",
        "3 of 16",
        "rank 0",
        "of 512.00 MiB",
        "short of memory, level 3",
    ):
        assert part in text


def test_the_live_picture_of_many_ranks_stays_on_the_screen() -> None:
    from rich.console import Console

    ranks = tuple(RankFigures(rank=n, phase=Phase.SCAN, rss=1, peak_rss=1, budget=0) for n in range(100))
    console = Console(file=io.StringIO(), width=120)
    console.print(LiveReporter().picture(Figures(phase=Phase.SCAN, elapsed=1.0, ranks=ranks)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert len(text.splitlines()) < 24
    assert "and 84 more ranks" in text


def test_the_first_signal_is_noted_and_the_second_ends() -> None:
    ended: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    with Signals(end=ended.append) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (signals.received, ended) == ([signal.SIGTERM], [])
        os.kill(os.getpid(), signal.SIGINT)
        assert ended == [130]
    assert signal.getsignal(signal.SIGTERM) is before
