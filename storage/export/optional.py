"""Packages that only some export targets need."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


class ExportRefused(ValueError):
    """An export is not possible. Nothing was written."""


def optional_package(module: str, package: str) -> Any:
    """Return a module. Raises ExportRefused, with the package to install, if it is missing."""
    check_package(module, package)
    return import_module(module)


def check_package(module: str, package: str) -> None:
    """Raise ExportRefused, with the package to install, if a module is missing. Imports nothing."""
    if not find_spec(module):
        raise ExportRefused(f"this export needs the package {module}: pip install {package}")
