"""`dsort`: parse the command line and hand over to the command.

Only cheap modules are imported here: each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from dsort_cli.signals import Signals

_RUN_A_JOB = frozenset({"run", "plan"})

EXIT_USAGE = 2
EXIT_SIGINT = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Without `arguments` it is the process's own command, and ends it."""
    if None in {sys.stdin, sys.stdout, sys.stderr}:
        _open_standard_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and given[:1] == ["worker"]:
        from dsort_worker.termination import Termination

        Termination()  # from the first moment: in a container the kernel would drop the signal
    try:
        try:
            code = (
                _with_signals(given, stays=arguments is not None) if _runs_a_job(given) else _run(given, None)
            )
        except KeyboardInterrupt:
            code = EXIT_SIGINT
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read our output has gone, as `head` does. What Python would still flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # What a job writes is handled where it is written: this is what is printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: standard output: {error.strerror}", file=sys.stderr)
        code = 1
    if arguments is None:
        with contextlib.suppress(OSError):  # who read it has gone
            sys.stderr.flush()
        os._exit(code)  # taking a thousand modules apart takes 50 ms that the user waits for
    return code


def _open_standard_streams() -> None:
    """What whoever started this has closed is /dev/null: the next file opened would get its number, and what is printed."""
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open


def _runs_a_job(arguments: Sequence[str]) -> bool:
    return bool(arguments) and arguments[0] in _RUN_A_JOB and not {"-h", "--help"} & set(arguments)


def _with_signals(arguments: Sequence[str], *, stays: bool) -> int:
    """`stays`: the process goes on after the command."""
    from dsort_cli.signals import Signals

    with Signals(give_back=stays) as signals:
        return _run(arguments, signals)


def _run(arguments: Sequence[str], signals: Signals | None) -> int:
    options = parser().parse_args(arguments)
    from dsort_api.reasons import DSortError

    try:
        match options.command:
            case "run" | "plan":
                from dsort_cli.run import run

                assert signals is not None
                return run(options, signals=signals)
            case "verify":
                from dsort_cli.verify import verify

                return verify(options)
            case "clean":
                from dsort_cli.clean import clean

                return clean(options)
            case "submit" | "watch" | "abort" | "logs" | "release":
                from dsort_cli.clusterline import run as run_on_cluster

                return run_on_cluster(options)
            case "operator":
                from dsort_cli.operator import operator

                return operator(options)
            case _:
                from dsort_cli.worker import worker

                return worker(options)
    except DSortError as error:
        from dsort_cli.report import say

        say("error", error.message)
        return error.exit_code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    import argparse

    class Parser(argparse.ArgumentParser):
        """Says what is wrong in one line, as everything else does."""

        def error(self, message: str) -> NoReturn:
            self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")

        flags: Callable[[argparse.ArgumentParser], None] | None = None
        """Adds the flags of a command whose flags only that command itself is to pay for."""

        def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
            if self.flags is not None:
                add, self.flags = self.flags, None
                add(self)
            return super().parse_known_args(args, namespace)

    top = Parser(
        prog="dsort",
        description="Shuffle, sort and repack WebDataset tar shards, on this machine or on a Kubernetes cluster.",
        epilog="Exit codes: 0 success, 2 usage, 130 Ctrl-C; all others are in docs/exit-codes.md.",
        allow_abbrev=False,
    )

    class Version(argparse.Action):
        """Looked up only when somebody asks."""

        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            from importlib.metadata import version

            print(f"dsort {version('dsort-operator')}")
            parser.exit()

    top.add_argument("--version", action=Version, nargs=0, help="say the version and exit")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="run a job", description="Run a DSortJob with ranks as processes of this machine."
    )
    plan = commands.add_parser(
        "plan",
        help="show what a job would make",
        description="Do everything up to packing and print the output shards; no payload moves and nothing is written.",
    )
    for command in (run, plan):
        command.add_argument(
            "-f", "--file", required=True, metavar="FILE", help='the DSortJob as YAML, "-" for standard input'
        )
        command.add_argument(
            "--workers",
            type=_ranks,
            metavar="N",
            help="ranks to start (default: those of spec.workers: count x lanes)",
        )
        command.add_argument(
            "--memory",
            metavar="SIZE",
            help="memory budget of each rank, such as 512Mi (default: what spec.memory.budget says for a lane)",
        )
        _add_claims(command, "--pvc")
        command.add_argument(
            "--no-short-circuit",
            dest="short_circuit",
            action="store_false",
            help="send all payload through the network, as between nodes, instead of reading files of this machine",
        )
        command.add_argument("--json", action="store_true", help="one JSON object a line on standard output")
        command.add_argument("--quiet", action="store_true", help="only warnings and errors")
    verify = commands.add_parser(
        "verify",
        help="check an output",
        description="Check output shards against their manifest: names, sizes, records, checksums.",
    )
    verify.add_argument("output", help="the output: a folder, or its url")
    verify.add_argument(
        "--deep",
        nargs="+",
        metavar="INPUT",
        default=[],
        help="compare the records with those of these inputs as well (folders or urls; the manifest says which shards)",
    )
    _add_claims(verify, "--pvc")
    verify.add_argument(
        "--json", action="store_true", help="the result as one JSON object on standard output"
    )
    clean = commands.add_parser(
        "clean",
        help="remove what dead jobs left",
        description="Remove what jobs that are no longer running staged in an output folder.",
    )
    clean.add_argument("output", help="the output: a folder, or its url")
    clean.add_argument(
        "--job",
        type=_job_id,
        metavar="ID",
        help="only what this one job staged or published, unless it is complete; waits a while for its last processes",
    )
    _add_claims(clean, "--pvc")
    worker = commands.add_parser(
        "worker",
        help="be one rank, or all of a pod",
        description="Run one rank, or those of one pod, in the foreground; whoever started it drives it through its control "
        "endpoints. The bearer token of the job is read from DSORT_TOKEN.",
    )
    which = worker.add_mutually_exclusive_group()
    which.add_argument("--rank", type=_natural, metavar="N", help="be this rank, from 0")
    which.add_argument(
        "--index",
        type=_natural,
        default=os.environ.get("JOB_COMPLETION_INDEX"),
        metavar="N",
        help="be all ranks of this pod, from 0, each on the ports of its lane (default: JOB_COMPLETION_INDEX)",
    )
    worker.add_argument("--job", required=True, metavar="FILE", help="the JobDefinition as JSON")
    worker.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    worker.add_argument(
        "--control-port",
        type=_natural,
        metavar="PORT",
        help="of the first lane; 0: any free port (default with --rank)",
    )
    worker.add_argument("--data-port", type=_natural, metavar="PORT", help="likewise, for the other ranks")
    _add_claims(worker, "--volume")
    worker.add_argument("--scratch", metavar="DIR", help="a folder for scratch files")
    worker.add_argument(
        "--termination-log", metavar="FILE", help="where to say in JSON why it failed (default: nowhere)"
    )
    worker.add_argument(
        "--metrics", action="store_true", help="serve metrics for Prometheus, from port 7300 on"
    )
    worker.add_argument(
        "--log-format",
        choices=("json", "text"),
        help="of the log on standard error (default: text on a terminal, else json)",
    )
    worker.add_argument(
        "--no-short-circuit",
        dest="short_circuit",
        action="store_false",
        help="send all payload through the network",
    )
    from dsort_cli.clusterline import add_commands

    add_commands(commands)
    commands.add_parser(
        "operator",
        help="run the operator",
        description="Run the operator of a cluster: it looks after DSortJobs until a signal ends it.",
    ).flags = _operator_flags
    return top


def _operator_flags(command: argparse.ArgumentParser) -> None:
    from dsort_operator.settings import add_flags

    add_flags(command)


def _add_claims(command: argparse.ArgumentParser, flag: str) -> None:
    command.add_argument(
        flag,
        dest="claims",
        action="append",
        default=[],
        type=_claim,
        metavar="NAME=DIR",
        help="the folder that stands for the claim NAME in pvc://NAME/path; may be given several times",
    )


def _claim(text: str) -> tuple[str, str]:
    import argparse

    name, sign, folder = text.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"{folder} is not a folder")
    return name, os.path.abspath(folder)


def _job_id(text: str) -> str:
    import argparse
    import re

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a job")
    return text


def _ranks(text: str) -> int:
    from dsort_cli.onemachine import MOST_RANKS

    number = _natural(text)
    if not 1 <= number <= MOST_RANKS:
        import argparse

        raise argparse.ArgumentTypeError(f"1 to {MOST_RANKS}")
    return number


def _natural(text: str) -> int:
    import argparse

    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)
