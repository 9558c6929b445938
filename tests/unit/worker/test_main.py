"""What of a rank's process needs no process: the rest is in tests/local."""

from __future__ import annotations

import resource

import pytest

from dsort_worker.main import _raise_file_limit
from dsort_worker.process import _open_files


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
