"""What a test does to a folder, here or in a pod: run as a program of its own, with Python's library alone.

desk.py make FOLDER SHARDS RECORDS   tar shards, the same bytes and times wherever they are made
desk.py digest FOLDER                the files below it as JSON: {path: sha256}
desk.py show FILE                    its content
desk.py manifests FOLDER             those of the outputs in it as JSON: {output: manifest}
desk.py write FILE TEXT              makes it, with the folder that it is in
desk.py remove PATTERN               all of the folders that match
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
from typing import Final

MTIME: Final = 1_700_000_000
PAYLOAD: Final = 1500
"""Bytes of a record's larger member, about: small records keep a rank's processor busy, so that a limit of it slows a job."""


def make(folder: str, shards: int, records: int) -> None:
    """Shards of records of two members."""
    os.makedirs(folder)
    for shard in range(shards):
        path = os.path.join(folder, f"in-{shard:06d}.tar")
        source = random.Random(shard)
        noise = source.randbytes(2 * PAYLOAD)
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for record in range(records):
                start = source.randrange(PAYLOAD)
                content = f"{shard} {record} ".encode() + noise[start : start + PAYLOAD]
                for extension, data in (("bin", content), ("cls", b"%d" % (record % 1000))):
                    member = tarfile.TarInfo(f"{shard:03d}{record:06d}.{extension}")
                    member.size, member.mtime = len(data), MTIME
                    archive.addfile(member, io.BytesIO(data))
        os.utime(path, ns=(MTIME * 10**9, MTIME * 10**9))


def digest(folder: str) -> dict[str, str]:
    """sha256 of every file below the folder, by its path there."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def main(command: str, folder: str, *more: str) -> None:
    """Run one command."""
    if command == "make":
        make(folder, *map(int, more))
    elif command == "digest":
        print(json.dumps(digest(folder)))
    elif command == "show":
        with open(folder, encoding="utf-8") as file:
            print(file.read())
    elif command == "manifests":
        found = {}
        for path in glob.glob(os.path.join(folder, "*", "dsort-manifest.json")):
            with open(path, encoding="utf-8") as file:
                found[os.path.basename(os.path.dirname(path))] = json.load(file)
        print(json.dumps(found))
    elif command == "write":
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with open(folder, "w", encoding="utf-8") as file:
            file.write(more[0])
    elif command == "remove":
        for each in glob.glob(folder):
            shutil.rmtree(each, ignore_errors=True)
    else:
        sys.exit(f"no such command: {command}")


if __name__ == "__main__":
    main(*sys.argv[1:])
