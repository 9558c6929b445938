"""The runner's side of the nursery: start it, ask it for ranks, hear how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from dsort_cli.signals import ENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MESSAGE_BYTES = 65536
"""No message is larger; what may be larger (the job definition) travels as a file descriptor."""

_CLOSE_SECONDS = 5.0


class Event(NamedTuple):
    """What the nursery or a rank reports.

    `started`, `ready` (`text` is the control url) and `ended` (`code` as in `subprocess`: negative for a
    signal) are about the process `pid` of `rank`. `gone`: the nursery ended.
    """

    kind: Literal["started", "ready", "ended", "gone"]
    rank: int = -1
    pid: int = 0
    code: int = 0
    text: str = ""


class Nursery:
    """A running nursery; owns its process and the socket to it. `close` ends both, and every rank."""

    def __init__(self) -> None:
        """Fork the process. What ranks need is imported by then, or each of them would import it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or the child would have the same text to write
        # A Ctrl-C is the runner's to handle: the child opens the mask when it ignores them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _be_the_nursery(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
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
        text = json.dumps({"do": "start", "rank": rank, "settings": settings}).encode()
        fds = [job_fd] if lock_fd is None else [job_fd, lock_fd]
        if len(text) > MESSAGE_BYTES:
            raise ValueError(f"the settings of a rank take {len(text)} bytes, more than {MESSAGE_BYTES}")
        self._attempt(lambda: socket.send_fds(self._socket, [text], fds))

    def kill(self, rank: int) -> None:
        """Send SIGKILL to the process of `rank`, if it still runs."""
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


def _be_the_nursery(connection: socket.socket) -> NoReturn:
    """The child's side of the fork, which never returns into the runner's code."""
    try:
        from dsort_cli.nursery import main

        main(connection.detach())
    except BaseException:  # noqa: BLE001 - the child ends here, with the trace of what went wrong
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)


def _event(text: bytes) -> Event:
    message: dict[str, Any] = json.loads(text)
    return Event(
        kind=message["event"],
        rank=message.get("rank", -1),
        pid=message.get("pid", 0),
        code=message.get("code", 0),
        text=message.get("url", ""),
    )
