"""Parameters that a network may start from, as files hold them: by name, in the order of the network's layers.

The layout is that of torchvision's models: names such as features.0.weight or layer1.0.conv1.weight, and shapes as in
torch; what is over at the end, a classifier, is left out (networks.load_pretrained). A state that torch.save wrote has
an order of its own. Safetensors are sorted by name, so they are put in the order that torchvision's models have:
features or conv1, bn1, layer1 to layer4 first, classifier or fc last, numbers as numbers, and of one layer weight,
bias, running_mean, running_var. Other names are taken in the order of their numbers: 0.weight, 0.bias, 1.weight.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping

from ..mapreduce import Array

OF_A_LAYER = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torch_state(content: bytes) -> dict[str, Array]:
    """The parameters of a file that torch.save wrote of a network's state. Code in it is never run.

    Raises ValueError where it is no state of tensors.
    """
    import torch

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"expected safetensors or a state that torch.save wrote, found {_line(error)}") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"expected a state of tensors by name, found {type(state).__name__} of other things")
    return {name: value.float().numpy() for name, value in state.items()}


def in_order(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays in the order of the network's layers, which their names tell."""
    return {name: arrays[name] for name in sorted(arrays, key=_place)}


def _place(name: str) -> list[tuple[int, int, bool, str]]:
    return [_place_of(part) for part in name.split(".")]


def _place_of(part: str) -> tuple[int, int, bool, str]:
    if part in OF_A_LAYER:
        return 0, OF_A_LAYER.index(part), False, ""
    if part == "features":
        return 0, 0, False, part
    if found := re.fullmatch(r"(conv|bn)(\d+)", part):
        return 0, int(found[2]), found[1] == "bn", ""
    if found := re.fullmatch(r"(?:layer)?(\d+)", part):
        return 1, int(found[1]), False, ""
    return 2, 0, False, part


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
