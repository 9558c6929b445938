"""The process that ranks are forked from.

Importing what a rank needs (numpy, aiohttp, pydantic) takes longer than resharding a gigabyte. The runner needs
most of it as well, so it imports all of it once and forks the nursery before it has a thread or an event loop;
then each rank, a restarted one too, is one fork of a clean process away. The standard library's forkserver
would import everything a second time, beside a resource tracker and a socket in /tmp.

The runner and the nursery talk over one SOCK_SEQPACKET socket pair, in JSON messages that the kernel keeps
whole. Nothing outlives the runner: the nursery ends at the end of that socket, and the kernel kills the ranks
when the nursery ends. A rank inherits the lock of its job folder, so the lock is free only when every process
of the job is gone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dsort_api.messages import JobDefinition
from dsort_cli.processes import MESSAGE_BYTES
from dsort_cli.signals import ENDING
from dsort_worker.main import RankSettings, run_rank
from dsort_worker.termination import die_with

if TYPE_CHECKING:
    from collections.abc import Mapping

_OOM_SCORE: Final = "500"
"""See proc(5): as if the process had half of all memory more than it has."""


def main(connection_fd: int) -> NoReturn:
    """Fork ranks as told until the runner closes its end. Never returns.

    The process was forked from the runner and has the signals that end it blocked. It keeps nothing of the
    runner's but standard error and `connection_fd`.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C on the terminal is the runner's to handle
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # standard output belongs to the runner's results
    os.closerange(3, connection_fd)
    os.closerange(connection_fd + 1, os.sysconf("SC_OPEN_MAX"))
    gc.freeze()  # the ranks share these pages: a collection in a rank must not write to them
    gc.enable()
    with socket.socket(fileno=connection_fd) as connection:
        _Nursery(connection).run()
    os._exit(0)


class _Nursery:
    """Which ranks run, by process id; owns the socket to the runner."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rank_of: dict[int, int] = {}
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(
            signal.SIGCHLD, lambda *_: None
        )  # a handler has to be there for the wake-up fd to be written
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until the runner is gone; then no rank is left."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if self._woken in ready:
                    os.read(self._woken, 4096)
                    self._reap()
                if self._connection.fileno() in ready and not self._serve():
                    return
        finally:
            for pid in self._rank_of:
                os.kill(pid, signal.SIGKILL)
            for pid in self._rank_of:
                os.waitpid(pid, 0)

    def _serve(self) -> bool:
        """Take one message; False at the end of the socket."""
        try:
            text, fds, _, _ = socket.recv_fds(self._connection, MESSAGE_BYTES, 4)
        except ConnectionResetError:
            return False
        if not text:
            return False
        message = json.loads(text)
        if message["do"] == "start":
            pid = self._fork(message, fds)
            for fd in fds:
                os.close(fd)
            self._rank_of[pid] = message["rank"]
            self._report({"event": "started", "rank": message["rank"], "pid": pid})
        else:
            for pid, rank in self._rank_of.items():
                if rank == message["rank"]:
                    os.kill(pid, message["signal"])  # not reaped yet, so the id is still this rank's
        return True

    def _fork(self, message: dict[str, Any], fds: list[int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self._woken)
            os.close(self._waker)
            die_with(parent)
            _be_killed_first()
            code = _run_rank(self._connection, message, fds)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 - the child ends here, with the trace of what went wrong
            import traceback

            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _reap(self) -> None:
        while self._rank_of:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            rank = self._rank_of.pop(pid)
            self._report(
                {"event": "ended", "rank": rank, "pid": pid, "code": os.waitstatus_to_exitcode(status)}
            )

    def _report(self, message: Mapping[str, object]) -> None:
        try:
            _send(self._connection, message)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the runner is gone: the socket's end says so next


def _be_killed_first() -> None:
    """Where memory runs out, have the kernel end this process and not the runner, which can start another and say why."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(_OOM_SCORE)


def _run_rank(connection: socket.socket, message: dict[str, Any], fds: list[int]) -> int:
    """Be the rank that `message` describes; `fds` are the job definition and, if there is one, the job's
    lock.
    """
    job_fd = fds[0]
    job = JobDefinition.model_validate_json(os.pread(job_fd, os.fstat(job_fd).st_size, 0))
    os.close(job_fd)
    settings = RankSettings(rank=message["rank"], job=job, **message["settings"])

    def ready(url: str) -> None:
        _send(connection, {"event": "ready", "rank": settings.rank, "pid": os.getpid(), "url": url})
        connection.close()

    return run_rank(settings, on_ready=ready)


def _send(connection: socket.socket, message: Mapping[str, object]) -> None:
    connection.send(json.dumps(message).encode())
