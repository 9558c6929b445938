"""The listing: which input shards a job reads, in which order, pinned by size and modification time.

It is taken once. A shard's place in the listing is its ordinal, which decides the canonical order; a shard that is no
longer as it was pinned fails the job with InputChanged.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple, assert_never

from dsort_api.manifest import PinnedInput
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import Input, Reaction
from dsort_api.templates import ARCHIVES, Exact, Glob, Prefix, Range, parse_input


class Listing(NamedTuple):
    """The pinned shards in canonical order, and the names that should be there and are not."""

    shards: tuple[PinnedInput, ...]
    missing: tuple[str, ...]


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
            if must_exist or os.path.islink(os.path.join(root, name)):  # it is there, and leads to nothing
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
        detail = f"all {len(missing)} shards named are missing" if missing else _nothing_found(source)
        raise DSortError(Reason.INVALID_SPEC, f"spec.input: no input: {detail} in {source.url} ({root})")
    return Listing(tuple(pinned.values()), tuple(missing))


def _nothing_found(source: Input) -> str:
    if not source.shards:
        return "no known archive is there"
    more = f" (nor any of {len(source.shards) - 1} more entries)" if len(source.shards) > 1 else ""
    return f"spec.input.shards[0]: {source.shards[0]!r}{more} matches no known archive"


def pin(root: str, name: str) -> PinnedInput:
    """The shard as it is now. Raises OSError; a folder or device in a shard's place is one, too."""
    status = os.stat(os.path.join(root, name))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "is not a regular file")
    return PinnedInput(name=name, size=status.st_size, mtime_ns=status.st_mtime_ns)


def _names(source: Input, root: str) -> Iterator[tuple[str, str, bool]]:
    """(name relative to the root, the field it comes from, whether it must exist) of every entry, in order."""
    if not source.shards:
        for name in _archives(root, "**"):
            yield name, "spec.input.url", False
        return
    for position, text in enumerate(source.shards):
        field = f"spec.input.shards[{position}]: {text!r}"
        match parse_input(text):
            case Exact(name=name):
                yield name, field, True
            case Range() as names:
                for name in names.names():
                    yield name, field, True
            case Prefix(prefix=prefix):
                for name in _archives(root, f"{glob.escape(prefix.rstrip('/'))}/**"):
                    yield name, field, False
            case Glob(pattern=pattern):
                for name in _match(root, pattern):
                    yield name, field, False
            case unknown:
                assert_never(unknown)


def _archives(root: str, pattern: str) -> list[str]:
    """Known archives that match a glob."""
    return [name for name in _match(root, pattern) if name.endswith(ARCHIVES)]


def _match(root: str, pattern: str) -> list[str]:
    """Files that match a glob, by byte order of their path.

    As the glob module's; but that passes over folders which cannot be read, and follows a link to a folder above it again
    and again. Names that begin with a dot are looked into where the pattern says so.
    """
    found: set[str] = set()
    # What is left of the pattern stands beside each folder that matched its beginning.
    pending = [(_Folder("", frozenset()), tuple(pattern.split("/")))]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while pending:
        folder, (part, *rest) = pending.pop()
        if (folder.name, (part, *rest)) in seen:  # `**/**` comes to the same folder in several ways
            continue
        seen.add((folder.name, (part, *rest)))
        if not glob.has_magic(part):
            name = f"{folder.name}/{part}" if folder.name else part
            if rest:
                above = folder.above if part in {"", "."} else folder.above | _identity(root, folder.name)
                pending.append((_Folder(name, above), tuple(rest)))
            elif os.path.lexists(os.path.join(root, name)) and not os.path.isdir(os.path.join(root, name)):
                found.add(name)
            continue
        folders, files = _look_into(root, folder)
        if part == "**":
            deeper = [one for one in folders if not _is_hidden(one.name)]
            pending += ((one, (part, *rest)) for one in deeper)
            if rest:
                pending.append((folder, tuple(rest)))
            else:
                found.update(name for name in files if not _is_hidden(name))
        elif rest:
            pending += ((one, tuple(rest)) for one in folders if _fits(one.name, part))
        else:
            found.update(name for name in files if _fits(name, part))
    return sorted(found, key=os.fsencode)


class _Folder(NamedTuple):
    """A folder below the root, and the identities of those that it was reached through."""

    name: str
    above: frozenset[tuple[int, int]]


def _look_into(root: str, folder: _Folder) -> tuple[list[_Folder], list[str]]:
    """Folders and other entries in a folder; nothing for a symbolic link to a folder that it stands in, or to nowhere."""
    path = os.path.join(root, folder.name)
    folders: list[_Folder] = []
    files: list[str] = []
    try:
        identity = _identity(root, folder.name)
        if identity & folder.above:
            return [], []
        with os.scandir(path) as entries:
            for entry in entries:
                name = f"{folder.name}/{entry.name}" if folder.name else entry.name
                if _is_folder(entry):
                    folders.append(_Folder(name, folder.above | identity))
                else:
                    files.append(name)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise DSortError(Reason.INPUT_UNREADABLE, f"folder {path}: {error.strerror}") from None
    return folders, files


def _identity(root: str, folder: str) -> frozenset[tuple[int, int]]:
    """What tells a folder from others; of one that is not there, nothing."""
    try:
        status = os.stat(os.path.join(root, folder))
    except OSError:
        return frozenset()
    return frozenset({(status.st_dev, status.st_ino)})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link that cannot be followed; it is told of when it is to be read
        return False


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _fits(name: str, part: str) -> bool:
    """Whether the last part of a path fits a part of a pattern; a dot at the beginning must be written."""
    last = name.rpartition("/")[2]
    return (part.startswith(".") or not last.startswith(".")) and fnmatch.fnmatchcase(last, part)


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
