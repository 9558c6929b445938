"""Quantities of bytes as Kubernetes writes them: 256Mi, 1Gi, 500k, 1e6, 1048576.

The grammar is that of k8s.io/apimachinery/pkg/api/resource: a signed decimal number, then a binary suffix (Ki to Ei), a
decimal suffix (n u m k M G T P E) or a decimal exponent. Here a quantity must be a whole number of bytes.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from typing import Final

LONGEST: Final = 64
"""Characters of the longest text that is looked at; 2^63 with all its digits has 19."""

_QUANTITY: Final = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]{1,2})?"
)
_BINARY: Final = {
    unit: Decimal(1 << 10 * power) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)
}
_DECIMAL: Final = {unit: Decimal(1000) ** power for power, unit in enumerate("num", -3)} | {
    unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)
}
_FACTORS: Final = _BINARY | _DECIMAL
# Enough digits that a product of anything this short is exact; the default 28 would round, silently.
_EXACT: Final = Context(prec=2 * LONGEST + 40)
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_quantity(value: str | int) -> int:
    """Bytes of a quantity. Raises ValueError that names the text when it is none, or no whole number of bytes."""
    if isinstance(value, int):
        return value
    match = _QUANTITY.fullmatch(value) if len(value) <= LONGEST else None
    if match is None:
        raise ValueError(f"{value!r} is not a quantity of bytes such as 256Mi, 1G or 1048576")
    number, suffix = match.groups()
    factor = Decimal(1) if suffix is None else _FACTORS.get(suffix) or Decimal(f"1{suffix}")
    result = _EXACT.multiply(Decimal(number), factor)
    if result != int(result):
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return int(result)


def format_bytes(size: float) -> str:
    """A size for a person: 1.97 GiB."""
    value, power = float(size), 0
    while abs(value) >= 1024 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.{2 if power else 0}f} {_UNITS[power]}"
