"""Rows are all that grows with the number of records (item 7; ten million of them in `make bench`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import ROOT

RECORDS = 3_000_000
WORK_SPACE = 32 << 20
"""Bytes of a rank that do not grow with the number of records, and that it does not take for a single record."""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_item_7_three_million_records_stay_under_a_hundred_bytes_each(tmp_path: Path) -> None:
    """Over both ranks together, less what they take without records; for Key plus the keys' bytes."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.metadata_scale", "--records", str(RECORDS), "--ranks", "2"]
    # Its exit code is not looked at: its bound on time is the benchmark's, and a test does not measure the machine.
    subprocess.run([*command, "--json", str(figures), "--orders", "Shuffle", "Key"], cwd=ROOT, timeout=200)
    measured = json.loads(figures.read_text())
    assert [one["order"] for one in measured] == ["Shuffle", "Key"]
    for one in measured:
        assert 20 < one["bytes_per_record"] <= one["allowed"] + 2 * WORK_SPACE / RECORDS, one
