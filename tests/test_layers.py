"""DESIGN section 3, enforced by reading the imports: hashkiln -> workflows -> {storage, infra} -> hashing."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

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
SEEN = {  # by storage and infra
    "mapreduce", "ahead", "bits", "blas", "functions", "families", "names", "quantizers", "serialized", "statistics",
}  # fmt: skip
FILES = [path.relative_to(ROOT) for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def nodes(path):
    """All nodes of the syntax tree of a file."""
    return ast.walk(ast.parse((ROOT / path).read_text()))


@cache
def imports(path):
    """Absolute names of all modules that a file imports, wherever in it."""
    package, found = path.parts[:-1], []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def test_imports_point_inwards():
    outwards = {
        str(path): found
        for path in FILES
        if (found := {name.split(".")[0] for name in imports(path)} & FORBIDDEN[path.parts[0]])
    }
    assert outwards == {}


def test_storage_and_infra_see_only_the_types_of_hashing():
    more = {
        str(path): found
        for path in FILES
        if path.parts[0] in ("storage", "infra")
        and (found := {name.split(".")[1] for name in imports(path) if name.startswith("hashing.")} - SEEN)
    }
    assert more == {}


def test_no_import_cycle_between_files():
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports(path)} - {module}
        for module, path in modules.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, with the files of a cycle


def test_methods_never_import_each_other():
    methods = [path for path in FILES if path.parent.name == "methods" and path.name != "__init__.py"]
    other = {(str(path), name) for path in methods for name in imports(path) if name.startswith("hashing.methods.")}
    assert methods
    assert {
        (path, name)
        for path, name in other
        if name != "hashing.methods.register" and not name.split(".")[2].startswith("_")
    } == set()


def test_classes_say_of_what_and_have_one_meaning():
    found = [node.name for path in FILES for node in nodes(path) if isinstance(node, ast.ClassDef)]
    assert {"Result", "Summary", "Rows", "Found", "Outcome"} & set(found) == set()
    assert sorted(name for name, count in Counter(found).items() if count > 1) == []


def test_no_assert_for_input():
    assert [f"{path}:{node.lineno}" for path in FILES for node in nodes(path) if isinstance(node, ast.Assert)] == []


def test_help_loads_nothing_heavy():
    code = "import sys, workflows.cli; print([m for m in HEAVY if m in sys.modules])"
    heavy = "('torch', 'ray', 'prefect', 'pyarrow', 'numba', 'scipy', 'pyiceberg', 'numpy')"
    run = [sys.executable, "-c", code.replace("HEAVY", heavy)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"
