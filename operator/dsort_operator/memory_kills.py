"""Pods that the kernel killed for want of memory: each counts once, and ranks that start afterwards get a smaller budget. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from dsort_api.spec import LEAST_BUDGET
from dsort_api.status import MOST_ABNORMAL_RANKS, JobMemory
from dsort_operator.children import WorkerPod

_EVER: Final = datetime.min.replace(tzinfo=UTC)


class Kills(NamedTuple):
    """The pods that had not been counted, and what status.memory says with them."""

    pods: tuple[WorkerPod, ...]
    memory: JobMemory


def count_kills(before: JobMemory, *, pods: Iterable[WorkerPod], budget: int) -> Kills:
    """Count the pods that were killed since. budget: bytes of a rank, as the spec has it.

    The budget falls by a quarter, but only for a pod that was born after it fell last: those that are older died of the larger
    one, and if each of them took its quarter, one moment could leave a large job with nothing.
    """
    new = sorted((pod for pod in pods if _is_new(pod, before)), key=_end)
    if not new:
        return Kills((), before)
    update: dict[str, object] = {
        "oom_kills": before.oom_kills + len(new),
        "oom_killed": [*before.oom_killed, *(pod.uid for pod in new)][-MOST_ABNORMAL_RANKS:],
        "last_oom_kill": max(before.last_oom_kill or _EVER, _end(new[-1])),
    }
    if any(_born(pod) >= (before.budget_since or _EVER) for pod in new):
        least = min(budget, LEAST_BUDGET)
        update["budget"] = max(least, (before.budget or budget) * 3 // 4)
        # A replacement is born after this, whenever the operator comes to see it.
        update["budget_since"] = _end(new[0])
    return Kills(tuple(new), before.model_copy(update=update))


def _is_new(pod: WorkerPod, before: JobMemory) -> bool:
    if not pod.oom_killed or pod.uid in before.oom_killed:
        return False
    # The list has the last few: where more were counted, what ended earlier than the last of them was among them.
    return len(before.oom_killed) < MOST_ABNORMAL_RANKS or _end(pod) > (before.last_oom_kill or _EVER)


def _end(pod: WorkerPod) -> datetime:
    return pod.ended or _born(pod)


def _born(pod: WorkerPod) -> datetime:
    return pod.created or _EVER
