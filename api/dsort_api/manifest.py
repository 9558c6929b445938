"""The manifest: what a job read, what it wrote, and the proof that nothing was lost.

`dsort-manifest.json` stands beside the shards and is written last: it is the mark of a result. Apart from its `run` block it
is a function of the inputs and the spec, so two manifests can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from dsort_api.spec import DSortJobSpec, PinnedInput
from dsort_api.templates import is_below

MANIFEST_VERSION: Final = "dsort.dev/v1alpha1"

__all__ = ["Counts", "InputShard", "Manifest", "ManifestJob", "OutputShardRecord", "PinnedInput", "RunFacts"]


def _names_a_file(name: str) -> str:
    if not is_below(name):
        raise ValueError(f"{name!r} is not the name of a file in the folder")
    return name


_Name = Annotated[str, AfterValidator(_names_a_file)]


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Counts(_Part):
    """Counts of the whole job. Directories and global headers are not members."""

    shards_listed: int = 0
    shards_missing: int = 0
    shards_corrupt: int = 0
    records_in: int = 0
    members_in: int = 0
    records_out: int = 0
    members_out: int = 0
    records_left_out: int = 0
    members_left_out: int = 0
    directories: int = 0
    global_headers: int = 0
    duplicates: int = 0
    unsupported: int = 0
    trailing_data: int = 0
    collisions: int = 0

    def check(self) -> None:
        """Raise ValueError unless what went in came out or was left out by a named reaction."""
        if self.records_in != self.records_out + self.records_left_out:
            raise ValueError(
                f"{self.records_in} records in, {self.records_out} out and {self.records_left_out} left out do not add up"
            )
        if self.members_in != self.members_out + self.members_left_out:
            raise ValueError(
                f"{self.members_in} members in, {self.members_out} out and {self.members_left_out} left out do not add up"
            )


class ManifestJob(_Part):
    """Which job this is the result of. fingerprint: of the spec's part that decides the bytes, and the pinned inputs."""

    fingerprint: str


class InputShard(_Part):
    """A pinned input, and how many of its records the job carried."""

    name: _Name
    size: int
    mtime_ns: int
    records: int


class OutputShardRecord(_Part):
    """An output shard: bytes of the file, records and members in it, and `xxh128:` with the XXH3-128 of the file in hex."""

    name: _Name
    bytes: int
    records: int
    members: int
    checksum: str


class RunFacts(_Part):
    """Facts of this one run: the only block that differs between two equal jobs. Times are RFC 3339, in UTC."""

    id: str
    name: str
    input_url: str
    output_url: str
    started: str
    finished: str
    seconds: float
    ranks: int
    version: str
    findings: list[str] = []
    """Files beside the manifest that name every culprit, one a rank."""


class Manifest(_Part):
    """The file."""

    api_version: Literal["dsort.dev/v1alpha1"] = MANIFEST_VERSION
    kind: Literal["DSortManifest"] = "DSortManifest"
    job: ManifestJob
    spec: DSortJobSpec
    seed: int
    counts: Counts
    inputs: list[InputShard]
    missing: list[str] = []
    outputs: list[OutputShardRecord]
    run: RunFacts

    def contradictions(self) -> Iterator[str]:
        """Where the manifest contradicts itself, in words: sums that do not agree, and names that stand twice."""
        counts = self.counts
        try:
            counts.check()
        except ValueError as error:
            yield str(error)
        for what, each, counted in (
            ("records of the outputs", [shard.records for shard in self.outputs], counts.records_out),
            ("members of the outputs", [shard.members for shard in self.outputs], counts.members_out),
            ("records of the inputs", [shard.records for shard in self.inputs], counts.records_out),
            ("input shards", [1] * len(self.inputs), counts.shards_listed),
            ("missing shards", [1] * len(self.missing), counts.shards_missing),
        ):
            if sum(each) != counted:
                yield f"{sum(each)} {what}, and {counted} by its counts"
        for what, names in (("output", self.outputs), ("input", self.inputs)):
            yield from (
                f"{what} {name} stands there {times} times"
                for name, times in Counter(shard.name for shard in names).items()
                if times > 1
            )
