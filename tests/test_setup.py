"""constraints.txt is complete, holds only versions, and agrees with pyproject.toml; running needs nothing of dev."""

import re
import sys
import tomllib
from importlib.metadata import metadata, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.test_layers import FILES, LAYERS, imports

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NEEDED = [*PROJECT["project"]["dependencies"], *chain(*PROJECT["project"]["optional-dependencies"].values())]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
VERSIONS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}


def test_constraints_are_names_and_versions():
    """No index, path or local version: other machines may not have that build. An epoch has an exclamation mark."""
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line)] == []
    assert len(VERSIONS) == len(LINES)
    assert VERSIONS.keys().isdisjoint({"pip", "hashkiln"})


@pytest.mark.parametrize("line", [*NEEDED, *PROJECT["dependency-groups"]["dev"]])
def test_every_dependency_is_constrained_within_its_bounds(line):
    wanted = Requirement(line)
    assert VERSIONS[canonicalize_name(wanted.name)] in wanted.specifier


def test_running_imports_only_dependencies():
    """Whatever a dependency requires itself may be imported as well; only `make dev` installs the group dev.

    Packages of extras that are not installed are none of it.
    """
    known = {canonicalize_name(Requirement(line).name) for line in NEEDED}
    only_dev = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependency-groups"]["dev"]} - known
    modules = {name.split(".")[0] for path in FILES for name in imports(path)} - {*LAYERS, *sys.stdlib_module_names}
    packages = packages_distributions()
    found = {module: {canonicalize_name(name) for name in packages.get(module, ())} for module in modules}
    assert {module for module, names in found.items() if names & only_dev} == {"triton"}  # comes with torch for CUDA


def test_python_has_the_upper_bound_of_prefect_and_ci_tests_versions_below_it():
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    bounds = [[str(bound) for bound in each if bound.operator == "<"]
              for each in (supported, SpecifierSet(metadata("prefect")["Requires-Python"]))]  # fmt: skip
    assert bounds[0] == bounds[1]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["ci"]["strategy"]["matrix"]["python"]
    assert tested == list(supported.filter(tested))


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)[1].split()
    assert re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE) == targets
