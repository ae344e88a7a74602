"""Images in a folder for each class, named by its label, as torchvision's ImageFolder reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import FeatureRows

PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
COLUMNS = (".parquet", ".arrow", ".feather", ".tar", ".npy")  # of files with rows, which are read in another way
UNREAD = (".heic", ".heif", ".jxl", ".svg", ".dng", ".cr2", ".nef", ".arw", ".psd")
BLOCK_ROWS = 256


def find_classes(folder: str | Path) -> list[Path]:
    """Return the folders with images directly inside a local folder, sorted; empty if there are none."""
    folders = (path for path in Path(folder).glob("*") if path.is_dir() and not path.name.startswith((".", "_")))
    return sorted(path for path in folders if next(_pictures(path), None))


def check_class_folders(folder: str | Path) -> list[Path]:
    """Return the files that `read_classes` leaves out, relative to the folder, except hidden ones.

    Raises ValueError for a picture of another form, or in another folder than that of a class.
    """
    root, left_out = Path(folder), []
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root)
        if any(part.startswith(".") for part in name.parts) or not file.is_file():
            continue
        suffix = file.suffix.lower()
        if any(part.startswith("_") for part in name.parts[:-1]):
            left_out.append(name)
        elif suffix in UNREAD:
            raise ValueError(f"{file}: {suffix} is not read: convert it to JPEG or PNG")
        elif suffix in COLUMNS:
            raise ValueError(f"{root} has a folder of pictures for each class, and {file}: ingest one of them")
        elif suffix not in PICTURES:
            left_out.append(name)
        elif len(name.parts) != 2:
            raise ValueError(
                f"{file}: expected each picture in the folder of its class, directly below {root}: move it there, or "
                f"out of {root}"
            )
    return left_out


def read_classes(folder: str | Path, first_id: int) -> Iterator[FeatureRows]:
    """Yield the images of all classes in blocks, sorted by path. Their ids count from `first_id`."""
    files = [file for path in find_classes(folder) for file in sorted(_pictures(path))]
    for start in range(0, len(files), BLOCK_ROWS):
        block = files[start : start + BLOCK_ROWS]
        ids = first_id + start + np.arange(len(block))
        names = [str(file) for file in block]
        yield FeatureRows(ids, [file.read_bytes() for file in block], [[file.parent.name] for file in block], names)


def _pictures(folder: Path) -> Iterator[Path]:
    files = (file for file in folder.iterdir() if not file.name.startswith("."))  # as macOS adds ._1.jpg to 1.jpg
    return (file for file in files if file.suffix.lower() in PICTURES and file.is_file())
