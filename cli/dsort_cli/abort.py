"""`dsort abort`: have a DSortJob of a cluster end, with nothing left that looks like a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsort_cli.cluster import MERGE_PATCH, Cluster
from dsort_cli.jobview import view

if TYPE_CHECKING:
    import argparse


def abort(options: argparse.Namespace) -> int:
    """Say so in the job's spec, once and for all; the operator does the rest. Raises ClusterError."""
    with Cluster.of(options) as cluster:
        job = cluster.job(options.name)
        seen = view(job)
        if seen.ended:
            print(f"job {options.name} has ended already: {seen.state}")
            return 0
        # The uid, so that another job of the same name that came meanwhile is refused.
        change = {"metadata": {"uid": job["metadata"]["uid"]}, "spec": {"abort": True}}
        cluster.ask("PATCH", f"{cluster.jobs_path()}/{options.name}", body=change, kind=MERGE_PATCH)
    print(f"job {options.name} is told to abort; `dsort watch {options.name}` shows it ending")
    return 0
