"""The commands that talk to a cluster, as the command line has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Add them to the parser. Their flags are made when one of them is given (`flags`): no other command pays for them."""
    for name, says, description, flags in (
        (
            "submit",
            "apply a job to a cluster",
            "Check a DSortJob as `dsort run` does, and apply it to a cluster (server-side).",
            _submit_flags,
        ),
        (
            "watch",
            "show a job of a cluster until it has ended",
            "Show a DSortJob until it has ended, and exit with the code of its end. Ctrl-C leaves the job alone.",
            _watch_flags,
        ),
        (
            "abort",
            "end a job of a cluster",
            "Have a DSortJob fail with Aborted, for good, and leave nothing that looks like a result.",
            _abort_flags,
        ),
        (
            "logs",
            "show what a job's workers log",
            "Print the logs of a DSortJob's workers.",
            _logs_flags,
        ),
        (
            "release",
            "free jobs whose operator is gone",
            "Take the operator's finalizer off DSortJobs, so that they can be deleted where no operator is left to do it.",
            _release_flags,
        ),
    ):
        commands.add_parser(name, help=says, description=description).flags = flags


def _submit_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-f", "--file", required=True, metavar="FILE", help='the DSortJob as YAML, "-" for standard input'
    )
    command.add_argument("--wait", action="store_true", help="show the job until it has ended")
    _add_json(command)
    _add_namespace(command)
    _add_cluster(command)


def _watch_flags(command: argparse.ArgumentParser) -> None:
    _add_name(command)
    _add_json(command)
    _add_namespace(command)
    _add_cluster(command)


def _abort_flags(command: argparse.ArgumentParser) -> None:
    _add_name(command)
    _add_namespace(command)
    _add_cluster(command)


def _logs_flags(command: argparse.ArgumentParser) -> None:
    _add_name(command)
    command.add_argument("--rank", type=int, metavar="N", help="only the pod that has this rank")
    command.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    _add_namespace(command)
    _add_cluster(command)


def _release_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-n",
        "--namespace",
        dest="namespaces",
        action="append",
        metavar="NAME",
        help="the namespace (default: that of the context); may be given several times",
    )
    command.add_argument("--all-namespaces", action="store_true", help="all namespaces of the cluster")
    command.set_defaults(namespace=None)
    _add_cluster(command)


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


def _add_namespace(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-n", "--namespace", metavar="NAME", help="the namespace (default: that of the context)"
    )


def _add_cluster(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="the kubeconfig (default: $KUBECONFIG, ~/.kube/config, or the pod's service account)",
    )
    command.add_argument(
        "--context", metavar="NAME", help="the context of the kubeconfig (default: its current one)"
    )
