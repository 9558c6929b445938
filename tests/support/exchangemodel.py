"""The exchange between ranks as a small state machine.

Each of three ranks builds windows from slices of the two others. A window holds one of the rank's buffers from before its
first slice is asked for until it is written; windows are written in order. A rank has `flows` requests at a time, those that
were told to come back among them. The send side is the product's own `Line`, step by step (see `linesteps`).

Time is left out: whatever may happen at some time may happen at any. A client that was told to come back does so at once, or
late, or so late that its place was given up; a request that is held may be refused after all; a connection may break, a rank
may die and come back with a new line and empty buffers, the job may be aborted. What does harm (a client that stays away
although it lives, a broken connection, a death) happens `faults` times at the most.

Ranks name each other by distance, so turning all of them round changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from dsort_worker.line import Go, Refused
from tests.support import linesteps
from tests.support.linesteps import NEW, RuleBroken, Said, Send

RANKS: Final = 3

IDLE, ASKED, PLACED, TORN = range(4)
"""A slice is not asked for, is asked for, is in its window; a part of it is, and is taken for the whole (a mistake)."""

NOBODY: Final = -1
"""Whose place it is when the rank that had it is gone."""


class Life(Enum):
    """Whether a rank lives, is dead for a while, or has ended as it was told."""

    LIVES = 0
    DEAD = 1
    STOPPED = 2


class Rank(NamedTuple):
    """A rank.

    written: windows that are; buffers: windows that hold one; slices: the state of each. line: by whose slice a place is
    taken there (each slice is of one rank, and asked for by one), and whether its request is held; served: by this rank.
    """

    written: int
    buffers: tuple[int, ...]
    slices: tuple[int, ...]
    line: tuple[tuple[int, bool], ...] = ()
    served: tuple[int, ...] = ()
    life: Life = Life.LIVES


class Change(NamedTuple):
    """What may happen to one rank, or to one that asks and one that is asked. harm: it may happen, and no end may need it."""

    name: str
    ranks: tuple[Rank, ...]
    harm: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """The protocol. windows: from which ranks each window of a rank is made, as distances from that rank (1 or 2).

    The fields after `send` are mistakes, if True.
    """

    windows: tuple[tuple[int, ...], ...] = ((1, 2), (1,), (2,))
    buffers: int = 2
    flows: int = 2
    faults: int = 1
    send: Send = field(default_factory=Send)
    asks_before_it_has_a_buffer: bool = False
    serves_from_the_buffers_of_windows: bool = False
    keeps_buffers_when_ended: bool = False
    keeps_the_slot_of_a_broken_request: bool = False
    keeps_what_a_broken_request_brought: bool = False
    hears_what_it_gave_up: bool = False
    waits_for_the_dead: bool = False
    gives_its_flow_away: bool = False
    """While it is away: then it needs another one to come back."""

    sources: tuple[tuple[int, int], ...] = ()
    """Of each slice: its window, and the distance of the rank that has it."""

    def __post_init__(self) -> None:
        pairs = tuple((window, far) for window, fars in enumerate(self.windows) for far in fars)
        object.__setattr__(self, "sources", pairs)

    def start(self) -> Rank:
        """A rank to which nothing has happened yet."""
        return Rank(0, (), (IDLE,) * len(self.sources))

    def is_done(self, rank: Rank, *, aborting: bool) -> bool:
        """It has written everything, or stopped; it holds nothing, and nobody is held by it."""
        over = rank.life is Life.STOPPED if aborting else rank.written == len(self.windows)
        busy = rank.buffers or rank.served or any(held for _, held in rank.line) or rank.life is Life.DEAD
        return over and not busy

    # ---------------------------------------------------------------------------------------------------- one rank alone

    def alone(self, rank: Rank) -> Iterator[Change]:
        """What a rank does by itself."""
        if rank.life is Life.DEAD:
            yield Change("is back", (rank._replace(life=Life.LIVES),))
        if rank.life is not Life.LIVES:
            return
        following = max(rank.buffers, default=rank.written - 1) + 1
        if (
            following < len(self.windows)
            and len(rank.buffers) < self.buffers
            and not self.asks_before_it_has_a_buffer
        ):
            opened = rank._replace(buffers=(*rank.buffers, following))
            yield Change(f"opens window {following}", (opened,))
        first = rank.written
        states = zip(self.sources, rank.slices, strict=True)
        mine = {status for (window, _), status in states if window == first}
        if first in rank.buffers and mine <= {PLACED, TORN}:
            if TORN in mine:
                raise RuleBroken("a window was written without all of a slice")
            left = tuple(window for window in rank.buffers if window != first)
            yield Change(f"writes window {first}", (rank._replace(written=first + 1, buffers=left),))
        for place, (number, _) in enumerate(rank.line):
            if number == NOBODY:
                yield Change("gives up a place of nobody", (self._late(rank, place),))

    def ended(self, rank: Rank, life: Life) -> Rank:
        """The rank when it has died or stopped: what it has written stays."""
        kept = tuple(PLACED if window < rank.written else IDLE for window, _ in self.sources)
        return Rank(rank.written, rank.buffers if self.keeps_buffers_when_ended else (), kept, life=life)

    def bereft(self, rank: Rank, far: int) -> Rank:
        """A rank after the one at that distance has ended: nobody answers what it asked there, and what was asked from
        there has ended.
        """
        if not self.waits_for_the_dead:
            slices = tuple(
                IDLE if status == ASKED and at == far else status
                for (_, at), status in zip(self.sources, rank.slices, strict=True)
            )
            rank = rank._replace(slices=slices)
        theirs = {number for number, (_, at) in enumerate(self.sources) if at == RANKS - far}
        while ending := theirs & {*rank.served, *(number for number, held in rank.line if held)}:
            hung_up = self._hang_up(rank, min(ending), broken=not self.hears_what_it_gave_up)
            if hung_up == rank:
                break
            rank = hung_up
        line = tuple((NOBODY if number in theirs else number, held) for number, held in rank.line)
        return rank._replace(line=line)

    # ------------------------------------------------------------------------------------- one asks, the other is asked

    def between(self, asker: Rank, asked: Rank, far: int, *, without: int = 0) -> Iterator[Change]:
        """What may happen between a rank and the one at that distance from it.

        without: requests to the third rank that have no flow, see gives_its_flow_away.
        """
        if asker.life is not Life.LIVES or asked.life is not Life.LIVES:
            return
        flows = self.flows - asker.slices.count(ASKED)
        if self.gives_its_flow_away:
            flows += without + self.away_with(asked, far)
        for number, (window, at) in enumerate(self.sources):
            if at == far:
                yield from self._carry(asker, asked, number, window, has_flow=flows > 0)

    def away_with(self, asked: Rank, far: int) -> int:
        """Requests to a rank, of the one that has it at that distance, that were told to come back."""
        return sum(
            not held and number != NOBODY and self.sources[number][1] == far for number, held in asked.line
        )

    def _carry(
        self, asker: Rank, asked: Rank, number: int, window: int, *, has_flow: bool
    ) -> Iterator[Change]:
        status = asker.slices[number]
        if window in asker.buffers or self.asks_before_it_has_a_buffer:
            if status == IDLE and has_flow:
                yield Change(
                    f"asks for {number}", (_slice(asker, number, ASKED), self._arrive(asked, number))
                )
            if (number, False) in asked.line and (has_flow or not self.gives_its_flow_away):
                yield Change(f"asks for {number} again", (asker, self._arrive(asked, number)))
        if (number, True) in asked.line:
            place = asked.line.index((number, True))
            yield Change(f"{number} was held for long", (asker, self._late(asked, place)), harm=True)
        if number in asked.served and self._can_send(asked):
            taken = self._take(asker, number, window)
            if taken is not None:
                yield Change(f"{number} comes", (taken, self._hang_up(asked, number, broken=False)))

    def harm(self, asker: Rank, asked: Rank, far: int) -> Iterator[Change]:
        """What may go wrong between a rank and the one at that distance from it."""
        for number, (_, at) in enumerate(self.sources):
            if at != far or asker.slices[number] != ASKED:
                continue
            if (number, False) in asked.line:
                late = self._late(asked, asked.line.index((number, False)))
                yield Change(f"stays away with {number}", (_slice(asker, number, IDLE), late), harm=True)
            is_served = number in asked.served
            if is_served or (number, True) in asked.line:
                torn = is_served and self.keeps_what_a_broken_request_brought
                broken = _slice(asker, number, TORN if torn else IDLE)
                yield Change(
                    f"{number} breaks", (broken, self._hang_up(asked, number, broken=True)), harm=True
                )

    def _can_send(self, asked: Rank) -> bool:
        return not (self.serves_from_the_buffers_of_windows and len(asked.buffers) == self.buffers)

    def _take(self, asker: Rank, number: int, window: int) -> Rank | None:
        """The slice comes; None: it has to wait for a buffer."""
        if window not in asker.buffers:
            if not self.asks_before_it_has_a_buffer:
                raise RuleBroken("a payload came, and there was no buffer for it")
            if len(asker.buffers) == self.buffers:
                return None
            asker = asker._replace(buffers=tuple(sorted((*asker.buffers, window))))
        if len(asker.buffers) > self.buffers:
            raise RuleBroken("more windows than buffers")
        if asker.slices[number] == PLACED:
            raise RuleBroken("a slice was placed twice")
        return _slice(asker, number, PLACED)

    # ----------------------------------------------------------------------------------- what the line of a rank decides

    def _arrive(self, rank: Rank, number: int) -> Rank:
        away = (number, False)
        place = rank.line.index(away) if away in rank.line else None
        said = linesteps.arrive(self.send, _held(rank), len(rank.served), place)
        if said.answer is Refused and all(one not in {NEW, place} for one, _ in said.places):
            raise RuleBroken("a request has no place in the line")
        return _as_said(rank, said, goes=number if said.answer is Go else None, new=number)

    def _hang_up(self, rank: Rank, number: int, *, broken: bool) -> Rank:
        """A request has ended, held or served."""
        if number not in rank.served:
            place = rank.line.index((number, True))
            return _as_said(rank, linesteps.leave(self.send, _held(rank), len(rank.served), place))
        if broken and self.hears_what_it_gave_up:
            return rank
        if broken and self.keeps_the_slot_of_a_broken_request:
            served = tuple(sorted(NOBODY if one == number else one for one in rank.served))
            return rank._replace(served=served)
        said = linesteps.done(self.send, _held(rank), len(rank.served))
        left = tuple(one for one in rank.served if one != number)
        return _as_said(rank._replace(served=left), said)

    def _late(self, rank: Rank, place: int) -> Rank:
        return _as_said(rank, linesteps.late(self.send, _held(rank), len(rank.served), place))


def _held(rank: Rank) -> tuple[bool, ...]:
    return tuple(held for _, held in rank.line)


def _slice(rank: Rank, number: int, status: int) -> Rank:
    return rank._replace(slices=(*rank.slices[:number], status, *rank.slices[number + 1 :]))


def _as_said(rank: Rank, said: Said, *, goes: int | None = None, new: int = NOBODY) -> Rank:
    """The line as it is now. goes: who was served at once; new: who has come."""
    whose = [number for number, _ in rank.line]
    served = [*rank.served, *([] if goes is None else [goes]), *(whose[place] for place in said.go)]
    line = tuple((new if place == NEW else whose[place], held) for place, held in said.places)
    return rank._replace(line=line, served=tuple(sorted(served)))
