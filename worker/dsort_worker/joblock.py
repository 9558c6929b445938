"""The lock of a job: flock(2) on the file `lock` in its staging folder, so that others see whether it is alive.

Who may be one of several (a pod of the job) holds it shared; who must be alone (the local runner, whoever removes what the
job left) holds it exclusively. The kernel gives it back when its holder is killed, and a lost machine's file server when its
lease has ended. Where a file system has no such locks everybody gets it: the exclusive links of staging still hold.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final

LOCK: Final = "lock"
"""The name of the file."""

_NAP: Final = 0.05
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""Errors of a file system that has no locks."""


class Hold(IntEnum):
    """How the lock is held: beside others that share it, or alone."""

    SHARED = fcntl.LOCK_SH
    ALONE = fcntl.LOCK_EX


def try_lock(folder: str, hold: Hold) -> int | None:
    """The descriptor that holds the lock of the job folder `folder`, or None when somebody else does.

    Raises FileNotFoundError when there is no such folder.
    """
    fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, hold | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(fd)
            raise
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)  # removed by its last holder after it was opened
    return None


def lock(
    folder: str, hold: Hold, *, patience: float, sleep: Callable[[float], object] = time.sleep
) -> int | None:
    """As `try_lock`, tried again for `patience` seconds."""
    for _ in range(max(1, round(patience / _NAP))):
        fd = try_lock(folder, hold)
        if fd is not None:
            return fd
        sleep(_NAP)
    return None
