"""The manifest, and the proof in it that nothing was lost."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from dsort_api.manifest import (
    Counts,
    InputShard,
    Manifest,
    ManifestJob,
    OutputShardRecord,
    RunFacts,
)
from dsort_api.spec import load_job

MANIFEST = Manifest(
    job=ManifestJob(fingerprint="f00"),
    spec=load_job(
        {
            "apiVersion": "dsort.dev/v1alpha1",
            "kind": "DSortJob",
            "spec": {
                "input": {"url": "pvc://c/in"},
                "output": {"url": "file:///out", "name": "a-%d", "recordsPerShard": 5},
            },
        },
        strict=True,
    ).spec,
    seed=0,
    counts=Counts(
        shards_listed=1,
        shards_missing=1,
        records_in=3,
        records_out=2,
        records_left_out=1,
        members_in=6,
        members_out=4,
        members_left_out=2,
    ),
    inputs=[InputShard(name="a.tar", size=10240, mtime_ns=5, records=2)],
    missing=["b.tar"],
    outputs=[OutputShardRecord(name="a-0.tar", bytes=10240, records=2, members=4, checksum="xxh128:00")],
    run=RunFacts(
        id="f00",
        name="a",
        input_url="pvc://c/in",
        output_url="file:///out",
        started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:00:01Z",
        seconds=1.0,
        ranks=2,
        version="0.1.0",
        findings=["dsort-findings-0.jsonl"],
    ),
)


def test_counts_that_add_up_pass() -> None:
    MANIFEST.counts.check()
    Counts().check()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("records_in", "4 records in, 2 out and 1 left out do not add up"),
        ("records_out", "3 records in, 3 out and 1 left out do not add up"),
        ("records_left_out", "3 records in, 2 out and 2 left out do not add up"),
        ("members_in", "7 members in, 4 out and 2 left out do not add up"),
        ("members_out", "6 members in, 5 out and 2 left out do not add up"),
        ("members_left_out", "6 members in, 4 out and 3 left out do not add up"),
    ],
)
def test_one_too_many_anywhere_is_found(field: str, words: str) -> None:
    counts = MANIFEST.counts.model_copy(update={field: getattr(MANIFEST.counts, field) + 1})
    with pytest.raises(ValueError, match=words):
        counts.check()


@pytest.mark.parametrize(
    "field", ["directories", "global_headers", "duplicates", "unsupported", "collisions"]
)
def test_what_is_no_member_does_not_count_as_one(field: str) -> None:
    MANIFEST.counts.model_copy(update={field: 5}).check()


def test_what_does_not_contradict_itself() -> None:
    assert list(MANIFEST.contradictions()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"counts": MANIFEST.counts.model_copy(update={"records_in": 4})},
            ["4 records in, 2 out and 1 left out do not add up"],
        ),
        (
            {"outputs": []},
            [
                "0 records of the outputs, and 2 by its counts",
                "0 members of the outputs, and 4 by its counts",
            ],
        ),
        (
            {"inputs": []},
            ["0 records of the inputs, and 2 by its counts", "0 input shards, and 1 by its counts"],
        ),
        ({"missing": []}, ["0 missing shards, and 1 by its counts"]),
        (
            {"inputs": MANIFEST.inputs * 2},
            [
                "4 records of the inputs, and 2 by its counts",
                "2 input shards, and 1 by its counts",
                "input a.tar stands there 2 times",
            ],
        ),
    ],
)
def test_contradictions_are_named(changed: dict[str, object], said: list[str]) -> None:
    assert list(MANIFEST.model_copy(update=changed).contradictions()) == said


@pytest.mark.parametrize("name", ["a.tar", "a/b.tar", "..a", "a..", "a b"])
def test_names_of_files_in_the_folder(name: str) -> None:
    assert InputShard(name=name, size=0, mtime_ns=0, records=0).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "/a", "a/../b", "a//b", "a/", "./a", "a\0"])
def test_other_names(name: str) -> None:
    with pytest.raises(ValidationError, match="is not the name of a file in the folder"):
        InputShard(name=name, size=0, mtime_ns=0, records=0)


def test_the_file_has_the_names_of_the_api_and_reads_back() -> None:
    text = MANIFEST.model_dump_json(by_alias=True, exclude_none=True)
    document = json.loads(text)
    assert (document["apiVersion"], document["kind"]) == ("dsort.dev/v1alpha1", "DSortManifest")
    assert document["counts"]["recordsLeftOut"] == 1
    assert document["inputs"] == [{"name": "a.tar", "size": 10240, "mtimeNs": 5, "records": 2}]
    assert document["spec"]["output"]["recordsPerShard"] == 5
    assert Manifest.model_validate_json(text) == MANIFEST


def test_another_kind_of_file_is_no_manifest() -> None:
    document = json.loads(MANIFEST.model_dump_json(by_alias=True)) | {"kind": "DSortJob"}
    with pytest.raises(ValueError, match="DSortManifest"):
        Manifest.model_validate(document)
