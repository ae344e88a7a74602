"""Packages that only some export targets need."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def optional_package(module: str, package: str) -> Any:
    """Return a module. Raises RuntimeError, with the package to install, if it is missing."""
    check_package(module, package)
    return import_module(module)


def check_package(module: str, package: str) -> None:
    """Raise RuntimeError, with the package to install, if a module is missing. Imports nothing."""
    if not find_spec(module):
        raise RuntimeError(f"this export needs the package {module}: pip install {package}")
