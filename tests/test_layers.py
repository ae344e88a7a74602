"""DESIGN section 3, enforced by reading the imports: hashkiln -> workflows -> {storage, infra} -> hashing."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("hashkiln", "workflows", "storage", "infra", "hashing")
FILES_AND_TABLES = {"pyarrow", "fsspec", "s3fs", "pyiceberg", "PIL"}
FORBIDDEN = {
    "hashkiln": {"hashing", "storage", "infra", "numpy", "ray", "prefect", *FILES_AND_TABLES},
    "workflows": {"hashkiln", "ray", *FILES_AND_TABLES},
    "storage": {"hashkiln", "workflows", "infra", "ray", "prefect", "torch"},
    "infra": {"hashkiln", "workflows", "storage", "prefect", *FILES_AND_TABLES},
    "hashing": {"hashkiln", "workflows", "storage", "infra", "ray", "prefect", *FILES_AND_TABLES},
}
SEEN_BY_STORAGE_AND_INFRA = {
    "mapreduce", "ahead", "bits", "blas", "functions", "families", "names", "quantizers", "serialized", "statistics",
}  # fmt: skip
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
EVERY = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports(path):
    """Absolute names of all modules that a file imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@EVERY
def test_imports_point_inwards(path):
    layer = path.relative_to(ROOT).parts[0]
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN[layer]


@EVERY
def test_storage_and_infra_see_only_the_types_of_hashing(path):
    if path.relative_to(ROOT).parts[0] in ("storage", "infra"):
        seen = {name.split(".")[1] for name in imports(path) if name.startswith("hashing.")}
        assert seen <= SEEN_BY_STORAGE_AND_INFRA


def test_no_import_cycle_between_files():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports(path)} - {module}
        for module, path in modules.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, with the files of a cycle


@EVERY
def test_methods_never_import_each_other(path):
    if path.parent.name == "methods" and path.name != "__init__.py":
        other = {name for name in imports(path) if name.startswith("hashing.methods.")}
        assert all(name == "hashing.methods.register" or name.split(".")[2].startswith("_") for name in other)


def test_classes_say_of_what_and_have_one_meaning():
    found = [
        node.name for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]
    assert {"Result", "Summary", "Rows", "Found", "Outcome"} & set(found) == set()
    assert sorted(name for name, count in Counter(found).items() if count > 1) == []


@EVERY
def test_no_assert_for_input(path):
    assert not [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]


def test_help_loads_nothing_heavy():
    code = "import sys, workflows.cli; print([m for m in HEAVY if m in sys.modules])"
    heavy = "('torch', 'ray', 'prefect', 'pyarrow', 'numba', 'scipy', 'pyiceberg', 'numpy')"
    run = [sys.executable, "-c", code.replace("HEAVY", heavy)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"
