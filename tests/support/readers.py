"""What the readers of the field see in archives: tarfile, GNU tar, bsdtar and webdataset."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from webdataset import reraise_exception, tariterators

from tests.support.datasets import Fact

Facts = Counter[Fact]


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def by_tarfile(paths: Iterable[Path]) -> Facts:
    """Python's tarfile. A hard link shows what it links to."""
    facts: Facts = Counter()
    for path in paths:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                if member.issym():
                    facts[Fact(member.name, f"-> {member.linkname}", 0, float(member.mtime))] += 1
                elif not member.isdir():
                    file = archive.extractfile(member)
                    assert file is not None
                    facts[Fact(member.name, _sha(file.read()), member.mode, float(member.mtime))] += 1
    return facts


def by_command(command: list[str], paths: Iterable[Path]) -> Facts:
    """An archiver that takes `-xf ARCHIVE -C FOLDER`: what it extracts."""
    facts: Facts = Counter()
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "LC_ALL": "C.UTF-8"}
            subprocess.run([*command, "-xf", str(path), "-C", folder], check=True, env=environment)
            for found in Path(folder).rglob("*"):
                name, status = str(found.relative_to(folder)), found.lstat()
                mtime = round(status.st_mtime_ns / 1e9, 6)  # a float has no more digits left at this size
                if found.is_symlink():
                    facts[Fact(name, f"-> {found.readlink()}", 0, mtime)] += 1
                elif found.is_file():
                    facts[Fact(name, _sha(found.read_bytes()), status.st_mode & 0o7777, mtime)] += 1
    return facts


def by_webdataset(paths: Iterable[Path]) -> Facts:
    """The webdataset library, which shows neither mode nor time. A record that it refuses is an error here."""
    facts: Facts = Counter()
    for path in paths:
        with path.open(
            "rb"
        ) as stream:  # the library leaves files that it opens itself to the garbage collector
            files = tariterators.tar_file_expander(
                [{"url": str(path), "stream": stream}], handler=reraise_exception
            )
            for sample in tariterators.group_by_keys(files, handler=reraise_exception):
                for extension, data in sample.items():
                    if not extension.startswith("__"):
                        facts[Fact(f"{sample['__key__']}.{extension}", _sha(data), 0, 0)] += 1
    return facts
