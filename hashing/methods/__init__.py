"""The catalogue: one module a method; importing this package registers them all."""

from __future__ import annotations

import math
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Protocol, TypeVar

from ..functions import HashFunction
from ..mapreduce import Data


class Method(Protocol):
    """A frozen dataclass of hyper-parameters, each with the paper's default. Field `n_bits` first, `seed` if random."""

    supervised: ClassVar[bool] = False
    n_bits: int

    def fit(self, data: Data) -> HashFunction: ...


METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type)


def register(cls: M) -> M:
    """Class decorator: the method joins the catalogue under the name of its file."""
    name = cls.__module__.rsplit(".", 1)[-1]
    if name in METHODS:
        raise ValueError(f"expected one method a file, found {METHODS[name].__name__} and {cls.__name__} in {name}.py")
    cls.supervised = getattr(cls, "supervised", False)  # methods are no subclasses of Method: its default is said here
    METHODS[name] = cls
    return cls


def method(name: str) -> type[Method]:
    """The method of a name. Raises ValueError, with the nearest names, where there is none."""
    if name not in METHODS:
        near = get_close_matches(name, METHODS) or sorted(METHODS)
        raise ValueError(f"expected the name of a method, found {name!r}; did you mean {', '.join(near)}?")
    return METHODS[name]


def check_hyperparameters(method: Method) -> None:
    """Refuse hyper-parameters that mean nothing: ValueError with the name, what was expected and what was found.

    Numbers are finite and not negative, counts at least 1 unless 0 is their default; metadata of a field, `above`,
    `below` and `least`, say otherwise.
    """
    for field in fields(method)[1:]:  # type: ignore[arg-type]
        value, known = getattr(method, field.name), field.metadata
        if isinstance(value, bool | str):
            continue
        least: Any = known.get("least", 1 if isinstance(field.default, int) and field.default else 0)
        asked = [f"above {known['above']}"] if "above" in known else [f"of at least {least}"]
        asked += [f"below {known['below']}"] if "below" in known else []
        within = known.get("above", -1) < value < known.get("below", math.inf)
        if not (math.isfinite(value) and least <= value and within):
            expected = f"{type(method).__name__}'s {field.name} {' and '.join(asked)}"
            raise ValueError(f"expected {expected}, found {value}")


for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):  # a kernel of the method whose name follows
        import_module(f"{__name__}.{_module.name}")
