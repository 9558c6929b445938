"""Templates of names, against tables and against a brute force that knows nothing of the module's ways."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsort_api.templates import Exact, Glob, OutputTemplate, Prefix, Range, _Numbers, parse_input


def names(text: str) -> list[str]:
    entry = parse_input(text)
    assert isinstance(entry, Range)
    result = list(entry.names())
    assert entry.size == len(result)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p-{0..2}.tar", ["p-0.tar", "p-1.tar", "p-2.tar"]),
        ("p-{08..11}", ["p-08", "p-09", "p-10", "p-11"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{1..0003}", ["1", "2", "3"]),
        ("p-{0001..0010..4}", ["p-0001", "p-0005", "p-0009"]),
        ("p-{5..5}", ["p-5"]),
        ("{0..1}-{7..9..2}x", ["0-7x", "0-9x", "1-7x", "1-9x"]),
        ("c{0..1}/f{0..1}.tar", ["c0/f0.tar", "c0/f1.tar", "c1/f0.tar", "c1/f1.tar"]),
        ("p-@03-s", ["p-00-s", "p-01-s", "p-02-s", "p-03-s"]),
        ("@1x@1", ["0x0", "0x1", "1x0", "1x1"]),
        ("p-@0", ["p-0"]),
    ],
)
def test_ranges_are_those_of_bash(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("a.tar", Exact("a.tar")),
        ("deep/er/a.tar", Exact("deep/er/a.tar")),
        ("..a/b...tar", Exact("..a/b...tar")),
        ("a@b.tar", Exact("a@b.tar")),
        ("100%.tar", Exact("100%.tar")),
        ("@{0..0}5", Range(("@", "5"), (_Numbers(0, 0, 1, 1),))),
        ("ü ñ.tar", Exact("ü ñ.tar")),
        ("sub/", Prefix("sub/")),
        ("sub/er/", Prefix("sub/er/")),
        ("*.tar", Glob("*.tar")),
        ("**/x-?.tar", Glob("**/x-?.tar")),
        ("[ab].tar", Glob("[ab].tar")),
    ],
)
def test_an_entry_is_what_it_looks_like(text: str, entry: object) -> None:
    assert parse_input(text) == entry


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("/a.tar", "a path below the url"),
        ("/", "a path below the url"),
        ("../a.tar", "a path below the url"),
        ("a/../b.tar", "a path below the url"),
        ("a/..", "a path below the url"),
        ("./a.tar", "a path below the url"),
        ("a//b.tar", "a path below the url"),
        ("a//", "a path below the url"),
        ("{0..1}/../b", "a path below the url"),
        ("a\nb", "a control character"),
        ("a\0b", "a control character"),
        ("a\x7fb", "a control character"),
        ("p-%06d.tar", "%d has no end"),
        ("p-%d", "%d has no end"),
        ("p-{3..1}", "the range {3..1} begins after its end"),
        ("p-{0..1}-{3..1}", "the range {3..1} begins after its end"),
        ("p-{1..3..0}", "the step of {1..3..0} must be 1 or more"),
        ("p-{a..c}", "a brace that is no range"),
        ("p-{a,b}", "a brace that is no range"),
        ("p-{0..1", "a brace that is no range"),
        ("p-0..1}", "a brace that is no range"),
        ("p-{-1..1}", "a brace that is no range"),
        ("p-{0..1}-{}", "a brace that is no range"),
        ("p-{٠..٩}", "a brace that is no range"),
        (f"p-{{0..{'9' * 19}}}", "a brace that is no range"),
        ("p-{0..100000000}", "more than 100000000 names"),
        ("p-{0..9999}-{0..10000}", "more than 100000000 names"),
        ("p-{0..1}*.tar", "mixes a range and a glob"),
        ("p-@1*.tar", "mixes a range and a glob"),
        ("p-{0..1}-@3", "a range in braces and one with @"),
        ("c-{0..1}/", "is a range of folders"),
        ("c-*/", "is a glob of folders"),
    ],
)
def test_bad_entries_are_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        parse_input(text)
    assert str(caught.value).startswith(repr(text))


def test_the_most_names_are_still_a_range() -> None:
    entry = parse_input("p-{00000000..99999999}")
    assert isinstance(entry, Range)
    assert entry.size == 100_000_000
    assert entry.name(99_999_999) == "p-99999999"


@pytest.mark.parametrize(
    ("text", "capacity", "expected"),
    [
        ("train-%06d", None, {0: "train-000000.tar", 1: "train-000001.tar", 12345678: "train-12345678.tar"}),
        ("train-%d.tar", None, {0: "train-0.tar", 10: "train-10.tar"}),
        ("%02d-of-many", None, {7: "07-of-many.tar", 100: "100-of-many.tar"}),
        ("train-{0000..0099}", 100, {0: "train-0000.tar", 99: "train-0099.tar"}),
        ("t-{0..1}-{0..1}.tar", 4, {0: "t-0-0.tar", 1: "t-0-1.tar", 2: "t-1-0.tar", 3: "t-1-1.tar"}),
        ("t-@010", 11, {0: "t-000.tar", 10: "t-010.tar"}),
        ("one", 1, {0: "one.tar"}),
        ("one.tar", 1, {0: "one.tar"}),
        ("a.tar-b", 1, {0: "a.tar-b.tar"}),
    ],
)
def test_output_names_go_by_number(text: str, capacity: int | None, expected: dict[int, str]) -> None:
    template = OutputTemplate.parse(text)
    assert template.capacity == capacity
    assert {number: template.name(number) for number in expected} == expected


@pytest.mark.parametrize(("text", "number"), [("a-%d", -1), ("a-{0..2}", 3), ("a-{0..2}", -1), ("one", 1)])
def test_there_is_no_name_past_the_end(text: str, number: int) -> None:
    with pytest.raises(IndexError, match=f"has no name {number}"):
        OutputTemplate.parse(text).name(number)


def test_the_suffix_is_that_of_the_format() -> None:
    assert OutputTemplate.parse("a-%d", suffix=".tar.gz").name(3) == "a-3.tar.gz"
    assert OutputTemplate.parse("a-%d.tar.gz", suffix=".tar.gz").name(3) == "a-3.tar.gz"
    with pytest.raises(ValueError, match=r"\.tar is not written by this version; write \.tar\.gz"):
        OutputTemplate.parse("a-%d.tar", suffix=".tar.gz")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a/b", "a plain file name"),
        ("../b", "a plain file name"),
        (".b", "a plain file name"),
        ("a\0", "a plain file name"),
        ("a\tb", "a plain file name"),
        ("a-*", "is a glob"),
        ("a-%s", "a % that is no number"),
        ("a-%5d", "a % that is no number"),
        ("a-%%", "a % that is no number"),
        ("a-%d%", "a % that is no number"),
        ("a-%d-%d", "more than one kind of number"),
        ("a-%d-{0..1}", "more than one kind of number"),
        ("a-%d-@1", "more than one kind of number"),
        ("a-{0..1}-@1", "a range in braces and one with @"),
        ("a-{b}", "a brace that is no range"),
        ("a-{2..1}", "begins after its end"),
        ("a-%d.tgz", ".tgz is not written by this version"),
        ("a-%d.zip", ".zip is not written by this version"),
        ("{0..11}{0..11}", "gives one name twice"),
        ("{0..11}0{0..11}", "gives one name twice"),
        ("{0..11}{00..11}x{0..1}{8..10}{9..10}", "gives one name twice"),
        ("a" * 252, "names of 256 bytes"),
        ("ü" * 126, "names of 256 bytes"),
        ("a" * 234 + "%d", "names of 256 bytes"),
        ("a" * 250 + "{8..10}", "names of 256 bytes"),
        ("%0252d", "names of 256 bytes"),
    ],
)
def test_bad_output_names_are_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        OutputTemplate.parse(text)
    assert str(caught.value).startswith(repr(text))


@pytest.mark.parametrize(
    "text",
    ["a" * 251, "a" * 233 + "%d", "a" * 249 + "{8..10}", "%0251d", "{0..10}-{0..10}", "{0..10}{00..10}"],
)
def test_output_names_that_just_do(text: str) -> None:
    assert OutputTemplate.parse(text).capacity != 0


literals = st.text(st.sampled_from("ab-_.@01"), max_size=3).filter(
    lambda text: not re.search(r"@[0-9]", text)
)
brackets = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 4), st.integers(1, 3)).map(
    lambda four: (min(four[:2]), max(four[:2]), four[2], four[3])
)


@given(first=literals, rest=st.lists(st.tuples(brackets, literals), min_size=1, max_size=3))
def test_ranges_against_brute_force(first: str, rest: list[tuple[tuple[int, int, int, int], str]]) -> None:
    text = first
    choices: list[list[str]] = [[first]]
    for (low, high, step, width), literal in rest:
        start = f"{low:0{width}d}"
        text += f"{{{start}..{high}..{step}}}{literal}"
        choices += [[f"{number:0{len(start)}d}" for number in range(low, high + 1, step)], [literal]]
    expected = ["".join(parts) for parts in itertools.product(*choices)]
    assume(not text.startswith("."))
    assert names(text) == expected
    varying = sum(len({len(one) for one in choice}) > 1 for choice in choices[1::2])
    try:
        template = OutputTemplate.parse(text)
    except ValueError:
        assert varying > 1
        with pytest.raises(ValueError, match="gives one name twice"):
            OutputTemplate.parse(text)
        return
    made = [template.name(number) for number in range(template.capacity or 0)]
    assert made == [name if name.endswith(".tar") else f"{name}.tar" for name in expected]
    assert len(set(made)) == len(made)


@given(
    prefix=literals,
    last=st.integers(0, 120),
    width=st.integers(1, 5),
    suffix=st.sampled_from(["", "-s", ".tar", "x"]),
)
def test_at_templates_against_brute_force(prefix: str, last: int, width: int, suffix: str) -> None:
    number = str(last).rjust(width, "0")
    expected = [f"{prefix}{str(one).rjust(len(number), '0')}{suffix}" for one in range(last + 1)]
    assume(prefix not in {".", ".."} or suffix)
    assert names(f"{prefix}@{number}{suffix}") == expected


@given(width=st.integers(1, 9), number=st.integers(0, 10**12))
def test_percent_is_printf(width: int, number: int) -> None:
    assert OutputTemplate.parse(f"a-%0{width}d.tar").name(number) == f"a-%0{width}d.tar" % number
    assert OutputTemplate.parse("a-%d").name(number) == f"a-{number}.tar"
