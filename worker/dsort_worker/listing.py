"""The listing: which input shards a job reads, in which order, pinned by size and modification time.

It is taken once. A shard's place in the listing is its ordinal, which decides the canonical order; a shard that is no
longer as it was pinned fails the job with InputChanged.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, assert_never

from dsort_api.manifest import PinnedInput
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import Input, Reaction
from dsort_api.templates import Exact, Glob, Prefix, Range, parse_input

ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.lz4", ".tar.zst", ".zip")
"""Extensions of known archives; only the first is read by this version."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The pinned shards in canonical order, and the names that should be there and are not."""

    shards: tuple[PinnedInput, ...]
    missing: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shard in self.shards)


def take_listing(source: Input, *, root: str) -> Listing:
    """List and pin the shards of `source`, whose url is the folder `root` here.

    Raises DSortError: InputUnreadable when the folder or a shard cannot be read, InvalidSpec when nothing is left to
    read or an entry names something that is no known archive, MissingShards under `missingShards: Abort`.
    """
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise DSortError(Reason.INPUT_UNREADABLE, f"spec.input.url: {source.url}: {root} {what}")
    pinned: dict[str, PinnedInput] = {}
    missing: dict[str, None] = {}
    for name, field, must_exist in _names(source, root):
        if name in pinned or name in missing:
            continue
        _check_archive(name, field)
        try:
            pinned[name] = pin(root, name)
        except FileNotFoundError:
            if must_exist:
                missing[name] = None
        except OSError as error:
            raise DSortError(Reason.INPUT_UNREADABLE, f"shard {name}: {error.strerror} ({field})") from None
    if missing and source.missing_shards is Reaction.ABORT:
        first = next(iter(missing))
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DSortError(
            Reason.MISSING_SHARDS,
            f"shard {first}{more} is missing from {source.url}; mend spec.input.shards or set "
            "spec.input.missingShards to Warn or Ignore",
        )
    if not pinned:
        detail = f"all {len(missing)} shards named are missing" if missing else "no known archive is there"
        raise DSortError(Reason.INVALID_SPEC, f"spec.input: no input: {detail} in {source.url} ({root})")
    return Listing(tuple(pinned.values()), tuple(missing))


def pin(root: str, name: str) -> PinnedInput:
    """The shard as it is now. Raises OSError; a folder or device in a shard's place is one, too."""
    status = os.stat(os.path.join(root, name))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "is not a regular file")
    return PinnedInput(name=name, size=status.st_size, mtime_ns=status.st_mtime_ns)


def _names(source: Input, root: str) -> Iterator[tuple[str, str, bool]]:
    """(name relative to the root, the field it comes from, whether it must exist) of every entry, in order."""
    if not source.shards:
        for name in _walk(root, ""):
            yield name, "spec.input.url", False
        return
    for position, text in enumerate(source.shards):
        field = f"spec.input.shards[{position}]"
        match parse_input(text):
            case Exact(name=name):
                yield name, field, True
            case Range() as names:
                for name in names.names():
                    yield name, field, True
            case Prefix(prefix=prefix):
                for name in _walk(root, prefix.rstrip("/")):
                    yield name, field, False
            case Glob(pattern=pattern):
                for name in sorted(glob.iglob(pattern, root_dir=root, recursive=True), key=os.fsencode):
                    if not os.path.isdir(os.path.join(root, name)):
                        yield name, field, False
            case unknown:
                assert_never(unknown)


def _walk(root: str, folder: str) -> list[str]:
    """Known archives below a folder by byte order of their path; names that begin with a dot are not looked into."""
    found: list[str] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending:
        here, above = pending.pop()
        path = os.path.join(root, here)
        try:
            status = os.stat(path)
            entries = list(os.scandir(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DSortError(Reason.INPUT_UNREADABLE, f"folder {path}: {error.strerror}") from None
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a symbolic link to a folder that it stands in
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{here}/{entry.name}" if here else entry.name
            if entry.is_dir():
                pending.append((name, above | {identity}))
            elif entry.name.endswith(ARCHIVES):
                found.append(name)
    return sorted(found, key=os.fsencode)


def _check_archive(name: str, field: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DSortError(
            Reason.INPUT_UNREADABLE, f"shard {os.fsencode(name)!r}: the name is not UTF-8; rename it"
        ) from None
    if name.endswith(".tar"):
        return
    known = next((extension for extension in ARCHIVES if name.endswith(extension)), None)
    if known:
        raise DSortError(
            Reason.INVALID_SPEC,
            f"{field}: shard {name}: {known} is not read by this version; unpack it to .tar",
        )
    raise DSortError(
        Reason.INVALID_SPEC, f"{field}: {name}: not a known archive extension ({', '.join(ARCHIVES)})"
    )
