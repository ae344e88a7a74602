"""Images in a folder for each class, named by its label, as torchvision's ImageFolder reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import FeatureRows

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
BLOCK_ROWS = 256


def find_classes(folder: str | Path) -> list[Path]:
    """Return the folders with images directly inside a local folder, sorted; empty if there are none."""
    folders = (path for path in Path(folder).glob("*") if path.is_dir() and not path.name.startswith((".", "_")))
    return sorted(path for path in folders if next(_pictures(path), None))


def read_classes(folder: str | Path, first_id: int) -> Iterator[FeatureRows]:
    """Yield the images of all classes in blocks, sorted by path. Their ids count from `first_id`."""
    files = [file for path in find_classes(folder) for file in sorted(_pictures(path))]
    for start in range(0, len(files), BLOCK_ROWS):
        block = files[start : start + BLOCK_ROWS]
        ids = first_id + start + np.arange(len(block))
        names = [str(file) for file in block]
        yield FeatureRows(ids, [file.read_bytes() for file in block], [[file.parent.name] for file in block], names)


def _pictures(folder: Path) -> Iterator[Path]:
    return (file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.is_file())
