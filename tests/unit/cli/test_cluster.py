"""The commands for a cluster, without one."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from dsort_cli import watch
from dsort_cli.cluster import ClusterError
from dsort_cli.jobview import view
from dsort_cli.main import main


def test_without_the_client_a_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert main(["watch", "a-job"]) == 1
    assert capsys.readouterr().err == (
        "error: the Kubernetes client is not installed: pip install 'dsort-operator[operator]'\n"
    )


@pytest.mark.parametrize("command", ["run", "plan", "worker", "submit"])
def test_the_command_line_does_without_the_client(command: str) -> None:
    code = (
        "import sys; from dsort_cli.main import parser\n"
        f"try: parser().parse_args([{command!r}, '--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    met = ran.stdout.split()
    assert "dsort_cli.clusterline" in met
    assert not {"kubernetes", "rich", "dsort_cli.cluster", "pydantic"} & set(met)


@pytest.mark.parametrize(
    ("status", "passes"), [(0, True), (429, True), (503, True), (401, False), (403, False), (404, False)]
)
def test_what_may_pass_is_tried_again(status: int, passes: bool) -> None:
    assert ClusterError("words", status=status).passes is passes


def test_what_a_server_says_is_one_harmless_line() -> None:
    assert str(ClusterError("a\nb \x1b[31m")) == "a b ?[31m"


def seen(**status: Any) -> Any:
    return view({"metadata": {"name": "j", "namespace": "n"}, "status": status})


def test_the_live_display_shows_the_job_and_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    screen = watch._screen(as_json=False)
    assert isinstance(screen, watch.LiveScreen)
    with screen:
        screen.show(seen(state="Running", phase="Create", progress={"share": "42%"}))
        console = Console(file=io.StringIO(), width=100)
        console.print(screen.picture())
        screen.end(seen(conditions=[{"type": "Complete", "status": "True"}]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "n/j" in text
    assert "create: 42%" in text
    assert capsys.readouterr().out == "j is complete: 0 records, 0 bytes\n"


def test_a_failure_as_json_is_an_event_and_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with watch.JsonScreen() as screen:
        screen.end(
            seen(conditions=[{"type": "Failed", "status": "True", "reason": "Aborted", "message": "by hand"}])
        )
    out, err = capsys.readouterr()
    assert out == '{"event": "error", "reason": "Aborted", "message": "by hand", "exitCode": 130}\n'
    assert err == "error: j failed: Aborted: by hand\n"


def test_lines_are_said_when_something_changed(capsys: pytest.CaptureFixture[str]) -> None:
    with watch.LineScreen() as screen:
        for share in ("1%", "2%"):
            screen.show(seen(state="Running", phase="Scan", progress={"share": share}))
        screen.show(seen(state="Running", phase="Order", progress={"share": "2%"}))
        screen.end(seen(conditions=[{"type": "Failed", "status": "True", "reason": "R", "message": "m"}]))
    assert capsys.readouterr().err.splitlines() == ["scan: 1%", "order: 2%", "error: j failed: R: m"]
