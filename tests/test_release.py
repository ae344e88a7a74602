"""The sdist, and the wheel that is built from it, in an environment of its own."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BACKEND = "from setuptools import build_meta; build_meta.build_sdist('dist')"


def test_the_changelog_describes_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## {version} - " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_of_the_sdist_works_from_any_folder(tmp_path):
    def run(*command, cwd=tmp_path, **environment):
        given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
        done = subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tree = tmp_path / "tree"
    for name in run(shutil.which("git"), "ls-files", cwd=ROOT).splitlines():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    run(sys.executable, "-c", BACKEND, cwd=tree)
    (sdist,) = (tree / "dist").glob("*.tar.gz")
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    run(programs / "python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, sdist)
    (wheel,) = tmp_path.glob("*.whl")
    run(programs / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)

    (folder := tmp_path / "elsewhere").mkdir()
    lines = run(programs / "hashkiln", "demo", cwd=folder, HASHKILN_EXECUTOR="inprocess").splitlines()
    assert lines[0] == "Published sample__itq32 v1: 40,000 rows"
    assert lines[1].startswith("itq at 32 bits: map 0.3")
    assert Path(lines[2].removeprefix("Report: ")).is_relative_to(folder / ".hashkiln")
    assert lines[3].startswith("Next: ")
    assert "sample__itq32" in run(programs / "hashkiln", "tables", cwd=folder)
    assert run(programs / "hashkiln", "--version", cwd=folder) == f"hashkiln {wheel.name.split('-')[1]}\n"

    listed = run("make", "-s", "sbom", f"BIN={programs}", f"INSTALLED={wheel}", cwd=tree).splitlines()
    packages = {line.split(" ")[0]: line.partition(": ")[2] for line in listed}
    assert {"hashkiln": "Apache-2.0", "numba": "BSD License", "ray": "Apache 2.0"}.items() <= packages.items()
    needed = run(programs / "python", "-m", "pip", "list", "--format=freeze").splitlines()
    assert {line.partition("==")[0] for line in needed} <= packages.keys()
    assert [name for name, licences in packages.items() if licences == "unknown"] == []
