"""The DSortJob: what a user applies.

YAML has the camelCase names of the Kubernetes API conventions, Python the same names in snake_case. `load_job` is strict
where a person wrote the manifest (`dsort run` refuses unknown fields) and tolerant where the API server has checked it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dsort_api.fields import Entry, Flag, Part, Percent, Quantity, ShareOrQuantity, Url, Whole
from dsort_api.labels import MOST_LANES
from dsort_api.lazily import Lazily
from dsort_api.problems import describe, sift, summary
from dsort_api.quantity import format_bytes, parse_percent
from dsort_api.reasons import DSortError, Reason
from dsort_api.templates import OutputTemplate

if TYPE_CHECKING:
    from dsort_api.podtemplate import PodTemplate
else:
    PodTemplate = BaseModel  # what pydantic meets; `Lazily` has the model itself

VERSION: Final = "v1alpha1"
LEAST_BUDGET: Final = 64 << 20
"""Bytes of memory that a rank must have."""
IMMUTABLE: Final = ("input", "output", "order", "records", "workers", "memory", "dry_run", "backoff_limit")
"""Fields of the spec that stay as they were when the job was created; `managedBy` does, too, by a rule of its own."""
MOST_ENTRIES: Final = 16384
LONGEST_MANAGER: Final = 63
MANAGER: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9._~/]*[A-Za-z0-9])?$"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME: Final = 253
_MANAGER: Final = re.compile(MANAGER.strip("^$"))


class PinnedInput(NamedTuple):
    """An input shard as it was listed: path relative to the url, bytes, modification time in ns."""

    name: str
    size: int
    mtime_ns: int


class Reaction(StrEnum):
    """What a job does about something it was told to expect: fail, name it, or only count it."""

    ABORT = "Abort"
    WARN = "Warn"
    IGNORE = "Ignore"


class OrderKind(StrEnum):
    """The order of records in the output."""

    NONE = "None"
    KEY = "Key"
    MD5 = "MD5"
    SHUFFLE = "Shuffle"


class Placement(StrEnum):
    """How worker pods are spread."""

    ONE_PER_NODE = "OnePerNode"
    COUNT = "Count"


def _pod_template() -> type[PodTemplate]:
    from dsort_api.podtemplate import PodTemplate

    return PodTemplate


def _least_budget(value: int | str) -> int | str:
    if isinstance(value, int) and value < LEAST_BUDGET:
        raise ValueError(f"{value} bytes are too few for a rank; 64Mi is the least")
    return value


def _is_manager(value: str) -> str:
    if _MANAGER.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not the name of a controller, such as example.com/controller")
    return value


class Input(Part):
    """What to read."""

    url: Url = Field(description="Folder of the input shards: pvc://claim/path, or file:///path.")
    shards: tuple[Entry, ...] = Field(
        default=(),
        max_length=MOST_ENTRIES,
        description="Ranges (train-{000000..001281}.tar, train-@01281.tar), globs, folders ending in /, or names, relative "
        "to the url. Empty: every known archive below the url.",
    )
    missing_shards: Reaction = Field(
        default=Reaction.ABORT,
        description="Reaction to a shard that a range or a name says must be there and is not.",
    )


class Output(Part):
    """What to write. At most one of shardSize, recordsPerShard and shardCount."""

    url: Url = Field(
        description="Folder of the output shards: pvc://claim/path, or file:///path. It is created."
    )
    name: str = Field(
        description="Template of the shards' names: train-%06d, or a range such as train-{000000..004095}. The extension .tar "
        "is added where there is none."
    )
    shard_size: Quantity | None = Field(
        default=None,
        description="Bytes of records in a shard, as a quantity: 256Mi. Shards stay within one record of it.",
    )
    records_per_shard: Annotated[Whole, Field(ge=1, le=1 << 40)] | None = Field(
        default=None, description="Records in a shard; the last has the rest."
    )
    shard_count: Annotated[Whole, Field(ge=1, le=10_000_000)] | None = Field(
        default=None,
        description="Number of shards of about equal bytes. Without any of the three: as many as the name has.",
    )

    @field_validator("name")
    @classmethod
    def _is_template(cls, value: str) -> str:
        OutputTemplate.parse(value)
        return value

    @model_validator(mode="after")
    def _one_packing(self) -> Output:
        given = [
            name
            for name, value in (
                ("shardSize", self.shard_size),
                ("recordsPerShard", self.records_per_shard),
                ("shardCount", self.shard_count),
            )
            if value is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one")
        if not given and OutputTemplate.parse(self.name).capacity is None:
            raise ValueError(
                f"name {self.name!r} has no end, so one of shardSize, recordsPerShard and shardCount is needed"
            )
        return self


class Order(Part):
    """In which order records are written. Ties stay in the order of the input."""

    kind: OrderKind = Field(
        default=OrderKind.NONE,
        description="None: as in the input. Key: byte order of the record key. MD5: of its md5. Shuffle: by the seed.",
    )
    seed: Annotated[Whole, Field(ge=0, le=(1 << 63) - 1)] | None = Field(
        default=None, description="Seed of Shuffle; 0 when none is given. The same seed gives the same bytes."
    )
    descending: Flag = Field(default=False, description="Reverse the keys of Key and MD5.")

    @field_validator("seed", "descending")
    @classmethod
    def _fits_kind(cls, value: int | None, info: ValidationInfo) -> int | None:
        # kind is validated before, and absent here when it is wrong: then that is what there is to say.
        kind = info.data.get("kind")
        if info.field_name == "seed":
            if value is not None and kind not in {OrderKind.SHUFFLE, None}:
                raise ValueError(f"a seed goes with kind Shuffle, not {kind}")
        elif value and kind not in {OrderKind.KEY, OrderKind.MD5, None}:
            raise ValueError(f"descending goes with kind Key or MD5, not {kind}")
        return value


class RecordReactions(Part):
    """What to do about records and shards that are not as they should be: Abort, Warn or Ignore."""

    duplicates: Reaction = Field(
        default=Reaction.ABORT,
        description="The same path twice in one shard. Warn and Ignore keep the last copy.",
    )
    unsupported: Reaction = Field(
        default=Reaction.ABORT, description="Members that cannot be carried. Warn and Ignore leave them out."
    )
    trailing_data: Reaction = Field(
        default=Reaction.WARN, description="Bytes other than zero after the end of an archive."
    )
    collisions: Reaction = Field(
        default=Reaction.WARN,
        description="Two records of the same key in one output shard; readers may merge them.",
    )
    corrupt_shards: Reaction = Field(
        default=Reaction.ABORT,
        description="A truncated or damaged archive. Warn and Ignore leave it out whole.",
    )


class Workers(Part):
    """How many ranks work on the job, and where. The output does not depend on it."""

    placement: Placement | None = Field(
        default=None,
        description="OnePerNode: a pod on each node that matches the template's nodeSelector. Count: as many pods as count says. "
        "When not given: Count with a count, OnePerNode without.",
    )
    count: Annotated[Whole, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Number of worker pods, with Count."
    )
    lanes: Annotated[Whole, Field(ge=1, le=MOST_LANES)] = Field(
        default=1,
        description="Ranks in each pod, each a process of its own: to use more than one core of a node.",
    )
    short_circuit: Flag = Field(
        default=True,
        description="Whether a rank reads the input shards that it can open by itself. If not, all payload comes from the rank that "
        "scanned the shard, through the network.",
    )
    scratch_size_limit: Quantity | None = Field(
        default=None, description="Size limit of a pod's scratch volume (an emptyDir), as a quantity: 10Gi."
    )
    template: Annotated[PodTemplate | None, Lazily(_pod_template)] = Field(
        default=None,
        description="What else to say about the worker pods. Nothing, when the job is run on one machine.",
    )

    @model_validator(mode="after")
    def _placement_fits_count(self) -> Workers:
        if self.placement is Placement.COUNT and self.count is None:
            raise ValueError("placement Count needs a count")
        if self.placement is Placement.ONE_PER_NODE and self.count is not None:
            raise ValueError("placement OnePerNode and a count exclude each other; keep one")
        return self

    @property
    def one_per_node(self) -> bool:
        """Whether there is to be a pod on each matching node."""
        return self.count is None


class Memory(Part):
    """How much memory a worker pod may use, and what is done when it needs more. The output does not depend on it."""

    budget: Annotated[ShareOrQuantity, AfterValidator(_least_budget)] = Field(
        default="70%",
        description="Memory of a pod that its ranks plan with, divided by workers.lanes: a percentage of the pod's memory limit, or "
        "a quantity. It is all that cannot be taken back from the pod, the interpreters included; 64Mi a rank is the least.",
    )
    throttle_at: Percent = Field(
        default="85%",
        description="Percentage of the limit. While the memory that cannot be taken back from a pod is above it, ranks ask for "
        "less and less payload at a time.",
    )
    resume_at: Percent = Field(
        default="75%",
        description="Percentage of the limit, less than throttleAt. Below it ranks go on faster again, step by step.",
    )
    abort_at: Percent = Field(
        default="95%",
        description="Percentage of the limit, throttleAt or more. A pod that stays above it when ranks cannot ask for less ends the "
        "job with MemoryLimitExceeded.",
    )
    abort_after_seconds: Annotated[Whole, Field(ge=1, le=1 << 31)] = Field(
        default=30, description="How long a pod must be above abortAt, in seconds."
    )

    @model_validator(mode="after")
    def _marks_are_in_order(self) -> Memory:
        if parse_percent(self.resume_at) >= parse_percent(self.throttle_at):
            raise ValueError(f"resumeAt {self.resume_at} must be less than throttleAt {self.throttle_at}")
        if parse_percent(self.throttle_at) > parse_percent(self.abort_at):
            raise ValueError(f"abortAt {self.abort_at} must be no less than throttleAt {self.throttle_at}")
        return self


class DSortJobSpec(Part):
    """The job."""

    input: Input = Field(description="What to read.")
    output: Output = Field(description="What to write.")
    order: Order = Field(default_factory=Order, description="In which order records are written.")
    records: RecordReactions = Field(
        default_factory=RecordReactions, description="Reactions to what is not as it should be."
    )
    workers: Workers = Field(default_factory=Workers, description="How many ranks work on the job.")
    memory: Memory = Field(
        default_factory=Memory,
        description="How much memory a worker pod may use, and what is done when it needs more.",
    )
    dry_run: Flag = Field(default=False, description="Plan only: everything up to packing, and no output.")
    backoff_limit: Annotated[Whole, Field(ge=0, le=1000)] = Field(
        default=6, description="How often ranks that died are started again before the job fails."
    )
    active_deadline_seconds: Annotated[Whole, Field(ge=1, le=1 << 31)] | None = Field(
        default=None,
        description="Seconds after which the job fails with DeadlineExceeded. Time in suspension does not count.",
    )
    start_deadline_seconds: Annotated[Whole, Field(ge=1, le=1 << 31)] = Field(
        default=600,
        description="Seconds in which all worker pods must have started; if not, all are released, and tried again later.",
    )
    ttl_seconds_after_finished: Annotated[Whole, Field(ge=0, le=1 << 31)] | None = Field(
        default=None,
        description="Seconds after its end when the job is deleted. Its results stay. When not given: never.",
    )
    suspend: Flag = Field(
        default=False,
        description="Hold the job: its pods are ended, and what is done is kept. False lets it go on.",
    )
    abort: Flag = Field(
        default=False,
        description="End the job with Aborted, and take back what it has written. This cannot be undone.",
    )
    managed_by: Annotated[str, Field(max_length=LONGEST_MANAGER), AfterValidator(_is_manager)] | None = Field(
        default=None,
        description="The controller that looks after the job. Any other than dsort.dev/operator: this operator leaves it alone.",
    )

    @field_validator("memory")
    @classmethod
    def _enough_for_lanes(cls, value: Memory, info: ValidationInfo) -> Memory:
        workers = info.data.get("workers")  # absent when it is wrong: then that is what there is to say
        if workers is not None and isinstance(value.budget, int):
            least = workers.lanes * LEAST_BUDGET
            if value.budget < least:
                raise ValueError(
                    f"a budget of {format_bytes(value.budget)} is too little for workers.lanes {workers.lanes}; "
                    f"64Mi a rank, {format_bytes(least)}, is the least"
                )
        return value


class ObjectMeta(BaseModel):
    """The part of metadata that dsort looks at; the rest is kept."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = ""
    namespace: str | None = None
    uid: str | None = None

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if len(value) > _LONGEST_NAME or _NAME.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not a name: lower case letters, digits, '-' and '.', at most 253")
        return value


class DSortJob(Part):
    """A DSortJob resource. status is handed on as it came: nothing is decided by it."""

    api_version: Literal["dsort.dev/v1alpha1"]
    kind: Literal["DSortJob"]
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    spec: DSortJobSpec
    status: dict[str, Any] | None = None


def load_job(manifest: object, *, strict: bool) -> DSortJob:
    """A DSortJob from parsed YAML or JSON (not text).

    strict: unknown fields are refused; otherwise they are left out. Raises DSortError InvalidSpec that names the field by
    its path in the manifest, the value found there and what is allowed; of many problems the first, and how many more there are.
    Of what is no DSortJob, nothing else is said.
    """
    if not isinstance(manifest, Mapping):
        raise DSortError(
            Reason.INVALID_SPEC, "the manifest is not a mapping with apiVersion, kind, metadata and spec"
        )
    known, unknown = sift(manifest, DSortJob)
    problems = unknown if strict else []
    try:
        job = DSortJob.model_validate(known)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        another = [one for one in wrong if one["loc"][0] in {"apiVersion", "kind"}]
        problems = describe(another) if another else problems + describe(wrong)
    else:
        if not problems:
            return job
    raise DSortError(Reason.INVALID_SPEC, summary(problems))


def job_fingerprint(spec: DSortJobSpec, inputs: Iterable[PinnedInput]) -> str:
    """sha256 (hex) of what decides the output's bytes and place: the inputs as pinned, output, order and records.

    Workers, memory, deadlines and dryRun have no part in it. What is left at its default has none either, so that a job
    keeps its fingerprint, and its result, when a later version adds a field.
    """
    content = spec.model_dump(
        mode="json", by_alias=True, include={"input", "output", "order", "records"}, exclude_defaults=True
    )
    if not spec.order.seed:
        content.get("order", {}).pop("seed", None)  # 0 is what no seed means
    content["pinned"] = [list(shard) for shard in inputs]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
