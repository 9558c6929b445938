"""The last words of a pod: why it failed, where Kubernetes takes them over into the pod's status (its termination message)."""

from __future__ import annotations

import json
import logging
from typing import Final

from dsort_api.messages import Failure

log: Final = logging.getLogger("dsort")

MOST_WORDS: Final = 4096
"""Bytes that Kubernetes takes over, and that a pipe takes whole at once (PIPE_BUF)."""


def last_words(reason: str, message: str, *, rank: int) -> bytes:
    """The words as JSON of MOST_WORDS bytes at the most; a message that is too long is cut."""
    cut = len(message)
    while True:
        more = "" if cut == len(message) else "..."
        words = json.dumps({"reason": reason, "message": message[:cut] + more, "rank": rank}).encode()
        if len(words) <= MOST_WORDS:
            return words
        # A character takes six bytes or less, in a surrogate pair twice that.
        cut -= max(1, (len(words) - MOST_WORDS) // 6)


def words_of(failure: Failure, *, rank: int) -> bytes:
    """The last words of a rank that failed."""
    return last_words(failure.reason, failure.message, rank=rank)


def leave(path: str | None, words: bytes) -> None:
    """Write them to the file that Kubernetes reads. None: there is none. No failure of its own: they are in the log, too."""
    if path is None:
        return
    try:
        with open(path, "wb") as file:
            file.write(words)
    except OSError as error:
        log.warning("--termination-log %s: %s", path, error.strerror or error)
