"""What the status of a DSortJob tells a person, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest

from dsort_api.reasons import EXIT_CODES, Reason
from dsort_cli.jobview import view


def job(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "j", "namespace": "n"}, "status": status}


def condition(kind: str, status: str = "True", *, reason: str = "R", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ({}, "pending"),
        ({"state": "Starting", "ready": "0/2"}, "starting: 0/2 ranks ready"),
        (
            {
                "state": "Starting",
                "ready": "0/2",
                "conditions": [condition("WorkersReady", "False", message="0/3 nodes are available")],
            },
            "starting: 0/3 nodes are available",
        ),
        (
            {
                "state": "Running",
                "phase": "Create",
                "ready": "2/2",
                "throughput": 1 << 20,
                "progress": {"share": "7%", "recordsDone": 1234, "bytesDone": 1024},
            },
            "create: 7%, 1,234 records, 1.00 KiB, 1.00 MiB/s",
        ),
        ({"state": "Running"}, "running"),
        (
            {"state": "Suspended", "conditions": [condition("Suspended", reason="ByUser")]},
            "suspended: ByUser",
        ),
        (
            {
                "state": "Stopping",
                "conditions": [
                    condition("FailureTarget", message="too late"),
                    condition("Throttled", "False"),
                ],
            },
            "stopping: too late",
        ),
    ],
)
def test_a_job_that_goes_on_is_one_line(status: dict[str, Any], line: str) -> None:
    assert view(job(**status)).line() == line


@pytest.mark.parametrize("reason", Reason)
def test_a_failed_job_has_the_code_of_its_reason(reason: Reason) -> None:
    seen = view(job(conditions=[condition("Failed", reason=reason.value, message="m")]))
    assert seen.ended
    assert seen.state == "Failed"
    assert seen.exit_code == EXIT_CODES[reason]


def test_a_reason_that_is_not_known_is_code_1() -> None:
    assert view(job(conditions=[condition("Failed", reason="Flood")])).exit_code == 1


def test_a_condition_that_does_not_hold_ends_nothing() -> None:
    assert not view(job(conditions=[condition("Complete", "False"), condition("Failed", "Unknown")])).ended


def test_results() -> None:
    done = [condition("Complete")]
    assert (
        view(job(conditions=done, recordsOut=2, bytesOut=1024)).result()
        == "j is complete: 2 records, 1.00 KiB"
    )
    plan = {"shards": 3, "records": 4, "bytes": 2048}
    assert view(job(conditions=done, plan=plan)).result() == "j would make 3 shards of 4 records, 2.00 KiB"


@pytest.mark.parametrize(
    "status",
    [
        None,
        "text",
        {"conditions": "text", "progress": 7, "plan": "text", "phase": 1, "state": None},
        {"conditions": [None, {}, {"type": None, "status": True}], "progress": {"share": "many"}},
        {
            "recordsOut": "1",
            "bytesOut": True,
            "throughput": -1,
            "progress": {"share": "²%", "bytesDone": 1.5},
        },
    ],
)
def test_a_status_that_makes_no_sense_is_no_error(status: Any) -> None:
    seen = view({"metadata": {"name": "j"}, "status": status})
    assert not seen.ended
    assert seen.line() == "pending"
    assert seen.as_json()["percent"] is None


def test_a_message_cannot_write_to_the_terminal() -> None:
    seen = view(job(conditions=[condition("Failed", message="a\nb\x1b[2Jc")]))
    assert seen.message == "a b?[2Jc"
