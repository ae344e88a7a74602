"""Pretrained parameters from files, by name, in the order of the network's layers.

The layout is torchvision's: names such as features.0.weight or layer1.0.conv1.weight, and torch's shapes. A classifier
at the end is ignored (networks.copy_pretrained). Files of torch.save store the parameters in order. Safetensors sort
them by name, so `in_order` restores torchvision's order: features or conv1, bn1, layer1 to layer4 first, classifier or
fc last, and weight, bias, running_mean, running_var within a layer. Numbers in names are compared as numbers: 0.weight,
0.bias, 1.weight, ..., 10.weight.
"""

import io
import pickle
import re
from collections.abc import Mapping

from ..mapreduce import Array

OF_A_LAYER = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torch_state(content: bytes) -> dict[str, Array]:
    """Return the parameters of a state dict saved by torch.save, as float32. Never runs code from the file.

    Raises ValueError if the content is not a state dict of tensors.
    """
    import torch

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"expected safetensors or a state dict saved by torch.save: {_line(error)}") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise ValueError(f"expected a state dict of tensors, found {type(state).__name__}")
    if others := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise ValueError(f"expected a state dict of tensors, found {type(state[others[0]]).__name__} in {others[0]}")
    return {name: value.float().numpy() for name, value in state.items()}


def in_order(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays in the order of torchvision's layers, which follows from their names.

    >>> list(in_order({"fc.weight": 0, "bn1.weight": 0, "layer1.10.bias": 0, "layer1.2.bias": 0}))
    ['bn1.weight', 'layer1.2.bias', 'layer1.10.bias', 'fc.weight']
    """
    return {name: arrays[name] for name in sorted(arrays, key=_sort_key)}


def _sort_key(name: str) -> list[tuple[int, int, bool, str]]:
    return [_sort_key_of_part(part) for part in name.split(".")]


def _sort_key_of_part(part: str) -> tuple[int, int, bool, str]:
    if part in OF_A_LAYER:
        return 0, OF_A_LAYER.index(part), False, ""
    if part == "features":
        return 0, 0, False, part
    if match := re.fullmatch(r"(conv|bn)(\d+)", part):
        return 0, int(match[2]), match[1] == "bn", ""
    if match := re.fullmatch(r"(?:layer)?(\d+)", part):
        return 1, int(match[1]), False, ""
    return 2, 0, False, part


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
