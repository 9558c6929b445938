"""What was seen of a job over time, kept for people: figures and conditions as lines of JSON, and as a picture."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

WIDTH: Final = 900
HEIGHT: Final = 360
EDGE: Final = 60
LEGEND: Final = "0 to {end:.0f} seconds; blue: memory, % of the limit (left); red: throttle level (right)"
FOLDER: Final = "DSORT_TEST_ARTEFACTS"
"""Names a folder for what tests keep."""


def artefacts() -> Path:
    """The folder for what tests keep: the one that is named, or beside the figures of the coverage."""
    named = os.environ.get(FOLDER)
    folder = Path(named or Path(os.environ.get("COVERAGE_FILE", ".coverage")).absolute().parent / "artefacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Timeline:
    """Samples in their order: each has `t`, in seconds, and whatever was known then.

    percent: of the limit, as a line of the picture. level: of 4, as steps. Any other key is in the lines alone.
    """

    def __init__(self, title: str, *, marks: dict[str, float]) -> None:
        self.title = title
        self.marks = marks
        """Percentages that are drawn as lines, by name."""
        self.samples: list[dict[str, Any]] = []

    def add(self, t: float, **sample: Any) -> None:
        """Something was seen."""
        self.samples.append({"t": round(t, 2), **sample})

    def of(self, key: str) -> list[tuple[float, float]]:
        """A figure over time."""
        return [(sample["t"], float(sample[key])) for sample in self.samples if key in sample]

    def keep(self, folder: Path, name: str) -> None:
        """Write NAME.jsonl and NAME.svg."""
        lines = "".join(f"{json.dumps(sample)}\n" for sample in self.samples)
        (folder / f"{name}.jsonl").write_text(lines)
        (folder / f"{name}.svg").write_text(self.picture())

    def picture(self) -> str:
        """An SVG."""
        end = max((sample["t"] for sample in self.samples), default=0.0) or 1.0

        def x(t: float) -> float:
            return round(EDGE + t / end * (WIDTH - 2 * EDGE), 1)

        def y(percent: float) -> float:
            return round(HEIGHT - EDGE - percent / 100 * (HEIGHT - 2 * EDGE), 1)

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{EDGE}" y="24" font-size="15">{escape(self.title)}</text>',
            f'<text x="{EDGE}" y="{HEIGHT - 14}">{escape(LEGEND.format(end=end))}</text>',
        ]
        for name, percent in {**self.marks, "": 0.0, "limit": 100.0}.items():
            parts.append(
                f'<path d="M{EDGE} {y(percent)}H{WIDTH - EDGE}" stroke="#999" stroke-dasharray="4 4"/>'
                f'<text x="{EDGE - 4}" y="{y(percent) + 4}" text-anchor="end">{percent:.0f}</text>'
                f'<text x="{EDGE + 4}" y="{y(percent) - 3}" fill="#666">{escape(name)}</text>'
            )
        levels = self.of("level")
        steps = [
            f"H{x(t)}V{y(25 * level)}" for (t, level) in [*levels, (end, levels[-1][1] if levels else 0.0)]
        ]
        parts.append(f'<path d="M{x(0)} {y(0)}{"".join(steps)}" fill="none" stroke="#c33" stroke-width="2"/>')
        parts += [
            f'<text x="{WIDTH - EDGE + 8}" y="{y(25 * level) + 4}" fill="#c33">{level}</text>'
            for level in range(5)
        ]
        points = " ".join(f"{x(t)},{y(percent)}" for t, percent in self.of("percent"))
        parts.append(f'<polyline points="{points}" fill="none" stroke="#36c" stroke-width="2"/>')
        return "\n".join([*parts, "</svg>", ""])
