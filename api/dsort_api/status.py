"""The status of a DSortJob: what `kubectl get` and `kubectl describe` show.

Written by the operator, once per look at the job. It reads times and verdicts back (when the job started, that it failed),
never how far it is: that is for the workers to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dsort_api.messages import Phase

MOST_ABNORMAL_RANKS: Final = 10


class ConditionType(StrEnum):
    """Types of conditions. The job has ended when COMPLETE or FAILED is True."""

    SUSPENDED = "Suspended"
    WORKERS_READY = "WorkersReady"
    THROTTLED = "Throttled"
    FAILURE_TARGET = "FailureTarget"
    COMPLETE = "Complete"
    FAILED = "Failed"


class State(StrEnum):
    """The job in one word."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    STOPPING = "Stopping"
    COMPLETE = "Complete"
    FAILED = "Failed"


class _Part(BaseModel):
    # Unknown fields are dropped: a newer operator may have written them.
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Condition(_Part):
    """A condition, as `metav1.Condition` has it."""

    type: Annotated[str, Field(max_length=316)] = Field(
        description="Complete, Failed and others; the job has ended when one of these two is True."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    observed_generation: int | None = Field(
        default=None, description="metadata.generation that the condition was set from."
    )
    last_transition_time: AwareDatetime = Field(description="When status changed last.")
    reason: Annotated[str, Field(max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")] = (
        Field(description="Why, in one word that programs may rely on: InvalidSpec, CorruptShard, ...")
    )
    message: Annotated[str, Field(max_length=32768)] = Field(
        description="Why, in one line for people: the culprit and what to do."
    )


class JobProgress(_Part):
    """How far the job is (share), and its current phase (the counts), in all ranks together. A total that is not known is 0."""

    share: str = Field(
        default="",
        description="Share of the whole job that is done, about, for people: 42%. It never goes back.",
    )
    records_done: int = Field(default=0, description="Records that the current phase has dealt with.")
    records_total: int = Field(default=0, description="Records that the current phase has to deal with.")
    bytes_done: int = Field(default=0, description="Bytes that the current phase has dealt with.")
    bytes_total: int = Field(default=0, description="Bytes that the current phase has to deal with.")
    shards_done: int = Field(default=0, description="Shards that the current phase has dealt with.")
    shards_total: int = Field(default=0, description="Shards that the current phase has to deal with.")


class PlanSummary(_Part):
    """What a dry run found: what the job would write."""

    shards: int = Field(description="Output shards.")
    records: int = Field(description="Records in them.")
    bytes: int = Field(description="Bytes of the shards' files.")


class AbnormalRank(_Part):
    """A rank that is not as it should be."""

    rank: int = Field(description="Number of the rank.")
    pod: str = Field(default="", description="Name of its pod, where it has one.")
    reason: Annotated[str, Field(max_length=1024)] = Field(description="What is wrong with it, in one word.")
    message: Annotated[str, Field(max_length=1024)] = Field(
        default="", description="What is wrong with it, in one line."
    )


class JobMemory(_Part):
    """What the operator has made of the memory of the job's pods."""

    budget: int | None = Field(
        default=None,
        description="Bytes that a rank may use when it starts, where pods were killed with more.",
    )
    budget_since: AwareDatetime | None = Field(
        default=None, description="Ranks in pods that are older had more when they started."
    )
    level: int = Field(
        default=0, description="Throttle level of the ranks: 0 is full speed, 4 the least of it."
    )
    level_since: AwareDatetime | None = Field(default=None, description="When the level changed last.")
    above_abort_since: AwareDatetime | None = Field(
        default=None,
        description="Since when a pod has been above memory.abortAt at the highest level; not given when none is.",
    )
    above_abort_pod: str | None = Field(default=None, description="Name of that pod.")
    oom_kills: int = Field(default=0, description="Pods of the job that were killed for want of memory.")
    last_oom_kill: AwareDatetime | None = Field(default=None, description="When the last of them ended.")
    oom_killed: Annotated[list[str], Field(max_length=MOST_ABNORMAL_RANKS)] = Field(
        default_factory=list, description="The uids of the pods that were killed last; each counts once."
    )


class DSortJobStatus(_Part):
    """What became of the job so far."""

    observed_generation: int | None = Field(
        default=None, description="metadata.generation that this status speaks of."
    )
    state: State | None = Field(default=None, description="The job in one word.")
    phase: Phase | None = Field(
        default=None, description="Phase of the job: that of its slowest rank, or how it ended."
    )
    ranks: int | None = Field(
        default=None, description="Ranks that work on the job; fixed at its first start."
    )
    ranks_ready: int | None = Field(default=None, description="Ranks that answer.")
    ready: str | None = Field(default=None, description="ranksReady of ranks, for people: 2/2.")
    progress: JobProgress | None = Field(
        default=None, description="How far the job and its current phase are."
    )
    records_in: int | None = Field(default=None, description="Records read from the input.")
    records_out: int | None = Field(default=None, description="Records written to the output.")
    bytes_in: int | None = Field(default=None, description="Bytes of the records read.")
    bytes_out: int | None = Field(default=None, description="Bytes of the records written.")
    throughput: int | None = Field(default=None, description="Payload bytes written per second, at last.")
    rate: str | None = Field(default=None, description="throughput, for people: 1.20 GiB/s.")
    seed: int | None = Field(default=None, description="Seed of the shuffle.")
    plan: PlanSummary | None = Field(default=None, description="With dryRun: what the job would write.")
    memory: JobMemory | None = Field(
        default=None, description="Budget and throttle level, once they are other than the spec has it."
    )
    manifest: str | None = Field(default=None, description="Where the manifest of the output is.")
    abnormal_ranks: Annotated[list[AbnormalRank], Field(max_length=MOST_ABNORMAL_RANKS)] = Field(
        default_factory=list, description="Ranks that are not as they should be, the first ten."
    )
    start_time: AwareDatetime | None = Field(default=None, description="When the first rank was started.")
    completion_time: AwareDatetime | None = Field(
        default=None, description="When the job ended, in success or failure."
    )
    active_seconds: int | None = Field(
        default=None, description="Seconds that the job had been active when it was suspended last."
    )
    conditions: list[Condition] = Field(
        default_factory=list, description="Conditions of the job, one of a type."
    )


def load_status(document: object) -> DSortJobStatus:
    """A status as the API server has it. Another operator may have written it, or a person: what is not understood, a field
    or a single condition, is left out. Never raises.
    """
    if not isinstance(document, Mapping):
        return DSortJobStatus()
    kept: dict[str, Any] = dict(document)
    while True:
        try:
            return DSortJobStatus.model_validate(kept)
        except ValidationError as error:
            name, *below = error.errors(include_url=False, include_input=False)[0]["loc"]
            if name == "conditions" and below:
                at = int(below[0])
                kept["conditions"] = [one for place, one in enumerate(kept["conditions"]) if place != at]
            else:
                del kept[str(name)]
