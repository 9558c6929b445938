"""Kills that the kernel counts, and the deaths that they stand for."""

from __future__ import annotations

from dsort_cli.oomkills import OomKills


def test_each_kill_stands_for_one_death() -> None:
    kills, now = 3, 0.0
    found = OomKills(lambda: kills, clock=lambda: now)
    assert not found.claim()  # those three were before
    kills = 5  # two at once, and both are seen then
    assert [found.claim() for _ in range(3)] == [True, True, False]
    kills, now = 7, 1.0
    assert found.claim()
    now = 6.5  # the other was somebody else's
    assert not found.claim()
    kills = 8
    assert [found.claim(), found.claim()] == [True, False]
