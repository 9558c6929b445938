"""Reasons, exit codes, and errors of one line."""

from __future__ import annotations

import pytest

from dsort_api.reasons import EXIT_CODES, DSortError, Reason


def test_every_reason_has_a_code_of_its_own_that_means_nothing_else() -> None:
    assert set(EXIT_CODES) == set(Reason)
    assert len(set(EXIT_CODES.values())) == len(Reason)
    assert not {0, 2, 143} & set(EXIT_CODES.values())
    assert all(0 < code < 256 for code in EXIT_CODES.values())


def test_the_codes_that_others_rely_on() -> None:
    assert (EXIT_CODES[Reason.INTERNAL], EXIT_CODES[Reason.INVALID_SPEC], EXIT_CODES[Reason.ABORTED]) == (
        1,
        3,
        130,
    )


def test_reasons_are_words_of_kubernetes() -> None:
    assert all(reason.value.isalpha() and reason.value[0].isupper() for reason in Reason)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("shard a.tar: at offset 512: cut short", "shard a.tar: at offset 512: cut short"),
        ("member ü ñ: bad", "member ü ñ: bad"),
        ("member a\nb\x1b[31m\u2028: bad", "member a\\nb\\x1b[31m\\u2028: bad"),
        ("member \udcff: bad", "member \\udcff: bad"),
        ("", ""),
    ],
)
def test_a_message_is_one_printable_line(message: str, shown: str) -> None:
    error = DSortError(Reason.CORRUPT_SHARD, message)
    assert (error.message, str(error)) == (shown, shown)
    error.message.encode()


def test_an_error_has_the_exit_code_of_its_reason() -> None:
    error = DSortError(Reason.OUTPUT_EXISTS, "a")
    assert (error.reason, error.exit_code) == (Reason.OUTPUT_EXISTS, EXIT_CODES[Reason.OUTPUT_EXISTS])
