"""Every state of the exchange that can be reached, breadth first: what breaks a rule on the way, and what leads nowhere.

States that are each other's turned round are one. Steps depend on one rank, or on one that asks and one that is asked, so they
are worked out once for each such rank or pair; a state is no more than the numbers of its three ranks and of the harm that may
still be done.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from tests.support.exchangemodel import RANKS, Change, Exchange, Life, Rank
from tests.support.linesteps import RuleBroken

ABORTING: Final = -1
"""Stands for the harm that may still be done when the job was aborted: none."""

State: TypeAlias = tuple[int, int, int, int]
"""The numbers of three ranks, and how often harm may still be done, or ABORTING."""

Moves: TypeAlias = list[tuple[str, tuple[int, ...], bool]]

_Move: TypeAlias = tuple[int, int, int, int, bool, int, int, str]
"""The state that follows, whether the step does harm, and what it is called: who, to whom, what."""

_Origin: TypeAlias = tuple[int, int, int, str]
"""From which state a state was found, and by which step."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. path: the steps to the first state that is wrong, and `wrong` what is; "" when nothing is."""

    states: int
    steps: int
    ends: int
    wrong: str = ""
    path: tuple[str, ...] = ()


@dataclass(slots=True)
class Explorer:
    """Explores one protocol."""

    exchange: Exchange
    _numbers: dict[Rank, int] = field(default_factory=dict)
    _ranks: list[Rank] = field(default_factory=list)
    _alone: dict[int, Moves] = field(default_factory=dict)
    _between: dict[tuple[int, int, int, int], tuple[Moves, Moves]] = field(default_factory=dict)
    _bereft: dict[tuple[int, int], int] = field(default_factory=dict)

    def explore(self) -> Report:
        """Look at everything."""
        start = (self._number(self.exchange.start()),) * RANKS
        found: dict[State, int] = {(*start, self.exchange.faults): 0}
        states = list(found)
        came_from: list[_Origin] = [(0, -1, -1, "")]
        sources, targets = array("q"), array("q")
        steps = 0
        for number, state in enumerate(states):  # which grows meanwhile
            try:
                moves = self._steps(state)
            except RuleBroken as error:
                return Report(len(states), steps, 0, str(error), _path(came_from, number))
            steps += len(moves)
            for a, b, c, faults, harm, one, other, name in moves:
                if not a < b or not a < c:  # of the three turns the one that comes first
                    a, b, c = min((a, b, c), (b, c, a), (c, a, b))  # noqa: PLW2901
                following = (a, b, c, faults)
                known = found.get(following)
                if known is None:
                    known = found[following] = len(states)
                    states.append(following)
                    came_from.append((number, one, other, name))
                if not harm:
                    sources.append(number)
                    targets.append(known)
        ends = np.fromiter((self._is_end(state) for state in states), dtype=bool, count=len(states))
        lost = np.flatnonzero(~_can_reach(ends, sources, targets))
        if len(lost):
            wrong = "no end can be reached any more"
            return Report(len(states), steps, int(ends.sum()), wrong, _path(came_from, int(lost[0])))
        return Report(len(states), steps, int(ends.sum()))

    def _steps(self, state: State) -> list[_Move]:
        """Everything that may happen next. Raises RuleBroken."""
        *ranks, faults = state
        result: list[_Move] = []
        for one in range(RANKS):
            for name, (changed,), harm in self._moves_alone(ranks[one]):
                after = [*ranks]
                after[one] = changed
                result.append((*after, faults, harm, one, -1, name))  # type: ignore[arg-type]
            for far in range(1, RANKS):
                other = (one + far) % RANKS
                useful, harmful = self._moves_between(ranks, one, far)
                for moves, left in ((useful, faults), (harmful if faults > 0 else (), faults - 1)):
                    for name, (asker, asked), harm in moves:
                        after = [*ranks]
                        after[one], after[other] = asker, asked
                        result.append((*after, left, harm, one, other, name))  # type: ignore[arg-type]
            life = self._ranks[ranks[one]].life
            if faults > 0 and life is Life.LIVES:
                result.append((*self._ended(ranks, one, Life.DEAD), faults - 1, True, one, -1, "dies"))
            if faults == ABORTING and life is not Life.STOPPED:
                result.append((*self._ended(ranks, one, Life.STOPPED), faults, False, one, -1, "stops"))
        if faults != ABORTING:
            result.append((*ranks, ABORTING, True, -1, -1, "is aborted"))  # type: ignore[arg-type]
        return result

    def _is_end(self, state: State) -> bool:
        aborting = state[RANKS] == ABORTING
        return all(self.exchange.is_done(self._ranks[one], aborting=aborting) for one in state[:RANKS])

    def _number(self, rank: Rank) -> int:
        number = self._numbers.setdefault(rank, len(self._ranks))
        if number == len(self._ranks):
            self._ranks.append(rank)
        return number

    def _moves(self, changes: Iterator[Change]) -> Moves:
        return [(name, tuple(map(self._number, ranks)), harm) for name, ranks, harm in changes]

    def _moves_alone(self, one: int) -> Moves:
        moves = self._alone.get(one)
        if moves is None:
            moves = self._alone[one] = self._moves(self.exchange.alone(self._ranks[one]))
        return moves

    def _moves_between(self, ranks: list[int], one: int, far: int) -> tuple[Moves, Moves]:
        asker, asked, third = ranks[one], ranks[(one + far) % RANKS], ranks[(one - far) % RANKS]
        without = 0
        if self.exchange.gives_its_flow_away:
            without = self.exchange.away_with(self._ranks[third], RANKS - far)
        key = asker, asked, far, without
        moves = self._between.get(key)
        if moves is None:
            pair = self._ranks[asker], self._ranks[asked], far
            moves = self._between[key] = (
                self._moves(self.exchange.between(*pair, without=without)),
                self._moves(self.exchange.harm(*pair)),
            )
        return moves

    def _ended(self, ranks: list[int], ending: int, life: Life) -> tuple[int, int, int]:
        after = [*ranks]
        after[ending] = self._number(self.exchange.ended(self._ranks[ranks[ending]], life))
        for far in range(1, RANKS):
            other = (ending - far) % RANKS
            key = ranks[other], far
            if key not in self._bereft:
                self._bereft[key] = self._number(self.exchange.bereft(self._ranks[ranks[other]], far))
            after[other] = self._bereft[key]
        a, b, c = after
        return a, b, c


def _path(came_from: list[_Origin], number: int) -> tuple[str, ...]:
    """The steps that led to a state, in words. Each names the ranks as they were numbered before it."""
    path = []
    while number:
        number, one, other, name = came_from[number]
        who = f"rank {one}" if one >= 0 else "the job"
        path.append(f"{who} to rank {other}: {name}" if other >= 0 else f"{who} {name}")
    return tuple(reversed(path))


def _can_reach(ends: np.ndarray, sources: array[int], targets: array[int]) -> np.ndarray:
    """Which states lead to an end, bool[states], over steps from sources to targets."""
    reaching = ends.copy()
    before, after = np.frombuffer(sources, dtype=np.int64), np.frombuffer(targets, dtype=np.int64)
    known = -1
    while known != (known := int(reaching.sum())):
        reaching[before[reaching[after]]] = True
    return reaching
