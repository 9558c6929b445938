"""The control endpoint: its own thread, one idempotent request, held until there is news."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dsort_api.messages import PROTOCOL, Desired, Observed, Outcome, Phase, Stop
from dsort_api.reasons import Reason
from dsort_worker import control
from dsort_worker.control import ControlServer
from dsort_worker.state import RankState

DEADLINE = 30.0


class House:
    """A control endpoint and who asks it."""

    def __init__(self) -> None:
        self.state = RankState(rank=4, epoch="e1")
        self.control = ControlServer(self.state, host="127.0.0.1", port=0, token="secret")
        self.url = self.control.start()

    def request(
        self, body: str, *, token: str = "Bearer secret", path: str = "/v1/control", method: str = "PUT"
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=DEADLINE)
        try:
            connection.request(method, path, body, {"Authorization": token} if token else {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def tell(self, **desired: Any) -> Observed:
        code, text = self.request(Desired(**desired).model_dump_json())
        assert code == 200, text
        return Observed.model_validate_json(text)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.control.stop()
    assert not house.control._thread.is_alive()


@pytest.fixture
def driver() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def test_desired_goes_in_and_observed_comes_out(house: House) -> None:
    told = threading.Event()
    house.state.on_told = told.set
    observed = house.tell(epoch="e1", memory_budget=123)
    assert told.wait(DEADLINE)
    assert house.state.memory_budget == 123
    assert (observed.rank, observed.epoch, observed.phase, observed.protocol) == (
        4,
        "e1",
        Phase.STARTING,
        PROTOCOL,
    )
    assert house.state.version == observed.version  # telling is no news by itself
    assert not house.control.final_answered.is_set()


def test_what_is_not_for_this_rank_is_refused(house: House) -> None:
    good = Desired(memory_budget=5).model_dump_json()
    for token in ("", "Bearer guess", "secret", "Bearer s\u00e9cret"):
        assert house.request(good, token=token)[0] == 401
    assert house.request("no json")[0] == 400
    assert house.request('{"wait_seconds": "soon"}')[0] == 400
    for version in (99, 0, -1):
        code, text = house.request(Desired(protocol=version, memory_budget=5).model_dump_json())
        assert code == 426
        assert text == f"this rank speaks protocol 1 and 2, the request has {version}"
    code, text = house.request('{"protocol": 3, "wait_seconds": "as long as you like"}')
    assert (code, text) == (426, "this rank speaks protocol 1 and 2, the request has 3")
    code, text = house.request(Desired(epoch="e0", memory_budget=5).model_dump_json())
    assert (code, text) == (409, "this rank lives in epoch e1")
    assert house.state.memory_budget == 0


def test_the_protocol_before_this_one_is_spoken_as_well(house: House) -> None:
    code, text = house.request('{"protocol": 1, "memory_budget": 7}')
    assert code == 200
    answer = json.loads(text)
    assert answer["protocol"] == 1
    assert set(answer["memory"]) == {"budget", "reserved", "rss", "peak_rss"}
    assert "flow" not in answer
    assert house.state.memory_budget == 7
    assert house.tell(protocol=2, throttle_level=1).flow.level == 1


def test_the_end_of_the_process_is_put_off_and_the_driver_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    house.control.terminate(within=0.0, code=143)
    assert house.control.final_answered.wait(DEADLINE)
    wait_for(lambda: ended)
    assert ended == [143]
    house.control.stop()
    house.control.terminate(within=0.0, code=143)  # the process is about to end by itself


def test_an_endpoint_that_ends_by_itself_says_so() -> None:
    """Nobody could reach the rank any more, and no order to end would."""
    fails = threading.Event()
    failures: list[BaseException] = []

    async def watch() -> None:
        await asyncio.to_thread(fails.wait, DEADLINE)
        raise ValueError("something nobody expected")

    control = ControlServer(RankState(rank=0, epoch="e"), host="127.0.0.1", port=0, token="t", watch=watch)
    control.on_failure = failures.append
    control.start()
    assert failures == []
    fails.set()
    assert control.final_answered.wait(DEADLINE)
    control.stop()
    (failure,) = failures
    assert isinstance(failure, BaseExceptionGroup)
    assert [str(error) for error in failure.exceptions] == ["something nobody expected"]


def test_health_needs_no_token(house: House) -> None:
    house.state.enter(Phase.SCAN)
    code, text = house.request("", token="", path="/healthz", method="GET")
    assert (code, json.loads(text)) == (200, {"phase": "Scan", "rank": 4})


def test_a_request_is_held_until_there_is_news(house: House, driver: ThreadPoolExecutor) -> None:
    held = driver.submit(house.tell, seen=house.state.version, wait_seconds=20.0, memory_budget=9)
    wait_for(lambda: house.state.memory_budget == 9)  # it has arrived
    assert not held.done()
    house.state.enter(Phase.SCAN)
    assert held.result(DEADLINE).phase is Phase.SCAN
    # News that the driver has not seen is told at once.
    assert house.tell(seen=0, wait_seconds=20.0).phase is Phase.SCAN


def test_phases_wait_for_each_other_and_nothing_that_matters_waits_for_them(
    house: House, driver: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_LULL", 2 * DEADLINE)
    held = driver.submit(house.tell, seen=house.state.version, wait_seconds=20.0, memory_budget=9)
    wait_for(lambda: house.state.memory_budget == 9)
    house.state.enter(Phase.LIST)
    house.state.enter(Phase.SCAN)
    # Who has seen less than was said is answered, and with all that there is; nobody else is.
    seen = house.tell(seen=0, wait_seconds=20.0)
    assert (seen.phase, seen.version) == (Phase.SCAN, 3)
    assert not held.done()
    house.state.serve_at("http://here")
    answer = held.result(DEADLINE)
    assert (answer.phase, answer.data_url, answer.version) == (Phase.SCAN, "http://here", 4)


def test_a_held_request_ends_with_its_wait(house: House) -> None:
    began = time.monotonic()
    assert house.tell(seen=house.state.version, wait_seconds=0.05).phase is Phase.STARTING
    assert house.tell(seen=house.state.version, wait_seconds=-1.0).phase is Phase.STARTING
    assert time.monotonic() - began < 20


def test_a_held_request_does_not_hold_up_others(house: House, driver: ThreadPoolExecutor) -> None:
    held = driver.submit(house.tell, seen=house.state.version, wait_seconds=20.0, memory_budget=9)
    wait_for(lambda: house.state.memory_budget == 9)
    house.tell(stop=Stop(reason=Reason.ABORTED, message="enough"))
    assert house.state.stop == Stop(reason=Reason.ABORTED, message="enough")
    assert not held.done()
    house.state.stopped()
    assert held.result(DEADLINE).phase is Phase.STOPPED


def test_a_final_state_counts_as_seen_when_it_was_sent(house: House) -> None:
    house.tell()
    assert not house.control.final_answered.is_set()
    house.state.finish(Outcome(state="Complete", manifest="/out/dsort-manifest.json"))
    assert not house.control.final_answered.is_set()
    assert house.tell(seen=1, wait_seconds=20.0).outcome == Outcome(
        state="Complete", manifest="/out/dsort-manifest.json"
    )
    assert house.control.final_answered.wait(DEADLINE)


def test_stopping_answers_what_is_held_at_once(driver: ThreadPoolExecutor) -> None:
    house = House()
    held = driver.submit(house.tell, seen=house.state.version, wait_seconds=25.0, memory_budget=9)
    wait_for(lambda: house.state.memory_budget == 9)
    began = time.monotonic()
    house.control.stop()
    assert held.result(DEADLINE).phase is Phase.STARTING
    assert time.monotonic() - began < 2.0  # what aiohttp gives handlers before it cancels them
    house.state.enter(Phase.SCAN)  # a change after the end is told to nobody, and fails nothing
    house.control.stop()


def test_an_address_that_is_taken_is_told_at_the_start(house: House) -> None:
    port = int(house.url.rpartition(":")[2])
    second = ControlServer(RankState(rank=0, epoch="e"), host="127.0.0.1", port=port, token="")
    with pytest.raises(OSError, match="address already in use"):
        second.start()
    second.stop()
    assert house.tell().rank == 4  # the first is as it was
