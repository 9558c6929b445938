"""The fingerprint of a job: what decides the output changes it, and nothing else does."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest

from dsort_api.spec import PinnedInput, job_fingerprint, load_job

JOB: dict[str, Any] = {
    "apiVersion": "dsort.dev/v1alpha1",
    "kind": "DSortJob",
    "metadata": {"name": "a"},
    "spec": {
        "input": {"url": "pvc://c/in", "shards": ["a-{0..1}.tar"], "missingShards": "Warn"},
        "output": {"url": "pvc://c/out", "name": "x-{0..9}", "shardSize": "1Mi"},
        "order": {"kind": "Shuffle", "seed": 7},
        "records": {"duplicates": "Warn"},
    },
}
PINNED = [PinnedInput("a-0.tar", 10, 1_000), PinnedInput("a-1.tar", 20, 2_000)]


def fingerprint(*changes: tuple[str, Any], pinned: list[PinnedInput] | None = None) -> str:
    job = copy.deepcopy(JOB)
    for path, value in changes:
        *above, last = path.split(".")
        here = job
        for name in above:
            here = here.setdefault(name, {})
        here[last] = value
        if value is None:
            del here[last]
    return job_fingerprint(load_job(job, strict=True).spec, PINNED if pinned is None else pinned)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "b"),
        ("spec.workers.count", 5),
        (
            "spec.workers",
            {"placement": "OnePerNode", "lanes": 3, "shortCircuit": False, "scratchSizeLimit": "1Gi"},
        ),
        ("spec.workers.template", {"spec": {"nodeSelector": {"disk": "nvme"}}}),
        ("spec.startDeadlineSeconds", 5),
        ("spec.ttlSecondsAfterFinished", 5),
        ("spec.suspend", True),
        ("spec.abort", True),
        ("spec.managedBy", "example.com/other"),
        ("spec.memory.budget", "64Mi"),
        ("spec.activeDeadlineSeconds", 5),
        ("spec.dryRun", True),
        ("spec.backoffLimit", 0),
        ("spec.output.shardSize", 1 << 20),  # the same in other words
        ("spec.order.descending", False),  # said, and meant anyway
        ("spec.records.corruptShards", "Abort"),
    ],
)
def test_what_does_not_decide_the_output_does_not_change_it(path: str, value: object) -> None:
    assert fingerprint((path, value)) == fingerprint()


CHANGES: list[list[tuple[str, Any]]] = [
    [("spec.input.url", "pvc://c/in2")],
    [("spec.input.shards", ["a-0.tar", "a-1.tar"])],
    [("spec.input.missingShards", "Ignore")],
    [("spec.output.url", "pvc://c/out2")],
    [("spec.output.name", "y-{0..9}")],
    [("spec.output.shardSize", "2Mi")],
    [("spec.output.shardSize", None)],
    [("spec.output.shardSize", None), ("spec.output.shardCount", 10)],
    [("spec.output.shardSize", None), ("spec.output.recordsPerShard", 10)],
    [("spec.order.seed", 8)],
    [("spec.order.seed", None)],
    [("spec.order", {"kind": "Key"})],
    [("spec.order", {"kind": "Key", "descending": True})],
    [("spec.order", {"kind": "MD5"})],
    [("spec.order", None)],
    [("spec.records.duplicates", "Ignore")],
    [("spec.records.unsupported", "Warn")],
    [("spec.records.trailingData", "Abort")],
    [("spec.records.collisions", "Abort")],
    [("spec.records.corruptShards", "Warn")],
]


def test_everything_else_changes_it_each_in_its_own_way() -> None:
    seen = [fingerprint(), *(fingerprint(*changes) for changes in CHANGES)]
    assert len(set(seen)) == len(seen)


def test_every_field_that_decides_is_in_the_list() -> None:
    told = load_job(JOB, strict=True).spec.model_dump(
        by_alias=True, include={"input", "output", "order", "records"}
    )
    fields = {f"spec.{part}.{name}" for part, inner in told.items() for name in inner}
    tried = {path for changes in CHANGES for path, _ in changes} | {
        "spec.order.kind",
        "spec.order.descending",
    }
    assert fields <= tried


@pytest.mark.parametrize(
    "pinned",
    [
        [],
        PINNED[:1],
        PINNED[::-1],
        [PINNED[0], PINNED[1]._replace(name="b")],
        [PINNED[0], PINNED[1]._replace(size=21)],
        [PINNED[0], PINNED[1]._replace(mtime_ns=2_001)],
    ],
)
def test_the_pinned_inputs_change_it(pinned: list[PinnedInput]) -> None:
    assert fingerprint(pinned=pinned) != fingerprint()


def test_no_seed_is_seed_zero() -> None:
    assert fingerprint(("spec.order.seed", None)) == fingerprint(("spec.order.seed", 0))


def test_it_is_the_same_for_ever() -> None:
    # A change here breaks the continuation of jobs that an earlier version began. Do not update it lightly.
    canonical = (
        '{"input":{"missingShards":"Warn","shards":["a-{0..1}.tar"],"url":"pvc://c/in"},'
        '"order":{"kind":"Shuffle","seed":7},'
        '"output":{"name":"x-{0..9}","shardSize":1048576,"url":"pvc://c/out"},'
        '"pinned":[["a-0.tar",10,1000],["a-1.tar",20,2000]],'
        '"records":{"duplicates":"Warn"}}'
    )
    assert fingerprint() == hashlib.sha256(canonical.encode()).hexdigest()


def test_it_does_not_change_on_the_wire() -> None:
    spec = load_job(JOB, strict=True).spec
    again = type(spec).model_validate_json(spec.model_dump_json(by_alias=True, exclude_none=True))
    assert job_fingerprint(again, iter(PINNED)) == fingerprint()
