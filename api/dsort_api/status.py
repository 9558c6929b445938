"""The status of a DSortJob: what `kubectl get` and `kubectl describe` show. Written by the operator, never read back by it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dsort_api.messages import Phase


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
    """How far the current phase is, in all ranks together. A total that is not known is 0."""

    share: str = Field(default="", description="Share of the current phase that is done, for people: 42%.")
    records_done: int = Field(default=0, description="Records that the current phase has dealt with.")
    records_total: int = Field(default=0, description="Records that the current phase has to deal with.")
    bytes_done: int = Field(default=0, description="Bytes that the current phase has dealt with.")
    bytes_total: int = Field(default=0, description="Bytes that the current phase has to deal with.")
    shards_done: int = Field(default=0, description="Shards that the current phase has dealt with.")
    shards_total: int = Field(default=0, description="Shards that the current phase has to deal with.")


class DSortJobStatus(_Part):
    """What became of the job so far."""

    observed_generation: int | None = Field(
        default=None, description="metadata.generation that this status speaks of."
    )
    phase: Phase | None = Field(
        default=None, description="Phase of the job: that of its slowest rank, or how it ended."
    )
    ranks: int | None = Field(
        default=None, description="Ranks that work on the job; fixed at its first start."
    )
    progress: JobProgress | None = Field(default=None, description="How far the current phase is.")
    start_time: AwareDatetime | None = Field(default=None, description="When the first rank was started.")
    completion_time: AwareDatetime | None = Field(
        default=None, description="When the job ended, in success or failure."
    )
    conditions: list[Condition] = Field(
        default_factory=list, description="Conditions of the job, one of a type."
    )
