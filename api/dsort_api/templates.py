"""Names of shards: the entries of `spec.input.shards` and the template of `spec.output.name`.

    p-{0001..0010..2}-{0..9}    bash ranges, inclusive, with a step; several multiply, the rightmost fastest; the width of the
                                start pads
    p-@00100-s                  0..100 inclusive, padded to the width of the number
    p-%06d                      output only: from 0, without an end
    dir/  *.tar  name.tar       input only: a prefix, a glob, one name

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple

ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.lz4", ".tar.zst", ".zip")
"""Extensions of known archives; only the first is read and written by this version."""

# Numbers have at most 18 digits: more would name no file, and int() refuses thousands with words of its own. [0-9] and not
# \d, which takes the digits of every script.
_BRACE: Final = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})(?:\.\.([0-9]{1,18}))?\}")
_AT: Final = re.compile(r"@([0-9]{1,18})")
_PERCENT: Final = re.compile(r"%(?:0([0-9]{1,3}))?d")
_GLOB: Final = re.compile(r"[*?\[\]]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MOST_NAMES: Final = 100_000_000
_LONGEST_NAME: Final = 255
_MOST_DIGITS: Final = 18


class _Numbers(NamedTuple):
    """One range of numbers in a name: first, last (inclusive), step, width."""

    first: int
    last: int
    step: int
    width: int

    @property
    def size(self) -> int:
        """How many they are."""
        return (self.last - self.first) // self.step + 1

    def text(self, index: int) -> str:
        """The index-th number, padded."""
        return str(self.first + index * self.step).zfill(self.width)


class Range(NamedTuple):
    """Names with ranges in them: `texts` around `numbers`, one text more than numbers."""

    texts: tuple[str, ...]
    numbers: tuple[_Numbers, ...]

    @property
    def size(self) -> int:
        """How many they are."""
        return prod(numbers.size for numbers in self.numbers)

    def name(self, index: int) -> str:
        """The index-th name; the rightmost range runs fastest."""
        parts = [self.texts[-1]]
        for text, numbers in zip(reversed(self.texts[:-1]), reversed(self.numbers), strict=True):
            index, place = divmod(index, numbers.size)
            parts += [numbers.text(place), text]
        return "".join(reversed(parts))

    def names(self) -> Iterator[str]:
        """All names in order."""
        return (self.name(index) for index in range(self.size))


@dataclass(frozen=True, slots=True)
class Glob:
    """Whatever matches: `*`, `?`, `[...]` within a folder, `**` across folders."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """Every known archive below a folder; ends in a slash."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Exact:
    """One name."""

    name: str


InputEntry = Range | Glob | Prefix | Exact


def is_below(path: str) -> bool:
    """Whether a path leads to something below the folder that it begins at, in its one spelling."""
    return "\0" not in path and {"", ".", ".."}.isdisjoint(path.split("/"))


def parse_input(text: str) -> InputEntry:
    """An entry of `spec.input.shards`. Raises ValueError that names the text."""
    if not text:
        raise ValueError("'' is empty; name a shard, a range, a glob or a folder that ends in /")
    if _CONTROL.search(text):
        raise ValueError(f"{text!r} has a control character")
    # A path has one spelling, or a shard that two entries name would be read twice. The dots in {0..9} are no component.
    if not is_below(text.removesuffix("/")):
        raise ValueError(f"{text!r} must be a path below the url, without '.', '..' or an empty part")
    if _PERCENT.search(text):
        raise ValueError(f"{text!r}: %d has no end and names outputs only; write a range such as {{0..9}}")
    found = _parse_range(text)
    if found is not None:
        if text.endswith("/"):
            raise ValueError(
                f"{text!r} is a range of folders; write each folder as an entry, or a range of shards"
            )
        return found
    if text.endswith("/"):
        if _GLOB.search(text):
            raise ValueError(f"{text!r} is a glob of folders; end it in /*.tar")
        return Prefix(text)
    return Glob(text) if _GLOB.search(text) else Exact(text)


def _parse_range(text: str) -> Range | None:
    pattern = _BRACE if "{" in text or "}" in text else _AT
    matches = list(pattern.finditer(text))
    rest = pattern.sub("\0", text)  # not "": what stands on both sides of a range must not become one
    if "{" in rest or "}" in rest:
        raise ValueError(
            f"{text!r} has a brace that is no range; ranges are written {{first..last}} or {{first..last..step}}"
        )
    if not matches:
        return None
    if pattern is _BRACE and _AT.search(rest):
        raise ValueError(f"{text!r} has a range in braces and one with @; write both in braces")
    if _GLOB.search(rest):
        raise ValueError(f"{text!r} mixes a range and a glob; write two entries")
    numbers = tuple(_brace(match, text) if pattern is _BRACE else _at(match) for match in matches)
    ends = [0, *(match.end() for match in matches)]
    starts = [*(match.start() for match in matches), len(text)]
    if prod(one.size for one in numbers) > _MOST_NAMES:
        raise ValueError(f"{text!r} has more than {_MOST_NAMES} names")
    return Range(tuple(text[low:high] for low, high in zip(ends, starts, strict=True)), numbers)


def _brace(match: re.Match[str], text: str) -> _Numbers:
    first, last, step = match.groups()
    numbers = _Numbers(int(first), int(last), int(step or 1), len(first))
    if numbers.step < 1:
        raise ValueError(f"{text!r}: the step of {match.group()} must be 1 or more")
    if numbers.first > numbers.last:
        raise ValueError(f"{text!r}: the range {match.group()} begins after its end")
    return numbers


def _at(match: re.Match[str]) -> _Numbers:
    return _Numbers(0, int(match[1]), 1, len(match[1]))


def _repeats(found: Range) -> bool:
    """Whether two numbers may give one name: {0..11}{0..11} has 111 twice.

    A number ends at the first character that is no digit. Where numbers stand together, one of them may vary in its
    width, because the length tells it; two may not.
    """
    varying = 0
    for text, numbers in zip(found.texts[:-1], found.numbers, strict=True):
        if re.fullmatch("[0-9]*", text) is None:
            varying = 0
        varying += len(numbers.text(numbers.size - 1)) > numbers.width
        if varying > 1:
            return True
    return False


class OutputTemplate(NamedTuple):
    """Names of output shards by number. capacity: how many there are, None without an end; then there is no range, but a width."""

    text: str
    capacity: int | None
    numbered: Range | None
    width: int
    suffix: str

    @classmethod
    def parse(cls, text: str, *, suffix: str = ".tar") -> OutputTemplate:
        """Parse `spec.output.name`; `suffix` is added to a name without a known extension.

        Raises ValueError that names the text.
        """
        if not text:
            raise ValueError("'' is empty; write a template such as train-%06d or train-{0000..0099}")
        if "/" in text or text.startswith(".") or _CONTROL.search(text):
            raise ValueError(
                f"{text!r} must be a plain file name: no folder, no dot at the start, no control characters"
            )
        other = next((known for known in ARCHIVES if known != suffix and text.endswith(known)), None)
        if other is not None:
            raise ValueError(
                f"{text!r}: {other} is not written by this version; write {suffix}, or no extension"
            )
        template = cls._numbered(text, added="" if text.endswith(suffix) else suffix)
        last = 10**_MOST_DIGITS if template.capacity is None else template.capacity
        longest = len(template.name(last - 1).encode())
        if longest > _LONGEST_NAME:
            raise ValueError(f"{text!r} makes names of {longest} bytes; {_LONGEST_NAME} are the most")
        return template

    @classmethod
    def _numbered(cls, text: str, *, added: str) -> OutputTemplate:
        if _GLOB.search(text):
            raise ValueError(f"{text!r} is a glob; outputs need a template such as train-%06d")
        percents = list(_PERCENT.finditer(text))
        if "%" in _PERCENT.sub("", text):
            raise ValueError(f"{text!r} has a % that is no number; write %d or %06d")
        found = _parse_range(text)
        if percents:
            if found is not None or len(percents) > 1:
                raise ValueError(f"{text!r} has more than one kind of number; write one %06d, or ranges only")
            return cls(text, None, None, int(percents[0][1] or 0), added)
        if found is None:
            return cls(text, 1, Range((text,), ()), 0, added)
        if _repeats(found):
            raise ValueError(
                f"{text!r} gives one name twice; pad the numbers, as in {{00..11}}, or put a '-' between"
            )
        return cls(text, found.size, found, 0, added)

    def name(self, number: int) -> str:
        """The name of output shard `number` (from 0). Raises IndexError past the capacity and below 0."""
        if number < 0 or (self.capacity is not None and number >= self.capacity):
            raise IndexError(f"{self.text!r} has no name {number}; it has {self.capacity}")
        if self.numbered is None:
            return _PERCENT.sub(str(number).zfill(self.width), self.text) + self.suffix
        return self.numbered.name(number) + self.suffix
