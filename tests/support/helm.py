"""The chart, rendered by the helm that `tests/kind/build tools` makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.apiserver import KIND

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "charts" / "dsort-operator"
RELEASE: Final = "dsort"
NAMESPACE: Final = "dsort-system"

Document = dict[str, Any]


class Refused(Exception):
    """Helm does not render it."""


class Helm:
    """One helm program; it is given no cluster."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """What a command prints; Refused with its words when it fails."""
        ran = subprocess.run(
            [str(self.program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "KUBECONFIG": os.devnull},
        )
        if ran.returncode:
            raise Refused(ran.stderr)
        return ran.stdout

    def template(self, values: Mapping[str, Any] | None = None, *, release: str = RELEASE) -> str:
        """The rendered chart, hooks included, as text."""
        return self.run(
            "template",
            release,
            str(CHART),
            f"--namespace={NAMESPACE}",
            "--values=-",
            stdin=yaml.safe_dump(dict(values or {})),
        )

    def objects(self, values: Mapping[str, Any] | None = None, *, release: str = RELEASE) -> list[Document]:
        """The rendered objects."""
        return [one for one in yaml.safe_load_all(self.template(values, release=release)) if one]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Without the program the test is skipped, in CI it fails."""
    where = subprocess.run([KIND / "build", "where"], capture_output=True, text=True, check=True)
    program = Path(where.stdout.strip()) / "helm"
    if not program.exists():
        why = "no helm: run tests/kind/build tools"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return Helm(program)
