"""Why a job ends as it does: reasons for conditions, and the exit code of each. Both are stable."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """The reason of a terminal condition, of a failure message and of an exit code."""

    INTERNAL = "InternalError"
    INVALID_SPEC = "InvalidSpec"
    INPUT_UNREADABLE = "InputUnreadable"
    MISSING_SHARDS = "MissingShards"
    CORRUPT_SHARD = "CorruptShard"
    DUPLICATE_RECORDS = "DuplicateRecords"
    UNSUPPORTED_MEMBER = "UnsupportedMember"
    TRAILING_DATA = "TrailingData"
    KEY_COLLISION = "KeyCollision"
    INPUT_CHANGED = "InputChanged"
    OUTPUT_EXISTS = "OutputExists"
    OUTPUT_NAMES_EXHAUSTED = "OutputNamesExhausted"
    OUTPUT_UNWRITABLE = "OutputUnwritable"
    VERIFICATION_FAILED = "VerificationFailed"
    JOB_BUSY = "JobBusy"
    PROTOCOL_MISMATCH = "ProtocolMismatch"
    PEER_LOST = "PeerLost"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    MEMORY_LIMIT_EXCEEDED = "MemoryLimitExceeded"
    JOB_COMPLETE = "JobComplete"
    ABORTED = "Aborted"


EXIT_CODES: Final[dict[Reason, int]] = {
    Reason.INTERNAL: 1,
    Reason.INVALID_SPEC: 3,
    Reason.INPUT_UNREADABLE: 4,
    Reason.MISSING_SHARDS: 5,
    Reason.CORRUPT_SHARD: 6,
    Reason.DUPLICATE_RECORDS: 7,
    Reason.UNSUPPORTED_MEMBER: 8,
    Reason.TRAILING_DATA: 9,
    Reason.KEY_COLLISION: 10,
    Reason.INPUT_CHANGED: 11,
    Reason.OUTPUT_EXISTS: 12,
    Reason.OUTPUT_NAMES_EXHAUSTED: 13,
    Reason.OUTPUT_UNWRITABLE: 14,
    Reason.VERIFICATION_FAILED: 15,
    Reason.JOB_BUSY: 16,
    Reason.PROTOCOL_MISMATCH: 17,
    Reason.PEER_LOST: 18,
    Reason.BACKOFF_LIMIT_EXCEEDED: 19,
    Reason.DEADLINE_EXCEEDED: 20,
    Reason.MEMORY_LIMIT_EXCEEDED: 21,
    Reason.JOB_COMPLETE: 22,
    Reason.ABORTED: 130,
}
"""Exit code by reason. 0 is success and 2 a wrong command line; 130 follows the shells for an interrupt, and 143 (SIGTERM)
is not a reason."""


class DSortError(Exception):
    """What ends a job: a reason, and one line that names the culprit (shard, member, offset or field) and what to do.

    The message stays one line of UTF-8 whatever the culprit is called: names of files and members may hold line breaks,
    terminal escapes and bytes that are no text, and these are written as escapes.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        self.message = message if message.isprintable() else "".join(map(_printable, message))
        super().__init__(self.message)

    @property
    def exit_code(self) -> int:
        """The exit code of the reason."""
        return EXIT_CODES[self.reason]


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
