"""Pictures that can be learned from: a shape and a colour a class, in noise."""

import io

import numpy as np
from PIL import Image


def pixels(label, seed, side=32):
    """(side, side, 3) uint8: class l is one of two shapes in one of the colours."""
    rng = np.random.default_rng((label, seed))
    picture = rng.integers(0, 90, (side, side, 3))
    at, size = rng.integers(side // 8, side // 3), side // 2
    colour = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200)][label % 5])
    if label // 5 % 2:
        picture[at : at + size, at : at + size // 4] = colour
    else:
        picture[at : at + size, at : at + size] = colour
    return picture.astype(np.uint8)


def encoded(label, seed, side=32, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels(label, seed, side)).save(file, form)
    return file.getvalue()


def cifar_bytes(labels, seed=0, coarse=False):
    """Rows in CIFAR's binary form, of 32 x 32 pictures."""
    rows = []
    for place, label in enumerate(labels):
        planes = pixels(label, seed + place).transpose(2, 0, 1)
        rows.append(bytes([*([label // 5] if coarse else []), label]) + planes.tobytes())
    return b"".join(rows)


def write_lists(folder, base=6, learn=2, query=2, prefix=""):
    """Lists whose queries are rows of the database, and whose training rows are not."""
    (folder / "images").mkdir(parents=True)
    rows = {"database.txt": range(base), "train.txt": range(100, 100 + learn), "test.txt": range(base - query, base)}
    for file, numbers in rows.items():
        lines = []
        for i in numbers:
            (folder / "images" / f"{i}.png").write_bytes(encoded(i % 3, i))
            hot = ["1" if label in (i % 3, 3) else "0" for label in range(4)]
            lines.append(f"{prefix}images/{i}.png {' '.join(hot)}\n")
        (folder / file).write_text("".join(lines))
