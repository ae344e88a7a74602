"""Hashing networks in torch: a body computes features of rows, and a hash layer computes u from the features."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..mapreduce import Array
from .architectures import PICTURES, network_names, picture_shape, view_dims
from .backbones import BACKBONES, STANDARD, Scale
from .batches import copied
from .recompute import recomputed

CHANGED = 0.1  # share of the values of a row that `perturbed` changes


class Divide(nn.Module):
    """Divide and encode: bit k depends on slice k of the features only. Source: NINH, Lai et al., CVPR 2015, 3.2."""

    def __init__(self, width: int, n_bits: int) -> None:
        super().__init__()
        self.spread = nn.Linear(width, 50 * n_bits)
        self.slices = nn.Conv1d(n_bits, n_bits, 50, groups=n_bits)

    def forward(self, x: Tensor) -> Tensor:
        u: Tensor = self.slices(F.relu(self.spread(x)).view(len(x), -1, 50))
        return u.squeeze(2)


class Blocks(nn.Linear):
    """Blocks of units; the code sets the largest of each block. Source: SuBiC, Jain et al., ICCV 2017, section 3."""

    def __init__(self, width: int, n_bits: int, units: int) -> None:
        super().__init__(width, n_bits)
        self.units = units

    def codes(self, u: Tensor) -> Tensor:
        """Return each unit minus the largest other unit of its block: >= 0 for the largest, negative for the others."""
        blocks = u.view(len(u), -1, self.units)
        largest = blocks.topk(2, dim=2).values
        other = torch.where(blocks == largest[:, :, :1], largest[:, :, 1:], largest[:, :, :1])
        return (blocks - other).flatten(1)


class Normed(nn.Linear):
    """A linear layer with batch normalization, which trains on the outputs of all workers: see `HashNetwork.normed`."""

    def __init__(self, width: int, n_bits: int) -> None:
        super().__init__(width, n_bits, bias=False)
        self.norm = nn.BatchNorm1d(n_bits)

    def forward(self, x: Tensor) -> Tensor:
        u = super().forward(x)
        return u if self.training else self.norm(u)


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a network whose hash layer is linear, with the outputs of `Normed` in evaluation."""
    layer = {name.removeprefix("hash."): value.double() for name, value in state.items() if name.startswith("hash.")}
    folded = {name: value for name, value in state.items() if not name.startswith("hash.norm.")}
    if len(folded) < len(state):
        scale = layer["norm.weight"] / (layer["norm.running_var"] + nn.BatchNorm1d(1).eps).sqrt()
        folded["hash.weight"] = scale[:, None] * layer["weight"]
        folded["hash.bias"] = layer["norm.bias"] - scale * layer["norm.running_mean"]
    return folded


def hash_layer(name: str, width: int, n_bits: int) -> nn.Module:
    """Return a new hash layer. name: linear, normed, divide, or blocks:<units>."""
    kind, _, units = name.partition(":")
    layers: dict[str, Callable[..., nn.Module]]
    layers = {"linear": nn.Linear, "divide": Divide, "blocks": Blocks, "normed": Normed}
    return layers[kind](width, n_bits, *([int(units)] if units else []))


class HashNetwork(nn.Module):
    """Rows x (n, d) -> u (n, n_bits)."""

    def __init__(self, body: str, dim: int, n_bits: int, layer: str = "linear") -> None:
        super().__init__()
        self.standard = Scale(dim)
        self.body, width = BACKBONES[body](dim)
        self.hash = hash_layer(layer, width, n_bits)
        self.standardised, self.sees_pictures = body in STANDARD, body in PICTURES
        self.recompute = False  # in training: see `recomputed`

    def forward(self, x: Tensor) -> Tensor:
        x = self.standard(x) if self.standardised else x
        features = recomputed(self.body, x) if self.recompute and self.training else self.body(x)
        with torch.autocast(x.device.type, enabled=False):  # in bfloat16, the largest units of a block often tie
            u: Tensor = self.hash(features.to(x.dtype))
        return u

    def normed(self, u: Tensor) -> Tensor:
        """Return outputs u of a whole batch, gathered from all workers, after the normalization of `Normed`."""
        return self.hash.norm(u) if isinstance(self.hash, Normed) else u

    def codes(self, x: Tensor) -> Tensor:
        """Return u (n, n_bits), whose signs are the bits."""
        u: Tensor = self(x)
        return self.hash.codes(u) if isinstance(self.hash, Blocks) else u

    def scale(self, mean: Tensor, variance: Tensor) -> None:
        """Set the mean and the variance (d,) of the training rows."""
        self.standard.mean.copy_(mean)
        self.standard.deviation.fill_(float(variance.mean()) ** 0.5 or 1.0)

    def scaled(self, x: Tensor) -> Tensor:
        """Return rows of mean 0 and deviation 1: the target of a reconstruction loss."""
        scaled: Tensor = self.standard(x)
        return scaled

    def augmented(self, x: Tensor) -> Tensor:
        """Return images mirrored and shifted at random, and other rows unchanged."""
        return augmented(x) if self.sees_pictures else x

    def perturbed(self, x: Tensor) -> Tensor:
        """Return images mirrored and shifted at random, other rows with random values replaced by their means.

        In texts, words are left out at random.
        """
        if self.sees_pictures:
            return augmented(x)
        changed = torch.rand(x.shape, device=x.device) < CHANGED
        return torch.where(changed, self.standard.mean if self.standardised else 0.0, x)


class TwoViews(nn.Module):
    """Rows (n, d) of two concatenated views, such as image and text -> [F G] (n, 2 n_bits), one half for each view.

    A view of zeros is missing, and its half is 0. Codes are the signs of F + G.
    """

    def __init__(self, bodies: str, dim: int, n_bits: int, first: int, layer: str = "linear") -> None:
        super().__init__()
        widths = view_dims(dim, 2, first)
        self.first = widths[0]
        sides = zip(network_names(bodies, 2), widths, strict=True)
        self.views: Iterable[HashNetwork]
        self.views = nn.ModuleList(HashNetwork(body, width, n_bits, layer) for body, width in sides)  # type: ignore[assignment]  # typed as modules only

    @property
    def body(self) -> nn.Module:
        """The body of the first view, which can start from pretrained parameters."""
        return next(iter(self.views)).body

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.first], x[:, self.first :]

    def scale(self, mean: Tensor, variance: Tensor) -> None:
        halves = zip(self.views, self.halves(mean[None]), self.halves(variance[None]), strict=True)
        for view, own_mean, own_variance in halves:
            view.scale(own_mean[0], own_variance[0])

    def scaled(self, x: Tensor) -> Tensor:
        return torch.cat([view.scaled(half) for view, half in zip(self.views, self.halves(x), strict=True)], 1)

    def augmented(self, x: Tensor) -> Tensor:
        return torch.cat([view.augmented(half) for view, half in zip(self.views, self.halves(x), strict=True)], 1)

    def perturbed(self, x: Tensor) -> Tensor:
        return torch.cat([view.perturbed(half) for view, half in zip(self.views, self.halves(x), strict=True)], 1)

    def forward(self, x: Tensor) -> Tensor:
        views = zip(self.views, self.halves(x), strict=True)
        return torch.cat([view(half) * (half != 0).any(1, keepdim=True) for view, half in views], 1)

    def normed(self, u: Tensor) -> Tensor:
        return u  # two views have no layer `Normed`

    def codes(self, x: Tensor) -> Tensor:
        """Return F + G (n, n_bits), whose signs are the bits."""
        u: Tensor = self(x)
        f, g = u.chunk(2, dim=1)
        return f + g


def build(
    network: str, dim: int, n_bits: int, views: int = 1, first: int = 0, layer: str = "linear"
) -> HashNetwork | TwoViews:
    """Return a new network for rows (n, dim), with random parameters.

    `network` is a name of `architectures.NETWORKS`, or two joined by a + for two views; `first` the dimension of the
    first of two views, 0 for half of the row; `layer` as in `hash_layer`. Raises ValueError if the network is unknown
    or cannot take rows of this dimension.
    """
    if views == 2:
        return TwoViews(network, dim, n_bits, first, layer)
    return HashNetwork(network_names(network, 1)[0], dim, n_bits, layer)


def augmented(x: Tensor) -> Tensor:
    """Return rows of pixels, each randomly mirrored and shifted by up to an eighth of its side."""
    side, channels = picture_shape(x.shape[1])
    pictures = x.view(-1, side, side, channels)
    reach = side // 8
    padded = F.pad(pictures, (0, 0, reach, reach, reach, reach))
    rows, columns = torch.randint(2 * reach + 1, (2, len(x)))[:, :, None] + torch.arange(side)
    columns = torch.where(torch.rand(len(x))[:, None] < 0.5, columns.flip(1), columns)
    places = (torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :])
    return padded[tuple(copied(index.numpy(), x.device) for index in places)].reshape(len(x), -1)


def copy_pretrained(body: nn.Module, arrays: Mapping[str, Array]) -> None:
    """Copy pretrained parameters into a body, matched by order and not by name.

    Additional parameters at the end are ignored, such as the classifier of a torchvision model of the same
    architecture. Raises ValueError if a shape differs, or if there are too few parameters.
    """
    own = [(name, value) for name, value in body.state_dict().items() if not name.endswith("num_batches_tracked")]
    given = [(name, value) for name, value in arrays.items() if not name.endswith("num_batches_tracked")]
    if not own:
        raise ValueError("network=linear has no layers that can start from pretrained parameters")
    if len(given) < len(own):
        raise ValueError(f"expected pretrained parameters for {len(own)} tensors, found {len(given)}")
    for (name, value), (other, array) in zip(own, given, strict=False):
        if tuple(value.shape) != array.shape:
            raise ValueError(f"expected shape {tuple(value.shape)} for {name}, found {array.shape} in {other}")
        value.copy_(torch.tensor(array))


def check_pretrained_shapes(network: str, dim: int, arrays: Mapping[str, Array]) -> None:
    """Raise ValueError if `copy_pretrained` would do so for this network. Allocates no parameters."""
    with torch.device("meta"):
        copy_pretrained(build(network, dim, 1).body, arrays)
