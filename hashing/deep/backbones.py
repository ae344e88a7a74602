"""Backbones: networks that compute features of vectors, images and texts, all given as rows (n, d).

An image is a row of pixels in the order (h, w, c), with h = w and c = 1 or 3, so d determines the shape. A text is a
row of word ids, padded with 0. The function of each backbone takes d and returns a module and the width of its
features.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..statistics import WORDS
from .architectures import NETWORKS, check_dim, picture_shape

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue
TEXT_WIDTH = 64


class Scale(nn.Module):
    """(x - mean) / deviation, with a mean for each dimension and one deviation for all dimensions."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class Pixels(nn.Module):
    """Rows of pixels (n, d) -> (n, c, side, side)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.side, self.channels = picture_shape(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, self.side, self.side, self.channels).permute(0, 3, 1, 2)


class Picture(Pixels):
    """Rows of pixels 0..255 (n, d) -> (n, 3, 224, 224), normalized by ImageNet's mean and deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(DEVIATION).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = (super().forward(x).expand(-1, 3, -1, -1) - self.mean) / self.deviation
        return F.interpolate(x, (224, 224), mode="bilinear", align_corners=False) if self.side != 224 else x


def mlp(dim: int) -> tuple[nn.Module, int]:
    """Return two hidden layers of 512 units."""
    return nn.Sequential(nn.Linear(dim, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()), 512


def linear(dim: int) -> tuple[nn.Module, int]:
    """Return the identity: the hash layer alone is trained."""
    return nn.Identity(), dim


def cnn(dim: int) -> tuple[nn.Module, int]:
    """Return two 5 x 5 convolutions (three from 48 x 48 pixels on) and a layer of 500: LeNet with the widths of DSH."""
    check_dim("cnn", dim)
    side, channels = picture_shape(dim)
    layers: list[nn.Module] = [Pixels(dim)]
    for width in (20, 50) if side < 48 else (32, 48, 64):
        layers += [nn.Conv2d(channels, width, 5), nn.MaxPool2d(2), nn.ReLU()]
        channels, side = width, (side - 4) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side**2, 500), nn.ReLU()), 500


class Skip(nn.Module):
    """Concatenation [a(x) b(a(x))]."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x)
        return torch.cat([first, self.b(first)], 1)


def cnn_skip(dim: int) -> tuple[nn.Module, int]:
    """Return `cnn` with a second layer of 500; the hash layer takes both, as in DSRH."""
    body, width = cnn(dim)
    return Skip(body, nn.Sequential(nn.Linear(width, width), nn.ReLU())), 2 * width


def cnn_f(dim: int) -> tuple[nn.Module, int]:
    """Return CNN-F (VGG-F). Source: Chatfield et al., BMVC 2014, table 1."""
    return nn.Sequential(
        Picture(dim),
        *_convolution(3, 64, 11, stride=4), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2, ceil_mode=True),
        *_convolution(64, 256, 5, padding=2), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        *_convolution(256, 256, 3, padding=1), *_convolution(256, 256, 3, padding=1),
        *_convolution(256, 256, 3, padding=1), nn.MaxPool2d(3, 2),
        nn.Flatten(), *_dense(256 * 36),
    ), 4096  # fmt: skip


def alexnet(dim: int) -> tuple[nn.Module, int]:
    """Return AlexNet with one tower, parameters in torchvision's order. Source: Krizhevsky, arXiv 1404.5997."""
    return nn.Sequential(
        Picture(dim),
        *_convolution(3, 64, 11, stride=4, padding=2), nn.MaxPool2d(3, 2),
        *_convolution(64, 192, 5, padding=2), nn.MaxPool2d(3, 2),
        *_convolution(192, 384, 3, padding=1), *_convolution(384, 256, 3, padding=1),
        *_convolution(256, 256, 3, padding=1), nn.MaxPool2d(3, 2),
        nn.Flatten(), *_dense(256 * 36),
    ), 4096  # fmt: skip


def vgg16(dim: int) -> tuple[nn.Module, int]:
    """Return VGG-16. Source: Simonyan & Zisserman, ICLR 2015, configuration D."""
    layers: list[nn.Module] = [Picture(dim)]
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += _convolution(channels, width, 3, padding=1)
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), *_dense(512 * 49)), 4096


def _convolution(channels: int, width: int, size: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, size, stride, padding), nn.ReLU()]


def _dense(width: int) -> list[nn.Module]:
    """Return the layers fc6 and fc7."""
    return [nn.Dropout(), nn.Linear(width, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]


class Residual(nn.Module):
    """relu(f(x) + x), f two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1. Source: He et al., CVPR 2016, figure 5."""

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        shapes = [(width, 1, 1), (width, 3, stride), (out, 1, 1)] if bottleneck else [(width, 3, stride), (width, 3, 1)]
        layers: list[nn.Module] = []
        inner = channels
        for filters, size, step in shapes:
            layers += [nn.Conv2d(inner, filters, size, step, size // 2, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
            inner = filters
        self.body = nn.Sequential(*layers[:-1])
        same = stride == 1 and channels == out
        project = (nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Identity() if same else nn.Sequential(*project)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _resnet(dim: int, counts: tuple[int, ...], bottleneck: bool) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = [Picture(dim), nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)]
    layers += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, count in enumerate(counts):
        for block in range(count):
            width = 64 * 2**stage
            layers.append(Residual(channels, width, 2 if stage and not block else 1, bottleneck))
            channels = 4 * width if bottleneck else width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def resnet18(dim: int) -> tuple[nn.Module, int]:
    """Return ResNet-18. Source: He et al., CVPR 2016, table 1."""
    return _resnet(dim, (2, 2, 2, 2), bottleneck=False)


def resnet50(dim: int) -> tuple[nn.Module, int]:
    """Return ResNet-50, strides in the 3 x 3 convolutions as in torchvision. Source: He et al., CVPR 2016, table 1."""
    return _resnet(dim, (3, 4, 6, 3), bottleneck=True)


class TextCNN(nn.Module):
    """Convolutions over 1, 2 and 3 words with 2-max pooling, concatenated to the scaled sum of word embeddings.

    Sources: Kalchbrenner et al., ACL 2014 (k-max pooling); Xu et al., IJCAI 2015, figure 1 (explicit word features).
    """

    def __init__(self, dim: int, width: int = TEXT_WIDTH) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, k, padding=k // 2) for k in (1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        words = x.long()
        e = self.words(words)
        mean = e.sum(1) / (words > 0).sum(1, keepdim=True).clamp(min=1).sqrt()
        sequence = e.transpose(1, 2)
        maps = [F.relu(layer(sequence)) for layer in self.convolutions]
        return torch.cat([mean, *(_largest(values, 2).flatten(1) for values in maps)], 1)


def _largest(x: Tensor, k: int) -> Tensor:
    """Return the k largest values (n, c, k) along the last axis, in their original order."""
    positions = x.topk(k, dim=2).indices.sort(dim=2).values
    return x.gather(2, positions)


def text(dim: int) -> tuple[nn.Module, int]:
    """Return the convolutional network for rows of word ids."""
    return TextCNN(dim), 7 * TEXT_WIDTH


BACKBONES: dict[str, Callable[[int], tuple[nn.Module, int]]] = {
    name: globals()[name]  # the function of that name in this file
    for name in NETWORKS
}
STANDARD = ("mlp", "linear", "cnn", "cnn_skip")  # their inputs are scaled to mean 0 and deviation 1
