"""The control exchange: one idempotent request, `PUT /v1/control`, with the desired state; its answer is the observed state.

Whoever drives ranks (the operator in a cluster, the local runner, a test) repeats it. Nothing is registered, nothing is
pushed by a rank, and nothing is lost when the driver restarts. Field names on the wire are those of the classes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from dsort_api.labels import MOST_LANES
from dsort_api.manifest import Counts
from dsort_api.reasons import Reason
from dsort_api.spec import DSortJobSpec

PROTOCOL: Final = 2
"""Version of these messages and of the exchange between ranks."""

HIGHEST_LEVEL: Final = 4
"""The last of the throttle levels; 0 is full speed."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class JobDefinition(_Message):
    """What a rank is started with. id: the resource's uid, or the job's fingerprint; ranks: their number, 1 or more.

    lanes: ranks in each pod; pod i has the ranks from i * lanes on.
    """

    protocol: int = PROTOCOL
    id: str
    name: str
    spec: DSortJobSpec
    ranks: int = Field(ge=1)
    lanes: int = Field(default=1, ge=1, le=MOST_LANES)
    fingerprint: str = ""
    """Of the spec and the inputs as whoever started the job listed them, where the id comes of it; rank 0's listing must agree."""


class Peer(_Message):
    """Where a rank serves data, and in which epoch it lives."""

    rank: int
    url: str
    epoch: str


class PeerTable(_Message):
    """All ranks in their order. version grows with every change."""

    version: int
    peers: list[Peer]


class Stop(_Message):
    """The order to stop, one way."""

    reason: Reason
    message: str = ""


class Desired(_Message):
    """What the driver wants of a rank.

    epoch: of the rank addressed, "" while it is not known. peers: None means unchanged. memory_budget: bytes, 0 while not
    decided. throttle_level: 0 (full speed) to HIGHEST_LEVEL; the greater, the less payload may be under way. seen: version of
    the observed state that the driver has. wait_seconds: how long the answer may be held.
    """

    protocol: int = PROTOCOL
    epoch: str = ""
    peers: PeerTable | None = None
    memory_budget: int = 0
    throttle_level: int = Field(default=0, ge=0, le=HIGHEST_LEVEL)
    stop: Stop | None = None
    seen: int = 0
    wait_seconds: float = 0.0


class Phase(StrEnum):
    """Where a rank is in the job. The last three are final."""

    STARTING = "Starting"
    LIST = "List"
    SCAN = "Scan"
    ORDER = "Order"
    PACK = "Pack"
    CREATE = "Create"
    PUBLISH = "Publish"
    COMPLETE = "Complete"
    FAILED = "Failed"
    STOPPED = "Stopped"


class Progress(_Message):
    """Progress of the current phase (a total of 0 is unknown), and bytes on the wire since the start, of rows and of payload."""

    records_done: int = 0
    records_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    shards_done: int = 0
    shards_total: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class Memory(_Message):
    """Bytes. budget, and what of it is reserved for buffers; resident memory of the process, now and at its peak.

    The others are of the control group that the rank is in, which it may share with others, or of the process where there is
    no such group (source): limit (0: none is known), memory that the kernel cannot take back without ending somebody, now and
    at its peak, and the kubelet's working set. pressure: percent of the last ten seconds in which somebody waited for memory,
    None where the kernel does not tell. spilled: bytes of metadata that went to disk for want of memory.
    """

    budget: int = 0
    reserved: int = 0
    rss: int = 0
    peak_rss: int = 0
    source: Literal["cgroup2", "cgroup", "process"] = "process"
    limit: int = 0
    unreclaimable: int = 0
    peak_unreclaimable: int = 0
    working_set: int = 0
    pressure: float | None = None
    spilled: int = 0


class Flow(_Message):
    """How payload moves. level: the throttle level at work, the driver's or the rank's own, whichever is greater.

    window: bytes that may be asked for at once now; outstanding: bytes asked for that have not come; requests: of them.
    serving, queued: answers in progress, and requests that wait for their turn; refused: requests sent away, since the start.
    """

    level: int = 0
    window: int = 0
    outstanding: int = 0
    requests: int = 0
    serving: int = 0
    queued: int = 0
    refused: int = 0


class Failure(_Message):
    """Why a rank failed."""

    reason: Reason
    message: str


class Warning(_Message):  # noqa: A001 - the term of the spec's reactions
    """A culprit that a reaction of Warn passed over. kind: the field of the spec."""

    kind: str
    message: str


class PlannedShard(_Message):
    """An output shard of a dry run: bytes of the file, records in it."""

    name: str
    bytes: int
    records: int


class PlanTotals(_Message):
    """What a dry run comes to: output shards, records in them, bytes of their files."""

    shards: int
    records: int
    bytes: int


class PlannedOutput(_Message):
    """The result of a dry run. shards: one by one, for who asked on the command line; their number has no bound, so none are
    listed in a cluster.
    """

    totals: PlanTotals
    shards: list[PlannedShard] = []
    counts: Counts


class Totals(_Message):
    """What a job read and wrote, in all: records, and bytes of shards."""

    records_in: int
    records_out: int
    bytes_in: int
    bytes_out: int


class Outcome(_Message):
    """How a rank completed. manifest: its path; totals: of the manifest, where the rank saw it written; plan: on rank 0
    of a dry run.
    """

    state: Literal["Complete", "AlreadyComplete", "Planned"]
    manifest: str | None = None
    totals: Totals | None = None
    plan: PlannedOutput | None = None


class Observed(_Message):
    """What a rank says of itself. version grows with every change that is worth waking the driver."""

    protocol: int = PROTOCOL
    epoch: str
    rank: int
    version: int
    data_url: str = ""
    phase: Phase = Phase.STARTING
    peers_version: int = 0
    progress: Progress = Field(default_factory=Progress)
    memory: Memory = Field(default_factory=Memory)
    flow: Flow = Field(default_factory=Flow)
    failure: Failure | None = None
    warnings: list[Warning] = []
    warning_count: int = 0
    outcome: Outcome | None = None
