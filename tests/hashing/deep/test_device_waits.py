"""A step never waits for the device: torch's device `meta` has shapes and no values, so whatever reads one raises."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hashing.deep import regularizers, sgd
from hashing.deep.batches import on_device
from hashing.deep.contract import Facts
from hashing.deep.method import Deep
from hashing.deep.stored import TrainingRows
from hashing.mapreduce import Batch
from hashing.methods import METHODS
from hashing.methods.dpsh import DPSH

N, CLASSES = 32, 5
DEEP = {name: method for name, method in METHODS.items() if issubclass(method, Deep)}
TARGETS = {name: np.ones((N, 8)) for name in ("cnnh", "thc")}  # what their `targets` would return


@dataclass
class Worker:
    rank, world, threads, device = 0, 1, 1, "meta"


class Copies(TorchDispatchMode):
    """Collects copies to the device that do not return at once."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function._overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            hidden = (kwargs or {}).get("non_blocking") or args[2:3] == (True,)
            if not hidden and {value.device.type for value in [*tensors, out]} == {"cpu", "meta"}:
                self.waiting.append(function)
        return out


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the device `meta` has none


def step(method, dim=768, targets=None):
    """Take a step on a device without values, and return the run and the copies that the host would wait for."""
    run = sgd.Run(Worker(), method, Facts(10 * N, np.zeros(dim), np.ones(dim), CLASSES), {})
    rows = Batch(np.arange(N), np.zeros((N, dim), np.float32), np.eye(CLASSES, dtype=np.uint8)[np.arange(N) % CLASSES])
    device = torch.device("meta")
    with Copies() as copies:
        run.take_step(on_device(rows, Worker(), device, TrainingRows([]), "float32", lambda _: targets))
    return run, copies.waiting


@pytest.mark.parametrize("name", sorted(DEEP))
def test_no_loss_waits(name):
    _, waiting = step(DEEP[name](8), targets=TARGETS.get(name))
    assert not waiting


@pytest.mark.parametrize("name", ["dpsh", "prdh"])
def test_no_regularizer_waits(name):
    terms = "+".join(f"{term}:0.1" for term in regularizers.OF_OUTPUTS | regularizers.OF_WEIGHTS)
    _, waiting = step(DEEP[name](8, regularizers=terms))
    assert not waiting


@pytest.mark.parametrize(
    "settings",
    [
        {"network": "cnn", "augment": True, "optimizer": "sgd"},
        {"network": "resnet18", "augment": True},
        {"network": "text"},
        {"chunk": 8},
    ],
    ids=str,
)
def test_no_network_waits(settings):
    _, waiting = step(DPSH(8, **settings))
    assert not waiting


def test_whatever_waits_is_found():
    class Waiting(DPSH):
        def loss(self, out):
            return super().loss(out) * self.wait(out.u)

    def found(wait):
        method = Waiting(8)
        object.__setattr__(method, "wait", wait)
        return step(method)[1]

    assert not found(lambda u: u.sum())
    for wait in (lambda u: u.sum().item(), lambda u: len(u[u > 0]), lambda u: len(u.nonzero()), lambda u: u.cpu().sum(),
                 lambda u: 1 if u.sum() > 0 else 2):  # fmt: skip
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            found(wait)
    assert found(lambda u: u.new_tensor(np.ones(3)).sum())


def test_the_loss_is_read_every_few_steps(monkeypatch):
    monkeypatch.setattr(sgd, "CHECK_STEPS", 2)
    run, _ = step(replace(DPSH(8)))
    rows = Batch(np.arange(N), np.zeros((N, 768), np.float32), np.ones((N, CLASSES), np.uint8))
    with pytest.raises(RuntimeError, match="item"):
        run.take_step(on_device(rows, Worker(), torch.device("meta"), TrainingRows([]), "float32", lambda _: None))
