"""Where the job's urls lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from dsort_api.reasons import DSortError, Reason


def resolve(url: str, volumes: Mapping[str, str], *, field: str) -> str:
    """The folder behind a `file://` or `pvc://claim/path` url; volumes: folders of the claims.

    Raises DSortError InvalidSpec that names the field.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return unquote(parts.path)
    folder = volumes.get(parts.netloc)
    if folder is None:
        raise DSortError(
            Reason.INVALID_SPEC,
            f"{field}: {url}: no folder is mapped to claim {parts.netloc}; run with --pvc {parts.netloc}=DIR",
        )
    return os.path.join(folder, unquote(parts.path).strip("/")) if parts.path.strip("/") else folder
