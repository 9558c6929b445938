"""The control exchange on the wire."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel, ValidationError

from dsort_api import messages
from dsort_api.manifest import Counts
from dsort_api.messages import (
    PROTOCOL,
    Desired,
    Failure,
    JobDefinition,
    Memory,
    Observed,
    Outcome,
    Peer,
    PeerTable,
    Phase,
    PlannedOutput,
    PlannedShard,
    PlanTotals,
    Progress,
    Stop,
)
from dsort_api.reasons import Reason
from dsort_api.spec import load_job

SPEC = load_job(
    {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortJob",
        "spec": {
            "input": {"url": "pvc://c/in"},
            "output": {"url": "file:///out", "name": "a-%d", "shardSize": "1Mi"},
            "order": {"kind": "Shuffle", "seed": 2**63 - 1},
        },
    },
    strict=True,
).spec

EXAMPLES: list[BaseModel] = [
    JobDefinition(id="f00", name="a", spec=SPEC, ranks=2),
    Desired(),
    Desired(
        epoch="e",
        peers=PeerTable(version=3, peers=[Peer(rank=0, url="http://127.0.0.1:1", epoch="e")]),
        memory_budget=1 << 29,
        stop=Stop(reason=Reason.ABORTED, message="Ctrl-C"),
        seen=7,
        wait_seconds=1.5,
    ),
    Observed(epoch="e", rank=1, version=0),
    Observed(
        epoch="e",
        rank=0,
        version=9,
        data_url="http://127.0.0.1:2",
        phase=Phase.COMPLETE,
        peers_version=3,
        progress=Progress(records_done=1, bytes_sent=2),
        memory=Memory(budget=1, peak_rss=2),
        failure=Failure(reason=Reason.CORRUPT_SHARD, message="shard a.tar: at offset 0: cut short"),
        warnings=[messages.Warning(kind="duplicates", message="a.tar: b")],
        warning_count=30,
        outcome=Outcome(
            state="Planned",
            plan=PlannedOutput(
                totals=PlanTotals(shards=1, records=3, bytes=10240),
                shards=[PlannedShard(name="a-0.tar", bytes=10240, records=3)],
                counts=Counts(records_in=3),
            ),
        ),
    ),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: BaseModel) -> None:
    for by_alias in (False, True):
        assert type(message).model_validate_json(message.model_dump_json(by_alias=by_alias)) == message


def test_messages_say_their_protocol() -> None:
    for message in EXAMPLES:
        assert json.loads(message.model_dump_json())["protocol"] == PROTOCOL == 2


def test_what_a_later_version_adds_is_passed_over() -> None:
    assert Desired.model_validate_json('{"epoch": "e", "throttle": 3}') == Desired(epoch="e")


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (JobDefinition, {"id": "a", "name": "b", "ranks": 0, "spec": SPEC.model_dump(mode="json")}),
        (Observed, {"epoch": "e", "rank": 0, "version": 0, "phase": "Sleep"}),
        (Desired, {"stop": {"reason": "Boredom"}}),
        (Outcome, {"state": "Half"}),
    ],
)
def test_what_is_no_message_is_refused(model: type[BaseModel], document: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate_json(json.dumps(document))


def test_a_message_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Desired().seen = 3  # type: ignore[misc]


def test_a_rank_refuses_a_spec_that_it_knows_only_in_part() -> None:
    document = json.loads(EXAMPLES[0].model_dump_json(by_alias=True))
    document["spec"]["records"]["missingContentKey"] = "Ignore"
    with pytest.raises(ValidationError, match="missingContentKey"):
        JobDefinition.model_validate(document)
