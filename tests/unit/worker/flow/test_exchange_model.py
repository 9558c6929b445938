"""The protocol of the exchange, explored to the last state: nobody waits for ever, nothing is lost, nothing comes twice.

Three ranks with two buffers each: 387,716 states where each has three windows to build and one thing goes wrong, 495,812 in
all tests of the protocol. A mistake of each kind is made and found, so it would be found in the protocol.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from dsort_worker.line import Answer, Go, Line, Refused
from tests.support.exchangemodel import Exchange
from tests.support.exploration import Explorer, Report
from tests.support.linesteps import Send

THREE_WINDOWS: Final = Exchange(windows=((1,), (1,), (2,)))
"""Three windows a rank for its two buffers; at each line one request is served, one held, and a third has to come back."""

ONE_FLOW: Final = replace(THREE_WINDOWS, flows=1, faults=0, send=Send(places=2))
"""Who has asked one rank has no flow for the other, but that which the first request keeps."""

SMALL: Final = Exchange(windows=((1,), (2,)))
LEAST: Final = Exchange(windows=((1,),))
CROWDED: Final = Exchange(windows=((1, 1, 2),), flows=3)
"""Three requests at each line."""

STUCK: Final = "no end can be reached any more"


@pytest.mark.slow
@pytest.mark.timeout(400)  # half a minute on a quiet machine
@pytest.mark.parametrize(
    ("exchange", "states"),
    [
        pytest.param(THREE_WINDOWS, 387_716, id="three windows for two buffers"),
        pytest.param(Exchange(windows=((1, 2),), faults=2), 39_557, id="a window of both others"),
        pytest.param(Exchange(windows=((1, 1),), faults=2), 25_620, id="a window by two requests"),
        pytest.param(replace(THREE_WINDOWS, windows=((1,), (1,)), send=Send(slots=2)), 7_985, id="two slots"),
        pytest.param(ONE_FLOW, 34_934, id="one flow"),
    ],
)
def test_every_state_leads_to_the_end_and_no_step_breaks_a_rule(exchange: Exchange, states: int) -> None:
    report = Explorer(exchange).explore()
    print(f"{report.states:,} states, {report.steps:,} steps, {report.ends} ends")
    assert (report.wrong, report.path) == ("", ())
    assert report.ends > 0
    assert report.states >= states, "a smaller protocol than it was is explored"


class AtTheTail(Line):
    """Who comes back is a newcomer."""

    def ask(
        self, *, now: float, size: int = 0, ticket: int | None = None, deadline: float | None = None
    ) -> Answer:
        if ticket is not None:
            self._places.pop(ticket, None)
        return super().ask(now=now, size=size, ticket=None, deadline=deadline)


class Impatient(Line):
    """A free slot goes to whoever is there, not to the one who was told to come back for it."""

    def turns(self, *, now: float) -> list[Go | Refused]:
        over: list[Go | Refused] = []
        for ticket, place in list(self._places.items()):
            if place.present and len(self._served) < self._slots:
                over.append(self._serve(ticket, now))
        return [*over, *super().turns(now=now)]


class Unbounded(Line):
    """Everybody may wait."""

    def _position(self, ticket: int) -> tuple[int, int]:
        return super()._position(ticket)[0], 0


class Hoarding(Line):
    """The slot of a request that has ended is not free."""

    def done(self, ticket: int, *, now: float) -> None:
        if ticket not in self._served:
            raise KeyError(ticket)


class Deaf(Line):
    """A place is kept for a client that does not come."""

    def _give_up(self, now: float) -> None:
        pass


def explored(exchange: Exchange) -> Report:
    report = Explorer(exchange).explore()
    print(*report.path, sep="\n")
    return report


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (replace(SMALL, buffers=1, faults=0, asks_before_it_has_a_buffer=True), STUCK),
        (replace(SMALL, faults=0, serves_from_the_buffers_of_windows=True), STUCK),
        (replace(LEAST, keeps_buffers_when_ended=True), STUCK),
        (replace(LEAST, keeps_the_slot_of_a_broken_request=True), STUCK),
        (replace(LEAST, keeps_what_a_broken_request_brought=True), "written without all of a slice"),
        (replace(LEAST, hears_what_it_gave_up=True), "placed twice"),
        (replace(LEAST, waits_for_the_dead=True), STUCK),
        (replace(ONE_FLOW, gives_its_flow_away=True), STUCK),
        (replace(SMALL, faults=0, send=Send(asks_for_turns=False)), STUCK),
    ],
    ids=[
        "push before there is a buffer",
        "serving waits for receiving",
        "a buffer is not given back at an end",
        "a slot is not given back when a request breaks",
        "part of a slice is taken for the whole",
        "a request that was given up is heard",
        "requests to the dead do not end",
        "no flow to come back with",
        "nobody is told that it is his turn",
    ],
)
def test_a_mistake_in_the_exchange_is_found(wrong: Exchange, words: str) -> None:
    assert words in explored(wrong).wrong


@pytest.mark.parametrize(
    ("line", "places", "words"),
    [
        (AtTheTail, 1, "lost a place"),
        (Impatient, 2, "before somebody who stood before him"),
        (Unbounded, 1, "more is served or held"),
        (Hoarding, 1, "a slot is lost"),
        (Deaf, 1, "kept for somebody who does not come"),
    ],
)
def test_a_mistake_in_the_line_is_found(line: type[Line], places: int, words: str) -> None:
    assert words in explored(replace(CROWDED, send=Send(line=line, places=places))).wrong
