"""Job after job in the same processes: memory stays where it is (ten minutes of them: `python -m benchmarks.soak`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.measuring import unmeasured
from tests.support.running import ROOT


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_dozen_jobs_in_one_process_leave_its_memory_flat_and_fault_in_few_pages(tmp_path: Path) -> None:
    """In both modes; the bounds are the benchmark's: none of them is one of time."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "0", "--json", str(figures)]
    run = subprocess.run(command, cwd=ROOT, env=unmeasured(), capture_output=True, text=True, timeout=220)
    assert run.returncode == 0, run.stderr + run.stdout
    measured = json.loads(figures.read_text())
    assert [one["mode"] for one in measured] == ["short circuit", "network"]
    assert all(len(rank) == 12 for one in measured for rank in one["ranks"])
