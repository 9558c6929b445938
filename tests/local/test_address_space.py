"""Little address space: threads cannot be started, memory cannot be had. A job ends all the same, soon and by name."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dsort_api.reasons import EXIT_CODES, Reason
from tests.support.running import PATIENCE, arguments, check_result, job, job_file

ENDS = {0, *(EXIT_CODES[reason] for reason in (Reason.INTERNAL, Reason.BACKOFF_LIMIT_EXCEEDED))}


@pytest.mark.parametrize("mib", [215, 240, 265, 290])
def test_a_job_ends_within_seconds_where_threads_cannot_be_started(
    source: Path, tmp_path: Path, mib: int
) -> None:
    manifest = job(
        source,
        tmp_path / "out",
        order={"kind": "Shuffle", "seed": 11},
        output={"recordsPerShard": 12},
        backoffLimit=1,
    )
    with job_file(manifest) as path:
        run = subprocess.run(
            [sys.executable, "-m", "dsort_cli", *arguments(path, workers=2, network=True)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,  # peers would go on asking for ten minutes
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20)),
        )
    assert run.returncode in ENDS, run
    if run.returncode == 0:
        check_result(tmp_path / "out")
    else:
        assert any(name in run.stderr for name in ("RuntimeError", "MemoryError", "OSError", "thread")), run
        assert list((tmp_path / "out").glob("*.tar")) == []
