"""The peer table and the warnings, from what ranks report."""

from __future__ import annotations

from dataclasses import dataclass

from dsort_api.messages import Observed
from dsort_api.messages import Warning as Notice
from dsort_cli.board import MOST_WARNINGS, Board, RankProcess


@dataclass
class Said:
    """Stands in for a link: what a process said last."""

    observed: Observed | None = None
    told: int = 0

    def tell(self) -> None:
        self.told += 1


def board(*links: Said) -> Board:
    result = Board(memory_budget=1, wait_seconds=1.0)
    for rank, link in enumerate(links):
        result.ranks[rank] = RankProcess(rank, asked=0.0, heard=0.0, link=link)  # type: ignore[arg-type]
    return result


def report(
    rank: int, *, epoch: str = "e", url: str = "http://a", warnings: list[str] | None = None
) -> Observed:
    notices = [Notice(kind="duplicates", message=text) for text in warnings or []]
    return Observed(
        epoch=epoch, rank=rank, version=1, data_url=url, warnings=notices, warning_count=len(notices)
    )


def table(ours: Board) -> tuple[int, list[tuple[int, str]]] | None:
    """Version, and rank and epoch of every peer, after a look at the ranks."""
    ours.renew_peers()
    if ours.peers is None:
        return None
    return (ours.peers.version, [(peer.rank, peer.epoch) for peer in ours.peers.peers])


def test_the_peer_table_waits_for_every_rank() -> None:
    first, second = Said(report(0)), Said()
    ours = board(first, second)
    assert table(ours) is None
    second.observed = report(1, url="")
    assert table(ours) is None
    second.observed = report(1)
    assert table(ours) == (1, [(0, "e"), (1, "e")])
    assert (first.told, second.told) == (1, 1)


def test_the_table_has_a_new_version_only_when_it_is_another() -> None:
    first, second = Said(report(0)), Said(report(1))
    ours = board(first, second)
    assert table(ours) == table(ours) == (1, [(0, "e"), (1, "e")])
    second.observed = report(1, epoch="another", url="http://b")
    assert table(ours) == (2, [(0, "e"), (1, "another")])


def test_warnings_are_shown_once_even_by_a_rank_that_was_started_again() -> None:
    link = Said(report(0, warnings=["a", "b"]))
    ours = board(link)
    assert list(ours.new_warnings()) == ["a", "b"]
    link.observed = report(0, epoch="another", warnings=["a", "b", "c"])
    assert list(ours.new_warnings()) == ["c"]
    assert ours.warning_count == 3


def test_warnings_of_all_ranks_together_are_bounded() -> None:
    links = [Said(report(rank, warnings=[f"{rank}-{n}" for n in range(15)])) for rank in range(3)]
    ours = board(*links)
    assert len(list(ours.new_warnings())) == MOST_WARNINGS
    assert list(ours.new_warnings()) == []
    assert ours.warning_count == 45
