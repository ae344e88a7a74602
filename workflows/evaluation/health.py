"""Code health in the words of the report."""

from __future__ import annotations

import numpy as np

from hashing.evaluation.health import CodeHealth, Health
from hashing.mapreduce import Data

HEALTH = {  # name in rules of the gate -> words of the report
    "balance": "least balanced bit, share of ones",
    "entropy": "least entropy of a bit",
    "correlation": "largest correlation of two bits",
    "constant_bits": "constant bits",
}


def code_health(codes: Data, n_bits: int) -> dict[str, float]:
    """How evenly packed codes use their bits."""
    return in_words(codes.reduce(CodeHealth(n_bits), "code health"))


def in_words(found: Health) -> dict[str, float]:
    return {
        HEALTH["balance"]: float(found.balance[np.abs(found.balance - 0.5).argmax()]),
        HEALTH["entropy"]: float(found.entropy.min()),
        HEALTH["correlation"]: found.correlation,
        HEALTH["constant_bits"]: float((found.entropy == 0).sum()),
    }
