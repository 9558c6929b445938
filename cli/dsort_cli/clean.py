"""`dsort clean`: remove what dead jobs staged in an output folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsort_api.reasons import DSortError, Reason
from dsort_cli.folder import live, remove_dead
from dsort_cli.places import folder_of

if TYPE_CHECKING:
    import argparse


def clean(options: argparse.Namespace) -> int:
    """Remove and say what was removed. Raises DSortError JobBusy, and removes nothing, while a job runs
    there.
    """
    output = folder_of(options.output, dict(options.claims))
    running = live(output)
    if running:
        raise DSortError(Reason.JOB_BUSY, f"{output}: job {running[0]} is running; stop it first")
    removed = remove_dead(output)
    for job_id in removed:
        print(f"removed what job {job_id} left in {output}")
    if not removed:
        print(f"nothing to remove in {output}")
    return 0
