"""The commands that talk to a cluster, as the command line has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse

COMMANDS: Final = frozenset({"submit", "watch", "abort", "logs", "release"})


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Add them to the parser."""
    submit = commands.add_parser(
        "submit",
        help="apply a job to a cluster",
        description="Check a DSortJob as `dsort run` does, and apply it to a cluster (server-side).",
    )
    submit.add_argument(
        "-f", "--file", required=True, metavar="FILE", help='the DSortJob as YAML, "-" for standard input'
    )
    submit.add_argument("--wait", action="store_true", help="show the job until it has ended")
    _add_json(submit)
    watch = commands.add_parser(
        "watch",
        help="show a job of a cluster until it has ended",
        description="Show a DSortJob until it has ended, and exit with the code of its end. Ctrl-C leaves the job alone.",
    )
    _add_name(watch)
    _add_json(watch)
    abort = commands.add_parser(
        "abort",
        help="end a job of a cluster",
        description="Have a DSortJob fail with Aborted, for good, and leave nothing that looks like a result.",
    )
    _add_name(abort)
    logs = commands.add_parser(
        "logs", help="show what a job's workers log", description="Print the logs of a DSortJob's workers."
    )
    _add_name(logs)
    logs.add_argument("--rank", type=int, metavar="N", help="only the pod that has this rank")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    release = commands.add_parser(
        "release",
        help="free jobs whose operator is gone",
        description="Take the operator's finalizer off DSortJobs, so that they can be deleted where no operator is left to do "
        "it. Not for a cluster whose operator runs: it would put the finalizer back.",
    )
    for command in (submit, watch, abort, logs):
        command.add_argument(
            "-n", "--namespace", metavar="NAME", help="the namespace (default: that of the context)"
        )
    release.add_argument(
        "-n",
        "--namespace",
        dest="namespaces",
        action="append",
        metavar="NAME",
        help="the namespace (default: that of the context); may be given several times",
    )
    release.add_argument("--all-namespaces", action="store_true", help="all namespaces of the cluster")
    release.set_defaults(namespace=None)
    for command in (submit, watch, abort, logs, release):
        command.add_argument(
            "--kubeconfig",
            metavar="FILE",
            help="the kubeconfig (default: $KUBECONFIG, ~/.kube/config, or the pod's service account)",
        )
        command.add_argument(
            "--context", metavar="NAME", help="the context of the kubeconfig (default: its current one)"
        )


def run(options: argparse.Namespace) -> int:
    """Run one of them; its exit code. Raises DSortError; what the cluster says is a line and exit code 1."""
    from dsort_cli.cluster import ClusterError

    try:
        match options.command:
            case "submit":
                from dsort_cli.submit import submit

                return submit(options)
            case "watch":
                from dsort_cli.watch import watch

                return watch(options)
            case "abort":
                from dsort_cli.abort import abort

                return abort(options)
            case "logs":
                from dsort_cli.logs import logs

                return logs(options)
            case _:
                from dsort_cli.release import release

                return release(options)
    except ClusterError as error:
        from dsort_cli.report import say

        say("error", str(error))
        return 1


def _add_name(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="the name of the DSortJob")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON object a line on standard output")
