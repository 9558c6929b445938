"""`dsort verify`: check an output against its manifest, and its records against the inputs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dsort_api.quantity import format_bytes, several
from dsort_api.reasons import EXIT_CODES, DSortError, Reason
from dsort_cli.places import folder_of
from dsort_cli.report import say
from dsort_worker.verify import Difference, Verification, check_shards, count_records, read_manifest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def verify(options: argparse.Namespace) -> int:
    """Check, print every difference, and return 0 or the exit code of VerificationFailed."""
    claims = dict(options.claims)
    output = folder_of(options.output, claims)
    inputs = [folder_of(text, claims) for text in options.deep]
    manifest = read_manifest(output)
    beside = inputs or _inputs_of(manifest.spec.input.url, claims)
    found = check_shards(output, manifest, inputs=beside)
    count_records(found)
    compared = _deep(found, inputs) if inputs else None
    rate = f"{format_bytes(found.bytes / found.seconds)}/s" if found.seconds else "-"
    if options.json:
        print(json.dumps(_as_json(found, compared)))
    else:
        for difference in found.differences:
            print(difference.message)
        amount = f"{several(found.shards, 'shard')}, {several(found.records, 'record')}, {format_bytes(found.bytes)} at {rate}"
        deep = f"; {several(compared, 'record')} compared with the inputs" if compared is not None else ""
        print(f"{'NOT ' if found.differences else ''}as the manifest says: {amount}{deep}")
    if found.differences:
        count = len(found.differences)
        say(
            "error",
            f"{output}: {found.differences[0].message}{f' (and {count - 1} more)' if count > 1 else ''}",
        )
        return EXIT_CODES[Reason.VERIFICATION_FAILED]
    return 0


def _inputs_of(url: str, claims: dict[str, str]) -> list[str]:
    """The job's own input folder where it is known here: its shards may lie beside the output."""
    try:
        return [folder_of(url, claims)]
    except DSortError:
        return []


def _deep(found: Verification, folders: Sequence[str]) -> int:
    """Compare records with those of the inputs; adds to `found` and returns how many were compared.

    Where records of one key share shards, it is their members that are compared.
    """
    import os

    from dsort_worker.recordset import collect, compare
    from dsort_worker.tarscan import Grouping

    manifest = found.manifest
    shards: list[tuple[str, str]] = []
    for shard in manifest.inputs:
        folder = next(
            (folder for folder in folders if os.path.exists(os.path.join(folder, shard.name))), None
        )
        if folder is None:
            found.differences.append(
                Difference(shard.name, f"is an input, and not in {' or '.join(folders)}")
            )
        else:
            shards.append((folder, shard.name))
    left_out = (
        {shard.name for shard in manifest.inputs if not shard.records}
        if manifest.counts.shards_corrupt
        else set()
    )
    shared = bool(manifest.counts.collisions)
    inputs, unreadable = collect(
        shards,
        skip_corrupt=left_out.__contains__,
        grouping=Grouping.MEMBERS if shared else Grouping.RECORDS,
    )
    found.differences += unreadable
    present = [
        (found.output, shard.name)
        for shard in manifest.outputs
        if os.path.exists(os.path.join(found.output, shard.name))
    ]
    outputs, unreadable = collect(present, grouping=Grouping.WRITTEN if shared else Grouping.RECORDS)
    known = {difference.shard for difference in found.differences}
    found.differences += [difference for difference in unreadable if difference.shard not in known]
    found.differences += compare(inputs, outputs)
    records = manifest.counts.records_out if shared else len(inputs)
    if (inputs.members, records) != (manifest.counts.members_out, manifest.counts.records_out):
        found.differences.append(
            Difference(
                "*",
                f"the inputs hold {records:,} records of {inputs.members:,} members, the manifest says "
                f"{manifest.counts.records_out:,} of {manifest.counts.members_out:,}",
            )
        )
    return records


def _as_json(found: Verification, compared: int | None) -> dict[str, object]:
    return {
        "output": found.output,
        "shards": found.shards,
        "records": found.records,
        "bytes": found.bytes,
        "seconds": round(found.seconds, 3),
        "comparedRecords": compared,
        "differences": [
            {"shard": difference.shard, "detail": difference.detail} for difference in found.differences
        ],
    }
