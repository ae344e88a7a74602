"""The names of networks, optimizers and hash layers, and the rows that each network takes: known without torch."""

from __future__ import annotations

from math import isqrt

PICTURES = ("cnn", "cnn_skip", "cnn_f", "alexnet", "vgg16", "resnet18", "resnet50")  # take rows of pixels
NETWORKS = ("mlp", "linear", *PICTURES, "text")
OPTIMIZERS = ("adam", "sgd")
HASH_LAYERS = ("linear", "divide", "blocks")
LEAST_SIDE = {"cnn": 16, "cnn_skip": 16}  # pixels, below which nothing is left after the convolutions


def network_names(network: str, views: int) -> tuple[str, ...]:
    """Return the name of each view's network: A+B names two, A alone stands for all. ValueError for an unknown one."""
    names = tuple(network.split("+"))
    if len(names) not in (1, views) or not set(names) <= set(NETWORKS):
        pair = ", or two joined by a +" if views == 2 else ""
        raise ValueError(f"expected a network among {', '.join(NETWORKS)}{pair}, found network={network!r}")
    return names if len(names) == views else names * views


def view_dims(dim: int, views: int, first: int) -> tuple[int, ...]:
    """Return the dimensions of each view of rows (n, dim). first: those of the first of two views, 0 for half.

    Raises ValueError where a view would be empty.
    """
    if views == 1:
        return (dim,)
    left = first or dim // 2
    if not 0 < left < dim:
        raise ValueError(f"expected first_view from 1 to {dim - 1}, for rows of {dim} dimensions, found {left}")
    return left, dim - left


def picture_shape(dim: int) -> tuple[int, int]:
    """Return side and channels of square pictures of dim numbers. Raises ValueError where there are none such."""
    for channels in (1, 3):
        if isqrt(dim // channels) ** 2 * channels == dim:
            return isqrt(dim // channels), channels
    raise ValueError(f"expected square pictures, d = s * s or 3 * s * s, found d = {dim}: ask for network=mlp")


def check_dim(network: str, dim: int) -> None:
    """Raise ValueError where a network cannot take rows of dim dimensions."""
    if network in PICTURES and picture_shape(dim)[0] < (least := LEAST_SIDE.get(network, 1)):
        raise ValueError(
            f"expected pictures of at least {least} x {least} for network={network}, found d = {dim}: ask for "
            "network=mlp"
        )
