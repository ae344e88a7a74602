"""Regularizers: terms that the user adds, by name and weight, to the loss of any deep method."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..names import near
from . import losses
from .losses import Tensor

OF_OUTPUTS: dict[str, Callable[..., Tensor]] = {
    "balance": losses.balance,
    "independence": losses.independence,
    "decov": losses.decorrelation,
    "quantization": losses.quantization,
    "l1_quantization": losses.l1_quantization,
    "logcosh_quantization": losses.logcosh_quantization,
    "cubic_quantization": losses.cubic_quantization,
    "cauchy_quantization": losses.cauchy_quantization,
    "mcr": losses.coding_rate,
}
OF_WEIGHTS = {
    "so": losses.soft_orthogonality,
    "srip": losses.spectral_restricted_isometry,
    "orthoreg": losses.locally_constrained_decorrelation,
}


def weights_of(text: str) -> dict[str, float]:
    """Return the weights of regularizers by name. Raises ValueError for any other text.

    >>> weights_of("decov:0.1+so:0.01")
    {'decov': 0.1, 'so': 0.01}
    """
    weights: dict[str, float] = {}
    for part in filter(None, text.split("+")):
        name, _, weight = part.partition(":")
        if name not in OF_OUTPUTS | OF_WEIGHTS or name in weights or not re.fullmatch(r"\d*\.?\d+(e-\d\d?)?", weight):
            known = OF_OUTPUTS | OF_WEIGHTS
            expected = f"expected regularizers such as decov:0.1+so:0.01, each once, among {', '.join(known)}"
            meant = "" if name in known else near(name, known)
            raise ValueError("; ".join(filter(None, (expected, f"found {text!r}", meant))))
        weights[name] = float(weight)
    return weights


def penalty(weights: Mapping[str, float], views: Sequence[Tensor], network: Any) -> Tensor:
    """Return the weighted sum of regularizers.

    Regularizers of outputs apply to each view, without the rows in which the view is missing. Regularizers of weights
    apply to each linear and convolutional layer, with one row per unit or filter; the groups of a grouped convolution
    count as separate layers.
    """
    from torch import nn

    present = [(view != 0).any(1).to(view.dtype) for view in views]  # a mask, as the host does not know how many
    layers = [
        group
        for layer in network.modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
        for group in layer.weight.flatten(1).chunk(getattr(layer, "groups", 1))
    ]
    terms = []
    for name, weight in weights.items():
        if name in OF_OUTPUTS:
            pairs = zip(views, present, strict=True)
            terms += [weight * rows.amax() * OF_OUTPUTS[name](u, rows=rows) for u, rows in pairs]
        else:
            terms += [weight * OF_WEIGHTS[name](layer) for layer in layers]
    return sum(terms)
