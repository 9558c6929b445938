"""The documented exit codes are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from dsort_api.reasons import EXIT_CODES, Reason

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exit-codes.md"


def test_the_page_has_every_reason_with_its_code_in_order() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert rows == [(str(code), reason.value) for reason, code in EXIT_CODES.items()]


def test_every_reason_has_a_code_of_its_own() -> None:
    assert set(EXIT_CODES) == set(Reason)
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert not {0, 2, 129, 143} & set(EXIT_CODES.values())
