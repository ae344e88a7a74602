"""Published figures, printed beside measured ones. Hashkiln has measured none of them."""

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """Figures of one metric, by dataset, method and n_bits."""

    source: str
    metric: str  # a name of workflows.evaluation.registry.METRICS
    figures: Mapping[str, Mapping[str, Mapping[int, float]]]


def _row(*values: float) -> dict[int, float]:
    return dict(zip((8, 16, 24, 32), (value / 100 for value in values), strict=True))


BDNN = Published(
    source="Do, Doan & Cheung, Learning to hash with binary deep neural network, ECCV 2016, tables 1 and 2",
    metric="precision_radius_2",
    figures={
        "mnist": {
            "uh_bdnn": _row(0.53, 6.80, 29.38, 38.50),
            "ba": _row(0.51, 6.44, 27.65, 35.29),
            "itq": _row(0.51, 5.87, 23.92, 36.35),
            "sh": _row(0.43, 6.50, 27.08, 36.69),
            "sph": _row(0.44, 5.02, 22.24, 30.80),
            "kmh": _row(0.50, 6.36, 25.68, 36.24),
            "sh_bdnn": _row(84.26, 94.67, 94.69, 95.51),
            "sdh": _row(36.49, 93.00, 93.98, 94.43),
            "itq_cca": _row(54.35, 79.99, 84.12, 84.57),
            "ksh": _row(68.07, 90.79, 92.86, 92.41),
            "bre": _row(37.67, 69.80, 83.24, 84.61),
        },
        "sift1m": {
            "uh_bdnn": _row(4.80, 25.20, 62.20, 80.55),
            "ba": _row(3.85, 23.19, 61.35, 77.15),
            "itq": _row(3.19, 14.07, 35.80, 58.69),
            "sh": _row(4.67, 24.82, 60.25, 72.40),
            "sph": _row(4.25, 20.98, 47.09, 66.42),
            "kmh": _row(3.74, 20.74, 48.86, 76.04),
        },
    },
)


def _dhn(*values: float) -> dict[int, float]:
    return dict(zip((12, 24, 32, 48), values, strict=True))


DHN = Published(  # only rows whose averages differ by as much as the text of the paper says
    source="Zhu, Long, Wang & Cao, Deep hashing network for efficient similarity retrieval, AAAI 2016, table 1",
    metric="map_dhn",
    figures={
        "nus-wide": {"dhn": _dhn(0.708, 0.735, 0.748, 0.758), "ksh": _dhn(0.556, 0.572, 0.581, 0.588)},
        "cifar-10": {"dhn": _dhn(0.555, 0.594, 0.603, 0.621), "ksh": _dhn(0.303, 0.337, 0.346, 0.356)},
        "flickr25k": {"dhn": _dhn(0.810, 0.828, 0.829, 0.841), "ksh": _dhn(0.690, 0.702, 0.702, 0.706)},
    },
)

PUBLISHED = {"bdnn": BDNN, "dhn": DHN}  # by protocol
LIKE = {"photosift": "sift1m"}  # datasets of the same kind and size, so rankings of the methods can be compared
