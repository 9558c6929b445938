"""The examples of tests/unit/api/jobs.yaml, to which the loader and a real API server are both held."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
TABLE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "tests/unit/api/jobs.yaml").read_text())


def manifest(example: dict[str, Any]) -> dict[str, Any]:
    """The example's job: the base, without what is dropped, with what is set."""
    document: dict[str, Any] = copy.deepcopy(TABLE["base"])
    for path in example.get("drop", ()):
        *above, last = path.split(".")
        here = document
        for name in above:
            here = here[name]
        del here[last]
    for path, value in example.get("set", {}).items():
        *above, last = path.split(".")
        here = document
        for name in above:
            here = here.setdefault(name, {})
        here[last] = copy.deepcopy(value)
    return document


def title(example: dict[str, Any]) -> str:
    """What is special about the example, for the name of a test."""
    drop = [f"no {path}" for path in example.get("drop", ())]
    return ", ".join([*drop, json.dumps(example.get("set", {}))[1:61]]) or "base"


def change_title(example: dict[str, Any]) -> str:
    """From what to what an example of a change goes, for the name of a test."""
    before, after = (json.dumps(example[side])[1:-1][:60] or "base" for side in ("from", "to"))
    return f"{before} -> {after}"
