"""Receive queues that grow as they like, with marks at which senders are told to stop and to go on; senders that share threads.

In steps: in each a sender sends one message at the most, whatever is on its way takes DELAY steps, and the receiver takes one
message in every SLOWNESS steps. What has come and is not taken, or is on its way, is memory.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import pytest

from dsort_worker.line import Go, Line
from dsort_worker.receive import LEAST_WINDOW, ReceiveWindow

STEPS: Final = 2000
DELAY: Final = 10
SLOWNESS: Final = 10
HIGH, LOW = 40, 20


def naive_peak(senders: int) -> int:
    """Messages in the memory of a naive receiver at the most: it tells its senders to stop and to go on."""
    on_their_way: deque[int] = deque([0] * DELAY)
    """Messages that arrive in each of the next steps."""
    orders: deque[bool] = deque([True] * DELAY)
    """What the senders will have heard in each of the next steps: whether to go on."""
    queue = peak = 0
    going = True
    for step in range(STEPS):
        queue += on_their_way.popleft()
        queue -= bool(queue) and step % SLOWNESS == 0
        if queue >= HIGH:
            going = False
        elif queue <= LOW:
            going = True
        orders.append(going)
        on_their_way.append(senders if orders.popleft() else 0)
        peak = max(peak, queue + sum(on_their_way))
    return peak


def product_peak(senders: int) -> tuple[int, int, int]:
    """Bytes in the memory of the product's receiver at the most, requests at the most, and bytes that it took.

    A message is a window here, and a sender sends it when it was asked for.
    """
    window = ReceiveWindow(windows=3, size=LEAST_WINDOW, requests=8, of_one=1, sources=senders)
    on_their_way: deque[list[int]] = deque([] for _ in range(DELAY))
    came: deque[int] = deque()
    held = peak = most_requests = taken = 0
    for step in range(STEPS):
        now = step / 100
        for source in on_their_way.popleft():
            window.came(LEAST_WINDOW, expected=LEAST_WINDOW, now=now)
            window.end(source, 0, now=now)
            came.append(source)
        if came and step % SLOWNESS == 0:
            came.popleft()
            window.close(LEAST_WINDOW)
            held -= LEAST_WINDOW
            taken += LEAST_WINDOW
        asked = []
        for source in range(senders):
            if window.has_room() and window.may_ask(source):
                window.open(LEAST_WINDOW)
                window.ask(source, LEAST_WINDOW, now=now)
                held += LEAST_WINDOW
                asked.append(source)
        on_their_way.append(asked)
        peak, most_requests = max(peak, held), max(most_requests, window.requests)
    return peak, most_requests, taken


def test_naively_memory_grows_with_the_number_of_senders_whatever_the_marks() -> None:
    peaks = [naive_peak(senders) for senders in (1, 10, 100)]
    assert peaks[0] > HIGH
    for few, many in itertools.pairwise(peaks):
        assert many > 3 * few
    assert peaks[-1] > 20 * HIGH


@pytest.mark.parametrize("senders", [1, 10, 100])
def test_a_receive_window_is_as_large_as_it_is_whoever_sends(senders: int) -> None:
    peak, requests, taken = product_peak(senders)
    assert peak <= 3 * LEAST_WINDOW
    assert requests <= 3
    # And the slow receiver is the one who sets the pace: nothing is lost by asking for less.
    assert taken >= LEAST_WINDOW * (STEPS / SLOWNESS) * 0.8


# ----------------------------------------------------------------------------------------- senders that share their threads


@dataclass(slots=True)
class SharedThreads:
    """Two threads that send whatever is next in one queue; who takes nothing keeps its thread."""

    threads: int = 2
    queue: deque[str] = field(default_factory=deque)
    sending: list[str] = field(default_factory=list)

    def step(self, requests: list[str]) -> list[str]:
        """Requests come; those that are sent to the end in this step."""
        self.queue.extend(requests)
        while self.queue and len(self.sending) < self.threads:
            self.sending.append(self.queue.popleft())
        done = [one for one in self.sending if one != "slow"]
        self.sending = [one for one in self.sending if one == "slow"]
        return done


def test_naively_one_slow_receiver_has_all_the_threads() -> None:
    server = SharedThreads()
    sent = [len(server.step(["slow", "quick"])) for _ in range(STEPS)]
    assert sum(sent) <= 1, "the quick one was served, but for the moment before the threads were gone"
    assert len(server.queue) > STEPS, "and what waits for them grows without a bound"


def test_a_slow_receiver_has_a_slot_and_the_others_have_the_others() -> None:
    line = Line(slots=2, places=2, size=1 << 40)
    asker = {
        who: ReceiveWindow(windows=3, size=LEAST_WINDOW, requests=8, of_one=1, sources=2) for who in "sq"
    }
    sent = most_held = 0
    serving: dict[str, int] = {}
    for step in range(STEPS):
        for who, window in asker.items():  # both ask as often as they may: the same schedule
            while window.may_ask(0):
                answer = line.ask(now=float(step), size=1)
                assert isinstance(answer, Go), "there is a slot for everybody who may ask"
                window.ask(0, 1, now=float(step))
                serving[who] = answer.ticket
        most_held = max(most_held, line.present + line.away)
        line.done(serving.pop("q"), now=float(step))
        asker["q"].end(0, 0, now=float(step))
        sent += 1
        assert line.turns(now=float(step)) == []
    assert sent == STEPS
    assert (list(serving), most_held) == (["s"], 0)
