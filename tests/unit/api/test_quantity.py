"""Quantities: the grammar of Kubernetes, whole bytes only."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.quantity import format_bytes, parse_amount, parse_percent, parse_quantity

SCALE = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate(["k", "M", "G", "T", "P", "E"], 1)},
    **{
        unit: Fraction(2 ** (10 * power))
        for power, unit in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], 1)
    },
    **{f"{letter}{power}": Fraction(10) ** power for letter in "eE" for power in range(-12, 25)},
    **{f"e+{power}": Fraction(10) ** power for power in range(5)},
}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256Mi", 268435456),
        ("1Gi", 1073741824),
        ("500k", 500000),
        ("1048576", 1048576),
        (7, 7),
        ("0", 0),
        ("+5", 5),
        ("-1Ki", -1024),
        (".5Ki", 512),
        ("5.", 5),
        ("1E", 10**18),
        ("1E3", 1000),
        ("3000m", 3),
        ("9007199254740993.5Ki", 9007199254740993 * 1024 + 512),
    ],
)
def test_the_examples_mean_what_they_say(text: str | int, size: int) -> None:
    assert parse_quantity(text) == size
    assert parse_amount(text) == size


@pytest.mark.parametrize(("text", "number"), [("500m", "0.5"), ("1.5", "1.5"), (2, "2"), ("-1Ki", "-1024")])
def test_amounts_of_other_things_need_not_be_whole(text: str | int, number: str) -> None:
    assert parse_amount(text) == Decimal(number)


def test_an_amount_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="'half' is not a quantity such as 500m, 2Gi or 1"):
        parse_amount("half")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Mi",
        ".",
        "+",
        "1 Mi",
        " 1",
        "1\n",
        "1mi",
        "1MB",
        "1K",
        "0x10",
        "1e",
        "1e100",
        "1_000",
        "١",
        "1,5",
        "1" * 65,
    ],
)
def test_what_is_no_quantity_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity of bytes such as 256Mi") as caught:
        parse_quantity(text)
    assert str(caught.value).startswith(repr(text))


@pytest.mark.parametrize(
    "text", ["1.5", "1m", "1n", "1u", "1e-1", "0.3Ki", "1.0000000000000000000000000000000000001"]
)
def test_parts_of_bytes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number of bytes"):
        parse_quantity(text)


@given(
    sign=st.sampled_from(["", "+", "-"]),
    whole=st.integers(0, 10**20),
    part=st.one_of(st.none(), st.text("0123456789", max_size=12)),
    suffix=st.sampled_from(sorted(SCALE)),
)
def test_every_quantity_is_exact(sign: str, whole: int, part: str | None, suffix: str) -> None:
    text = f"{sign}{whole}" + ("" if part is None else f".{part}") + suffix
    size = (
        (whole + Fraction(int(part or "0"), 10 ** len(part or "")))
        * SCALE[suffix]
        * (-1 if sign == "-" else 1)
    )
    if size.denominator == 1:
        assert parse_quantity(text) == size
    else:
        with pytest.raises(ValueError, match="whole number"):
            parse_quantity(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.00 KiB"),
        (2115301376, "1.97 GiB"),
        (-2048, "-2.00 KiB"),
        (1.5 * 1024**2, "1.50 MiB"),
        (5 << 60, "5.00 EiB"),
        (5 << 70, "5120.00 EiB"),
    ],
)
def test_sizes_are_written_for_people(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(("text", "number"), [("1%", 1), ("9%", 9), ("70%", 70), ("100%", 100)])
def test_a_percentage_is_a_number(text: str, number: int) -> None:
    assert parse_percent(text) == number


@pytest.mark.parametrize(
    "text", ["0%", "101%", "070%", "70", "70 %", "-1%", "7.5%", "%", "", "70%\n", "\u0667%"]
)
def test_what_is_no_percentage_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a percentage from 1% to 100%"):
        parse_percent(text)
