"""The command line: what is refused before anything is done, and how."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dsort_api.reasons import EXIT_CODES, Reason
from dsort_cli.main import main, parser

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["verify"], "output"),
        (["verify", "x", "--deep"], "--deep"),
        (["clean", "x", "--all"], "--all"),
        (["verify", "x", "--pvc", "name"], "'name' is not NAME=DIR"),
        (["verify", "x", "--pvc", "name=/no/such/folder"], "/no/such/folder is not a folder"),
        (["worker", "--rank", "-1", "--job", "x"], "--rank"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: Sequence[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert part in line
    assert line.endswith("--help")


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5", "1025"])
def test_workers_is_a_number_from_1_to_1024(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "-f", "x", "--workers", workers])
    assert "--workers" in capsys.readouterr().err


def test_claims_are_absolute_folders_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    options = parser().parse_args(["run", "-f", "x", "--pvc", "in=data", "--pvc", "out=/"])
    assert options.claims == [("in", str(tmp_path / "data")), ("out", "/")]


def test_every_option_is_on_the_page() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()
    commands = next(action for action in parser()._actions if action.dest == "command").choices
    assert isinstance(commands, dict)
    for name, command in commands.items():
        assert f"## dsort {name}" in page
        if command.flags is not None:  # made when the command is given
            command.flags(command)
        for action in command._actions:
            for option in action.option_strings:
                assert option in page or option in {"-h", "--help"}, f"{name} {option}"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"dsort {version('dsort-operator')}\n"


@pytest.mark.parametrize("job_id", ["", ".", "..", "a/b", "-x", "a b"])
def test_the_id_of_a_job_is_no_path(job_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["clean", "x", f"--job={job_id}"])
    assert "is no id of a job" in capsys.readouterr().err


def definition(tmp_path: Path, **more: object) -> str:
    spec = {
        "input": {"url": "file:///in"},
        "output": {"url": "file:///out", "name": "o-%06d", "recordsPerShard": 1},
        "order": {"kind": "None"},
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"id": "j", "name": "n", "spec": spec, "ranks": 4, "lanes": 2, **more}))
    return str(path)


@pytest.mark.usefixtures("own_log")
@pytest.mark.parametrize(
    ("arguments", "variable", "part"),
    [
        (["--rank", "4"], "", "has 4 ranks"),
        (["--index", "2"], "", "has 2 pods"),
        ([], "2", "has 2 pods"),
        ([], "", "JOB_COMPLETION_INDEX"),
    ],
)
def test_worker_is_a_rank_or_a_pod_that_the_job_has(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    variable: str,
    part: str,
) -> None:
    monkeypatch.setenv("DSORT_TOKEN", "secret")
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    if variable:
        monkeypatch.setenv("JOB_COMPLETION_INDEX", variable)
    said = tmp_path / "said"
    line = ["worker", "--job", definition(tmp_path), *arguments, "--termination-log", str(said)]
    assert main([*line, "--log-format", "json"]) == 3
    logged = json.loads(capsys.readouterr().err)
    assert logged["level"] == "error"
    assert part in logged["message"]
    words = json.loads(said.read_text())
    assert words["reason"] == "InvalidSpec"
    assert part in words["message"]
    said.unlink()
    assert main([*line, "--log-format", "text"]) == 3
    assert capsys.readouterr().err.startswith("error: ")
    assert said.exists()


def test_rank_and_index_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["worker", "--job", "x", "--rank", "0", "--index", "0"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.usefixtures("own_log")
def test_metrics_without_their_library_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSORT_TOKEN", "secret")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "dsort_worker.metrics", raising=False)
    assert main(["worker", "--job", definition(tmp_path), "--index", "0", "--metrics"]) == 3
    assert "dsort-operator[operator]" in capsys.readouterr().err


@pytest.mark.usefixtures("own_log")
def test_worker_wants_a_token_and_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DSORT_TOKEN", raising=False)
    assert main(["worker", "--rank", "0", "--job", str(tmp_path / "none")]) == 3
    assert "DSORT_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("DSORT_TOKEN", "secret")
    assert main(["worker", "--rank", "0", "--job", str(tmp_path / "none")]) == 3
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "job.json").write_text('{"id": 1}')
    assert main(["worker", "--rank", "0", "--job", str(tmp_path / "job.json")]) == 3
    assert "no JobDefinition" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["s3://bucket/x", "pvc://unknown/x"])
def test_an_output_that_is_no_folder_here(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "clean"):
        assert main([command, output]) == 3
        assert output in capsys.readouterr().err


def test_clean_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", str(tmp_path)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert main(["clean", str(tmp_path / "none")]) == 4


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_closed_is_empty(closed: str) -> None:
    command = f'exec "$0" -m dsort_cli plan -f - {"" if "<" in closed else "</dev/null"} {closed}'
    ended = subprocess.run(
        ["sh", "-c", command, sys.executable], capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == EXIT_CODES[Reason.INVALID_SPEC]
    assert ended.stdout == b""
    if "2>" in closed:
        assert ended.stderr == b""
    else:
        assert ended.stderr.startswith(b"error: -: the file is empty")
        assert ended.stderr.count(b"\n") == 1


def test_a_full_standard_output_is_one_line_and_no_trace(tmp_path: Path) -> None:
    command = 'exec "$0" -m dsort_cli clean "$1" >/dev/full'
    ended = subprocess.run(
        ["sh", "-c", command, sys.executable, str(tmp_path)], capture_output=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (1, b"error: standard output: No space left on device\n")
