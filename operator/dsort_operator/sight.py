"""What the watches have seen, corrected by what we know better: DSortJobs, and the pods and Jobs that belong to them.

A watch is late, and it may miss a deletion for ever: when it has to begin anew, whatever went meanwhile is in no list and in
no event. So answers to our own requests count where they are newer, and now and then the objects are listed and what is not
among them is forgotten. A uid is never used twice, so what is gone stays gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dsort_api.labels import FINALIZER, MANAGED_BY
from dsort_api.status import State
from dsort_operator.children import Body, items, part
from dsort_operator.naming import base_name, cleanup_name

_ENDS: Final = frozenset({"Complete", "Failed"})
_KEPT_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "labels",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
)
_KEPT_SPEC: Final = ("nodeName", "suspend", "completions")
_NONE: Final[tuple[Body, ...]] = ()


Index = Mapping[str, Iterable[Body]]
"""An index that kopf keeps: the objects of each DSortJob, by its uid."""


@dataclass(slots=True)
class Sight:
    """The indexes; empty until kopf has made them."""

    jobs: Index = field(default_factory=dict)
    workloads: Index = field(default_factory=dict)
    pods: Index = field(default_factory=dict)
    _known: dict[str, JobSight] = field(default_factory=dict)

    def of(self, uid: str) -> JobSight:
        """What is known of one DSortJob; it is remembered until `forget`."""
        return self._known.setdefault(uid, JobSight(self, uid))

    def forget(self, uid: str) -> None:
        """A watch has told of the end of this DSortJob."""
        self._known.pop(uid, None)

    def states(self) -> Mapping[str, int]:
        """How many DSortJobs there are, by state."""
        counts = dict.fromkeys(map(str, State), 0)
        for uid in self.jobs:
            body = self.of(uid).job
            if body is not None and is_ours(body):
                state = part(body, "status").get("state") or str(State.PENDING)
                counts[state] = counts.get(state, 0) + 1
        return counts

    def levels(self) -> Mapping[int, int]:
        """How many DSortJobs there are, by throttle level."""
        counts: dict[int, int] = {}
        for uid in self.jobs:
            body = self.of(uid).job
            if body is not None and is_ours(body):
                level = part(part(body, "status"), "memory").get("level") or 0
                counts[level] = counts.get(level, 0) + 1
        return counts


class JobSight:
    """What is known of one DSortJob."""

    def __init__(self, sight: Sight, uid: str) -> None:
        self.uid = uid
        self._sight = sight
        self._answers: dict[str, Body] = {}
        self._gone: set[str] = set()
        self._is_gone = False
        self.namespace_ending = False
        """Whether the namespace was seen to go. It never stays after that."""

    @property
    def job(self) -> Body | None:
        """The DSortJob itself; None when it is gone."""
        seen = None if self._is_gone else next(iter(self._sight.jobs.get(self.uid, _NONE)), None)
        return None if seen is None else self._newest(seen)

    @property
    def pods(self) -> list[Body]:
        """Its pods, those of the cleanup Job too."""
        return self._merged(self._sight.pods, "Pod")

    def workload(self, name: str) -> Body | None:
        """Its Job of this name."""
        jobs = self._merged(self._sight.workloads, "Job")
        return next((job for job in jobs if part(job, "metadata").get("name") == name), None)

    def note(self, body: Body) -> None:
        """The API server's answer to a request of ours."""
        self._answers[part(body, "metadata")["uid"]] = body

    def note_gone(self, uid: str) -> None:
        """The API server's answer to a request of ours: there is no such object."""
        self._gone.add(uid)
        self._answers.pop(uid, None)

    def vanished(self) -> None:
        """The DSortJob is not there any more, although no watch said so yet."""
        self._is_gone = True

    def snapshot(self) -> frozenset[str]:
        """The uids of all children that are known now."""
        return frozenset(part(body, "metadata").get("uid", "") for body in (*self.pods, *self._workloads))

    def listed(self, *, pods: Iterable[Body], workloads: Iterable[Body], known: frozenset[str]) -> None:
        """All children there are, by lists that were asked for after `known` was taken."""
        there = {
            part(body, "metadata")["uid"]: {**body, "kind": kind}  # what is in a list does not say its kind
            for kind, bodies in (("Pod", pods), ("Job", workloads))
            for body in bodies
        }
        for uid in known - there.keys():
            self.note_gone(uid)
        self._answers.update(there)

    @property
    def _workloads(self) -> list[Body]:
        return self._merged(self._sight.workloads, "Job")

    def _merged(self, index: Index, kind: str) -> list[Body]:
        job = next(iter(self._sight.jobs.get(self.uid, _NONE)), None)
        if job is None:
            return []
        seen = {
            part(body, "metadata").get("uid", ""): self._newest(body) for body in index.get(self.uid, _NONE)
        }
        for uid, body in self._answers.items():
            if body.get("kind") == kind:
                seen.setdefault(uid, body)
        belongs = belongs_of(job)[kind]
        return [body for uid, body in seen.items() if uid not in self._gone and belongs(body)]

    def _newest(self, seen: Body) -> Body:
        uid = part(seen, "metadata").get("uid", "")
        answer = self._answers.get(uid)
        if answer is None:
            return seen
        if version(answer) > version(seen):
            return answer
        # The watch has caught up: from now on it will also tell of the end.
        del self._answers[uid]
        return seen


def belongs_of(job: Body) -> Mapping[str, Callable[[Body], bool]]:
    """What makes a Job or a pod one of the DSortJob, by kind: its place and who controls it. Labels anybody may write.

    A pod's Job may be gone before it, so it counts what that Job was called: who may make pods there may read the job's
    Secret anyway.
    """
    metadata = part(job, "metadata")
    uid, namespace = metadata["uid"], metadata.get("namespace")
    cleanup = cleanup_name(metadata["name"], uid=uid)
    names = {base_name(metadata["name"], uid=uid), cleanup}

    def of_job(body: Body) -> bool:
        controller = _controller(body)
        own = controller.get("uid") == uid or (
            not controller and part(body, "metadata").get("name") == cleanup
        )
        return own and part(body, "metadata").get("namespace") == namespace

    def of_pod(body: Body) -> bool:
        controller = _controller(body)
        own = controller.get("kind") == "Job" and controller.get("name") in names
        return own and part(body, "metadata").get("namespace") == namespace

    return {"Job": of_job, "Pod": of_pod}


def _controller(body: Body) -> Body:
    owners = items(part(body, "metadata"), "ownerReferences")
    return next((owner for owner in owners if owner.get("controller")), {})


def version(body: Body) -> int:
    """Of two versions of one object the later has the greater number."""
    text = part(body, "metadata").get("resourceVersion", "")
    return int(text) if text.isdecimal() else 0


def trimmed(body: Body) -> Body:
    """The part of a pod or a Job that anybody decides by: there may be many thousands."""
    metadata, spec = part(body, "metadata"), part(body, "spec")
    kept: dict[str, Any] = {
        "kind": body.get("kind"),
        "metadata": {name: metadata[name] for name in _KEPT_METADATA if name in metadata},
        "spec": {name: spec[name] for name in _KEPT_SPEC if name in spec},
        "status": dict(part(body, "status")),
    }
    return kept


def is_ours(body: Body) -> bool:
    """Whether this operator looks after the DSortJob."""
    return part(body, "spec").get("managedBy") in {None, MANAGED_BY}


def is_terminal(body: Body) -> bool:
    """Whether the DSortJob has ended."""
    conditions = items(part(body, "status"), "conditions")
    return any(one.get("type") in _ENDS and one.get("status") == "True" for one in conditions)


def has_finalizer(body: Body) -> bool:
    """Whether the DSortJob waits for this operator before it goes."""
    return FINALIZER in (part(body, "metadata").get("finalizers") or ())


def is_at_rest(body: Body) -> bool:
    """Whether nothing is to be done for the DSortJob until it changes."""
    if not is_ours(body):
        return True
    if has_finalizer(body):
        return False
    if part(body, "metadata").get("deletionTimestamp"):
        return True
    seen = part(body, "status").get("observedGeneration") == part(body, "metadata").get("generation")
    return is_terminal(body) and seen and part(body, "spec").get("ttlSecondsAfterFinished") is None
