"""Quantities of bytes as Kubernetes writes them: 256Mi, 1Gi, 500k, 1e6, 1048576.

The grammar is that of k8s.io/apimachinery/pkg/api/resource: a decimal number, then a binary suffix (Ki Mi Gi Ti Pi Ei), a
decimal suffix (k M G T P E) or a decimal exponent. Here a quantity must be a whole number of bytes.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E|[eE][0-9]+)?$"
"""The grammar, for schemas."""

_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E|[eE][0-9]{1,2})?")
_BINARY: Final = {
    unit: 1024 ** (power + 1) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))
}
_DECIMAL: Final = {unit: 1000 ** (power + 1) for power, unit in enumerate(("k", "M", "G", "T", "P", "E"))}
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_quantity(value: str | int) -> int:
    """Bytes of a quantity. Raises ValueError that names the text when it is none, or no whole number of bytes."""
    if isinstance(value, int):
        return value
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is not a quantity of bytes such as 256Mi, 1G or 1048576")
    number, suffix = match.groups()
    factor = _BINARY.get(suffix) or _DECIMAL.get(suffix) or (10 ** int(suffix[1:]) if suffix else 1)
    result = Decimal(number) * factor
    if result != int(result):
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return int(result)


def format_bytes(size: float) -> str:
    """A size for a person: 1.97 GiB."""
    value = float(size)
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.2f} {unit}"
