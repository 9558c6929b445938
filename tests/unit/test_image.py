"""The image takes what it needs and no more, and runs as Kubernetes' strictest standard wants."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text()).splitlines()


def copied() -> set[str]:
    """What the Dockerfile copies out of the tree."""
    found: set[str] = set()
    for line in LINES:
        if line.startswith("COPY ") and "--from" not in line:
            found.update(line.split()[1:-1])
    return found


def test_what_is_copied_is_there_and_let_through() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == copied()
    assert all((ROOT / path).exists() for path in copied())


def test_every_package_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {package.split("/")[0] for package in packages} <= copied()


def test_it_runs_as_nobody_and_needs_no_shell() -> None:
    assert "USER 65532:65532" in LINES
    assert 'ENTRYPOINT ["dsort"]' in LINES
    final = LINES[max(at for at, line in enumerate(LINES) if line.startswith("FROM ")) :]
    assert [line for line in final if line.startswith("RUN ") and not line.startswith("RUN [")] == []


def test_nothing_is_installed_without_its_hash() -> None:
    for install in re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&]*", "\n".join(LINES)):
        assert "--require-hashes" in install or "--no-index" in install, install
