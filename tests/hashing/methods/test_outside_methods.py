"""Methods of other packages, installed by pip: the example in docs/, and a package whose entry points fail."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "how-to" / "add-a-method.md").read_text()
README = (ROOT / "docs" / "examples" / "hashkiln-example-method" / "README.md").read_text()
BROKEN = {
    "pyproject.toml": """
[project]
name = "broken-methods"
version = "1"
[project.entry-points."hashkiln.methods"]
itq = "broken_methods:Taken"
missing = "broken_methods:Missing"
raises = "broken_methods.raises:Method"
no_method = "broken_methods:NoMethod"
mutable = "broken_methods:Mutable"
no_default = "broken_methods:NoDefault"
"Bad-Name" = "broken_methods:Taken"
[tool.setuptools]
packages = ["broken_methods"]
""",
    "broken_methods/__init__.py": """
from dataclasses import dataclass
import hashing.methods  # as a package that is imported first may do

@dataclass(frozen=True)
class Taken:
    n_bits: int
    def fit(self, data): ...

@dataclass
class Mutable:
    n_bits: int
    def fit(self, data): ...

@dataclass(frozen=True)
class NoDefault(Taken):
    rate: float

class NoMethod: ...
""",
    "broken_methods/raises.py": "1 / 0\n",
}
SAID = {
    "itq": "ValueError: the name is already used by hashing.methods.itq.ITQ",
    "missing": "AttributeError: module 'broken_methods' has no attribute 'Missing'",
    "raises": "ZeroDivisionError: division by zero",
    "no_method": "TypeError: expected a frozen dataclass with the first field n_bits and a method fit(data)",
    "mutable": "TypeError: expected a frozen dataclass with the first field n_bits and a method fit(data)",
    "no_default": "TypeError: expected a number or a string as the default of every hyper-parameter; check rate",
    "Bad-Name": "ValueError: expected a name of a-z, 0-9 and _ that starts with a letter or a digit",
}


def install(source, folder):
    """A copy of the source is installed, as building leaves files in it. No network: setuptools is here."""
    copy = folder / "source"
    shutil.copytree(source, copy)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", folder / "site", copy]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return folder / "site"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a Python module or script in a process that has the example installed; (stdout, stderr)."""
    site = install(ROOT / "docs" / "examples" / "hashkiln-example-method", tmp_path_factory.mktemp("example"))
    home = tmp_path_factory.mktemp("home")

    def run(*args, path=site, **more):
        kept = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        more |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(path), *kept])), "HASHKILN_HOME": str(home)}
        command = [sys.executable, *args]
        done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True, timeout=800, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, done.stderr

    return run


def test_an_installed_method_is_listed_beside_ours(run):
    output, errors = run("-m", "workflows.cli", "methods", "--json")
    found = {row["method"]: row for row in json.loads(output)}
    assert found["median_pca"]["hyper-parameters"] == "n_iter=16"
    assert found["median_pca"]["learns from"] == "vectors"
    assert "itq" in found
    assert errors == ""


@pytest.mark.slow
def test_the_commands_of_the_example_run(run):
    (block,) = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    first, *commands = block.splitlines()
    assert first == "pip install docs/examples/hashkiln-example-method"  # as `run` has it
    for words in (shlex.split(line, comments=True) for line in commands):
        assert words[0] == "hashkiln"
        assert "median_pca" in run("-m", "workflows.cli", *words[1:], HASHKILN_EXECUTOR="inprocess")[0]


@pytest.mark.slow
def test_the_method_of_the_page_is_installed(run, tmp_path):
    (entry_points,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    project = '[project]\nname = "mean-pca"\nversion = "1"\n'
    modules = '[tool.setuptools]\npy-modules = ["mean_pca"]\n'
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "pyproject.toml").write_text(project + entry_points + modules)
    (tmp_path / "package" / "mean_pca.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    output, errors = run("-m", "workflows.cli", "methods", "--json", path=install(tmp_path / "package", tmp_path))
    assert "mean_pca" in {row["method"] for row in json.loads(output)}
    assert errors == ""


def test_an_installed_method_passes_the_conformance_suite(run):
    """The suite includes equality in process and on Ray, and saving and loading."""
    output, _ = run("-m", "pytest", "-p", "no:cacheprovider", "tests/hashing/methods/test_conformance.py",
                    HASHKILN_METHODS="median_pca")  # fmt: skip
    assert re.search(r"= \d+ passed in ", output)  # and none skipped


def test_entry_points_that_fail_are_left_out_and_named(run, tmp_path):
    for name, text in BROKEN.items():
        (tmp_path / "broken" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "broken" / name).write_text(text)
    site = install(tmp_path / "broken", tmp_path)
    output, errors = run("-m", "workflows.cli", "methods", "--json", path=site)
    assert not {row["method"] for row in json.loads(output)} & (SAID.keys() - {"itq"})
    values = dict(line.split(" = ") for line in BROKEN["pyproject.toml"].splitlines() if ":" in line)
    values = {name.strip('"'): value.strip('"') for name, value in values.items()}
    assert sorted(errors.splitlines()) == sorted(
        f"skipped method {name} ({values[name]} of package broken-methods): {why}" for name, why in SAID.items()
    )
    script = "import broken_methods; from hashing.methods import method; print(method('itq').__module__)"
    assert run("-c", script, path=site)[0] == "hashing.methods.itq\n"
