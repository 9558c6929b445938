"""The status, as the API server keeps it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from dsort_api.messages import Phase
from dsort_api.reasons import Reason
from dsort_api.status import Condition, DSortJobStatus, JobProgress

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FAILED = Condition(
    type="Failed",
    status="True",
    last_transition_time=NOON,
    reason=Reason.CORRUPT_SHARD,
    message="shard a.tar: cut short",
)


def test_a_status_is_written_as_kubernetes_writes_it() -> None:
    status = DSortJobStatus(
        observed_generation=2,
        phase=Phase.FAILED,
        ranks=3,
        progress=JobProgress(share="42%"),
        start_time=NOON,
        conditions=[FAILED],
    )
    document = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert document["startTime"] == "2026-01-01T12:00:00Z"
    assert document["phase"] == "Failed"
    assert document["progress"]["share"] == "42%"
    assert document["conditions"] == [
        {
            "type": "Failed",
            "status": "True",
            "lastTransitionTime": "2026-01-01T12:00:00Z",
            "reason": "CorruptShard",
            "message": "shard a.tar: cut short",
        }
    ]
    assert "completionTime" not in document
    assert DSortJobStatus.model_validate(document) == status


def test_what_a_newer_operator_wrote_is_passed_over() -> None:
    assert DSortJobStatus.model_validate({"ranks": 1, "later": {}}) == DSortJobStatus(ranks=1)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_may_stand_in_a_condition(reason: Reason) -> None:
    document = FAILED.model_dump() | {"reason": reason.value}
    assert Condition.model_validate(document).reason == reason


@pytest.mark.parametrize(
    "change",
    [
        {"status": "true"},
        {"reason": "two words"},
        {"reason": ""},
        {"last_transition_time": NOON.replace(tzinfo=None)},
    ],
)
def test_what_the_api_server_would_refuse_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Condition.model_validate(FAILED.model_dump() | change)
