"""The page about DSortJob names every field, default, state, condition and reason that there is, and none besides."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dsort_api.crd import custom_resource_definition
from dsort_api.reasons import Reason
from dsort_api.status import ConditionType, State
from dsort_operator.conditions import Why

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "dsortjob.md").read_text()
SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
TEMPLATE = "workers.template"


def section(title: str) -> str:
    """The text below a heading, up to the next."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def rows(title: str) -> dict[str, list[str]]:
    """The rows of a section's table by what their first cell names."""
    lines = re.findall(r"^\| `([^`]+)` \| (.*) \|$", section(title), flags=re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in lines}


def leaves(schema: dict[str, Any], *, stop: frozenset[str], path: str = "") -> dict[str, tuple[Any, bool]]:
    """The fields that hold a value, or are in `stop`, with their default and whether they are required."""
    found: dict[str, tuple[Any, bool]] = {}
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        if "properties" in inner and here not in stop:
            found |= leaves(inner, stop=stop, path=here)
        else:
            found[here] = (inner.get("default"), name in schema.get("required", ()))
    return found


def told_default(cell: str) -> tuple[Any, bool]:
    if cell == "required":
        return None, True
    text = cell.strip("`")
    try:
        return (json.loads(text) if text else None), False
    except ValueError:
        return text, False


def test_every_field_of_the_spec_is_there_with_its_default() -> None:
    fields = leaves(SCHEMA["spec"], stop=frozenset({TEMPLATE}))
    assert {name: told_default(cells[1]) for name, cells in rows("spec").items()} == fields


def test_every_field_of_the_pod_template_is_there() -> None:
    template = SCHEMA["spec"]["properties"]["workers"]["properties"]["template"]
    fields = leaves(template, stop=frozenset({"spec.resources", "spec.affinity"}))
    assert {name: told_default(cells[1]) for name, cells in rows(TEMPLATE).items()} == fields


def test_every_field_of_the_status_is_there_and_what_it_holds() -> None:
    told = rows("status")
    assert set(told) == set(SCHEMA["status"]["properties"])
    for name, inner in SCHEMA["status"]["properties"].items():
        parts = inner.get("items", inner).get("properties", {})
        assert [part for part in parts if f"`{part}`" not in " ".join(told[name])] == []


def test_every_state_condition_and_reason_is_there() -> None:
    assert set(rows("States")) == set(State)
    assert set(rows("Conditions")) == set(ConditionType)
    assert set(re.findall(r"`(\w+)`", " ".join(cells[1] for cells in rows("Conditions").values()))) == {
        *Why,
        ConditionType.FAILED,
    }
    codes = (ROOT / "docs" / "exit-codes.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in codes] == []


def test_what_cannot_be_changed_is_listed() -> None:
    sentence = re.search(r"^(.*) cannot be changed", PAGE, flags=re.MULTILINE)
    assert sentence is not None
    rules = {
        name: str(inner.get("x-kubernetes-validations", ()))
        for name, inner in SCHEMA["spec"]["properties"].items()
    }
    fixed = {name for name, rule in rules.items() if "self == oldSelf" in rule} | {"managedBy"}
    assert set(re.findall(r"`(\w+)`", sentence[1])) == fixed
