"""What the runner does next, as a function of what it sees. Pure: no clock, no process, no socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dsort_api.messages import Failure, Phase
from dsort_api.reasons import EXIT_CODES, Reason
from dsort_api.spec import LEAST_BUDGET

if TYPE_CHECKING:
    from collections.abc import Sequence

KEEPS_STAGING = frozenset(
    {
        Reason.BACKOFF_LIMIT_EXCEEDED,
        Reason.DEADLINE_EXCEEDED,
        Reason.INTERNAL,
        Reason.MEMORY_LIMIT_EXCEEDED,
        Reason.OUTPUT_UNWRITABLE,
        Reason.PEER_LOST,
    }
)
"""After these the same job may well succeed when it is run again, so what it staged is left for it to
continue with.
"""

NO_WORD_ON_OUTPUT = frozenset(
    {
        Reason.ABORTED,
        Reason.BACKOFF_LIMIT_EXCEEDED,
        Reason.DEADLINE_EXCEEDED,
        Reason.INTERNAL,
        Reason.MEMORY_LIMIT_EXCEEDED,
        Reason.PEER_LOST,
    }
)
"""Ends that say nothing of the output: where the manifest was written before them, the result is whole."""

TRANSIENT = frozenset({Reason.INTERNAL, Reason.PEER_LOST})
"""Failures of a rank that a new process may not meet again."""

_REASON_OF_EXIT = {code: reason for reason, code in EXIT_CODES.items() if code > 2}


class RankView(NamedTuple):
    """What is known of one rank.

    `exit_code` is None while its process runs (or was only asked for), negative for a signal; `oom_killed`:
    which the kernel sent for want of memory. `phase` and `failure` are what the process last said of itself.
    """

    rank: int
    exit_code: int | None = None
    oom_killed: bool = False
    phase: Phase | None = None
    failure: Failure | None = None

    @property
    def end(self) -> str:
        """How its process ended, in words."""
        if self.oom_killed:
            return "was killed for want of memory"
        return how_it_ended(self.exit_code if self.exit_code is not None else 1)


class Wait:
    """Nothing to do before something changes."""


class Restart(NamedTuple):
    """Start a new process for each of these ranks."""

    ranks: tuple[int, ...]


class Stop(NamedTuple):
    """End the job with this failure: stop every rank."""

    failure: Failure


class Done:
    """Every rank completed."""


Decision = Wait | Restart | Stop | Done

WAIT = Wait()
DONE = Done()


def decide(
    ranks: Sequence[RankView], *, restarts: int, backoff_limit: int, ending: Failure | None = None
) -> Decision:
    """The next step of a job that used up `restarts` of `backoff_limit` restarts.

    `ending` is a reason from outside the ranks: the deadline, or a signal. A rank that failed by its own
    account and for a reason that another try would meet again ends the job; one that just died is restarted.
    """
    if all(_completed(view) for view in ranks):
        return DONE
    if ending is not None:
        return Stop(ending)
    failures = [failure for view in ranks if (failure := _lasting_failure(view)) is not None]
    if failures:
        # A rank may end as Aborted because its peer told it to: the peer's own reason is the one to report.
        return Stop(
            next((failure for failure in failures if failure.reason is not Reason.ABORTED), failures[0])
        )
    dead = [view for view in ranks if view.exit_code is not None and not _completed(view)]
    if not dead:
        return WAIT
    if restarts + len(dead) > backoff_limit:
        killed = next((view for view in dead if view.oom_killed), None)
        return Stop(_memory_exceeded(killed) if killed else _backoff_exceeded(dead[0], backoff_limit))
    return Restart(tuple(view.rank for view in dead))


def smaller(budget: int) -> int:
    """Bytes of memory for ranks that start after one was killed with `budget`: three quarters, never less than the least."""
    return max(min(budget, LEAST_BUDGET), budget * 3 // 4)


def how_it_ended(exit_code: int) -> str:
    """An exit code in words: "was killed by signal 9 (SIGKILL)"."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    import signal

    try:
        name = f" ({signal.Signals(-exit_code).name})"
    except ValueError:
        name = ""
    return f"was killed by signal {-exit_code}{name}"


def _completed(view: RankView) -> bool:
    # A rank exits 0 only after the manifest is durable, so that says as much as its last message, which may
    # have been lost.
    return view.phase is Phase.COMPLETE or view.exit_code == 0


def _lasting_failure(view: RankView) -> Failure | None:
    """Why the job cannot go on; None for a rank that is well, or whose end another try may not meet again."""
    if view.failure is not None:
        return None if view.failure.reason in TRANSIENT else view.failure
    reason = _REASON_OF_EXIT.get(view.exit_code) if view.exit_code is not None else None
    if reason is None or reason in TRANSIENT or reason is Reason.ABORTED:
        return None
    return Failure(
        reason=reason,
        message=f"rank {view.rank} {how_it_ended(view.exit_code or 0)} and left no message; see its lines above",
    )


def _memory_exceeded(view: RankView) -> Failure:
    return Failure(
        reason=Reason.MEMORY_LIMIT_EXCEEDED,
        message=f"rank {view.rank} {view.end}, as often as spec.backoffLimit allows; use fewer ranks (--workers), a smaller "
        "budget for each (--memory), or a machine or container with more memory",
    )


def _backoff_exceeded(view: RankView, limit: int) -> Failure:
    why = f": {view.failure.message}" if view.failure else ""
    return Failure(
        reason=Reason.BACKOFF_LIMIT_EXCEEDED,
        message=f"rank {view.rank} {view.end}{why}, and spec.backoffLimit ({limit}) restarts are used up",
    )
