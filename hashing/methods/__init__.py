"""The catalogue of methods: one module per method, registered on import, and the methods of installed packages."""

import logging
import math
import re
from dataclasses import Field, fields, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any, ClassVar, Protocol, TypeVar

from ..deep.architectures import PICTURES
from ..deep.centres import check_classes
from ..functions import HashFunction
from ..mapreduce import Data
from ..names import hint
from ..unit_rows import with_unit_rows

logger = logging.getLogger(__name__)
MOST_CLASSES = 2**14  # a matrix of float64 with a number for each pair of classes takes 2 GiB
GROUP = "hashkiln.methods"  # group of the entry points of methods in installed packages: name = module:class


class Method(Protocol):
    """A frozen dataclass of hyper-parameters, with the paper's defaults: `n_bits` first, and `seed` if it is random.

    `__post_init__` raises ValueError for hyper-parameters that contradict each other. A method may also define
    `check_dim(dim)`, which raises ValueError for vectors of a dimension that it cannot learn from; `network`, the name
    of the network of a deep method; `class_codes`, whether each class has a code of its own; and `reads_labels`,
    whether an unsupervised method reads labels.

    `learn` calls `fit`, with rows of length one if they are compared by cosine.

    A model is identified by the values that differ from the defaults and by `defaults_version`. Increase this number
    when the value or the meaning of a default changes, so that tables do not mix models. A new hyper-parameter whose
    default preserves the behaviour needs no new number.

    Examples
    --------
    A method whose bits compare the first dimensions with their means:

    >>> import numpy as np
    >>> from dataclasses import dataclass
    >>> from hashing.families import LinearHash
    >>> from hashing.statistics import moments
    >>> @dataclass(frozen=True)
    ... class Thresholds:
    ...     n_bits: int
    ...
    ...     def fit(self, data: Data) -> HashFunction:
    ...         mean = moments(data).mean
    ...         return LinearHash(np.eye(len(mean), self.n_bits), mean[: self.n_bits])
    >>> from hashing.mapreduce import Batch
    >>> from infra.executors import InProcess
    >>> x = np.array([[1.0, 5.0], [3.0, 1.0]])
    >>> Thresholds(n_bits=2).fit(Data([[Batch(np.arange(2), x)]], InProcess())).encode(x)
    array([[False,  True],
           [ True, False]])
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    supervised: ClassVar[bool] = False
    defaults_version: ClassVar[int] = 1
    n_bits: int

    def fit(self, data: Data) -> HashFunction: ...


METHODS: dict[str, type[Method]] = {}  # the methods of this package, by name
M = TypeVar("M", bound=type)


def register(cls: M) -> M:
    """Add a method to the catalogue under the name of its file (class decorator)."""
    name = cls.__module__.rsplit(".", 1)[-1]
    if name in METHODS:
        raise ValueError(
            f"expected one method per file, found {METHODS[name].__name__} and {cls.__name__} in {name}.py"
        )
    METHODS[name] = _with_defaults(cls)
    return cls


def _with_defaults(cls: Any) -> Any:
    # Methods do not subclass Method, so they do not inherit its class variables.
    cls.supervised = getattr(cls, "supervised", False)
    cls.defaults_version = getattr(cls, "defaults_version", 1)
    return cls


@cache
def catalogue() -> dict[str, type[Method]]:
    """Return all methods by name: those of this package, then those of installed packages (entry points of GROUP).

    An entry point is skipped with a warning if it does not load, is not a method, or has a name already in use.
    """
    methods = dict(METHODS)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_package(entry), entry.name)):
        try:
            methods[entry.name] = _load(entry, methods)
        except Exception as error:  # code of other packages may raise anything, and must not disable the other methods
            source = f"{entry.value} of package {_package(entry)}"
            logger.warning("skipped method %s (%s): %s: %s", entry.name, source, type(error).__name__, error)
    return methods


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else ""


def _load(entry: EntryPoint, methods: dict[str, type[Method]]) -> type[Method]:
    if entry.name in methods:
        other = methods[entry.name]
        raise ValueError(f"the name is already used by {other.__module__}.{other.__name__}")
    if not re.fullmatch("[a-z0-9][a-z0-9_]*", entry.name):
        raise ValueError("expected a name of a-z, 0-9 and _ that starts with a letter or a digit")
    cls = entry.load()
    frozen = getattr(getattr(cls, "__dataclass_params__", None), "frozen", False)
    if not (
        isinstance(cls, type) and frozen and fields(cls)[0].name == "n_bits" and callable(getattr(cls, "fit", None))
    ):
        raise TypeError("expected a frozen dataclass with the first field n_bits and a method fit(data)")
    if wrong := [f.name for f in fields(cls)[1:] if not isinstance(f.default, bool | int | float | str)]:
        raise TypeError(
            f"expected a number or a string as the default of every hyper-parameter; check {', '.join(wrong)}"
        )
    checked: type[Method] = _with_defaults(cls)
    return checked


def method(name: str) -> type[Method]:
    """Return the class of a method by its name.

    Raises
    ------
    ValueError
        If there is no such method; the message suggests similar names.

    Examples
    --------
    >>> method("itq")(n_bits=16)
    ITQ(n_bits=16, n_iter=50, seed=0)
    """
    methods = catalogue()
    if name not in methods:
        meant = hint(name, sorted(methods), "the methods are")
        raise ValueError(f"expected the name of a method, found {name!r}; {meant}")
    return methods[name]


def reads_labels(method: Method) -> bool:
    """Return whether fitting a method reads labels."""
    return bool(getattr(method, "reads_labels", method.supervised))


def scales_rows(method: Method, metric: str) -> bool:
    """Return whether a function of the method scales rows to length one: by cosine, which ignores their length.

    Pictures, texts and rows of two views are not scaled: a row may lack one of the views.
    """
    networks = getattr(method, "network", "").split("+")
    return metric == "cosine" and getattr(method, "views", 1) == 1 and not {"text", *PICTURES} & set(networks)


def learn(method: Method, data: Data) -> HashFunction:
    """Return the function that a method learns from rows as their metric compares them: see `scales_rows`."""
    if not scales_rows(method, data.metric):
        return method.fit(data)
    function: Any = method.fit(with_unit_rows(data))
    fitted: HashFunction = replace(function, metric="cosine")
    return fitted


def check_against(method: Method, kind: str, dim: int, labelled: bool, n_classes: int = 0) -> None:
    """Check that a method can learn from a dataset, before any row is read.

    Parameters
    ----------
    kind
        Kind of the rows: vector, image or text.
    dim
        Dimension of the vectors, or of the vectors that images and texts are converted to.
    labelled
        Whether the rows have labels.
    n_classes
        Number of different labels; 0 if unknown.

    Raises
    ------
    ValueError
        If the method needs labels, rows of another kind, another dimension, or fewer or more classes.
    """
    name, network = type(method).__name__, getattr(method, "network", "")
    if reads_labels(method) and not labelled:
        raise ValueError(f"{name} learns from labels, and the rows have none: choose an unsupervised method")
    if reads_labels(method) and n_classes > MOST_CLASSES:
        raise ValueError(
            f"choose an unsupervised method, or ingest without --label-column if the labels are values: {name} learns "
            f"from at most {MOST_CLASSES:,} different labels, found {n_classes:,}"
        )
    if kind == "text" and network != "text":
        found = f"{name}, with network={network}" if network else f"{name}, which reads vectors"
        raise ValueError(f"expected a deep method with network=text for texts, found {found}")
    if network == "text" and kind != "text":
        raise ValueError(f"expected texts for network=text, found rows of kind {kind}")
    if check_dim := getattr(method, "check_dim", None):
        check_dim(dim)
    if getattr(method, "class_codes", False):
        check_classes(n_classes, method.n_bits)


def check_hyperparameters(method: Method) -> None:
    """Check that every numeric hyper-parameter is in its range.

    Numbers must be finite and not negative, and integers at least 1 unless their default is 0. The metadata of a field
    can set other bounds: `above` and `below` (exclusive), `least` (inclusive). Raises ValueError if a value is out of
    range.
    """
    for field in fields(method)[1:]:
        value, bounds = getattr(method, field.name), field.metadata
        if isinstance(value, bool | str):
            continue
        least: Any = bounds.get("least", 1 if isinstance(field.default, int) and field.default else 0)
        ranges = [f"above {bounds['above']}"] if "above" in bounds else [f"of at least {least}"]
        ranges += [f"below {bounds['below']}"] if "below" in bounds else []
        within = bounds.get("above", -1) < value < bounds.get("below", math.inf)
        if not (math.isfinite(value) and least <= value and within):
            expected = f"{type(method).__name__}'s {field.name} {' and '.join(ranges)}"
            raise ValueError(f"expected {expected}, found {value}")


for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):  # modules named _* are compiled kernels, not methods
        import_module(f"{__name__}.{_module.name}")
