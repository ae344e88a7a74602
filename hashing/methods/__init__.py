"""The catalogue: one module a method, all registered when this package is imported, and those of other packages."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any, ClassVar, Protocol, TypeVar

from ..functions import HashFunction
from ..mapreduce import Data

logger = logging.getLogger(__name__)
GROUP = "hashkiln.methods"  # entry points by which installed packages add methods: name = module:class


class Method(Protocol):
    """A frozen dataclass of hyper-parameters, each with the paper's default. Field `n_bits` first, `seed` if random.

    `__post_init__` refuses hyper-parameters that do not go together. Where not every row will do, `check_dim(dim)`
    raises ValueError for vectors of another dimension; `network` names the network of a deep method, and `reads_labels`
    says whether labels are read after all by one that is not supervised.

    A model is known by the values that differ from the defaults, and by `defaults_version`. Raise that number when the
    value or the meaning of a default changes, so that tables do not mix models; a new hyper-parameter, by whose default
    the method does what it did, leaves it as it is.
    """

    supervised: ClassVar[bool] = False
    defaults_version: ClassVar[int] = 1
    n_bits: int

    def fit(self, data: Data) -> HashFunction: ...


METHODS: dict[str, type[Method]] = {}  # of this package
M = TypeVar("M", bound=type)


def register(cls: M) -> M:
    """Class decorator: the method joins the catalogue under the name of its file."""
    name = cls.__module__.rsplit(".", 1)[-1]
    if name in METHODS:
        raise ValueError(f"expected one method a file, found {METHODS[name].__name__} and {cls.__name__} in {name}.py")
    METHODS[name] = _with_defaults(cls)
    return cls


def _with_defaults(cls: Any) -> Any:
    cls.supervised = getattr(cls, "supervised", False)  # methods are no subclasses of Method: its defaults are set here
    cls.defaults_version = getattr(cls, "defaults_version", 1)
    return cls


@cache
def catalogue() -> dict[str, type[Method]]:
    """Return all methods by name: those of this package, then those that installed packages add to the group.

    An entry point that does not load, is no method, or has a name that is taken is left out with a warning.
    """
    found = dict(METHODS)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_package(entry), entry.name)):
        try:
            found[entry.name] = _loaded(entry, found)
        except Exception as error:  # of foreign code: whatever it is, it must not take the other methods away
            source = f"{entry.value} of package {_package(entry)}"
            logger.warning("method %s (%s) is left out: %s: %s", entry.name, source, type(error).__name__, error)
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else ""


def _loaded(entry: EntryPoint, taken: dict[str, type[Method]]) -> type[Method]:
    if entry.name in taken:
        holder = taken[entry.name]
        raise ValueError(f"the name is taken by {holder.__module__}.{holder.__name__}")
    if not re.fullmatch("[a-z0-9][a-z0-9_]*", entry.name):
        raise ValueError("a name consists of a-z, 0-9 and _")
    cls = entry.load()
    frozen = getattr(getattr(cls, "__dataclass_params__", None), "frozen", False)
    if not (
        isinstance(cls, type) and frozen and fields(cls)[0].name == "n_bits" and callable(getattr(cls, "fit", None))
    ):
        raise TypeError("a method is a frozen dataclass whose first field is n_bits and which has fit(data)")
    if wrong := [f.name for f in fields(cls)[1:] if not isinstance(f.default, bool | int | float | str)]:
        raise TypeError(f"hyper-parameters have a number or a string as default; {', '.join(wrong)} has not")
    return _with_defaults(cls)


def method(name: str) -> type[Method]:
    """The method of a name. Raises ValueError, with the nearest names, where there is none."""
    known = catalogue()
    if name not in known:
        near = get_close_matches(name, known) or sorted(known)
        raise ValueError(f"expected the name of a method, found {name!r}; did you mean {', '.join(near)}?")
    return known[name]


def reads_labels(method: Method) -> bool:
    """Return whether the fit of a method reads labels."""
    return bool(getattr(method, "reads_labels", method.supervised))


def check_against(method: Method, kind: str, dim: int, labelled: bool) -> None:
    """Refuse rows that a method cannot learn from, by what is known before a row is read. Raises ValueError.

    kind: vector, image or text; dim: of a vector, or the numbers that a picture or a text is read as.
    """
    name, network = type(method).__name__, getattr(method, "network", "")
    if reads_labels(method) and not labelled:
        raise ValueError(f"{name} learns from labels, and the rows have none: choose an unsupervised method")
    if kind == "text" and network != "text":
        found = f"{name}, with network={network}" if network else f"{name}, a method of vectors"
        raise ValueError(f"expected a deep method with network=text for texts, found {found}")
    if network == "text" and kind != "text":
        raise ValueError(f"expected texts for network=text, found rows of kind {kind}")
    if own := getattr(method, "check_dim", None):
        own(dim)


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
