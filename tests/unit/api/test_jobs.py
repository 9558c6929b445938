"""The examples of jobs.yaml: what the strict loader takes, what it refuses, and in which words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dsort_api.crd import custom_resource_definition
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import DSortJobSpec, load_job
from tests.support.jobs import TABLE, manifest, title


def leaves(document: Any, path: str = "") -> set[str]:
    """Paths of all fields of a job, ends and sections."""
    found = {path} if path else set()
    if isinstance(document, dict):
        for name, inner in document.items():
            found |= leaves(inner, f"{path}.{name}" if path else str(name))
    if isinstance(document, list):
        found = found.union(*(leaves(one, path) for one in document))
    return found


def keeps(told: Any, given: Any) -> bool:
    """Whether all that was given is told; defaults may be told besides."""
    if isinstance(given, dict):
        return all(keeps(told[name], value) for name, value in given.items())
    if isinstance(given, list):
        return len(told) == len(given) and all(map(keeps, told, given))
    return bool(told == given)


@pytest.mark.parametrize("example", TABLE["accepted"], ids=title)
def test_the_job_is_taken_and_keeps_its_values(example: dict[str, Any]) -> None:
    job = load_job(manifest(example), strict=True)
    told = job.model_dump(mode="json", by_alias=True)
    for path, value in example["set"].items():
        here: Any = told
        for name in path.split("."):
            here = here[name]
        if path.endswith(("Size", "budget", "SizeLimit")) and not str(value).endswith("%"):
            assert isinstance(here, int)
        else:
            assert keeps(here, value)


@pytest.mark.parametrize("example", TABLE["refused"], ids=title)
def test_the_job_is_refused_by_the_name_of_its_field(example: dict[str, Any]) -> None:
    with pytest.raises(DSortError) as caught:
        load_job(manifest(example), strict=True)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert caught.value.exit_code == 3
    assert caught.value.message.startswith(example["error"])
    assert not re.search(r"\(and \d+ more\)$", caught.value.message)


def test_every_field_of_the_spec_is_in_both_tables() -> None:
    version = custom_resource_definition()["spec"]["versions"][0]
    fields: set[str] = set()

    def collect(schema: dict[str, Any], path: str) -> None:
        for name, inner in schema.get("properties", {}).items():
            fields.add(f"{path}.{name}")
            collect(inner, f"{path}.{name}")
        if "items" in schema:
            collect(schema["items"], path)

    collect(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")
    taken = set().union(*(leaves(manifest(example)) for example in TABLE["accepted"]))
    assert fields - taken == set()
    named = {re.sub(r"\[\d+\]", "", example["error"].split(":")[0]) for example in TABLE["refused"]}
    named |= {path.rpartition(".")[0] for path in named if path.endswith((".requests.cpu", ".limits.cpu"))}
    sections = {"spec.order", "spec.records"}  # named by the fields in them
    assert fields - named - sections == set()


def test_what_is_not_given_has_its_documented_default() -> None:
    spec = load_job(TABLE["base"], strict=True).spec
    assert spec.model_dump(mode="json", by_alias=True) == {
        "input": {"url": "pvc://datasets/in", "shards": [], "missingShards": "Abort"},
        "output": {
            "url": "pvc://datasets/out",
            "name": "train-%06d",
            "shardSize": 256 << 20,
            "recordsPerShard": None,
            "shardCount": None,
        },
        "order": {"kind": "None", "seed": None, "descending": False},
        "records": {
            "duplicates": "Abort",
            "unsupported": "Abort",
            "trailingData": "Warn",
            "collisions": "Warn",
            "corruptShards": "Abort",
        },
        "workers": {
            "placement": None,
            "count": None,
            "lanes": 1,
            "shortCircuit": True,
            "scratchSizeLimit": None,
            "template": None,
        },
        "memory": {
            "budget": "70%",
            "throttleAt": "85%",
            "resumeAt": "75%",
            "abortAt": "95%",
            "abortAfterSeconds": 30,
        },
        "dryRun": False,
        "backoffLimit": 6,
        "activeDeadlineSeconds": None,
        "startDeadlineSeconds": 600,
        "ttlSecondsAfterFinished": None,
        "suspend": False,
        "abort": False,
        "managedBy": None,
    }


@pytest.mark.parametrize(
    ("workers", "one_per_node"),
    [
        ({}, True),
        ({"placement": "OnePerNode"}, True),
        ({"count": 2}, False),
        ({"placement": "Count", "count": 2}, False),
    ],
)
def test_without_a_count_there_is_a_pod_on_each_node(workers: dict[str, Any], one_per_node: bool) -> None:
    assert (
        load_job(manifest({"set": {"spec.workers": workers}}), strict=True).spec.workers.one_per_node
        is one_per_node
    )


def test_a_spec_survives_the_wire() -> None:
    for example in TABLE["accepted"]:
        spec = load_job(manifest(example), strict=True).spec
        assert DSortJobSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec
        assert DSortJobSpec.model_validate_json(spec.model_dump_json(exclude_none=True)) == spec


def test_a_spec_cannot_be_changed_in_place() -> None:
    spec = load_job(TABLE["base"], strict=True).spec
    with pytest.raises(ValueError, match="frozen"):
        spec.dry_run = True  # type: ignore[misc]
