"""Versions of the exchange: which are spoken, how two sides that differ find one, and what an older one does not contain.

This version and the one before it are spoken, so that the parts of an installation can be renewed one after the other. Who
asks speaks its newest version first. Who does not speak that refuses with status 426 and says what it speaks, and the asker
goes on in the newest version that both speak; where there is none, the refusal is its last word. An answer is in the version
of its question.

Version 2 added throttle levels, the fields of memory and flow, the reason MemoryLimitExceeded, and tickets between ranks.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import BaseModel

from dsort_api.messages import PROTOCOL, Desired, Observed
from dsort_api.reasons import Reason

SPOKEN: Final = (PROTOCOL - 1, PROTOCOL)
"""The versions that are spoken, in ascending order."""

_SAYS: Final = re.compile(r"speaks protocol (\d+(?: and \d+)*)")
_NEW_IN_2: Final[dict[type[BaseModel], Any]] = {
    Desired: {"throttle_level"},
    Observed: {
        "flow": True,
        "memory": {
            "source",
            "limit",
            "unreclaimable",
            "peak_unreclaimable",
            "working_set",
            "pressure",
            "spilled",
        },
    },
}


class _Versioned(BaseModel):
    protocol: int = PROTOCOL


def version_of(text: bytes) -> int:
    """The version that a message says it has. Raises pydantic.ValidationError for what is no message."""
    return _Versioned.model_validate_json(text).protocol


def refusal(version: object) -> str:
    """The words of a 426 to somebody who speaks `version`."""
    return f"this rank speaks protocol {' and '.join(map(str, SPOKEN))}, the request has {version}"


def other_version(words: str, *, than: int) -> int | None:
    """The newest version that both sides speak, from the words of a refusal of version `than`; None: there is none."""
    says = _SAYS.search(words)
    theirs = {int(version) for version in says[1].split(" and ")} if says else set()
    return max((version for version in SPOKEN if version in theirs and version != than), default=None)


def desired_text(desired: Desired) -> str:
    """The message in the version that it names."""
    if desired.protocol >= 2:
        return desired.model_dump_json()
    if desired.stop is not None and desired.stop.reason is Reason.MEMORY_LIMIT_EXCEEDED:
        desired = desired.model_copy(
            update={"stop": desired.stop.model_copy(update={"reason": Reason.ABORTED})}
        )
    return desired.model_dump_json(exclude=_NEW_IN_2[Desired])


def observed_text(observed: Observed, *, version: int) -> str:
    """The message in `version`."""
    observed = observed.model_copy(update={"protocol": version})
    if version >= 2:
        return observed.model_dump_json()
    if observed.failure is not None and observed.failure.reason is Reason.MEMORY_LIMIT_EXCEEDED:
        observed = observed.model_copy(
            update={"failure": observed.failure.model_copy(update={"reason": Reason.INTERNAL})}
        )
    return observed.model_dump_json(exclude=_NEW_IN_2[Observed])
