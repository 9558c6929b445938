"""`dsort worker`: one rank in the foreground, or all ranks of one pod of a cluster."""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dsort_api.labels import CONTROL_PORT, DATA_PORT, METRICS_PORT, OOM_KILLED
from dsort_api.messages import JobDefinition
from dsort_api.reasons import DSortError, Reason
from dsort_cli.imports import bare_imports
from dsort_worker.lastwords import last_words, leave, words_of
from dsort_worker.logs import Form, set_up

if TYPE_CHECKING:
    import argparse

    from dsort_api.messages import Failure
    from dsort_worker.lanes import LanesEnd, Say
    from dsort_worker.main import RankSettings

log: Final = logging.getLogger("dsort")


def worker(options: argparse.Namespace) -> int:
    """Be what the command line describes; returns the exit code.

    Raises DSortError where people read the log: InvalidSpec for a job definition that is none, or when there is no token.
    """
    form: Form = options.log_format or ("text" if sys.stderr.isatty() else "json")
    set_up(form, stream=sys.stderr, about={})
    try:
        return _worker(options, form)
    except DSortError as error:
        rank = options.rank if options.rank is not None else -1
        leave(options.termination_log, last_words(error.reason, error.message, rank=rank))
        if form == "text":
            raise
        log.error("%s: %s", error.reason, error.message)
        return error.exit_code


def _worker(options: argparse.Namespace, form: Form) -> int:
    token = os.environ.get("DSORT_TOKEN", "")
    if not token:
        raise DSortError(
            Reason.INVALID_SPEC,
            "DSORT_TOKEN is not set; it holds the bearer token that all ranks of the job share",
        )
    pod = _Pod(options, form, _definition(options.job), token)
    with bare_imports():
        import dsort_worker.main

        if options.metrics:
            import dsort_worker.metrics  # noqa: F401  (once, for all lanes; and it says when its library is missing)
    ranks = pod.ranks()
    if len(ranks) == 1:
        return pod.be(ranks[0])
    return pod.be_all(ranks)


@dataclass(frozen=True, slots=True)
class _Pod:
    """The ranks of this command line: one that was named, or those of a pod."""

    options: argparse.Namespace
    form: Form
    job: JobDefinition
    token: str

    def ranks(self) -> range:
        """Their numbers."""
        options, job = self.options, self.job
        if options.rank is not None:
            if options.rank >= job.ranks:
                raise DSortError(
                    Reason.INVALID_SPEC,
                    f"--rank {options.rank}: the job has {job.ranks} ranks, numbered from 0",
                )
            return range(options.rank, options.rank + 1)
        if options.index is None:
            raise DSortError(
                Reason.INVALID_SPEC,
                "neither --rank nor --index is given, and JOB_COMPLETION_INDEX, which a pod of an Indexed Job has, is not set",
            )
        first = options.index * job.lanes
        if first + job.lanes > job.ranks:
            raise DSortError(
                Reason.INVALID_SPEC,
                f"--index {options.index}: the job has {job.ranks // job.lanes} pods, numbered from 0",
            )
        return range(first, first + job.lanes)

    def be(self, rank: int, say: Say | None = None) -> int:
        """Be one rank. say: takes its last words; None: they are the pod's."""
        from dsort_worker.main import run_rank

        job = self.job
        set_up(self.form, stream=sys.stderr, about={"job": job.name, "uid": job.id, "rank": rank})

        def failed(failure: Failure) -> None:
            log.error("%s: %s", failure.reason, failure.message)
            words = words_of(failure, rank=rank)
            if say is None:
                leave(self.options.termination_log, words)
            else:
                say(words)

        def ready(url: str) -> None:
            log.info("control endpoint %s/v1/control", url)

        try:
            code = run_rank(self._settings(rank), on_ready=ready, on_failure=failed)
        except OSError as error:
            text = f"rank {rank} cannot listen on {self.options.host}: {error.strerror or error}"
            raise DSortError(Reason.INTERNAL, text) from None
        log.info("exit code %d", code)
        return code

    def be_all(self, ranks: range) -> int:
        """Be a supervisor of one process a rank."""
        from dsort_worker.lanes import run_lanes

        job = self.job
        set_up(self.form, stream=sys.stderr, about={"job": job.name, "uid": job.id})

        def lane(number: int, say: Say) -> int:
            try:
                return self.be(ranks[number], say)
            except DSortError as error:
                log.error("%s: %s", error.reason, error.message)
                say(last_words(error.reason, error.message, rank=ranks[number]))
                return error.exit_code

        end = run_lanes(lane, lanes=len(ranks))
        if end.lane is not None:
            words = end.last_words or _words_about(end, rank=ranks[end.lane])
            leave(self.options.termination_log, words)
            log.error("the pod ends with code %d: %s", end.code, words.decode())
        return end.code

    def _settings(self, rank: int) -> RankSettings:
        from dsort_worker.main import RankSettings

        options, lane = self.options, rank % self.job.lanes
        in_pod = options.rank is None

        def port(given: int | None, fixed: int) -> int:
            if given is None:
                return fixed + lane if in_pod else 0
            return given + lane if given and in_pod else given

        return RankSettings(
            rank=rank,
            job=self.job,
            token=self.token,
            host=options.host,
            control_port=port(options.control_port, CONTROL_PORT),
            data_port=port(options.data_port, DATA_PORT),
            volumes=dict(options.claims),
            scratch=options.scratch,
            short_circuit=options.short_circuit,
            metrics_port=METRICS_PORT + lane if options.metrics else None,
            unattended=in_pod,
        )


def _words_about(end: LanesEnd, *, rank: int) -> bytes:
    """What the pod says of a lane that could not say it."""
    from dsort_worker.lanes import OOM_EXIT

    if end.code == OOM_EXIT:
        why = "was killed for want of memory: raise the pod's memory limit, or lower spec.memory.budget"
        return last_words(OOM_KILLED, f"rank {rank} {why}", rank=rank)
    how = (
        f"was ended by {signal.Signals(end.signal).name}"
        if end.signal
        else f"ended with exit code {end.code}"
    )
    return last_words(Reason.INTERNAL, f"rank {rank} {how} and left no message; see its log", rank=rank)


def _definition(path: str) -> JobDefinition:
    try:
        with open(path, "rb") as file:
            return JobDefinition.model_validate_json(file.read())
    except OSError as error:
        raise DSortError(Reason.INVALID_SPEC, f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DSortError(
            Reason.INVALID_SPEC, f"{path}: no JobDefinition: {' '.join(str(error).split())[:500]}"
        ) from None
