"""Networks: their shapes, the views of a row, pretrained parameters, pictures."""

import numpy as np
import pytest
import torch

from hashing.deep.backbones import BACKBONES, Picture, picture_shape
from hashing.deep.method import Deep
from hashing.deep.networks import augmented, build, copy_pretrained
from hashing.deep.weights import in_order
from hashing.families import DeepHash
from tests.conftest import blobs

BITS = 12
LARGE = ("alexnet", "cnn_f", "vgg16", "resnet18", "resnet50")


def rows(dim, n=2):
    return torch.tensor(np.random.default_rng(0).integers(1, 255, (n, dim)), dtype=torch.float32)


@pytest.mark.parametrize("body", [body for body in BACKBONES if body not in LARGE])
@pytest.mark.parametrize("layer", ["linear", "divide", "blocks:4"])
def test_small_networks_give_a_number_for_each_bit(body, layer):
    network = build(body, 784, BITS, layer=layer).eval()
    assert network(rows(784)).shape == (2, BITS)
    assert network.codes(rows(784)).shape == (2, BITS)


@pytest.mark.parametrize("body", LARGE)
@pytest.mark.parametrize("dim", [32 * 32 * 3])
def test_large_networks_give_a_number_for_each_bit(body, dim):
    assert build(body, dim, BITS).eval()(rows(dim, 1)).shape == (1, BITS)


@pytest.mark.parametrize(("dim", "shape"), [(784, (28, 1)), (3072, (32, 3)), (64 * 64 * 3, (64, 3))])
def test_the_shape_follows_from_the_number_of_pixels(dim, shape):
    assert picture_shape(dim) == shape


def test_wrong_shapes_and_names_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^expected square images, .*, found d = 50.*$"):
        build("cnn", 50, BITS)
    with pytest.raises(ValueError, match=r"^expected images of at least 16 x 16 for network=cnn, found d = 64.*$"):
        build("cnn", 64, BITS)
    with pytest.raises(ValueError, match=r"^expected the name of a network, found 'resnet19' .*did you mean resnet18"):
        build("resnet19", 784, BITS)
    with pytest.raises(ValueError, match=r"^expected first_view from 1 to 9, for rows of 10 dimensions, found 10$"):
        build("mlp", 10, BITS, views=2, first=10)


def test_a_block_has_one_bit():
    network = build("mlp", 20, BITS, layer="blocks:4").eval()
    bits = network.codes(torch.randn(50, 20)) >= 0
    assert (bits.view(50, -1, 4).sum(2) == 1).all()


def test_each_bit_of_divide_and_encode_depends_on_its_own_slice():
    network = build("linear", 20, BITS, layer="divide")
    x = torch.randn(1, 20, requires_grad=True)
    network(x)[0, 3].backward()
    seen = network.hash.spread.weight.grad.abs().sum(1).view(BITS, 50).sum(1) > 0
    assert seen.tolist() == [k == 3 for k in range(BITS)]


def test_a_row_without_one_view_is_encoded_by_the_other():
    network = build("mlp+text", 20 + 8, BITS, views=2, first=20).eval()
    x = torch.cat([torch.randn(3, 20), torch.randint(1, 99, (3, 8)).float()], 1)
    f, g = network(x).chunk(2, dim=1)
    torch.testing.assert_close(network.codes(x), f + g)
    first, second = x.clone(), x.clone()
    first[:, 20:] = 0
    second[:, :20] = 0
    torch.testing.assert_close(network.codes(first), f)
    torch.testing.assert_close(network.codes(second), g)
    assert network(first)[:, BITS:].abs().max() == 0


def test_the_first_view_is_the_first_half_by_default():
    assert build("mlp", 10, BITS, views=2).first == 5
    assert Deep.split.fget(type("Method", (), {"first_view": 3})) == 3


def resnet18_state():
    """Names and shapes of torchvision's resnet18, in its order, with numbers of our own."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    channels = 64
    for stage in range(4):
        width = 64 * 2**stage
        for block in range(2):
            name = f"layer{stage + 1}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, channels, 3, 3)
            shapes |= norm(f"{name}.bn1", width)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm(f"{name}.bn2", width)
            if stage and not block:
                shapes[f"{name}.downsample.0.weight"] = (width, channels, 1, 1)
                shapes |= norm(f"{name}.downsample.1", width)
            channels = width
    return numbered(shapes | {"fc.weight": (1000, 512), "fc.bias": (1000,)})


def norm(name, width):
    parts = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return parts | {f"{name}.num_batches_tracked": ()}


def alexnet_state():
    """Of torchvision's alexnet."""
    sizes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    shapes = {f"features.{place}": shape for place, shape in sizes.items()}
    shapes |= {"classifier.1": (4096, 9216), "classifier.4": (4096, 4096), "classifier.6": (1000, 4096)}
    parts = {f"{name}.weight": shape for name, shape in shapes.items()}
    ordered = {}
    for name, shape in parts.items():
        ordered |= {name: shape, name.replace("weight", "bias"): shape[:1]}
    return numbered(ordered)


def numbered(shapes):
    """A value of its own for each array, its place."""
    return {name: np.full(shape, place / 1000, np.float32) for place, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(("body", "state"), [("alexnet", alexnet_state), ("resnet18", resnet18_state)])
def test_pretrained_parameters_are_loaded_into_their_layers(body, state):
    given = state()
    shuffled = {name: given[name] for name in sorted(given)}  # as safetensors have them
    network = build(body, 3072, BITS)
    copy_pretrained(network.body, in_order(shuffled))
    got = [value for name, value in network.body.state_dict().items() if value.dim()]
    expected = [array for array in given.values() if array.ndim][: len(got)]
    for value, array in zip(got, expected, strict=True):
        assert tuple(value.shape) == array.shape
        assert value.flatten()[0].item() == pytest.approx(array.flat[0])


def test_pretrained_parameters_of_other_shapes_are_refused_in_one_line():
    network = build("alexnet", 3072, BITS)
    state = alexnet_state()
    state["features.3.weight"] = state["features.3.weight"][:, :5]
    with pytest.raises(
        ValueError, match=r"^expected shape \(192, 64, 5, 5\) for .*, found \(192, 5, 5, 5\) in features.3.weight$"
    ):
        copy_pretrained(network.body, state)
    with pytest.raises(ValueError, match=r"^expected pretrained parameters for 14 tensors, found 2$"):
        copy_pretrained(network.body, dict(list(state.items())[:2]))


def test_pretrained_parameters_start_the_first_of_two_views():
    network = build("mlp", 20, BITS, views=2)
    given = {name: np.full(tuple(value.shape), 0.5, np.float32) for name, value in network.body.state_dict().items()}
    copy_pretrained(network.body, given)
    assert {value.mean().item() for value in network.views[0].body.state_dict().values()} == {0.5}


def test_pictures_are_normalized_as_for_imagenet():
    x = torch.tensor([[124.0, 116.0, 104.0]]).repeat(1, 16).view(1, -1)  # ImageNet's mean colour, 4 x 4
    seen = Picture(48)(x)
    assert seen.shape == (1, 3, 224, 224)
    assert seen.abs().max() < 0.02
    x = torch.zeros(1, 48)
    x[0, 0] = 255  # the red of the pixel at the top left
    red = Picture(48)(x)[0, :, 0, 0]
    torch.testing.assert_close(red, torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    assert Picture(16)(torch.full((1, 16), 9.0)).shape == (1, 3, 224, 224)  # grey


def test_with_two_views_only_pictures_are_augmented():
    network, x = build("cnn+mlp", 16 * 16 + 10, 8, 2, 16 * 16), rows(16 * 16 + 10, 5)
    torch.manual_seed(3)
    found = network.augmented(x)
    torch.manual_seed(3)
    assert torch.equal(found, torch.cat([augmented(x[:, :256]), x[:, 256:]], 1))


def test_parameters_that_match_no_layer_are_refused():
    with pytest.raises(ValueError, match=r"^network=linear has no layers that can start from pretrained parameters$"):
        copy_pretrained(build("linear", 8, 4).body, {"0.weight": np.zeros((4, 8), np.float32)})


def test_augmented_pictures_are_mirrored_and_shifted_by_key():
    x = rows(16 * 16 * 3, 40)
    torch.manual_seed(3)
    once = augmented(x)
    torch.manual_seed(3)
    assert torch.equal(once, augmented(x))
    assert not torch.equal(once, augmented(x))
    assert once.shape == x.shape
    pictures, seen = x.view(-1, 16, 16, 3), once.view(-1, 16, 16, 3)
    for picture, view in zip(pictures, seen, strict=True):  # each is one of 2 x 5 x 5 views
        padded = torch.nn.functional.pad(picture, (0, 0, 2, 2, 2, 2))
        views = [padded[i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        assert any(torch.equal(view, other) or torch.equal(view, other.flip(1)) for other in views)


@pytest.mark.parametrize("body", ["mlp", "cnn", "text"])
def test_codes_do_not_depend_on_the_batch(body):
    torch.manual_seed(0)
    network = build(body, 784, BITS)
    parameters = tuple(value.numpy() for value in network.state_dict().values() if value.dim())
    function = DeepHash(parameters, body, 784, BITS)
    x = rows(784, 300).numpy()
    whole = function.project(x)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(function.project(x[order]), whole[order])
    np.testing.assert_array_equal(function.project(x[7:8]), whole[7:8])
    x.flags.writeable = False  # as Ray ships them
    np.testing.assert_array_equal(function.project(x), whole)


def test_parameters_of_another_network_are_refused():
    network = build("mlp", 32, BITS)
    parameters = tuple(value.numpy() for value in network.state_dict().values() if value.dim())
    with pytest.raises(ValueError, match="the parameters do not match the shapes of the network"):
        DeepHash(parameters, "linear", 32, BITS).project(blobs(3).x)


def test_vectors_are_standardized():
    x = torch.tensor(blobs().x) * 50 + 9
    network = build("linear", 32, BITS)
    network.scale(x.double().mean(0), x.double().var(0, unbiased=False))
    seen = network.scaled(x)
    assert seen.mean(0).abs().max() < 1e-4
    assert seen.var(0).mean().item() == pytest.approx(1, abs=0.01)
    network.scale(torch.zeros(32), torch.zeros(32))  # rows that are all the same
    assert torch.isfinite(network(x)).all()
