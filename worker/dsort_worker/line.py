"""The waiting line of the send side: who is served now, who waits, and who is told when to come back.

Everybody who asks has a **place**, in order of arrival, and a **ticket** that names it. A place has one of three states:

    served   holds one of the slots, from `Go` to `done`
    present  its request is held open until its turn
    away     its request was refused, with its ticket and the seconds after which to come back

The rules:

1.  Turns are taken in order of arrival. The first place that is not served gets the next free slot, and nobody before it.
2.  The first `places` places that are not served may be present, as long as no more than `size` bytes are asked for from the
    first of them to the last (the first may always be). All others are away. So a request that may wait may go on waiting:
    a later arrival never takes its place in the line, and the held requests are bounded in count and in bytes.
3.  A request that cannot wait is refused at once. Its ticket holds its place until it was away for the seconds that it was
    told, a quarter more (clients add jitter, see JITTER), and `grace`. Who comes back by then stands where it stood; who does
    not has given up its place. This is the only way in which a place is passed by a later one that stays: a free slot waits
    for a place that is away, for it may come any moment.
4.  The seconds to stay away come from the measured pace (a turn every so many seconds while all slots are in use): half
    of the time after which the place should be among those that may be present. Early costs one more question, late would
    leave a slot without work. Never less than SOONEST, never more than LATEST.
5.  A request may say how long it is going to wait for its answer. One that cannot be served by then is refused at once, and
    one that was held for that long (or for LONGEST, whichever is less) is refused then; its ticket holds its place as above.
6.  Who ends its request while it is present, or after it was told to go, gives up its place; so does who cannot come back
    with a ticket (an older version does not know of them) when it is refused.
7.  A ticket that is not known (of a place that was given up, or of another life of the rank) or whose place is present or
    served is no ticket: the request gets a new place, behind all others.
8.  At most `tickets` places are kept. A request past that is refused without a ticket, and has no place.

So every question is answered within LONGEST, everybody who comes back as told is served after those who were there before and
before those who came after, and what the line holds is bounded whatever is asked.

Pure: the clock is an argument (`now`, seconds, never less than before).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

GRACE: Final = 2.0
"""Seconds for which a place waits for its client past the time at which it was told to come."""

JITTER: Final = 0.25
"""A client stays away for a random time between what it was told and this part of it more."""

SOONEST: Final = 0.05
LATEST: Final = 4.0
"""Bounds of the seconds that a client is told to stay away."""

LONGEST: Final = 30.0
"""Seconds that a request is held at the most."""

_EAGER: Final = 0.5
_FIRST_PACE: Final = 0.01
"""Taken for the pace until it was measured: a herd that comes at the start is rather asked back early than late."""
_WEIGHT: Final = 0.2
"""Of the newest measurement in the smoothed pace."""


@dataclass(frozen=True, slots=True)
class Go:
    """The place has a slot, until `Line.done`."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Wait:
    """The place waits for its turn; `Line.turns` will say."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Come back after `retry_after` seconds. ticket: holds the place; None: there is none."""

    ticket: int | None
    retry_after: float


Answer: TypeAlias = Go | Wait | Refused


@dataclass(slots=True, eq=False, repr=False)
class _Place:
    size: int
    until: float
    """Present: when its request is refused after all. Away: when the place is given up."""
    present: bool


class Line:
    """The line of one rank. slots: requests served at a time; places, size: of the present, in count and in bytes; tickets:
    places kept in all; grace: see GRACE.
    """

    def __init__(
        self, *, slots: int, places: int, size: int, tickets: int = 4096, grace: float = GRACE
    ) -> None:
        self._slots = slots
        self._most = places
        self._most_size = size
        self._tickets = tickets
        self._grace = grace
        self._places: dict[int, _Place] = {}
        """In order of arrival; those that are served are not among them."""
        self._served: set[int] = set()
        self._last = 0
        self._pace = _FIRST_PACE
        self._full_since: float | None = None

    @property
    def serving(self) -> int:
        """Slots in use."""
        return len(self._served)

    def serves(self, ticket: int) -> bool:
        """Whether it holds a slot."""
        return ticket in self._served

    @property
    def present(self) -> int:
        """Requests that are held."""
        return sum(place.present for place in self._places.values())

    @property
    def away(self) -> int:
        """Places whose clients were told to come back."""
        return sum(not place.present for place in self._places.values())

    @property
    def pace(self) -> float:
        """Seconds from one turn to the next while all slots are in use, smoothed."""
        return self._pace

    def ask(
        self, *, now: float, size: int = 0, ticket: int | None = None, deadline: float | None = None
    ) -> Answer:
        """A request for `size` bytes comes. ticket: that it was given before (what it asked for then counts); deadline: seconds
        that it is going to wait.
        """
        self._give_up(now)
        place = self._places.get(ticket) if ticket is not None else None
        if ticket is None or place is None or place.present:
            if len(self._places) >= self._tickets:
                return Refused(None, _within_bounds(self._pace * (len(self._places) - self._most)))
            self._last = ticket = self._last + 1
            place = self._places[ticket] = _Place(size, until=0.0, present=False)
        ahead, too_far = self._position(ticket)
        if not ahead and len(self._served) < self._slots:
            return self._serve(ticket, now)
        patience = LONGEST if deadline is None else min(deadline, LONGEST)
        # All slots are in use, or kept free for one that is away: its turn comes after those ahead of it and one more.
        missing = max(self._pace * too_far, self._pace * (ahead + 1) - patience)
        if (
            too_far or missing > 0
        ):  # the pace may be none at all: turns that took no time that the clock shows
            return self._refuse(ticket, place, now, missing)
        place.present, place.until = True, now + patience
        return Wait(ticket)

    def leave(self, ticket: int) -> None:
        """Who stands there has gone for good. Without effect on who is served, or has no place."""
        self._places.pop(ticket, None)

    def done(self, ticket: int, *, now: float) -> None:
        """A request that was told to go has ended, well or not. Raises KeyError for one that holds no slot."""
        self._served.remove(ticket)
        if self._full_since is not None:
            self._pace += _WEIGHT * (now - self._full_since - self._pace)
            self._full_since = None

    def turns(self, *, now: float) -> list[Go | Refused]:
        """Those whose wait is over, as they stand in the line: call it after everything else, and when `due` has come."""
        self._give_up(now)
        over: list[Go | Refused] = []
        while self._places and len(self._served) < self._slots:
            ticket = next(iter(self._places))
            if not self._places[ticket].present:
                break
            over.append(self._serve(ticket, now))
        for ticket, place in self._places.items():
            if place.present and place.until <= now:
                over.append(self._refuse(ticket, place, now, 0.0))
        return over

    def due(self) -> float | None:
        """When `turns` has something to say although nothing else happens; None: not before something does."""
        return min((place.until for place in self._places.values()), default=None)

    def _give_up(self, now: float) -> None:
        gone = [ticket for ticket, place in self._places.items() if not place.present and place.until <= now]
        for ticket in gone:
            del self._places[ticket]

    def _position(self, ticket: int) -> tuple[int, int]:
        """Places ahead of it, and how many of these must go before it may be present."""
        size = self._places[ticket].size
        earlier = [place.size for number, place in self._places.items() if number < ticket]
        may_stay = 0
        for ahead in reversed(earlier):
            size += ahead
            if size > self._most_size or may_stay == self._most - 1:
                break
            may_stay += 1
        return len(earlier), len(earlier) - may_stay

    def _serve(self, ticket: int, now: float) -> Go:
        del self._places[ticket]
        self._served.add(ticket)
        if len(self._served) == self._slots:
            self._full_since = now
        return Go(ticket)

    def _refuse(self, ticket: int, place: _Place, now: float, missing: float) -> Refused:
        hint = _within_bounds(missing)
        place.present, place.until = False, now + hint * (1 + JITTER) + self._grace
        return Refused(ticket, hint)


def _within_bounds(seconds: float) -> float:
    return min(max(seconds * _EAGER, SOONEST), LATEST)
