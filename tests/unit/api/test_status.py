"""The status, as the API server keeps it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from dsort_api.messages import Phase
from dsort_api.reasons import Reason
from dsort_api.status import (
    AbnormalRank,
    Condition,
    ConditionType,
    DSortJobStatus,
    JobProgress,
    PlanSummary,
    State,
    load_status,
)

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


def test_what_is_understood_of_a_status_is_read_and_the_rest_left_out() -> None:
    failed = FAILED.model_dump(mode="json", by_alias=True)
    document = {
        "state": "Hibernating",
        "phase": "Dream",
        "ranks": "many",
        "plan": {"shards": 1},
        "activeSeconds": 7,
        "startTime": "2026-01-01T12:00:00Z",
        "later": [1],
        "conditions": [{"type": "Odd"}, 5, failed, failed | {"type": "Complete", "status": "Perhaps"}],
    }
    assert load_status(document) == DSortJobStatus(active_seconds=7, start_time=NOON, conditions=[FAILED])
    assert document["conditions"] != [failed]  # not changed in place


@pytest.mark.parametrize(
    "document", [None, 1, [], {}, {"conditions": "x"}, {1: 2}, {"observedGeneration": {}}]
)
def test_a_status_that_is_none_is_an_empty_one(document: object) -> None:
    assert load_status(document) == DSortJobStatus()


def test_a_whole_status_is_read_as_it_was_written() -> None:
    status = DSortJobStatus(
        state=State.STOPPING,
        plan=PlanSummary(shards=1, records=2, bytes=3),
        abnormal_ranks=[AbnormalRank(rank=3, pod="a-3", reason="OOMKilled")],
        conditions=[FAILED, FAILED.model_copy(update={"type": ConditionType.SUSPENDED})],
    )
    assert load_status(status.model_dump(mode="json", by_alias=True, exclude_none=True)) == status


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
