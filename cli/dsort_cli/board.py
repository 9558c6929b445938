"""What the runner knows of its ranks and wants of them: one place that processes, control and display share.

Everything here happens in one event loop; nothing is awaited, so nothing is half done.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dsort_api.messages import Observed, Peer, PeerTable, Stop
from dsort_cli.decide import RankView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dsort_operator.control import Link

MOST_WARNINGS = 20
"""Warnings shown by name; all of them are in files beside the output."""


@dataclass(slots=True, eq=False, repr=False)
class RankProcess:
    """One rank: its current process, and what that said last.

    `asked` and `heard` are times on the runner's clock. `exit_code` is set when the process has ended and its
    last words are in; `oom_killed` with it, when the kernel ended it for want of memory.
    """

    rank: int
    asked: float
    heard: float
    pid: int = 0
    link: Link | None = None
    following: asyncio.Task[None] | None = None
    exit_code: int | None = None
    oom_killed: bool = False

    @property
    def observed(self) -> Observed | None:
        """What the current process reported last."""
        return self.link.observed if self.link else None

    @property
    def view(self) -> RankView:
        """What decisions are taken from."""
        observed = self.observed
        return RankView(
            rank=self.rank,
            exit_code=self.exit_code,
            oom_killed=self.oom_killed,
            phase=observed.phase if observed else None,
            failure=observed.failure if observed else None,
        )


@dataclass(slots=True, eq=False, repr=False)
class Board:
    """All ranks, the peer table, and what the runner wants. `changed` is set when there may be something to
    decide.
    """

    memory_budget: int
    wait_seconds: float
    ranks: dict[int, RankProcess] = field(default_factory=dict)
    peers: PeerTable | None = None
    stop: Stop | None = None
    throttle_level: int = 0
    """Full speed: a rank on this machine watches its memory by itself."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _warned: set[str] = field(default_factory=set)

    def views(self) -> list[RankView]:
        """The ranks, by number."""
        return [process.view for process in self.ranks.values()]

    def running(self) -> list[RankProcess]:
        """The ranks whose process has not ended."""
        return [process for process in self.ranks.values() if process.exit_code is None]

    def tell_all(self) -> None:
        """What is wanted changed: every rank hears it now."""
        for process in self.ranks.values():
            if process.link is not None:
                process.link.tell()

    def order_stop(self, stop: Stop) -> None:
        """Every rank is to end."""
        self.stop = stop
        self.tell_all()

    def renew_peers(self) -> None:
        """Make the next peer table, when every rank is known and the table is not as it is now."""
        reports = [process.observed for process in self.ranks.values()]
        if any(report is None or not report.data_url for report in reports):
            return
        peers = [
            Peer(rank=report.rank, url=report.data_url, epoch=report.epoch) for report in reports if report
        ]
        if self.peers is None or self.peers.peers != peers:
            self.peers = PeerTable(version=self.peers.version + 1 if self.peers else 1, peers=peers)
            self.tell_all()

    def new_warnings(self) -> Iterator[str]:
        """Warnings that were not shown yet, until MOST_WARNINGS were; never one twice."""
        for process in self.ranks.values():
            for notice in process.observed.warnings if process.observed else ():
                if notice.message not in self._warned and len(self._warned) < MOST_WARNINGS:
                    self._warned.add(notice.message)
                    yield notice.message

    @property
    def warning_count(self) -> int:
        """All warnings of all ranks, shown or not."""
        return sum(process.observed.warning_count for process in self.ranks.values() if process.observed)
