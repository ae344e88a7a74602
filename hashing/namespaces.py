"""One formula for numpy arrays and torch tensors."""

from typing import Any

import numpy as np


def namespace(x: Any) -> Any:
    """Return the module with the functions for x: numpy for an array, torch for a tensor."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch
