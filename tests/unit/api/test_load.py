"""Loading: strict for people, tolerant for what the API server has checked; one line that helps."""

from __future__ import annotations

from typing import Any

import pytest

from dsort_api.fields import LONGEST_ENTRY
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import MOST_ENTRIES, load_job
from dsort_api.urls import LONGEST_URL


def job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortJob",
        "metadata": {"name": "a"},
        "spec": {
            "input": {"url": "pvc://datasets/in"},
            "output": {"url": "pvc://datasets/out", "name": "a-%d", "shardCount": 1},
            **spec,
        },
    }


def refusal(document: object, *, strict: bool = True) -> str:
    with pytest.raises(DSortError) as caught:
        load_job(document, strict=strict)
    assert caught.value.reason is Reason.INVALID_SPEC
    return caught.value.message


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_only_a_mapping_is_a_manifest(document: object) -> None:
    assert refusal(document) == "the manifest is not a mapping with apiVersion, kind, metadata and spec"


def test_unknown_fields_are_left_out_when_tolerant() -> None:
    document = job(later={"x": 1}, order={"kind": "Key", "later": 1}, records={"missingContentKey": "Warn"})
    document["later"] = 1
    loaded = load_job(document, strict=False)
    assert loaded.spec.order.kind == "Key"
    assert "later" not in loaded.model_dump_json()


def test_unknown_fields_deep_in_the_pod_template_are_left_out_too() -> None:
    secrets = [{"name": "a", "later": 1}]
    template = {"later": 1, "spec": {"imagePullSecrets": secrets, "resources": {"later": []}}}
    loaded = load_job(job(workers={"template": template}), strict=False).spec.workers.template
    assert loaded is not None
    assert loaded.spec.image_pull_secrets[0].name == "a"
    assert "later" not in loaded.model_dump_json()


def test_what_a_pod_may_have_of_a_later_kubernetes_is_kept_where_it_is_handed_on() -> None:
    spec = {"tolerations": [{"key": "a", "later": 1}], "affinity": {"later": {"x": [1]}}}
    loaded = load_job(job(workers={"template": {"spec": spec}}), strict=True).spec.workers.template
    assert loaded is not None
    assert loaded.spec.model_dump(by_alias=True, exclude_defaults=True) == spec | {
        "tolerations": ({"key": "a", "later": 1},)
    }


def test_a_list_of_the_wrong_things_is_for_the_model_to_refuse() -> None:
    document = job(workers={"template": {"spec": {"imagePullSecrets": ["a", {"name": "b", "x": 1}]}}})
    assert refusal(document, strict=False) == (
        "spec.workers.template.spec.imagePullSecrets[0]: must be a mapping of fields, not 'a'"
    )


def test_what_is_wrong_stays_wrong_when_tolerant() -> None:
    assert (
        refusal(job(later=1, order={"kind": "x"}), strict=False)
        == "spec.order.kind: must be 'None', 'Key', 'MD5' or 'Shuffle', not 'x'"
    )


def test_unknown_fields_are_named_first_then_what_is_wrong_and_of_many_problems_the_number() -> None:
    document = job(ordre={}, order={"kind": "x", "sed": 1}, dryRun=0)
    assert refusal(document) == (
        "spec.ordre: is not a field; did you mean order?; "
        "spec.order.sed: is not a field; did you mean seed?; "
        "spec.order.kind: must be 'None', 'Key', 'MD5' or 'Shuffle', not 'x' (and 1 more)"
    )


@pytest.mark.parametrize("strict", [True, False])
def test_of_what_is_no_job_nothing_else_is_said(strict: bool) -> None:
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {"accessModes": ["ReadWriteMany"]}}
    assert refusal(claim, strict=strict) == (
        "apiVersion: must be 'dsort.dev/v1alpha1', not 'v1'; "
        "kind: must be 'DSortJob', not 'PersistentVolumeClaim'"
    )


def test_an_unknown_field_alone_is_refused() -> None:
    assert refusal(job(memory={"later": 2})) == (
        "spec.memory.later: is not a field; there are budget, throttleAt, resumeAt, abortAt, abortAfterSeconds"
    )


def test_a_key_that_is_no_text_is_an_unknown_field() -> None:
    document = job()
    document["spec"][1] = 2
    assert refusal(document).startswith("spec.1: is not a field; there are input, output, ")


def test_python_names_are_not_taken_from_a_manifest() -> None:
    assert refusal(job(active_deadline_seconds=5)) == (
        "spec.active_deadline_seconds: is not a field; did you mean activeDeadlineSeconds?"
    )


def test_case_and_underscores_do_not_hide_what_was_meant() -> None:
    assert refusal(job(DRY_RUN=True)) == "spec.DRY_RUN: is not a field; did you mean dryRun?"


def test_metadata_and_status_are_handed_on() -> None:
    document = job()
    document["metadata"] |= {"namespace": "n", "uid": "u", "generation": 3, "labels": {"a": "b"}}
    document["status"] = {"phase": "Later", "anything": [1]}
    loaded = load_job(document, strict=True)
    assert (loaded.metadata.name, loaded.metadata.namespace, loaded.metadata.uid) == ("a", "n", "u")
    assert loaded.metadata.model_dump()["generation"] == 3
    assert loaded.status == {"phase": "Later", "anything": [1]}


def test_a_status_that_is_no_mapping_is_named() -> None:
    document = job()
    document["status"] = 1
    assert refusal(document) == "status: must be a mapping, not 1"


def test_a_job_needs_no_metadata() -> None:
    document = job()
    del document["metadata"]
    assert load_job(document, strict=True).metadata.name == ""


@pytest.mark.parametrize(("length", "taken"), [(253, True), (254, False)])
def test_names_are_as_long_as_kubernetes_allows(length: int, taken: bool) -> None:
    document = job()
    document["metadata"] = {"name": "a" * length}
    if taken:
        assert load_job(document, strict=True).metadata.name == "a" * length
    else:
        assert "at most 253" in refusal(document)


def test_long_values_are_shortened() -> None:
    document = job(dryRun="x" * 200)
    assert refusal(document) == f"spec.dryRun: must be true or false, not '{'x' * 79}..."


def test_values_of_yaml_that_json_does_not_know_are_shown() -> None:
    assert refusal(job(workers={"count": {1}})) == 'spec.workers.count: must be a whole number, not "{1}"'


def test_what_pydantic_alone_has_words_for_is_passed_on() -> None:
    message = refusal(job(input={"url": "pvc://datasets/\ud800"}))
    assert message.startswith("spec.input.url: input should be a valid string, unable to parse raw data")
    assert message.isprintable()


@pytest.mark.parametrize("extra", [0, 1])
def test_lengths_are_bounded(extra: int) -> None:
    url = "pvc://datasets/"
    cases = [
        (
            {"url": url + "a" * (LONGEST_URL - len(url) + extra)},
            "spec.input.url: must have at most 4096 characters",
        ),
        (
            {"url": url, "shards": ["a" * (LONGEST_ENTRY + extra)]},
            "spec.input.shards[0]: must have at most 1024 characters",
        ),
        (
            {"url": url, "shards": ["a"] * (MOST_ENTRIES + extra)},
            "spec.input.shards: must have at most 16384 entries",
        ),
    ]
    for given, words in cases:
        if extra:
            assert refusal(job(input=given)).startswith(words)
        else:
            load_job(job(input=given), strict=True)


@pytest.mark.parametrize(("length", "taken"), [(253, True), (254, False)])
def test_claims_are_as_long_as_kubernetes_allows(length: int, taken: bool) -> None:
    document = job(input={"url": f"pvc://{'c' * length}/x"})
    if taken:
        load_job(document, strict=True)
    else:
        assert "is not a url that works here" in refusal(document)
