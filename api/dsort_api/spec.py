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
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from dsort_api.quantity import parse_quantity
from dsort_api.reasons import DSortError, Reason
from dsort_api.templates import OutputTemplate, parse_input

GROUP: Final = "dsort.dev"
VERSION: Final = "v1alpha1"
LEAST_BUDGET: Final = 64 << 20
DEFAULT_BUDGET: Final = 512 << 20
_CLAIM: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


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


def _quantity(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a quantity of bytes such as 256Mi")  # noqa: TRY004 - pydantic reports ValueError
    return parse_quantity(value) if isinstance(value, str) else value


Quantity = Annotated[int, BeforeValidator(_quantity), Field(ge=1, le=1 << 62)]
"""Bytes; written as a number or a Kubernetes quantity."""


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    is_file = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    if not is_file and not (parts.scheme == "pvc" and _CLAIM.fullmatch(parts.netloc)):
        raise ValueError(f"{url!r} is not a url that works here: file:///absolute/path or pvc://claim/path")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a '?' or '#'; write the path alone")
    if ".." in parts.path.split("/"):
        raise ValueError(f"{url!r} has a '..'; write the path it means")
    return url


class Input(_Part):
    """What to read."""

    url: str = Field(description="Folder of the input shards: pvc://claim/path, or file:///path.")
    shards: tuple[str, ...] = Field(
        default=(),
        description="Ranges (train-{000000..001281}.tar, train-@01281.tar), globs, folders ending in /, or names, relative "
        "to the url. Empty: every known archive below the url.",
    )
    missing_shards: Reaction = Field(
        default=Reaction.ABORT,
        description="Reaction to a shard that a range or a name says must be there and is not.",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _check_url(value)

    @field_validator("shards")
    @classmethod
    def _shards(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            parse_input(entry)
        return value


class Output(_Part):
    """What to write. At most one of shardSize, recordsPerShard and shardCount."""

    url: str = Field(
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
    records_per_shard: Annotated[int, Field(ge=1, le=1 << 40)] | None = Field(
        default=None, description="Records in a shard; the last has the rest."
    )
    shard_count: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None,
        description="Number of shards of about equal bytes. Without any of the three: as many as the name has.",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _check_url(value)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
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


class Order(_Part):
    """In which order records are written. Ties stay in the order of the input."""

    kind: OrderKind = Field(
        default=OrderKind.NONE,
        description="None: as in the input. Key: byte order of the record key. MD5: of its md5. Shuffle: by the seed.",
    )
    seed: Annotated[int, Field(ge=0, le=(1 << 63) - 1)] | None = Field(
        default=None, description="Seed of Shuffle; 0 when none is given. The same seed gives the same bytes."
    )
    descending: bool = Field(default=False, description="Reverse the keys of Key and MD5.")

    @model_validator(mode="after")
    def _fits_kind(self) -> Order:
        if self.descending and self.kind not in {OrderKind.KEY, OrderKind.MD5}:
            raise ValueError(f"descending goes with kind Key or MD5, not {self.kind}")
        if self.seed is not None and self.kind is not OrderKind.SHUFFLE:
            raise ValueError(f"seed goes with kind Shuffle, not {self.kind}")
        return self


class RecordReactions(_Part):
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


class Workers(_Part):
    """How many ranks work on the job. The output does not depend on it."""

    count: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Number of ranks; 1 when not given."
    )


class Memory(_Part):
    """How much memory a rank may use. The output does not depend on it."""

    budget: Annotated[Quantity, Field(ge=LEAST_BUDGET)] | None = Field(
        default=None,
        description="Memory of one rank, all in all, as a quantity: 512Mi (the default). 64Mi is the least.",
    )

    @property
    def bytes(self) -> int:
        """The budget, or its default."""
        return self.budget or DEFAULT_BUDGET


class DSortJobSpec(_Part):
    """The job."""

    input: Input = Field(description="What to read.")
    output: Output = Field(description="What to write.")
    order: Order = Field(default_factory=Order, description="In which order records are written.")
    records: RecordReactions = Field(
        default_factory=RecordReactions, description="Reactions to what is not as it should be."
    )
    workers: Workers = Field(default_factory=Workers, description="How many ranks work on the job.")
    memory: Memory = Field(default_factory=Memory, description="How much memory a rank may use.")
    dry_run: bool = Field(default=False, description="Plan only: everything up to packing, and no output.")
    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=6, description="How often ranks that died are started again before the job fails."
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=1 << 31)] | None = Field(
        default=None, description="Seconds after which the job fails with DeadlineExceeded."
    )


class ObjectMeta(BaseModel):
    """The part of metadata that dsort looks at; the rest is kept."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = ""
    namespace: str | None = None
    uid: str | None = None


class DSortJob(BaseModel):
    """A DSortJob resource."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")
    api_version: Literal["dsort.dev/v1alpha1"]
    kind: Literal["DSortJob"]
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    spec: DSortJobSpec
    status: dict[str, Any] | None = None


def load_job(manifest: object, *, strict: bool) -> DSortJob:
    """A DSortJob from parsed YAML or JSON (not text).

    strict: unknown fields are refused; otherwise they are left out. Raises DSortError InvalidSpec that names the field by
    its path in the manifest and the value found there.
    """
    if not isinstance(manifest, Mapping):
        raise DSortError(
            Reason.INVALID_SPEC, "the manifest is not a mapping with apiVersion, kind, metadata and spec"
        )
    document: Any = manifest if strict else _known(dict(manifest), DSortJob)
    try:
        return DSortJob.model_validate(document)
    except ValidationError as error:
        raise DSortError(Reason.INVALID_SPEC, _describe(error)) from None


def _known(document: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The fields that the model knows, all the way down."""
    result: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        alias = field.alias or name
        if alias not in document:
            continue
        value, inner = document[alias], field.annotation
        if isinstance(inner, type) and issubclass(inner, _Part) and isinstance(value, Mapping):
            value = _known(value, inner)
        result[alias] = value
    return result


def _describe(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False)
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    message = first["msg"].removeprefix("Value error, ")
    match first["type"]:
        case "extra_forbidden":
            message = "is not a field of a DSortJob"
        case "missing":
            message = "is needed and not there"
        case "value_error":
            pass
        case _:
            message = f"{message[0].lower()}{message[1:]}, not {first['input']!r}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{path}: {message}{more}"


def job_fingerprint(spec: DSortJobSpec, inputs: Iterable[PinnedInput]) -> str:
    """sha256 (hex) of what decides the output's bytes and place: the inputs as pinned, output, order and records.

    Workers, memory, deadlines and dryRun have no part in it.
    """
    content = {
        **spec.model_dump(mode="json", by_alias=True, include={"input", "output", "order", "records"}),
        "pinned": [list(shard) for shard in inputs],
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
