"""Networks of fitted functions: built from their parameters once in a process, and run on one thread or a device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..mapreduce import Array
from .networks import HashNetwork, TwoViews, build

Network = TypeVar("Network", bound=nn.Module)
_lock = Lock()
_latest: dict[str, HashNetwork | TwoViews] = {}  # at most one: DeepHash.digest -> its network
_callers = 0  # number of callers inside one_thread
_threads = 0  # threads of torch before the first caller entered one_thread


def with_parameters(network: Network, parameters: tuple[Array, ...]) -> Network:
    """Set the state of a network, in order, and return it in evaluation mode. Raises ValueError if a shape differs."""
    state = {name: value for name, value in network.state_dict().items() if value.dim()}  # a scalar is a step counter
    if [tuple(value.shape) for value in state.values()] != [part.shape for part in parameters]:
        raise ValueError(
            "the parameters do not match the shapes of the network: another version of Hashkiln saved them"
        )
    network.load_state_dict(
        {name: torch.tensor(part) for name, part in zip(state, parameters, strict=True)}, strict=False
    )
    return network.eval()


def shared_network(digest: str, parameters: tuple[Array, ...], *architecture: Any) -> HashNetwork | TwoViews:
    """Return the network of a function in evaluation mode, shared by all copies of the function in this process.

    Only the most recent network is cached, by the digest of the function. Other arguments are those of `loaded`.
    """
    with _lock:
        if digest not in _latest:
            _latest.clear()
            _latest[digest] = loaded(parameters, *architecture)
        return _latest[digest]


def loaded(parameters: tuple[Array, ...], *architecture: Any) -> HashNetwork | TwoViews:
    """Return a new network with the given state, in evaluation mode; architecture: positional arguments of `build`."""
    with torch.random.fork_rng(devices=[]):  # initial values are random, and the parameters replace them
        network = build(*architecture)
    return with_parameters(network, parameters)


def codes_on_device(network: HashNetwork | TwoViews, device: str, precision: str) -> Callable[[Tensor], Tensor]:
    """Move a network to a device, and return its function from rows (n, d) to u (n, n_bits) float32."""
    network = network.to(device)

    def codes(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network.codes(x)

    return codes


def evaluated(network: HashNetwork | TwoViews, x: Array) -> Array:
    """Return u (n, n_bits) of rows x (n, d). On one thread, because the last digits of u depend on the thread count."""
    with one_thread(), torch.inference_mode():
        u: Array = network.codes(torch.tensor(x)).numpy()  # tensor() copies: arrays from Ray are read-only
    return u


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one CPU thread inside the context. The last of overlapping contexts restores the previous number."""
    global _callers, _threads
    with _lock:
        threads = torch.get_num_threads()  # always called: a thread's first call adopts the number of the process
        _threads = _threads if _callers else threads
        _callers += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _callers -= 1
            torch.set_num_threads(_threads)
