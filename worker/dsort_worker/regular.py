"""Regular files: what else may stand under a name is never opened to be read, as a pipe would be waited for, for ever."""

from __future__ import annotations

import errno
import os
import stat


class NotRegularError(OSError):
    """Something else than a file stands there."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EINVAL, "is not a regular file", path)


def open_regular(path: str) -> int:
    """A descriptor of the file, to read from. Raises OSError, of which NotRegularError is one."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotRegularError(path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # it may have been replaced just now
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise NotRegularError(path)


def read_regular(path: str) -> bytes:
    """What the file holds. Raises OSError as `open_regular`."""
    with open(open_regular(path), "rb") as file:
        return file.read()
