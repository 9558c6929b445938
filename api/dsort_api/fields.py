"""What the fields of a manifest are made of: whole numbers, flags, quantities, urls, and parts that are built when met."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from dsort_api.problems import shown
from dsort_api.quantity import parse_amount, parse_percent, parse_quantity
from dsort_api.templates import parse_input
from dsort_api.urls import LONGEST_URL, check_url

LARGEST_QUANTITY: Final = 1 << 62
LONGEST_ENTRY: Final = 1024
INT_OR_STRING: Final = {"x-kubernetes-int-or-string": True}


class Part(BaseModel):
    """A part of a manifest: camelCase in YAML, snake_case in Python, nothing unknown, never changed in place."""

    # Not defer_build: the process that ranks are forked from builds the validators once for all of them.
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


def _to_bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{shown(value)} is not a quantity of bytes such as 256Mi")  # noqa: TRY004 - pydantic reports ValueError
    size = parse_quantity(value)
    if not 1 <= size <= LARGEST_QUANTITY:
        raise ValueError(f"{shown(value)} is not between 1 byte and 4Ei")
    return size


def _is_amount(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{shown(value)} is not a quantity such as 500m or 2Gi")  # noqa: TRY004 - pydantic reports ValueError
    if parse_amount(value) < 0:
        raise ValueError(f"{shown(value)} is negative")
    return value


def _to_share_or_bytes(value: object) -> int | str:
    if isinstance(value, str) and value.endswith("%"):
        return _is_percent(value)
    return _to_bytes(value)


def _is_percent(value: str) -> str:
    parse_percent(value)
    return value


def _is_entry(value: str) -> str:
    parse_input(value)
    return value


Whole = Annotated[int, Strict()]
"""A number that is one in the manifest, too: the API server takes no "42", 42.0 or true for it, and neither do we."""
Flag = Annotated[bool, Strict()]
Quantity = Annotated[int, BeforeValidator(_to_bytes), WithJsonSchema(INT_OR_STRING, mode="validation")]
"""Bytes; written as a number or a Kubernetes quantity."""
ShareOrQuantity = Annotated[
    int | str, BeforeValidator(_to_share_or_bytes), WithJsonSchema(INT_OR_STRING, mode="validation")
]
"""Bytes, written as a number or a quantity; or a percentage of something, kept as it was written: 70%."""
Percent = Annotated[str, AfterValidator(_is_percent)]
"""A whole percentage, as it was written: 85%."""
Amount = Annotated[int | str, BeforeValidator(_is_amount), WithJsonSchema(INT_OR_STRING, mode="validation")]
"""Of any resource of a container, as it was written: 500m, 2Gi, 1."""
Url = Annotated[str, Field(max_length=LONGEST_URL), AfterValidator(check_url)]
Entry = Annotated[str, Field(max_length=LONGEST_ENTRY), AfterValidator(_is_entry)]
