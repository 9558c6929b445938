"""Labelled crops of the photographs that scikit-learn and scikit-image ship, written as shards by webdataset.

The records come class after class, the way datasets are collected. That is what a shuffle is for.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

SMALLEST: Final = 80
LARGEST: Final = 144
"""Sides of the crops in pixels."""

RECORDS_PER_SHARD: Final = 1000

MTIME: Final = 1_700_000_000.25
"""A fraction of a second makes webdataset's writer put a PAX header before every member, as it does with real time.
A fixed one makes the dataset the same every time."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """One photograph: its class label is its place in `PHOTOGRAPHS`."""

    name: str
    subject: str


PHOTOGRAPHS: Final = (
    Photograph("china", "the Temple of Heaven in Beijing"),
    Photograph("flower", "a dahlia"),
    Photograph("astronaut", "the astronaut Eileen Collins"),
    Photograph("chelsea", "Chelsea the cat"),
    Photograph("coffee", "a cup of espresso"),
    Photograph("rocket", "a rocket on its pad"),
    Photograph("hubble_deep_field", "galaxies in the Hubble eXtreme Deep Field"),
    Photograph("retina", "the retina of an eye"),
    Photograph("motorcycle", "a motorcycle in a garage"),
    Photograph("camera", "a photographer with his camera"),
    Photograph("brick", "a wall of bricks"),
    Photograph("grass", "a lawn"),
    Photograph("gravel", "gravel"),
    Photograph("coins", "Greek coins from Pompeii"),
    Photograph("moon", "the surface of the moon"),
    Photograph("immunohistochemistry", "stained tissue under a microscope"),
)


def load(name: str) -> Pixels:
    """The pixels of one photograph, as rows, columns and RGB. Every one of them comes with the installed packages."""
    if name in {"china", "flower"}:
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    else:
        from skimage import data

        pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    pixels = np.asarray(pixels, dtype=np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels[:, :, :3]


def crops(label: int, *, count: int) -> list[dict[str, Any]]:
    """`count` samples of one class, the same ones every time: a JPEG, a caption, a label and where it was cut."""
    from PIL import Image

    photograph = PHOTOGRAPHS[label]
    pixels = load(photograph.name)
    random = np.random.default_rng([2026, label])
    samples = []
    for number in range(count):
        side = int(random.integers(SMALLEST, LARGEST + 1))
        top, left = (int(random.integers(0, length - side + 1)) for length in pixels.shape[:2])
        mirrored = bool(random.integers(2))
        cut = pixels[top : top + side, left : left + side]
        jpeg = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(cut[:, ::-1] if mirrored else cut)).save(
            jpeg, "JPEG", quality=88
        )
        caption = f"{side} by {side} pixels of {photograph.subject}{', mirrored' if mirrored else ''}"
        place = {"photograph": photograph.name, "top": top, "left": left, "side": side, "mirrored": mirrored}
        samples.append(
            {
                "__key__": f"{photograph.name}/{number:05d}",
                "jpg": jpeg.getvalue(),
                "txt": caption,
                "cls": str(label),
                "json": json.dumps(place),
            }
        )
    return samples


def samples(*, count: int, processes: int) -> Iterator[list[dict[str, Any]]]:
    """All samples, class after class, `count` of them spread evenly over the classes."""
    classes = len(PHOTOGRAPHS)
    counts = [count // classes + (label < count % classes) for label in range(classes)]
    with ProcessPoolExecutor(processes) as pool:
        jobs = [pool.submit(functools.partial(crops, label, count=each)) for label, each in enumerate(counts)]
        for job in jobs:
            yield job.result()


def write(folder: Path, *, count: int, step: Callable[[int], None]) -> int:
    """Make the dataset in `folder` unless it is there already; returns its number of bytes.

    It is made aside and renamed, so a folder that is there is complete. `step` hears how many samples are written.
    """
    if not folder.exists():
        import webdataset

        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        done = 0
        pattern = str(aside / "photos-%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=RECORDS_PER_SHARD, mtime=MTIME, verbose=0) as writer:
            for batch in samples(count=count, processes=os.cpu_count() or 1):
                for sample in batch:
                    writer.write(sample)
                done += len(batch)
                step(done)
        aside.rename(folder)
    return sum(path.stat().st_size for path in folder.glob("*.tar"))
