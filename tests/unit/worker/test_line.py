"""The waiting line: turns in order of arrival, places that are kept for who comes back, and bounds that hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker.line import GRACE, JITTER, LATEST, LONGEST, SOONEST, Go, Line, Refused, Wait


def line(*, slots: int = 1, places: int = 2, size: int = 1 << 40, tickets: int = 4096) -> Line:
    return Line(slots=slots, places=places, size=size, tickets=tickets)


def refused(answer: object) -> Refused:
    assert isinstance(answer, Refused)
    return answer


def ticket_of(answer: object) -> int:
    ticket = refused(answer).ticket
    assert ticket is not None
    return ticket


def test_slots_first_then_places_then_tickets() -> None:
    one = line(slots=2, places=2)
    assert [one.ask(now=0.0) for _ in range(4)] == [Go(1), Go(2), Wait(3), Wait(4)]
    assert ticket_of(one.ask(now=0.0)) == 5
    assert (one.serving, one.present, one.away) == (2, 2, 1)


def test_turns_are_taken_in_order_of_arrival() -> None:
    one = line(slots=1, places=3)
    for _ in range(4):
        one.ask(now=0.0)
    order = [1]
    for moment in range(1, 4):
        one.done(order[-1], now=float(moment))
        (turn,) = one.turns(now=float(moment))
        assert isinstance(turn, Go)
        order.append(turn.ticket)
    assert order == [1, 2, 3, 4]


def test_who_leaves_gives_up_its_place() -> None:
    one = line(slots=1, places=2)
    one.ask(now=0.0)
    one.ask(now=0.0)
    one.ask(now=0.0)
    one.leave(2)
    one.leave(2)
    one.done(1, now=1.0)
    assert one.turns(now=1.0) == [Go(3)]
    one.leave(3)  # its wait is over: the slot is given back by done
    assert one.serves(3)
    assert not one.serves(1)
    with pytest.raises(KeyError):
        one.done(1, now=2.0)


def test_who_comes_back_with_its_ticket_stands_where_it_stood() -> None:
    one = line(slots=1, places=1)
    assert one.ask(now=0.0) == Go(1)
    assert one.ask(now=0.0) == Wait(2)
    away = ticket_of(one.ask(now=0.0))
    later = ticket_of(one.ask(now=0.0))
    one.done(1, now=0.1)
    assert one.turns(now=0.1) == [Go(2)]
    assert ticket_of(one.ask(now=0.1, ticket=later)) == later  # not before the other one
    assert one.ask(now=0.1, ticket=away) == Wait(away)


def test_a_free_slot_waits_for_a_place_that_is_away_until_its_grace_is_over() -> None:
    one = line(slots=1, places=1)
    one.ask(now=0.0)
    one.ask(now=0.0)
    away = refused(one.ask(now=0.0))
    one.leave(2)
    one.done(1, now=0.01)
    assert one.turns(now=0.01) == []
    newcomer = refused(one.ask(now=0.02))
    over = away.retry_after * (1 + JITTER) + GRACE
    assert one.due() == pytest.approx(over)
    assert one.turns(now=over - 0.001) == []
    assert one.ask(now=over, ticket=newcomer.ticket) == Go(3 + 1)
    # The ticket that came too late is a new place.
    assert one.ask(now=over, ticket=away.ticket) == Wait(5)


def test_a_place_that_comes_back_in_time_gets_the_slot_that_waited_for_it() -> None:
    one = line(slots=1, places=1)
    one.ask(now=0.0)
    one.ask(now=0.0)
    away = ticket_of(one.ask(now=0.0))
    one.leave(2)
    one.done(1, now=0.01)
    assert one.turns(now=0.01) == []
    assert one.ask(now=1.0, ticket=away) == Go(away)


def test_when_the_grace_of_one_is_over_those_behind_it_go() -> None:
    one = line(slots=2, places=2)
    assert [one.ask(now=0.0) for _ in range(4)] == [Go(1), Go(2), Wait(3), Wait(4)]
    assert one.ask(now=0.0) == Refused(5, SOONEST)
    one.leave(3)
    one.leave(4)
    assert one.ask(now=0.0) == Wait(6)
    one.done(1, now=0.1)
    one.done(2, now=0.1)
    assert one.turns(now=0.1) == []
    due = one.due()
    assert due is not None
    assert one.turns(now=due) == [Go(6)]


def test_who_cannot_come_back_leaves_no_place_that_others_wait_for() -> None:
    one = line(slots=1, places=1)
    one.ask(now=0.0)
    one.ask(now=0.0)
    one.leave(ticket_of(one.ask(now=0.0)))
    assert one.away == 0
    one.leave(2)
    one.done(1, now=0.01)
    assert one.ask(now=0.02) == Go(4)


@pytest.mark.parametrize("ticket", [99, 1, 2], ids=["unknown", "served", "present"])
def test_what_is_no_ticket_is_a_new_place_behind_all_others(ticket: int) -> None:
    one = line(slots=1, places=3)
    one.ask(now=0.0)
    one.ask(now=0.0)
    assert one.ask(now=0.0, ticket=ticket) == Wait(3)


def test_the_present_are_bounded_in_bytes_but_the_first_may_always_wait() -> None:
    one = line(slots=1, places=10, size=100)
    one.ask(now=0.0, size=1000)
    assert one.ask(now=0.0, size=1000) == Wait(2)
    big = ticket_of(one.ask(now=0.0, size=60))
    second = ticket_of(one.ask(now=0.0, size=60))
    one.done(1, now=0.1)
    assert one.turns(now=0.1) == [Go(2)]
    assert one.ask(now=0.1, size=60, ticket=big) == Wait(big)
    assert ticket_of(one.ask(now=0.1, ticket=second)) == second  # what it asked for first counts
    one.done(2, now=0.2)
    assert one.turns(now=0.2) == [Go(big)]
    assert one.ask(now=0.2, size=60, ticket=second) == Wait(second)
    assert one.ask(now=0.2, size=40) == Wait(5)


def test_past_the_tickets_nobody_has_a_place() -> None:
    one = line(slots=1, places=1, tickets=3)
    one.ask(now=0.0)
    known = [one.ask(now=0.0) for _ in range(3)]
    assert [getattr(answer, "ticket", None) for answer in known] == [2, 3, 4]
    past = refused(one.ask(now=0.0))
    assert past.ticket is None
    assert SOONEST <= past.retry_after <= LATEST


def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_keeps_its_place() -> None:
    one = line(slots=1, places=10)
    one.ask(now=0.0)
    for moment in (10.0, 20.0, 30.0, 40.0):  # a turn takes ten seconds
        one.ask(now=moment - 1.0)
        one.done(one._last - 1, now=moment)
        one.turns(now=moment)
    assert one.pace > 3.0
    assert isinstance(one.ask(now=40.0, deadline=25.0), Wait)
    answer = refused(one.ask(now=40.0, deadline=3.0))
    assert answer.retry_after == pytest.approx(min(LATEST, 0.5 * (2 * one.pace - 3.0)))
    assert isinstance(one.ask(now=40.0), Wait)
    assert isinstance(one.ask(now=41.0, ticket=answer.ticket, deadline=30.0), Wait)


@pytest.mark.parametrize(("deadline", "held"), [(None, LONGEST), (5.0, 5.0), (1000.0, LONGEST)])
def test_no_request_is_held_longer_than_it_said_and_its_place_is_kept(
    deadline: float | None, held: float
) -> None:
    one = line(slots=1, places=2)
    one.ask(now=0.0)
    assert one.ask(now=1.0, deadline=deadline) == Wait(2)
    assert one.due() == 1.0 + held
    assert one.turns(now=0.99 + held) == []
    assert one.turns(now=1.0 + held) == [Refused(2, SOONEST)]
    assert one.ask(now=1.1 + held, ticket=2) == Wait(2)
    one.done(1, now=held + 2)
    assert one.turns(now=held + 2) == [Go(2)]
    assert one.due() is None


def test_hints_follow_the_measured_pace_and_stay_within_their_bounds() -> None:
    quick, slow = line(slots=1, places=1), line(slots=1, places=1)
    for one, step in ((quick, 0.001), (slow, 20.0)):
        now = 0.0
        one.ask(now=now)
        one.ask(now=now)
        for ticket in range(1, 30):
            now += step
            one.done(ticket, now=now)
            one.turns(now=now)
            one.ask(now=now)
        assert one.pace == pytest.approx(step, rel=0.3)
        hint = refused(one.ask(now=now)).retry_after
        assert hint == (SOONEST if one is quick else LATEST)


def test_a_herd_that_comes_first_is_not_sent_away_for_long() -> None:
    one = line(slots=2, places=16)
    herd = [one.ask(now=0.0) for _ in range(72)]
    # Nothing was measured yet. Who is told to stay away for a second leaves the slots without work for it.
    assert max(refused(answer).retry_after for answer in herd[18:]) < 0.3


def test_idle_time_is_no_measure_of_the_pace() -> None:
    one = line(slots=2, places=1)
    before = one.pace
    one.ask(now=0.0)
    one.done(1, now=1000.0)
    assert one.pace == before


@dataclass
class Clients:
    """Clients of a line that do as they are told, and some that do not."""

    line: Line
    now: float = 0.0
    states: dict[int, str] = field(default_factory=dict)
    away_until: dict[int, float] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)
    served: list[int] = field(default_factory=list)

    def take(self, answer: Go | Wait | Refused) -> None:
        if answer.ticket is None:
            return
        match answer:
            case Go(ticket):
                passed = [
                    other
                    for other, state in self.states.items()
                    if other < ticket
                    and (state == "present" or (state == "away" and self.now < self.away_until[other]))
                ]
                assert passed == []
                self.states[ticket] = "served"
                self.served.append(ticket)
            case Wait(ticket):
                self.states[ticket] = "present"
            case Refused(ticket, retry_after):
                assert ticket is not None
                assert SOONEST <= retry_after <= LATEST
                self.states[ticket] = "away"
                self.away_until[ticket] = self.now + retry_after * (1 + JITTER) + GRACE

    def turns(self) -> None:
        for answer in self.line.turns(now=self.now):
            self.take(answer)


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 100))
def test_whatever_happens_nobody_is_passed_and_the_bounds_hold(
    data: st.DataObject, slots: int, places: int, size: int
) -> None:
    one = Line(slots=slots, places=places, size=size, tickets=6)
    clients = Clients(one)
    sizes: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        clients.now += data.draw(st.sampled_from([0.0, 0.01, 0.5, 3.0, 8.0, 40.0]))
        by_state = {
            state: sorted(ticket for ticket, its in clients.states.items() if its == state)
            for state in ("present", "away", "served")
        }
        match data.draw(st.sampled_from(["ask", "ask", "back", "back", "leave", "done", "done", "time"])):
            case "ask":
                wanted = data.draw(st.integers(0, 60))
                answer = one.ask(
                    now=clients.now, size=wanted, deadline=data.draw(st.sampled_from([None, 0.0, 1.0, 100.0]))
                )
                if answer.ticket is not None:
                    sizes[answer.ticket] = wanted
                clients.take(answer)
            case "back" if by_state["away"]:
                ticket = data.draw(st.sampled_from(by_state["away"]))
                in_time = clients.now < clients.away_until[ticket]
                answer = one.ask(now=clients.now, ticket=ticket, size=sizes[ticket])
                if in_time:
                    assert answer.ticket == ticket
                elif answer.ticket != ticket:
                    clients.states[ticket] = "gone"
                    if answer.ticket is not None:
                        sizes[answer.ticket] = sizes[ticket]
                clients.take(answer)
            case "leave" if by_state["present"]:
                ticket = data.draw(st.sampled_from(by_state["present"]))
                one.leave(ticket)
                clients.states[ticket] = "gone"
            case "done" if by_state["served"]:
                ticket = data.draw(st.sampled_from(by_state["served"]))
                one.done(ticket, now=clients.now)
                clients.states[ticket] = "gone"
            case _:
                pass
        clients.turns()
        present = [ticket for ticket, state in clients.states.items() if state == "present"]
        assert one.serving <= slots
        assert one.present == len(present) <= places
        assert one.present + one.away <= 6
        assert len(present) < 2 or sum(sizes[ticket] for ticket in present) <= size
        due = one.due()
        assert due is None or due > clients.now
    # Everybody who waits or comes back in time is served in the end.
    for _ in range(200):
        running = [ticket for ticket, state in clients.states.items() if state == "served"]
        for ticket in running:
            one.done(ticket, now=clients.now)
            clients.states[ticket] = "gone"
        clients.turns()
        for ticket, state in list(clients.states.items()):
            if state == "away" and clients.now < clients.away_until[ticket]:
                clients.take(one.ask(now=clients.now, ticket=ticket, size=sizes[ticket]))
        if not one.present and not one.serving:
            break
        clients.now += 0.5
    assert (one.present, one.serving) == (0, 0)
