"""The coverage gates mean what they say only if the ranks, forked by a child of the command, are measured."""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from coverage import CoverageData

from dsort_worker.rank import Rank
from tests.support.measuring import ENDS_AND_FORKS

ROOT = Path(__file__).resolve().parents[2]

JOB = """
apiVersion: dsort.dev/v1alpha1
kind: DSortJob
metadata: {name: measured}
spec:
  input: {url: "file://%(input)s"}
  output: {url: "file://%(output)s", name: "out-%%06d", recordsPerShard: 2}
  order: {kind: Shuffle}
"""


@pytest.mark.timeout(120)
def test_what_a_rank_runs_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    with tarfile.open(tmp_path / "input" / "a.tar", "w") as archive:
        for number in range(5):
            member = tarfile.TarInfo(f"{number}.txt")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    job = tmp_path / "job.yaml"
    job.write_text(JOB % {"input": tmp_path / "input", "output": tmp_path / "output"})

    # Not the coverage that this test itself may run under.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment = {**inherited, **ENDS_AND_FORKS}
    coverage = [sys.executable, "-m", "coverage"]
    data = f"--data-file={tmp_path / 'data'}"
    subprocess.run(
        [*coverage, "run", data, "-m", "dsort_cli", "run", "-f", str(job), "--workers", "2"],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=110,
    )
    subprocess.run([*coverage, "combine", "--quiet", data], cwd=ROOT, env=environment, check=True)

    recorded = CoverageData(basename=str(tmp_path / "data"))
    recorded.read()
    (rank,) = [name for name in recorded.measured_files() if name.endswith("dsort_worker/rank.py")]
    lines, first = inspect.getsourcelines(Rank.run)
    body = range(first + 1, first + len(lines))
    assert set(body) & {source for source, _ in recorded.arcs(rank) or []}
