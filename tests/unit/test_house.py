"""The house keeps its own rules."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"house_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def packages() -> dict[str, Path]:
    return {
        Path(folder).name: ROOT / folder
        for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    }


def test_every_package_is_known_to_every_tool() -> None:
    names = set(packages())
    tools = PROJECT["tool"]
    assert set(tools["coverage"]["run"]["source_pkgs"]) == names
    assert set(tools["importlinter"]["root_packages"]) == names
    folders = {package.parent.name for package in packages().values()}
    assert folders == set(tools["hatch"]["build"]["dev-mode-dirs"])
    assert folders <= set(tools["mypy"]["files"])


def test_package_folders_cannot_shadow_the_standard_library() -> None:
    for package in packages().values():
        assert (package / "__init__.py").exists()
        assert (package / "py.typed").exists()
        assert not (package.parent / "__init__.py").exists()


def test_every_ignored_rule_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    start = text.index("ignore = [")
    section = text[start : text.index("[tool.ruff.lint.flake8-type-checking]")]
    rules = [
        line.strip() for line in section.splitlines() if line.strip().startswith('"') and " = [" not in line
    ]
    assert len(rules) > 20
    assert [rule for rule in rules if "# " not in rule] == []


def test_pinned_requirements_carry_what_the_project_asks_for_and_no_address() -> None:
    assert script("check_requirements").main() == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "rich is not in it"),
        ("rich==1.0 \\\n    --hash=sha256:00\n", "pinned to 1.0"),
        ("rich==14.0 \\\n", "no hash for rich==14.0"),
        ("--find-links there\nrich==14.0 \\\n    --hash=sha256:00\n", "an address or an option"),
        ("--index-url https://host/\nrich==14.0 \\\n    --hash=sha256:00\n", "an address or an option"),
    ],
)
def test_stale_or_addressed_requirements_are_found(text: str, complaint: str) -> None:
    (wrong,) = script("check_requirements").problems("x.txt", text=text, wanted=["rich>=13.9"])
    assert complaint in wrong


def test_the_core_that_is_covered_whole_is_the_core_of_the_import_contracts() -> None:
    files = script("layers").core_files()
    assert files[0] == "api/dsort_api/*"
    for name in files[1:]:
        assert (ROOT / name).exists(), name


def test_nothing_in_the_tree_names_a_path_of_somebodys_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"/(?:home|Users)/[a-z]|/work/|/root/")
    found = []
    for name in listed.stdout.split():
        path = ROOT / name
        if path == Path(__file__) or not path.is_file() or name.startswith("tests/kind/"):
            continue
        found += [
            f"{name}: {line.strip()}"
            for line in path.read_text(errors="replace").splitlines()
            if pattern.search(line)
        ]
    assert found == []


def test_scripts_can_be_run() -> None:
    assert all(os.access(path, os.X_OK) for path in (ROOT / "scripts").glob("*.sh"))
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
