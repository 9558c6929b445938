"""What a spec that was written for a cluster means on one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import DSortJobSpec
from dsort_cli.main import main
from dsort_cli.onemachine import MOST_RANKS, check_may_run, ranks_here


def spec(**parts: Any) -> DSortJobSpec:
    output = {"url": "file:///out", "name": "o-%d", "shardCount": 1}
    return DSortJobSpec.model_validate({"input": {"url": "file:///in"}, "output": output, **parts})


@pytest.mark.parametrize(
    ("workers", "asked", "ranks"),
    [
        ({}, None, 1),
        ({"count": 3}, None, 3),
        ({"lanes": 4}, None, 4),
        ({"count": 3, "lanes": 4}, None, 12),
        ({"placement": "Count", "count": 2}, None, 2),
        ({"placement": "OnePerNode"}, None, 1),
        ({"placement": "OnePerNode", "lanes": 2}, None, 2),
        ({"count": 1024}, None, 1024),
        ({"count": 3, "lanes": 4}, 2, 2),
        ({"count": 1024, "lanes": 64}, 5, 5),
    ],
)
def test_there_are_as_many_ranks_as_were_asked_for_or_as_all_pods_have(
    workers: dict[str, Any], asked: int | None, ranks: int
) -> None:
    assert ranks_here(spec(workers=workers), asked=asked) == ranks


def test_more_ranks_than_a_machine_runs_are_refused() -> None:
    with pytest.raises(
        DSortError, match=r"^spec\.workers: 513 workers of 2 lanes are 1026 ranks, .* --workers$"
    ):
        ranks_here(spec(workers={"count": MOST_RANKS // 2 + 1, "lanes": 2}), asked=None)


@pytest.mark.parametrize("field", ["suspend", "abort"])
def test_a_job_that_is_held_or_ended_is_not_run(field: str) -> None:
    check_may_run(spec(**{field: False}))
    with pytest.raises(DSortError, match=rf"^spec\.{field}: true .* leave it out to run it$") as caught:
        check_may_run(spec(**{field: True}))
    assert caught.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize(
    ("command", "parts", "words"),
    [
        ("run", {"suspend": True}, "spec.suspend: true holds a job"),
        ("run", {"abort": True}, "spec.abort: true ends a job"),
        ("run", {"workers": {"count": 1024, "lanes": 2}}, "spec.workers: 1024 workers of 2 lanes"),
        ("plan", {"workers": {"count": 1024, "lanes": 2}}, "spec.workers: 1024 workers of 2 lanes"),
        ("plan", {"suspend": True, "abort": True}, "spec.input.url: "),  # only that there is no such folder
    ],
)
def test_the_command_says_so_before_it_looks_at_the_input(
    command: str, parts: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortJob",
        "metadata": {"name": "a"},
        "spec": {
            "input": {"url": f"file://{tmp_path}/none"},
            "output": {"url": f"file://{tmp_path}/out", "name": "o-%d", "shardCount": 1},
            **parts,
        },
    }
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(document))
    assert main([command, "-f", str(path), "--quiet"]) != 0
    assert f"error: {words}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
