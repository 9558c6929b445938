"""The runner's side of the nursery: start it first, ask it for ranks, hear how they end.

The nursery is started before anything else, so nothing is imported here that is not needed for that: a
dataclass alone would cost 10 ms.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dsort_cli.signals import ENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SOCKET_FD = 3
"""Where the nursery finds its end of the socket pair."""

MESSAGE_BYTES = 65536
"""No message is larger; what may be larger (the job definition) travels as a file descriptor."""

RANK_ENVIRONMENT = {
    # Pieces of 256 KiB to 16 MiB come and go at gigabytes per second. glibc would map and unmap each of them,
    # and every page of it would fault in again: 8 GB/s become 2. Both variables or neither, as one alone is
    # slower than none; 32 MiB is the most that mallopt(3) allows.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    # numpy's BLAS would start threads in a process that forks, and nothing here multiplies matrices.
    "OPENBLAS_NUM_THREADS": "1",
    # aiohttp reads the system's certificates when it is imported, some 60 ms; ranks on one machine speak
    # plain HTTP.
    "SSL_CERT_FILE": os.devnull,
}
"""What must be in a rank's environment before its process starts."""

_CLOSE_SECONDS = 5.0


class Event(NamedTuple):
    """What the nursery or a rank reports.

    `imported`: the nursery is ready. `failed`: it could not import the worker (`text` says why). `started`,
    `ready` (`text` is the control url) and `ended` (`code` as in `subprocess`: negative for a signal) are
    about the process `pid` of `rank`. `gone`: the nursery ended.
    """

    kind: Literal["imported", "failed", "started", "ready", "ended", "gone"]
    rank: int = -1
    pid: int = 0
    code: int = 0
    text: str = ""


class Nursery:
    """A running nursery; owns its process and the socket to it. `close` ends both, and every rank."""

    def __init__(self) -> None:
        """Start the process; returns at once, the imports go on beside the caller."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-c", "from dsort_cli.nursery import main; main()"]
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                command,
                {**os.environ, **RANK_ENVIRONMENT},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), SOCKET_FD),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 2, 1),  # standard output belongs to the runner's results
                ],
                setsigmask=ENDING,  # a Ctrl-C is the runner's to handle; the child opens the mask when it ignores them
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        self._open = True
        self._reaped = False

    def fileno(self) -> int:
        """The socket, readable when `receive` has something."""
        return self._socket.fileno()

    def start(self, rank: int, *, settings: Mapping[str, object], job_fd: int, lock_fd: int | None) -> None:
        """Ask for a process for `rank`; `job_fd` holds the JobDefinition as JSON, `lock_fd` is inherited by
        the rank.
        """
        import json

        text = json.dumps({"do": "start", "rank": rank, "settings": settings}).encode()
        fds = [job_fd] if lock_fd is None else [job_fd, lock_fd]
        if len(text) > MESSAGE_BYTES:
            raise ValueError(f"the settings of a rank take {len(text)} bytes, more than {MESSAGE_BYTES}")
        self._attempt(lambda: socket.send_fds(self._socket, [text], fds))

    def kill(self, rank: int) -> None:
        """Send SIGKILL to the process of `rank`, if it still runs."""
        import json

        text = json.dumps({"do": "signal", "rank": rank, "signal": int(signal.SIGKILL)}).encode()
        self._attempt(lambda: self._socket.send(text))

    def receive(self) -> Event:
        """The next event; blocks unless the socket is readable."""
        try:
            text = self._socket.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            text = b""
        return _event(text) if text else Event("gone")

    def ended(self) -> bool:
        """Whether the nursery's process is gone. The socket alone does not tell: a rank holds it, too, until
        it is ready.
        """
        if not self._reaped:
            self._reaped = os.waitpid(self._pid, os.WNOHANG)[0] != 0
        return self._reaped

    def close(self) -> None:
        """End the nursery and every rank; returns when their processes are gone. Safe to call twice."""
        if not self._open:
            return
        self._open = False
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_CLOSE_SECONDS)
            while not self.ended() and self._socket.recv(MESSAGE_BYTES):
                pass  # reports of the ranks that end now
        except TimeoutError:
            os.kill(self._pid, signal.SIGKILL)
        except OSError:
            pass  # it was gone already
        finally:
            self._socket.close()
            if not self._reaped:
                os.waitpid(self._pid, 0)

    def _attempt(self, send: Callable[[], object]) -> None:
        try:
            send()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the nursery is gone; `receive` reports that, in the one place where it is handled


def _event(text: bytes) -> Event:
    import json

    message: dict[str, Any] = json.loads(text)
    return Event(
        kind=message["event"],
        rank=message.get("rank", -1),
        pid=message.get("pid", 0),
        code=message.get("code", 0),
        text=message.get("url", message.get("message", "")),
    )
