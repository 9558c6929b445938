"""Why a job cannot go on, from what its ranks, pods and Job say. Pure.

Kubernetes starts a pod again as long as spec.backoffLimit allows; what another try would meet again is found here, from the
best witness there is: the rank's own word, the last words of its pod, its exit code alone, the verdict of the Job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

from dsort_api.messages import Failure
from dsort_api.reasons import EXIT_CODES, DSortError, Reason
from dsort_operator.children import WorkerPod, WorkersJob, exit_in
from dsort_operator.world import World

ANOTHER_TRY: Final = frozenset({Reason.INTERNAL, Reason.PEER_LOST, Reason.ABORTED})
"""Failures of a rank that a new process may not meet again. Aborted is one: a rank says so when a peer or the operator told
it to end, and whoever told it knows the reason.
"""

EXIT_TERMINATED: Final = 143
"""Exit code of a rank that was told to end (SIGTERM): nothing failed."""

_REASON_OF_EXIT: Final = {code: reason for reason, code in EXIT_CODES.items() if code > 2}
_LONGEST: Final = 1024


class End(NamedTuple):
    """How a pod ended: in one word, and in one line that names it."""

    reason: str
    message: str


def lasting_failure(world: World) -> Failure | None:
    """What ends the job; None while Kubernetes may go on trying."""
    said = [report.observed.failure for _, report in sorted(world.reports.items()) if report.observed.failure]
    for failure in (*said, *map(_failure_of, world.pods)):
        if failure is not None and failure.reason not in ANOTHER_TRY:
            return failure
    for rank, refusal in sorted(world.refused.items()):
        if refusal.lasting:
            return Failure(reason=Reason.PROTOCOL_MISMATCH, message=f"rank {rank} {refusal.message}")
    if world.workers is not None and world.workers.failed_reason:
        return _verdict(world, world.workers)
    return None


def end_of(pod: WorkerPod) -> End:
    """How a pod that failed did so."""
    said = _last_words(pod)
    if pod.oom_killed:
        return End(
            "OOMKilled",
            f"pod {pod.name} was OOMKilled: it needed more than its memory limit; raise the limit, or lower spec.memory.budget",
        )
    if said is not None:
        return End(said.reason, f"pod {pod.name}: {said.message}")
    if pod.ended_reason:
        more = f": {pod.ended_message}" if pod.ended_message else ""
        return End(
            pod.ended_reason, f"pod {pod.name} was ended by Kubernetes ({pod.ended_reason}){more}"[:_LONGEST]
        )
    if pod.exit_code is None:
        return End("Failed", f"pod {pod.name} failed and left no message")
    return End(
        "Error", f"pod {pod.name} ended with exit code {pod.exit_code} and left no message; see its log"
    )


def newest(pods: Iterable[WorkerPod]) -> dict[int, WorkerPod]:
    """The pod of each index that was created last."""
    ordered = sorted(
        pods, key=lambda pod: (pod.created.timestamp() if pod.created else 0.0, pod.live, pod.name)
    )
    return {pod.index: pod for pod in ordered if pod.index >= 0}


def one_line(text: str) -> str:
    """Text of any origin as one line that a status may hold."""
    return DSortError(Reason.INTERNAL, " ".join(text.split())).message[:_LONGEST]


def _failure_of(pod: WorkerPod) -> Failure | None:
    """The reason a pod gave, by its last words or else by its exit code."""
    said = _last_words(pod)
    if said is not None or pod.exit_code is None:
        return said
    reason = _REASON_OF_EXIT.get(pod.exit_code)
    return Failure(reason=reason, message=end_of(pod).message) if reason is not None else None


def _last_words(pod: WorkerPod) -> Failure | None:
    if not pod.termination_message.startswith("{"):
        return None
    try:
        words = json.loads(pod.termination_message)
        return Failure(reason=Reason(words["reason"]), message=one_line(str(words.get("message", ""))))
    except (ValueError, KeyError):  # cut off, or of another version
        return None


def _verdict(world: World, workers: WorkersJob) -> Failure:
    """Why the Job failed, in our words."""
    code = exit_in(workers.failed_message)
    reason = _REASON_OF_EXIT.get(code) if code is not None else None
    if reason is not None and reason not in ANOTHER_TRY:
        return Failure(reason=reason, message=one_line(workers.failed_message))
    if workers.failed_reason == Reason.DEADLINE_EXCEEDED:
        return Failure(reason=Reason.DEADLINE_EXCEEDED, message=one_line(workers.failed_message))
    last = _last_failed(world.pods)
    how = end_of(last).message if last is not None else one_line(workers.failed_message)
    limit = f" ({world.definition.spec.backoff_limit})" if world.definition is not None else ""
    starved = last is not None and last.oom_killed
    return Failure(
        reason=Reason.MEMORY_LIMIT_EXCEEDED if starved else Reason.BACKOFF_LIMIT_EXCEEDED,
        message=f"{how.rstrip('.') or workers.failed_reason}; the restarts of spec.backoffLimit{limit} are used up",
    )


def _last_failed(pods: Iterable[WorkerPod]) -> WorkerPod | None:
    """Of the pods that failed, and were not told to end, the one that did so last."""
    failed = (
        pod for pod in newest(pods).values() if pod.phase == "Failed" and pod.exit_code != EXIT_TERMINATED
    )
    return max(
        failed, key=lambda pod: (pod.ended.timestamp() if pod.ended else 0.0, -pod.index), default=None
    )
