"""The API server goes away, refuses, is slow and loses its history: the jobs get there all the same."""

from __future__ import annotations

import random
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.apiproxy import ApiProxy, Call
from tests.support.playground import Place, Playground, await_that

AWAY_SECONDS = 30.0


def page(port: int) -> str:
    """The metrics of an operator."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def refusing(status: int, *, share: float, seed: int = 1) -> Callable[[Call], int | None]:
    """Answer a share of all requests with this status."""
    draw = random.Random(seed)
    return lambda _: status if draw.random() < share else None


@pytest.mark.slow
def test_an_api_server_that_is_away_for_30_seconds_costs_no_more_than_that(place: Place) -> None:
    place.shards()
    expected = place.expect("a-job")
    with ApiProxy(place.plane) as proxy, place.operator(url=proxy.url) as operator:
        place.apply("a-job")
        await_that(lambda: place.pods, "pods are made", shows=operator.log)
        proxy.faults.refuse = lambda _: -1
        proxy.cut()
        back = time.monotonic() + AWAY_SECONDS
        await_that(lambda: time.monotonic() > back, "the server is back", seconds=AWAY_SECONDS + 5)
        assert operator.runs
        proxy.faults.refuse = lambda _: None
        place.await_job("a-job", Complete=True)
        place.check_output("a-job", like=expected)


def test_bursts_of_refusals_are_outlived(playground: Playground, place: Place, tmp_path: Path) -> None:
    place.shards()
    expected = place.expect("a-job")

    def outlive(status: int) -> None:
        here = playground.place(tmp_path)
        here.share_shards(place)
        with ApiProxy(here.plane) as proxy, here.operator(url=proxy.url) as operator:
            proxy.faults.refuse = refusing(status, share=0.4)
            here.apply("a-job")
            here.await_job("a-job", Complete=True)
            assert operator.runs
            here.check_output("a-job", like=expected)
            proxy.faults.refuse = lambda _: None

    with ThreadPoolExecutor() as pool:
        list(pool.map(outlive, (429, 500, 503)))


def test_a_watch_that_lost_its_history_begins_anew_and_what_went_meanwhile_is_gone(place: Place) -> None:
    place.shards()
    expected = place.expect("second")
    with ApiProxy(place.plane) as proxy, place.operator(url=proxy.url) as operator:
        place.apply("first")
        place.await_job("first", Complete=True)
        proxy.faults.gone = True
        proxy.cut()
        place.delete("first")
        place.apply("second")
        place.await_job("second", Complete=True)
        proxy.faults.gone = False
        assert operator.runs
        port = operator.ports()[1]
        await_that(lambda: 'dsort_jobs{state="Complete"} 1.0' in page(port), "the first is known to be gone")
        place.check_output("second", like=expected)


def test_slow_answers_only_take_longer(place: Place) -> None:
    place.shards()
    expected = place.expect("a-job")
    with ApiProxy(place.plane) as proxy, place.operator(url=proxy.url) as operator:
        proxy.faults.delay = 0.5
        place.apply("a-job")
        place.await_job("a-job", Complete=True)
        assert operator.runs
        place.check_output("a-job", like=expected)
