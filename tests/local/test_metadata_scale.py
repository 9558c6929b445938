"""Rows are all that grows with the number of records, and no further than the budget (item 7; ten million in `make bench`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dsort_worker.budget import LEAST_BUDGET
from tests.support.running import ROOT

RECORDS = 2_000_000
WORK_SPACE = 32 << 20
"""Bytes of a rank that do not grow with the number of records, and that it does not take for a single record."""

OVER = 1.10
"""What a rank may take of its budget at its peak."""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_item_7_two_million_records_stay_under_a_hundred_bytes_each_and_within_the_least_budget(
    tmp_path: Path,
) -> None:
    """Over both ranks together, less what they take without records; for Key plus the keys' bytes. With the least budget a
    rank's anonymous memory stays within it, where it would not if all rows stayed in memory.
    """
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.metadata_scale", "--records", str(RECORDS), "--ranks", "2"]
    # Its exit code is not looked at: its bound on time is the benchmark's, and a test does not measure the machine.
    subprocess.run([*command, "--json", str(figures), "--orders", "Shuffle", "Key"], cwd=ROOT, timeout=380)
    measured = json.loads(figures.read_text())
    assert [one["order"] for one in measured] == ["Shuffle", "Key"]
    for one in measured:
        little = one["little"]
        assert little["spilled"] > 2 * 40 * RECORDS
        assert max(little["anonymous"]) <= OVER * LEAST_BUDGET < min(one["anonymous"]), one
        assert 20 < one["bytes_per_record"] <= one["allowed"] + 2 * WORK_SPACE / RECORDS, one
