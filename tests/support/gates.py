"""The test's side of a gate: see gate/sitecustomize.py."""

from __future__ import annotations

import json
import os
import select
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.running import PATIENCE, ROOT

PHASES: Final = ("Starting", "List", "Scan", "Order", "Pack", "Create", "Publish")


@dataclass(slots=True)
class Gate:
    """Holds `rank` at `point`. folder: of this gate alone, made here."""

    folder: Path
    point: str
    rank: int = 0
    _go: int = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for pipe in ("reached", "go"):
            os.mkfifo(self.folder / pipe)
        # As long as this end is open a reader waits; the rank opens its own end before it says that it is there.
        self._go = os.open(self.folder / "go", os.O_RDWR)

    @property
    def environment(self) -> dict[str, str]:
        """What puts the gate into a command."""
        gate = {"folder": str(self.folder), "point": self.point, "rank": self.rank}
        path = [str(ROOT / "tests" / "support" / "gate"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"DSORT_TEST_GATE": json.dumps(gate), "PYTHONPATH": os.pathsep.join(path)}

    def reached(self) -> int:
        """Wait until the rank is there; returns its process id."""
        pipe = os.open(self.folder / "reached", os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert select.select([pipe], [], [], PATIENCE)[0], f"no rank reached {self.point}"
            return int(os.read(pipe, 100))
        finally:
            os.close(pipe)

    def open(self) -> None:
        """Let it go on, if it still lives."""
        if self._go >= 0:
            os.close(self._go)
            self._go = -1
