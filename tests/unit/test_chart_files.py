"""The generated parts of the chart."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "chart_files.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_files", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_up_to_date() -> None:
    ran = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_values_are_told_by_their_comments(script: ModuleType) -> None:
    text = "# A number\n# of two lines.\na: 1\n\nb:\n  # Inner.\n  c: {x: y}\n# Whole.\nd:\n  e: []\n  # of this\n  f: 1\n"
    assert list(script.values(text)) == [
        ("a", "1", "A number of two lines."),
        ("b.c", '{"x": "y"}', "Inner."),
        ("d", '{"e": [], "f": 1}', "Whole."),
    ]
    with pytest.raises(ValueError, match=r"b\.c has no comment"):
        list(script.values("# A.\na: 1\nb:\n  c: 1\n"))


def test_what_looks_like_a_template_in_the_crd_is_none(script: ModuleType) -> None:
    template = script.crd_template("# comment\nmetadata:\n  name: dsortjobs.dsort.dev\nspec: '{{x}}'\n")
    assert template.endswith("spec: '{{ \"{{\" }}x}}'\n{{- end }}\n")
    assert "resource-policy: keep" in template
    with pytest.raises(ValueError, match="as expected"):
        script.crd_template("# comment\nmetadata: {}\n")


def test_the_wrong_arguments() -> None:
    assert subprocess.run([sys.executable, str(SCRIPT)], capture_output=True).returncode == 2
