"""Single steps of the product's waiting line, from any state that it may be in, each held against the rules of the line.

A state of the line is what matters of it to others: who stands where, whether each request is held (True) or its client was
told to come back (False), and how many are served. Time is no part of it: what a place may wait for is made to be over, or
not, as a step wants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from dsort_worker.line import Answer, Go, Line, Refused, _Place

NEW: Final = -1
"""The place of somebody who has just come; the others are named by where they stood before the step."""

_LATER: Final = 1e3
_UNKNOWN: Final = 10**9


class RuleBroken(Exception):
    """A step broke a rule; the message says which."""


class Said(NamedTuple):
    """What a step led to.

    answer: to the request that came. places: who stands in the line now, and whether they are held there. go, away: those
    whose wait is over, to be served or to come back.
    """

    answer: type[Answer] | None
    places: tuple[tuple[int, bool], ...]
    go: tuple[int, ...] = ()
    away: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """A send side. line: the class that decides; slots and places as for it. asks_for_turns: False is a mistake."""

    line: type[Line] = Line
    slots: int = 1
    places: int = 1
    asks_for_turns: bool = True


@cache
def arrive(send: Send, held: tuple[bool, ...], served: int, place: int | None) -> Said:
    """A request comes; place: of its ticket, None: it has none, or one that means nothing any more."""
    line = _line(send, held, served)
    answer = line.ask(now=0.0, size=1, ticket=None if place is None else place + 1)
    said = _said(send, line, held, served, [], answer=answer, mine=place)
    if place is None:
        stranger = _line(send, held, served)
        if stranger.ask(now=0.0, size=1, ticket=_UNKNOWN) != answer:
            raise RuleBroken("a ticket that means nothing is better or worse than none")
        held_back = said.answer is Refused and not said.places[len(held) :]
        if held_back:
            raise RuleBroken("a request was refused without a ticket, and there was room")
    return said


@cache
def leave(send: Send, held: tuple[bool, ...], served: int, place: int) -> Said:
    """A request that is held has ended."""
    line = _line(send, held, served)
    line.leave(place + 1)
    return _said(send, line, held, served, _turns(send, line), gone=place)


@cache
def done(send: Send, held: tuple[bool, ...], served: int) -> Said:
    """A request that is served has ended; served: with it."""
    line = _line(send, held, served)
    line.done(len(held) + 1, now=0.0)
    return _said(send, line, held, served - 1, _turns(send, line))


@cache
def late(send: Send, held: tuple[bool, ...], served: int, place: int) -> Said:
    """What a place waited for is over: a held request is to come back, a client that is away has lost its place."""
    line = _line(send, held, served)
    line._places[place + 1].until = 0.0
    return _said(send, line, held, served, line.turns(now=0.0), gone=None if held[place] else place)


def _line(send: Send, held: tuple[bool, ...], served: int) -> Line:
    line = send.line(slots=send.slots, places=send.places, size=send.places)
    line._places = {
        number: _Place(size=1, until=_LATER, present=one) for number, one in enumerate(held, start=1)
    }
    line._served = set(range(len(held) + 1, len(held) + 1 + served))
    line._last = len(held) + served
    return line


def _turns(send: Send, line: Line) -> list[Go | Refused]:
    return line.turns(now=0.0) if send.asks_for_turns else []


def _said(
    send: Send,
    line: Line,
    held: tuple[bool, ...],
    busy: int,
    over: list[Go | Refused],
    *,
    answer: Answer | None = None,
    mine: int | None = None,
    gone: int | None = None,
) -> Said:
    """The state after a step. busy: slots in use but for those that were given in it. mine: the place whose ticket came;
    gone: the one that was given up. Raises RuleBroken.
    """

    def named(ticket: int | None) -> int:
        assert ticket is not None
        return ticket - 1 if ticket <= len(held) else NEW

    places = tuple((named(ticket), place.present) for ticket, place in line._places.items())
    stay = [place for place, _ in places if place != NEW]
    go = tuple(named(one.ticket) for one in over if isinstance(one, Go))
    served = [*([mine] if isinstance(answer, Go) and mine is not None else []), *go]
    if sorted({*stay, *served, *([] if gone is None else [gone])}) != list(range(len(held))):
        raise RuleBroken("somebody lost a place whose client came back, or did not even go away")
    if gone in stay:
        raise RuleBroken("a place is kept for somebody who does not come")
    if [place for place, _ in places] != [*sorted(stay), *([NEW] * (len(places) - len(stay)))]:
        raise RuleBroken("a place was passed by a later one")
    if isinstance(answer, Go) and mine is None:
        served.append(len(held))
    if served != sorted(served) or (served and min([*stay, len(held)]) < max(served)):
        raise RuleBroken("somebody was served before somebody who stood before him")
    if line.serving != busy + len(go) + isinstance(answer, Go):
        raise RuleBroken("a slot is lost, or was given twice")
    if line.serving > send.slots or line.present > send.places:
        raise RuleBroken("more is served or held than there is room for")
    away = tuple(named(one.ticket) for one in over if isinstance(one, Refused))
    return Said(None if answer is None else type(answer), places, go, away)
