"""What is generated is what would be generated now."""

import subprocess
import sys
from pathlib import Path

import pytest

from hashing.methods import METHODS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["methods", "results"])
def test_pages_are_those_of_the_catalogue_and_the_measured_rows(name):
    run = subprocess.run([sys.executable, f"docs/{name}.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / f"{name}.md").read_text() == run.stdout, "make docs writes it anew"


def test_every_method_has_a_section():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert [name for name, cls in METHODS.items() if f"## {cls.__name__} (`{name}`)" not in page] == []
