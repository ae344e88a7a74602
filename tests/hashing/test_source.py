"""Digests of the source code of methods: they change with any file that a method depends on, and with no other."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest

from hashing import source
from hashing.methods import METHODS

OURS = ["__init__.py", "bits.py", "deep/sgd.py", "methods/__init__.py", "methods/_sweep.py", "methods/itq.py"]
THEIRS = ["acme/__init__.py", "acme/losses.py", "acme/methods/__init__.py", "acme/methods/theirs.py"]


def cls(path, monkeypatch):
    """The class Method of a file."""
    spec = spec_from_file_location(f"source_{path.stem}", path)
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module.Method


@pytest.fixture
def changes(tmp_path, monkeypatch):
    """The files whose change is seen in the digest of the class of a file."""
    monkeypatch.setattr(source, "ROOT", tmp_path / "hashing")
    files = [tmp_path / "hashing" / name for name in [*OURS, "methods/lsh.py"]]
    files += [tmp_path / name for name in [*THEIRS, "alone.py", "other.py"]]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("class Method: ...\n")

    def changes(name):
        method, seen = cls(tmp_path / name, monkeypatch), []
        before = source.source.__wrapped__(method)
        for path in files:
            path.write_text("class Method: pass\n")
            if source.source.__wrapped__(method) != before:
                seen.append(str(path.relative_to(tmp_path)))
            path.write_text("class Method: ...\n")
        return seen

    return changes


def test_the_digest_of_a_method_covers_its_file_and_shared_code(changes):
    assert sorted(changes("hashing/methods/itq.py")) == sorted(f"hashing/{name}" for name in OURS)


def test_the_digest_of_an_installed_method_covers_its_package(changes):
    shared = {f"hashing/{name}" for name in OURS} - {"hashing/methods/itq.py"}
    assert set(changes("acme/methods/theirs.py")) == shared | {*THEIRS}
    assert set(changes("alone.py")) == shared | {"alone.py"}


def test_methods_differ():
    assert len({source.source(cls) for cls in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("name", ["hashing/methods/itq.py", "acme/methods/theirs.py", "alone.py"])
def test_the_place_of_installation_does_not_count(changes, name, tmp_path, monkeypatch):
    (tmp_path / "hashing" / "bits.py").write_text("import numpy\n")  # not as the others: their order is seen
    before = source.source.__wrapped__(cls(tmp_path / name, monkeypatch))
    (tmp_path / "a").mkdir()
    (tmp_path / "hashing").rename(tmp_path / "a" / "hashing")  # now the first in order of paths
    monkeypatch.setattr(source, "ROOT", tmp_path / "a" / "hashing")
    moved = tmp_path / "a" / name if name.startswith("hashing") else tmp_path / name
    assert source.source.__wrapped__(cls(moved, monkeypatch)) == before


@pytest.mark.parametrize("file", ["hashing/deep/sgd.py", "acme/methods/theirs.py", "acme/losses.py"])
def test_a_file_that_is_added_renamed_or_moved_is_seen(changes, file, tmp_path, monkeypatch):
    method = cls(tmp_path / "acme/methods/theirs.py", monkeypatch)
    digests, path = {source.source.__wrapped__(method)}, tmp_path / file
    path.with_name("_new.py").write_text("")
    digests.add(source.source.__wrapped__(method))
    path.with_name("_new.py").rename(path.with_name("_renamed.py"))
    digests.add(source.source.__wrapped__(method))
    path.with_name("_renamed.py").rename(path.parent.parent / "_renamed.py")
    (path.parent.parent / "__init__.py").touch()
    digests.add(source.source.__wrapped__(method))
    assert len(digests) == 4


def test_compiled_files_do_not_count(changes, tmp_path, monkeypatch):
    method = cls(tmp_path / "hashing/methods/itq.py", monkeypatch)
    before = source.source.__wrapped__(method)
    (tmp_path / "hashing" / "__pycache__").mkdir()
    (tmp_path / "hashing" / "__pycache__" / "bits.pyc").write_text("")
    assert source.source.__wrapped__(method) == before


def test_a_running_process_keeps_the_digest_of_what_it_loaded(changes, tmp_path, monkeypatch):
    method = cls(tmp_path / "hashing/methods/itq.py", monkeypatch)
    before = source.source(method)
    (tmp_path / "hashing" / "bits.py").write_text("")
    assert source.source(method) == before


@pytest.mark.parametrize("module", ["__main__", "no_module"])
def test_a_class_of_an_interactive_session_is_refused_in_one_line(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # as in a notebook: it has no file
    scope = {"__name__": module}
    exec("class Typed: ...", scope)  # noqa: S102
    with pytest.raises(ValueError, match=r"^method Typed has no source file: define it in a \.py file and import it$"):
        source.source.__wrapped__(scope["Typed"])
