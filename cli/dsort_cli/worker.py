"""`dsort worker`: one rank in the foreground, as a pod runs it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from dsort_api.messages import JobDefinition
from dsort_api.reasons import DSortError, Reason
from dsort_worker.main import RankSettings, run_rank

if TYPE_CHECKING:
    import argparse


def worker(options: argparse.Namespace) -> int:
    """Be the rank that the command line describes; returns its exit code.

    Raises DSortError InvalidSpec for a job definition that is none, or when there is no token.
    """
    token = os.environ.get("DSORT_TOKEN", "")
    if not token:
        raise DSortError(
            Reason.INVALID_SPEC,
            "DSORT_TOKEN is not set; it holds the bearer token that all ranks of the job share",
        )
    job = _definition(options.job)
    if options.rank >= job.ranks:
        raise DSortError(
            Reason.INVALID_SPEC, f"--rank {options.rank}: the job has {job.ranks} ranks, numbered from 0"
        )
    settings = RankSettings(
        rank=options.rank,
        job=job,
        host=options.host,
        control_port=options.control_port,
        data_port=options.data_port,
        token=token,
        volumes=dict(options.claims),
        scratch=options.scratch,
        short_circuit=options.short_circuit,
    )
    return run_rank(settings, on_ready=_say_where)


def _say_where(url: str) -> None:
    print(f"control endpoint {url}/v1/control", file=sys.stderr, flush=True)


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
