"""The children of a DSortJob as far as anybody decides by them. Read from the plain mappings of the Kubernetes API; pure.

Fields that a server left out, and fields that this version does not know, never raise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from pydantic import TypeAdapter, ValidationError

from dsort_api.labels import INDEX_LABEL, OOM_KILLED, WORKER_CONTAINER
from dsort_api.reasons import EXIT_CODES, Reason

Body = Mapping[str, Any]
"""An object of the Kubernetes API, as JSON has it."""

_EXIT_IN_VERDICT: Final = re.compile(r"failed with exit code (\d+)")
_KILLED: Final = 137
"""Exit code of a container that ended by SIGKILL."""
_ENDED: Final = frozenset({"Succeeded", "Failed"})
_TIME: Final = TypeAdapter(datetime)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersJob:
    """The Indexed Job of the worker pods.

    `failed_reason` is set as soon as Kubernetes has decided that the Job fails, while its pods still end. `started` is
    when it was created or last resumed; `suspended_since` when it was suspended, None while it is not.
    """

    name: str
    uid: str
    suspended: bool
    completions: int
    active: int = 0
    succeeded: int = 0
    failed_reason: str = ""
    failed_message: str = ""
    complete: bool = False
    deleting: bool = False
    created: datetime | None = None
    started: datetime | None = None
    suspended_since: datetime | None = None

    @classmethod
    def of(cls, body: Body) -> Self:
        """From a batch/v1 Job."""
        metadata, spec, status = part(body, "metadata"), part(body, "spec"), part(body, "status")
        conditions = _conditions(status, wanted=("True",))
        failed = conditions.get("Failed") or conditions.get("FailureTarget") or {}
        return cls(
            name=metadata.get("name", ""),
            uid=metadata.get("uid", ""),
            suspended=bool(spec.get("suspend")),
            completions=spec.get("completions") or 1,
            active=status.get("active") or 0,
            succeeded=status.get("succeeded") or 0,
            failed_reason=failed.get("reason", "") or ("Failed" if failed else ""),
            failed_message=failed.get("message", ""),
            complete="Complete" in conditions,
            deleting=metadata.get("deletionTimestamp") is not None,
            created=time_of(metadata.get("creationTimestamp")),
            started=time_of(status.get("startTime")),
            suspended_since=time_of(part(conditions, "Suspended").get("lastTransitionTime")),
        )

    @property
    def ended(self) -> bool:
        """Whether Kubernetes starts no more pods for it."""
        return self.complete or bool(self.failed_reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPod:
    """A worker pod. `index` is its completion index, `exit_code` None until its container has ended.

    `deleted` is the deletionTimestamp. `waiting_*` is why its container does not start, `ended_*` why Kubernetes ended the
    pod as a whole: Evicted and the like. `ended` is when its container did.
    """

    name: str
    uid: str
    index: int
    phase: str = "Pending"
    ip: str = ""
    node: str = ""
    ready: bool = False
    deleted: datetime | None = None
    scheduled: bool = False
    unschedulable_message: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    termination_message: str = ""
    ended_reason: str = ""
    ended_message: str = ""
    created: datetime | None = None
    ended: datetime | None = None

    @classmethod
    def of(cls, body: Body) -> Self:
        """From a v1 Pod of an Indexed Job."""
        metadata, spec, status = part(body, "metadata"), part(body, "spec"), part(body, "status")
        conditions = _conditions(status)
        scheduled = part(conditions, "PodScheduled")
        states = (
            part(one, "state")
            for one in items(status, "containerStatuses")
            if one.get("name") == WORKER_CONTAINER
        )
        state = next(states, {})
        waiting, terminated = part(state, "waiting"), part(state, "terminated")
        index = part(metadata, "labels").get(INDEX_LABEL, "")
        return cls(
            name=metadata.get("name", ""),
            uid=metadata.get("uid", ""),
            index=int(index) if index.isdecimal() else -1,
            phase=status.get("phase") or "Pending",
            ip=status.get("podIP") or "",
            node=spec.get("nodeName") or "",
            ready=part(conditions, "Ready").get("status") == "True",
            deleted=time_of(metadata.get("deletionTimestamp")),
            scheduled=scheduled.get("status") == "True",
            unschedulable_message=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
            waiting_reason=waiting.get("reason", ""),
            waiting_message=waiting.get("message", ""),
            exit_code=terminated.get("exitCode"),
            # Container runtimes give that reason as well to one in which anything was ever killed, however it ended.
            oom_killed=terminated.get("exitCode") == _KILLED
            and OOM_KILLED in (terminated.get("reason"), _said_reason(terminated.get("message", ""))),
            termination_message=terminated.get("message", ""),
            ended_reason=status.get("reason") or "",
            ended_message=status.get("message") or "",
            created=time_of(metadata.get("creationTimestamp")),
            ended=time_of(terminated.get("finishedAt")),
        )

    @property
    def deleting(self) -> bool:
        """Whether it was told to end."""
        return self.deleted is not None

    @property
    def live(self) -> bool:
        """Whether its processes may still run."""
        return self.phase not in _ENDED

    @property
    def succeeded(self) -> bool:
        """Whether all its ranks ended with the manifest durable. A kubelet says so a second before it calls the pod ended."""
        return self.phase == "Succeeded" or (self.phase != "Failed" and self.exit_code == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupJob:
    """The Job that takes back what a job without a result left in its output.

    `kept`: it failed because there is a result after all: the ranks had written it, and nobody lived to say so.
    """

    complete: bool = False
    failed: bool = False
    kept: bool = False
    message: str = ""
    deleting: bool = False
    created: datetime | None = None

    @classmethod
    def of(cls, body: Body) -> Self:
        """From a batch/v1 Job."""
        metadata, conditions = part(body, "metadata"), _conditions(part(body, "status"), wanted=("True",))
        failed = part(conditions, "Failed")
        return cls(
            complete="Complete" in conditions,
            failed=bool(failed),
            kept=exit_in(failed.get("message", "")) == EXIT_CODES[Reason.JOB_COMPLETE],
            message=failed.get("message", ""),
            deleting=metadata.get("deletionTimestamp") is not None,
            created=time_of(metadata.get("creationTimestamp")),
        )


def exit_in(verdict: str) -> int | None:
    """The exit code of a container that a Job's pod failure policy has ended the Job for, in the words of its condition."""
    found = _EXIT_IN_VERDICT.search(verdict)
    return int(found[1]) if found else None


def time_of(value: object) -> datetime | None:
    """A time as the API writes it; None for what is none."""
    try:
        return _TIME.validate_python(value) if value else None
    except ValidationError:
        return None


def part(body: Body, name: str) -> Body:
    """A mapping within an object; empty where it is not there."""
    return body.get(name) or {}


def items(body: Body, name: str) -> Sequence[Body]:
    """A list of mappings within an object; empty where it is not there."""
    return body.get(name) or ()


def _conditions(status: Body, *, wanted: tuple[str, ...] = ("True", "False", "Unknown")) -> dict[str, Body]:
    return {one.get("type", ""): one for one in items(status, "conditions") if one.get("status") in wanted}


def _said_reason(termination_message: str) -> str:
    """The reason in a pod's last words; empty where there is none."""
    try:
        words = json.loads(termination_message)
    except ValueError:
        return ""
    return str(words.get("reason", "")) if isinstance(words, dict) else ""
