"""Names of networks, optimizers, precisions and hash layers, and checks of shapes. Importing it needs no torch."""

from math import isqrt

from ..names import hint

PICTURES = ("cnn", "cnn_skip", "cnn_f", "alexnet", "vgg16", "resnet18", "resnet50")  # take images, as rows of pixels
NETWORKS = ("mlp", "linear", *PICTURES, "text")
OPTIMIZERS = ("adam", "sgd")
PRECISIONS = ("float32", "bf16")
HASH_LAYERS = ("linear", "divide", "blocks", "normed")
LEAST_SIDE = {"cnn": 16, "cnn_skip": 16}  # pixels; smaller images leave no output after the convolutions


def network_names(network: str, views: int) -> tuple[str, ...]:
    """Return the network name of each view: A+B names two, A alone applies to all. Raises ValueError if unknown.

    >>> network_names("vgg16+mlp", 2), network_names("mlp", 2)
    (('vgg16', 'mlp'), ('mlp', 'mlp'))
    """
    names = tuple(network.split("+"))
    for name in names:
        if name not in NETWORKS:
            meant = hint(name, NETWORKS, "the networks are")
            raise ValueError(f"expected the name of a network, found {name!r} in network={network!r}; {meant}")
    if len(names) not in (1, views):
        pair = ", or two joined by a +" if views == 2 else ""
        raise ValueError(f"expected one network{pair}, found network={network!r}")
    return names if len(names) == views else names * views


def view_dims(dim: int, views: int, first: int) -> tuple[int, ...]:
    """Return the dimension of each of 1 or 2 views of rows (n, dim).

    `first` is the dimension of the first of two views; 0 for half of the row. Raises ValueError if a view would be
    empty.
    """
    if views == 1:
        return (dim,)
    left = first or dim // 2
    if not 0 < left < dim:
        raise ValueError(f"expected first_view from 1 to {dim - 1}, for rows of {dim} dimensions, found {left}")
    return left, dim - left


def picture_shape(dim: int) -> tuple[int, int]:
    """Return the side and the channels of square images with dim values. Raises ValueError if there are none.

    >>> picture_shape(784), picture_shape(3072)
    ((28, 1), (32, 3))
    """
    for channels in (1, 3):
        if isqrt(dim // channels) ** 2 * channels == dim:
            return isqrt(dim // channels), channels
    raise ValueError(f"expected square images, d = s * s or 3 * s * s, found d = {dim}: use network=mlp")


def check_dim(network: str, dim: int) -> None:
    """Raise ValueError if a network cannot take rows of dim dimensions."""
    if network in PICTURES and picture_shape(dim)[0] < (least := LEAST_SIDE.get(network, 1)):
        raise ValueError(
            f"expected images of at least {least} x {least} for network={network}, found d = {dim}: use network=mlp"
        )
