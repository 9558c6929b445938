"""Urls of folders: file:///absolute/path and pvc://claim/path. Pure: what lies behind a url is the worker's to know."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

LONGEST_URL: Final = 4096
LONGEST_CLAIM: Final = 253
_CLAIM: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
PATTERN: Final = rf"^(file:///|pvc://{_CLAIM}(/|$))"
"""How a url begins, for schemas. The name of a claim is an RFC 1123 subdomain, as for every PersistentVolumeClaim."""

_BEGINNING: Final = re.compile(PATTERN.removesuffix("(/|$))") + r"(?=/|\Z))")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def check_url(url: str) -> str:
    """The url itself, when it is one that works. Raises ValueError that names it.

    Percent escapes count as what they stand for: a `%2e%2e` would leave the claim as well as a `..` does.
    """
    begins = _BEGINNING.match(url)
    if begins is None or (url.startswith("pvc:") and begins.end() > len("pvc://") + LONGEST_CLAIM):
        raise ValueError(f"{url!r} is not a url that works here: file:///absolute/path or pvc://claim/path")
    if "?" in url or "#" in url:
        raise ValueError(f"{url!r} has a '?' or '#'; write %3F or %23 where the path has one")
    try:
        path = unquote(url[begins.end() :], errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{url!r} has percent escapes that are not UTF-8") from None
    if _CONTROL.search(path):
        raise ValueError(f"{url!r} has a control character")
    if ".." in path.split("/"):
        raise ValueError(f"{url!r} has a '..'; write the path it means")
    return url
