"""`make demo`, with fewer photographs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "demo.py"


@pytest.mark.timeout(180)
def test_demo_shuffles_verifies_and_draws(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), "--cache", str(tmp_path), "--records", "800"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "800 in, 800 out" in done.stdout
    assert "the same, every byte of every member" in done.stdout
    with Image.open(tmp_path / "800" / "before-and-after.png") as picture:
        assert picture.format == "PNG"
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 1000  # labels and photographs, not an empty page
    assert (tmp_path / "800" / "photos-shuffled" / "dsort-manifest.json").exists()
