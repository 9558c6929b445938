"""Outputs and inputs on the command line: folders, or the urls that stand in a job."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dsort_api.reasons import DSortError, Reason
from dsort_worker.locations import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping


def place_of(text: str, claims: Mapping[str, str]) -> str:
    """Where the folder is that `text` means, a path or a file:// or pvc:// url, whether it is there or not.

    Raises DSortError InvalidSpec for another kind of url or an unknown claim.
    """
    scheme, sign, _ = text.partition("://")
    if sign and scheme not in {"file", "pvc"}:
        raise DSortError(Reason.INVALID_SPEC, f"{text}: not a path, file:///path or pvc://claim/path")
    return resolve(text, claims, field="the command line") if sign else os.path.abspath(text)


def folder_of(text: str, claims: Mapping[str, str]) -> str:
    """As `place_of`. Raises DSortError InputUnreadable when it is no folder, too."""
    folder = place_of(text, claims)
    if not os.path.isdir(folder):
        raise DSortError(
            Reason.INPUT_UNREADABLE,
            f"{folder} is not a folder" if os.path.lexists(folder) else f"{folder} does not exist",
        )
    return folder
