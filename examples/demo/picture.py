"""Draw the class labels of a dataset in the order in which a reader meets them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

WIDTH: Final = 1200
PLOT: Final = 320
THUMBNAILS: Final = 16
MARGIN: Final = 40
GAP: Final = 12
PANEL: Final = 40 + PLOT + GAP + (WIDTH - 2 * MARGIN) // THUMBNAILS + 60
PAPER: Final = (252, 251, 248)
INK: Final = (40, 40, 46)
FAINT: Final = (226, 224, 218)
# One colour per class, around the wheel at one lightness, so that neighbours on the staircase differ.
HUES: Final = tuple((index * 7) % 16 for index in range(16))


@dataclass(frozen=True, slots=True)
class Reading:
    """A dataset as it was read: every label in order, and some of its pictures, evenly spread."""

    title: str
    labels: npt.NDArray[np.int64]
    thumbnails: Sequence[bytes]


def colour(label: int) -> tuple[int, int, int]:
    """The colour of one class."""
    red, green, blue = (
        Image.new("HSV", (1, 1), (HUES[label % 16] * 16, 170, 190)).convert("RGB").getpixel((0, 0))
    )
    return red, green, blue


def draw(path: Path, *, readings: Sequence[Reading], classes: int) -> None:
    """Write a PNG with one panel per reading: label over place in the dataset, and a row of the pictures themselves."""
    page = Image.new("RGB", (WIDTH, MARGIN // 2 + PANEL * len(readings)), PAPER)
    for number, reading in enumerate(readings):
        panel(page, top=MARGIN // 2 + number * PANEL, reading=reading, classes=classes)
    page.save(path)


def panel(page: Image.Image, *, top: int, reading: Reading, classes: int) -> None:
    """Draw one reading with its upper edge at `top`."""
    pen = ImageDraw.Draw(page)
    width = WIDTH - 2 * MARGIN
    pen.text((MARGIN, top), reading.title, fill=INK, font=ImageFont.load_default(20))
    top += 40
    row = PLOT // classes
    for label in range(classes):
        pen.line([(MARGIN, top + row * label), (MARGIN + width, top + row * label)], fill=FAINT)
    count = len(reading.labels)
    columns = (np.arange(count) * width // max(count, 1)).astype(np.int64)
    # Every record is a dot. Its height within its class's row is drawn by lot, so that dots do not hide each other.
    height = np.random.default_rng(0).integers(1, row - 1, count)
    for label in range(classes):
        mine = reading.labels == label
        for x, y in zip(
            columns[mine] + MARGIN, top + row * (classes - 1 - label) + height[mine], strict=True
        ):
            pen.rectangle([int(x), int(y), int(x) + 1, int(y) + 1], fill=colour(label))
    pen.rectangle([MARGIN, top, MARGIN + width, top + row * classes], outline=INK)
    side = width // THUMBNAILS
    lower = top + row * classes + GAP
    for index, jpeg in enumerate(reading.thumbnails[:THUMBNAILS]):
        thumbnail = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((side - 4, side - 4))
        page.paste(thumbnail, (MARGIN + index * side + 2, lower))
    pen.text(
        (MARGIN, lower + side + 2),
        f"class label (up) of {count:,} records in the order of reading (to the right); one picture in {count // THUMBNAILS:,}",
        fill=INK,
        font=ImageFont.load_default(14),
    )
