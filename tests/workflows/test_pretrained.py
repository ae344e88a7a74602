"""Pretrained parameters: read in the order of the layers, stored by content, and used as the start of a fit."""

import io

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from hashing.deep import networks, weights
from hashing.deep.backbones import BACKBONES
from hashing.families import DeepHash
from hashing.mapreduce import Batch, Data
from hashing.methods import METHODS
from infra.executors import InProcess
from storage import models
from tests.conftest import blobs
from tests.drawn_pictures import pixels
from tests.workflows.conftest import spec
from workflows import pretrained
from workflows.context import Context
from workflows.reindex import fitting
from workflows.spec import MethodSpec


def keep(file, warehouse):
    """Store a file of parameters as the command line does."""
    return models.save_pretrained(warehouse, pretrained.read_pretrained(file).content)


def torchvision_resnet18():
    """Return names and shapes of the parameters of torchvision's resnet18, in its order."""

    def norm(name, width):
        parts = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{part}": (width,) for part in parts} | {f"{name}.num_batches_tracked": ()}

    found = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    channels = 64
    for stage in (1, 2, 3, 4):
        width = 64 * 2 ** (stage - 1)
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            found |= {f"{name}.conv1.weight": (width, channels, 3, 3), **norm(f"{name}.bn1", width)}
            found |= {f"{name}.conv2.weight": (width, width, 3, 3), **norm(f"{name}.bn2", width)}
            if channels != width:
                found[f"{name}.downsample.0.weight"] = (width, channels, 1, 1)
                found |= norm(f"{name}.downsample.1", width)
            channels = width
    return found | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def torchvision_alexnet():
    convolutions = {
        0: (64, 3, 11, 11),
        3: (192, 64, 5, 5),
        6: (384, 192, 3, 3),
        8: (256, 384, 3, 3),
        10: (256, 256, 3, 3),
    }
    dense = {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)}
    layers = [(f"features.{i}", s) for i, s in convolutions.items()] + [
        (f"classifier.{i}", s) for i, s in dense.items()
    ]
    return {f"{name}.{part}": s if part == "weight" else s[:1] for name, s in layers for part in ("weight", "bias")}


@pytest.mark.parametrize("names", [torchvision_resnet18(), torchvision_alexnet()], ids=["resnet18", "alexnet"])
def test_parameters_are_sorted_by_the_layers_of_torchvision(names):
    shuffled = dict(sorted(dict.fromkeys(names, 0).items()))
    assert list(shuffled) != list(names)
    assert list(weights.in_order(shuffled)) == list(names)
    assert list(weights.in_order(dict.fromkeys(["10.bias", "2.weight", "10.weight", "2.bias"]))) == [
        "2.weight", "2.bias", "10.weight", "10.bias"
    ]  # fmt: skip


def test_parameters_of_torchvisions_resnet18_fit_ours():
    rng = np.random.default_rng(0)
    arrays = {name: rng.random(shape, np.float32) for name, shape in torchvision_resnet18().items()}
    body, _ = BACKBONES["resnet18"](3 * 32**2)
    networks.copy_pretrained(body, weights.in_order(dict(sorted(arrays.items()))))
    state = [value for name, value in body.state_dict().items() if not name.endswith("num_batches_tracked")]
    given = [array for name, array in arrays.items() if not name.endswith("num_batches_tracked")]
    assert len(state) == len(given) - 2  # the classifier is left over
    for value, array in zip(state, given, strict=False):
        np.testing.assert_array_equal(value.numpy(), array)


def body_of_cnn(seed):
    torch.manual_seed(seed)
    body, _ = BACKBONES["cnn"](3 * 16**2)
    return dict(body.state_dict())


def as_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.mark.parametrize("form", ["torch", "checkpoint", "safetensors"])
def test_a_fit_starts_from_a_file_of_any_supported_format(settings, tmp_path, form):
    state = body_of_cnn(7)
    forms = {
        "torch": lambda: as_torch(state),
        "checkpoint": lambda: as_torch({"state_dict": state}),
        "safetensors": lambda: save({name: value.numpy() for name, value in state.items()}),
    }
    (tmp_path / "weights").write_bytes(forms[form]())
    digest = keep(str(tmp_path / "weights"), settings.warehouse_url)
    ids = np.arange(40)
    x = np.array([pixels(i % 2, i, 16).ravel() for i in ids], np.float32)
    shard = [Batch(ids, x, np.eye(2, dtype=np.uint8)[ids % 2])]
    method = METHODS["dpsh"](8, network="cnn", epochs=1, batch_size=20, lr=0.0)  # so that parameters stay as they are
    start_from = pretrained.stored_parameters(digest, settings)
    function = method.fit(Data([shard], InProcess(), start_from))
    assert isinstance(function, DeepHash)
    found = {array.shape: array for array in function.parameters}
    for value in state.values():
        np.testing.assert_array_equal(found[tuple(value.shape)], value.numpy())
    other = method.fit(Data([shard], InProcess()))
    assert any((a != b).any() for a, b in zip(function.parameters, other.parameters, strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected safetensors or a state dict saved by torch.save: "),
        (b"no weights at all", "expected safetensors or a state dict saved by torch.save: "),
        (bytes([200, 0, 0, 0, 0, 0, 0, 0]) + b'{"a": 1}', "cannot read safetensors of numpy types: "),
        (as_torch([1, 2]), "expected a state dict of tensors, found list"),
        (as_torch({"weight": torch.ones(2), "epoch": 3}), "expected a state dict of tensors, found int in epoch"),
        (
            as_torch({"weight": MethodSpec}),
            "expected safetensors or a state dict saved by torch.save: ",
        ),  # needs code to unpickle
    ],
)
def test_a_file_without_parameters_is_refused_with_its_name(settings, tmp_path, content, message):
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(ValueError, match=message + ".*, in .*weights") as refused:
        keep(str(tmp_path / "weights"), settings.warehouse_url)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "home" / "warehouse" / "pretrained").exists()


def test_other_pretrained_parameters_give_another_fit(settings, mine, tmp_path):
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        body, _ = BACKBONES["mlp"](blobs(1).x.shape[1])
        (tmp_path / "weights").write_bytes(as_torch(body.state_dict()))
        digests.append(keep(str(tmp_path / "weights"), settings.warehouse_url))
    method = {"method": "dpsh", "bits": 8, "parameters": {"epochs": 1, "batch_size": 20}}
    plain, first, second = (spec(method={**method, "pretrained": d}, code="c") for d in ("", *digests))
    assert "pretrained" not in plain.method.identity()  # so that earlier fits keep their identity
    fits = [fitting.fit(Context.of(each, settings, InProcess())) for each in (plain, first, second, first)]
    assert len({fit.digest for fit in fits}) == 3
    assert fits[3].digest == fits[1].digest
    assert len({fit.fit for fit in fits}) == 3
    assert models.load_pretrained(settings.warehouse_url, digests[0])
    (settings.home / "warehouse" / "pretrained" / digests[0]).write_bytes(b"other")
    with pytest.raises(ValueError, match=f"^pretrained parameters .*{digests[0]} were modified"):
        pretrained.stored_parameters(digests[0], settings)
    with pytest.raises(FileNotFoundError, match=r"are missing from .*: pass the file again with --pretrained FILE"):
        pretrained.stored_parameters("0" * 64, settings)


def test_methods_without_a_single_network_refuse_pretrained_parameters():
    for name in ("itq", "prdh"):
        with pytest.raises(ValueError, match=f"expected no pretrained parameters for {name}"):
            MethodSpec(method=name, pretrained="0" * 64)
    with pytest.raises(ValueError, match="pattern"):
        MethodSpec(method="dhn", pretrained="alexnet.pth")
