"""Activations that are computed again: the same values, gradients and statistics, and less in memory."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hashing.deep import backbones, sgd
from hashing.deep.batches import on_device
from hashing.deep.method import facts
from hashing.deep.recompute import recomputed
from hashing.deep.stored import TrainingRows
from hashing.mapreduce import Data
from hashing.methods.dpsh import DPSH
from hashing.methods.prdh import PRDH
from infra.executors import InProcess
from infra.training import Here
from tests.conftest import blobs


def small_resnet():
    blocks = [
        backbones.Residual(c, w, s, bottleneck=True) for c, w, s in [(3, 4, 1), (16, 4, 1), (16, 8, 2), (32, 8, 1)]
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.randn(6, 3, 16, 16)


def small_vgg():
    layers = [*backbones._convolution(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Flatten()]
    dense = [nn.Linear(8 * 64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, *dense), torch.randn(6, 3, 16, 16)


def passed(body, x, run):
    """Values, gradients and buffers after a pass there and back, and the bytes that autograd kept in between."""
    torch.manual_seed(3)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        u = run(x)
    u.square().sum().backward()
    return [u, *(p.grad for p in body.parameters()), *body.buffers(), torch.rand(1)], sum(kept)


@pytest.mark.parametrize("network", [small_resnet, small_vgg])
def test_values_gradients_and_statistics_are_those_of_a_plain_pass(network):
    body, x = network()
    again = deepcopy(body)
    expected, plain = passed(body, x, body)
    found, kept = passed(again, x, lambda x: recomputed(again, x))
    assert len(expected) >= 8
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert kept < plain / 5  # beside the inputs of the runs
    assert all(layer.momentum == 0.1 for layer in again.modules() if isinstance(layer, nn.BatchNorm2d))


@pytest.mark.parametrize("method", [DPSH(8, network="cnn"), PRDH(8, network="mlp"), DPSH(8, network="mlp", chunk=16)])
def test_a_step_is_the_same(method):
    rows = blobs(64, d=768)
    known = facts(Data([[rows]], InProcess()), method)
    ends = []
    for recompute in (False, True):
        worker = Here("", lambda *_: None, 1)
        run = sgd.Run(worker, replace(method, recompute=recompute), known, {})
        run.take_step(on_device(rows, worker, torch.device("cpu"), TrainingRows([]), "float32", lambda _: None))
        ends.append([value.numpy() for value in run.modules.state_dict().values()])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
