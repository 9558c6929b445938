"""The log of a worker, for machines and for people."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from typing import Any

import pytest

from dsort_worker.logs import set_up

ABOUT = {"job": "imagenet", "uid": "u", "rank": 3}


pytestmark = pytest.mark.usefixtures("own_log")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_says_when_what_and_about_whom() -> None:
    stream = io.StringIO()
    set_up("json", stream=stream, about=ABOUT)
    logging.getLogger("dsort.rank").info("phase %s\nand \x1b ü", "Scan")
    logging.getLogger("dsort.rank").debug("of no use")
    (line,) = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "logger": "dsort.rank", "message": "phase Scan\nand \x1b ü", **ABOUT}
    assert stream.getvalue().isascii()


def test_the_trace_of_an_error_stands_in_its_line() -> None:
    stream = io.StringIO()
    set_up("json", stream=stream, about={})
    try:
        raise ValueError("why")
    except ValueError as error:
        logging.getLogger("x").exception("it failed")
        sys.excepthook(ValueError, error, error.__traceback__)
    caught, uncaught = lines(stream)
    assert caught["message"] == "it failed"
    assert uncaught["level"] == "critical"
    assert all(line["exception"].endswith("ValueError: why") for line in (caught, uncaught))


def test_warnings_of_libraries_are_lines_as_well() -> None:
    stream = io.StringIO()
    set_up("json", stream=stream, about=ABOUT)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert [line["level"] for line in lines(stream)] == ["warning"]


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    set_up("text", stream=stream, about=ABOUT)
    logging.getLogger("dsort.rank").info("phase Scan")
    set_up("text", stream=stream, about={})
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    first, second, *trace = stream.getvalue().splitlines()
    assert first.endswith("info    rank 3: phase Scan")
    assert second.endswith("error  : it failed")
    assert trace[-1] == "ValueError: why"
