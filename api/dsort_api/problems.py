"""What is wrong with a manifest, in words: the field by its path as the user wrote it, the value, and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel

from dsort_api.lazily import Lazily

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_WANTED: Final = {
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of fields",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
}
_LONGEST_VALUE: Final = 80
_SAID: Final = 3
"""Problems that are said, of those that a manifest has."""


def sift(
    document: Mapping[Any, Any], model: type[BaseModel], *, path: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The fields of `document` that the model knows, all the way down, and a problem for each that it does not know.

    What takes any field, as metadata does, is handed on as it is.
    """
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    known: dict[str, Any] = {}
    problems = []
    for name, value in document.items():
        here = f"{path}.{name}" if path else str(name)
        if name not in fields:
            problems.append(_unknown(here, str(name), list(fields)))
            continue
        known[name] = value
        inner = _part(fields[name]) if isinstance(value, Mapping | list) else None
        if inner is not None:
            known[name], below = _sift_value(value, inner, path=here)
            problems += below
    return known, problems


def _sift_value(value: object, model: type[BaseModel], *, path: str) -> tuple[Any, list[str]]:
    if isinstance(value, Mapping):
        return sift(value, model, path=path)
    if not isinstance(value, list):
        return value, []
    sifted = [_sift_value(one, model, path=f"{path}[{place}]") for place, one in enumerate(value)]
    return [one for one, _ in sifted], [problem for _, problems in sifted for problem in problems]


def _part(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field, or of the items of its list, unless it is none or takes any field."""
    lazy = next((one for one in field.metadata if isinstance(one, Lazily)), None)
    pending: list[Any] = [field.annotation if lazy is None else lazy.model()]
    while pending:
        one = pending.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one if one.model_config.get("extra") != "allow" else None
        pending += get_args(one)
    return None


def describe(errors: Sequence[ErrorDetails]) -> list[str]:
    """A line for each of pydantic's errors."""
    return [": ".join(filter(None, [_path(error["loc"]), _words(error)])) for error in errors]


def summary(problems: Sequence[str]) -> str:
    """The first problems, and how many more there are."""
    more = f" (and {len(problems) - _SAID} more)" if len(problems) > _SAID else ""
    return f"{'; '.join(problems[:_SAID])}{more}"


def _unknown(path: str, name: str, fields: list[str]) -> str:
    from difflib import get_close_matches  # only a mistake pays for it

    by_folded = {field.casefold(): field for field in fields}
    close = get_close_matches(name.replace("_", "").casefold(), by_folded, n=1)
    if close:
        return f"{path}: is not a field; did you mean {by_folded[close[0]]}?"
    return f"{path}: is not a field; there are {', '.join(fields)}"


def _path(parts: Sequence[int | str]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _words(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is needed and not there"
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return error["msg"]  # the value is the whole text
    wanted = _WANTED.get(error["type"])
    words = (
        error["msg"][0].lower() + error["msg"][1:]
        if wanted is None
        else wanted.format(**error.get("ctx", {}))
    )
    return f"{words}, not {shown(error['input'])}"


def shown(value: object) -> str:
    """A value as it stands in the manifest, shortened."""
    if isinstance(value, date):  # what YAML takes 2024-01-01 for, unless it stands in quotes
        return f"the date {value}"
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    except ValueError:  # an alias within what it stands for
        text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
