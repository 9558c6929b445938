"""Fail when requirements/*.txt does not carry what pyproject.toml asks for, or carries an address. Needs no network."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parent.parent


def pins(text: str) -> dict[str, str]:
    """The versions that a requirements file pins, by canonical name."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def problems(name: str, *, text: str, wanted: list[str]) -> list[str]:
    """What is wrong with one requirements file: `text`, that has to fit the requirements `wanted`."""
    pinned = pins(text)
    wrong = []
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None:
            wrong.append(f"{name}: {requirement.name} is not in it")
        elif version not in requirement.specifier:
            wrong.append(
                f"{name}: {requirement.name} is pinned to {version}, and pyproject.toml wants {requirement}"
            )
    odd = [line.strip() for line in text.splitlines() if re.search(r"://|^\s*-(?!-hash)|--(?!hash=)", line)]
    wrong += [f"{name}: an address or an option is in it: {line}" for line in odd]
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    wrong += [f"{name}: no hash for {block.split()[0]}" for block in blocks if "--hash=sha256:" not in block]
    return wrong


def main() -> int:
    """Check every file; print what is wrong."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"base": [], **project["optional-dependencies"]}
    wrong = []
    for extra, own in extras.items():
        path = ROOT / "requirements" / f"{extra}.txt"
        if not path.exists():
            wrong.append(f"requirements/{extra}.txt is not there")
            continue
        wrong += problems(path.name, text=path.read_text(), wanted=[*project["dependencies"], *own])
    for line in wrong:
        print(f"error: {line}: make requirements", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
