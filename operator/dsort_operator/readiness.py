"""Which ranks are ready, and what is wrong with the others. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dsort_api.messages import Phase
from dsort_api.reasons import Reason
from dsort_api.status import MOST_ABNORMAL_RANKS, AbnormalRank
from dsort_operator.children import WorkerPod
from dsort_operator.failure import end_of, newest, one_line
from dsort_operator.world import World

_STARTING: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
_LONGEST_WORD: Final = 128
_STILL: Final = frozenset({Phase.STARTING, Phase.FAILED, Phase.STOPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """ready: how many ranks answer, or are done. moving: whether any rank is past its start. abnormal: the first ranks that are
    not as they should be.
    """

    ready: int
    moving: bool
    abnormal: tuple[AbnormalRank, ...]


def readiness(world: World, *, lanes: int, silence: float) -> Readiness:
    """Of all ranks. silence: seconds after which a rank that said nothing counts only by its pod."""
    pods = newest(world.pods)
    live = {pod.uid for pod in world.live_pods}
    ready = sum(
        _is_ready(world, pod, rank=rank, silence=silence)
        for pod in pods.values()
        for rank in _ranks(pod, lanes=lanes)
    )
    wrong = sorted(
        (
            *(one for pod in pods.values() for one in _wrong(world, pod, lanes=lanes, silence=silence)),
            *_refused(world, lanes=lanes),
        ),
        key=lambda one: one.rank,
    )
    return Readiness(
        ready=ready,
        moving=any(
            report.observed.phase not in _STILL and report.pod in live for report in world.reports.values()
        ),
        abnormal=tuple(wrong[:MOST_ABNORMAL_RANKS]),
    )


def _ranks(pod: WorkerPod, *, lanes: int) -> range:
    return range(pod.index * lanes, (pod.index + 1) * lanes)


def _is_ready(world: World, pod: WorkerPod, *, rank: int, silence: float) -> bool:
    if pod.succeeded:
        return True
    if not pod.live or pod.deleting or rank in world.refused:
        return False
    report = world.reports.get(rank)
    return pod.ready or (report is not None and report.pod == pod.uid and report.age < silence)


def _wrong(world: World, pod: WorkerPod, *, lanes: int, silence: float) -> Iterator[AbnormalRank]:
    """What is wrong with a pod, as a complaint about its first rank; or else with its ranks."""
    trouble = _trouble(world, pod)
    if trouble is not None:
        reason, message = trouble
        yield AbnormalRank(
            rank=pod.index * lanes, pod=pod.name, reason=_word(reason), message=one_line(message)
        )
        return
    for rank in _ranks(pod, lanes=lanes):
        report = world.reports.get(rank)
        if rank in world.refused:
            reason = Reason.PROTOCOL_MISMATCH if world.refused[rank].lasting else "Refused"
            message = f"rank {rank} {world.refused[rank].message}"
        elif report is None or report.pod != pod.uid or pod.succeeded:
            continue
        elif report.observed.failure is not None:
            reason, message = report.observed.failure.reason, report.observed.failure.message
        elif report.age >= silence:
            reason, message = "Silent", "it does not answer the operator"
        else:
            continue
        yield AbnormalRank(rank=rank, pod=pod.name, reason=reason, message=one_line(message))


def _refused(world: World, *, lanes: int) -> Iterator[AbnormalRank]:
    """What keeps Kubernetes from making pods, as a complaint about the first rank that has none."""
    if world.pods_refused and world.workers is not None:
        there = {pod.index for pod in world.pods if pod.live or pod.succeeded}
        first = next(index for index in range(world.workers.completions) if index not in there)
        yield AbnormalRank(rank=first * lanes, reason="FailedCreate", message=one_line(world.pods_refused))


def _word(reason: str) -> str:
    """A reason of anybody as one that a condition may have."""
    word = "".join(character for character in reason if character.isascii() and character.isalnum())
    return word[:_LONGEST_WORD] if word[:1].isalpha() else "Unknown"


def _trouble(world: World, pod: WorkerPod) -> tuple[str, str] | None:
    if pod.phase == "Failed":
        return end_of(pod)
    if pod.live and pod.node in world.lost_nodes:
        return "NodeLost", f"pod {pod.name}: its node {pod.node} is not ready"
    if pod.deleting and pod.live:
        return "Terminating", f"pod {pod.name} was told to end"
    if pod.unschedulable_message:
        return "Unschedulable", f"pod {pod.name}: {pod.unschedulable_message}"
    if pod.live and pod.waiting_reason not in _STARTING:
        return pod.waiting_reason, f"pod {pod.name}: {pod.waiting_message or pod.waiting_reason}"
    return None
