"""`dsort clean`: remove what dead jobs staged in an output folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dsort_api.reasons import DSortError, Reason
from dsort_cli.folder import is_complete, live, remove_dead, remove_job
from dsort_cli.places import folder_of, place_of

if TYPE_CHECKING:
    import argparse


def clean(options: argparse.Namespace) -> int:
    """Remove and say what was removed. Raises DSortError JobBusy, and removes nothing, while a job runs
    there, or the job that is named.
    """
    claims = dict(options.claims)
    if options.job is not None:
        return _clean_job(place_of(options.output, claims), options.job)
    output = folder_of(options.output, claims)
    running = live(output)
    if running:
        raise DSortError(Reason.JOB_BUSY, f"{output}: job {running[0]} is running; stop it first")
    removed = remove_dead(output)
    for job_id in removed:
        print(f"removed what job {job_id} left in {output}")
    if not removed:
        print(f"nothing to remove in {output}")
    return 0


def _clean_job(output: str, job_id: str) -> int:
    """Again is no error, nor is an output folder that is not there. Raises DSortError JobComplete where the job has a result,
    which stays.
    """
    removed = remove_job(output, job_id)
    if os.path.isdir(output) and is_complete(output, job_id):
        raise DSortError(Reason.JOB_COMPLETE, f"{output}: job {job_id} is complete, its result stays")
    if removed:
        print(f"removed what job {job_id} left in {output}")
    else:
        print(f"nothing of job {job_id} to remove in {output}")
    return 0
