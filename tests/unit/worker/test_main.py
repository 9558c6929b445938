"""What of a rank's process needs no process: the rest is in tests/local."""

from __future__ import annotations

import asyncio
import resource

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.main import _raise_file_limit
from dsort_worker.process import _cause, _open_files

LOST = DSortError(Reason.PEER_LOST, "rank 1")


@pytest.mark.parametrize(
    ("group", "cause"),
    [
        (ExceptionGroup("", [ValueError(), LOST]), LOST),
        (ExceptionGroup("", [ExceptionGroup("", [KeyError()]), ExceptionGroup("", [LOST])]), LOST),
        (BaseExceptionGroup("", [asyncio.CancelledError(), ExceptionGroup("", [KeyError()])]), None),
    ],
)
def test_the_cause_of_a_group_is_the_first_with_a_reason(
    group: BaseExceptionGroup[BaseException], cause: DSortError | None
) -> None:
    assert _cause(group) is cause


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 1 << 20, (16384, 1 << 20)),
        (1024, 4096, (4096, 4096)),
        (1024, resource.RLIM_INFINITY, (16384, resource.RLIM_INFINITY)),
        (65536, 65536, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: tuple[int, int] | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    _raise_file_limit()
    assert limits == ([raised] if raised else [])


@pytest.mark.parametrize(("soft", "files"), [(64, 16), (1024, 112), (16384, 1024), (1 << 20, 1024)])
def test_open_shards_leave_room_for_everything_else(
    monkeypatch: pytest.MonkeyPatch, soft: int, files: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert _open_files() == files
