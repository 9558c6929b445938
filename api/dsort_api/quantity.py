"""Quantities of bytes as Kubernetes writes them: 256Mi, 1Gi, 500k, 1e6, 1048576.

The grammar is that of k8s.io/apimachinery/pkg/api/resource: a signed decimal number, then a binary suffix (Ki to Ei), a
decimal suffix (n u m k M G T P E) or a decimal exponent. A quantity of bytes must be a whole number of them.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from typing import Final

LONGEST: Final = 64
"""Characters of the longest text that is looked at; 2^63 with all its digits has 19."""
PERCENT: Final = "^(100|[1-9][0-9]?)%$"
"""The grammar of a percentage: 1% to 100%."""

_QUANTITY: Final = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]{1,2})?"
)
_PERCENT: Final = re.compile(PERCENT.strip("^$"))
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
    result = _parse(value)
    if result is None:
        raise ValueError(f"{value!r} is not a quantity of bytes such as 256Mi, 1G or 1048576")
    if result != int(result):
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return int(result)


def parse_amount(value: str | int) -> Decimal:
    """The number that a quantity of any resource stands for: 500m is 0.5. Raises ValueError that names the text."""
    result = Decimal(value) if isinstance(value, int) else _parse(value)
    if result is None:
        raise ValueError(f"{value!r} is not a quantity such as 500m, 2Gi or 1")
    return result


def parse_percent(value: str) -> int:
    """The 70 of 70%. Raises ValueError that names the text when it is no whole percentage from 1% to 100%."""
    match = _PERCENT.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is not a percentage from 1% to 100%")
    return int(match[1])


def _parse(text: str) -> Decimal | None:
    match = _QUANTITY.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        return None
    number, suffix = match.groups()
    factor = Decimal(1) if suffix is None else _FACTORS.get(suffix) or Decimal(f"1{suffix}")
    return _EXACT.multiply(Decimal(number), factor)


def format_bytes(size: float) -> str:
    """A size for a person: 1.97 GiB."""
    value, power = float(size), 0
    while abs(value) >= 1024 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.{2 if power else 0}f} {_UNITS[power]}"


def several(number: int, what: str) -> str:
    """A number of things, for a person: "1 shard", "2,000 shards"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
