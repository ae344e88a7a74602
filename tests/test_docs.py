"""Documents match the code: generated pages are current; paths, names, links and commands in documents exist."""

import doctest
import html
import os
import re
import runpy
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest

import hashkiln
from hashing.methods import METHODS
from tests.workflows.reports.browser import launched

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "docs").glob("*.py"),
    *(ROOT / "benchmarks").glob("*.py"),
    ROOT / "benchmarks" / "results" / "README.md",
    ROOT / "prefect.yaml",
]
PACKAGES = "hashing|storage|infra|workflows"
FILES = re.compile(rf"(?<![\w/.-])(?:{PACKAGES}|hashkiln|tests|benchmarks|docs|\.ci|\.github)/[\w./-]++(?![<*…])")
NAMES = re.compile(rf"(?<![\w./-])(?:{PACKAGES})(?:\.\w+)+")
LINKS = re.compile(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)")


PLOTS = sorted((ROOT / "docs" / "images").glob("choose-*.svg"))


@pytest.mark.parametrize("name", ["commands", "methods", "results", "how-to/choose", "how-to/size"])
def test_pages_are_those_that_scripts_print(name):
    plots = [path.read_text() for path in PLOTS]
    run = subprocess.run([sys.executable, f"docs/{name}.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / f"{name}.md").read_text() == run.stdout, "run make docs"
    assert plots == [path.read_text() for path in PLOTS], "run make docs"


def test_a_method_has_the_same_colour_in_all_plots():
    legend = re.compile(r'fill="(#\w+)"[^>]*></path><text[^>]*>([A-Za-z][^<]*)</text>')
    found = {(name, colour) for path in PLOTS for colour, name in legend.findall(path.read_text())}
    assert len(found) == len({name for name, _ in found}) == 9


@pytest.fixture(scope="module")
def site():
    """Return the folder of the site, after building it without a broken link."""
    run = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=ROOT, capture_output=True, text=True
    )
    assert not run.returncode, run.stdout + run.stderr
    return ROOT / ".venv" / "site"


def test_the_site_has_all_documents_and_loads_nothing_from_the_network(site):
    pages = {path.relative_to(site) for path in site.rglob("*.html")}
    sources = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert [path for path in sources if path.with_stem(path.stem.replace("README", "index")) not in pages] == []
    reference = (site / "reference" / "python.html").read_text()
    text = html.unescape(re.sub("<[^>]+>", "", reference))
    for name in re.findall("^::: hashkiln.(.*)", (ROOT / "docs" / "reference" / "python.md").read_text(), re.MULTILINE):
        assert f'id="hashkiln.{name}"' in reference
        assert getattr(hashkiln, name).__doc__.partition("\n")[0].replace("`", "") in text
    remote = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="?https?://')
    assert [path.name for path in site.rglob("*.html") if remote.search(path.read_text())] == []


def test_the_site_opened_as_files_is_searched(site):
    api = pytest.importorskip("playwright.sync_api", reason="needs a browser: pip install playwright")
    with api.sync_playwright() as playwright, launched(playwright, api.Error) as browser:
        page = browser.new_page()
        page.goto((site / "how-to" / "choose.html").as_uri())
        page.keyboard.press("Control+k")
        page.get_by_placeholder("Search").last.fill("pgvector")
        page.locator("a").filter(has_text="PostgreSQL and pgvector").wait_for()


def test_the_comparisons_of_the_readme_are_those_of_the_performance_page():
    page = (ROOT / "docs" / "performance.md").read_text()
    lines = re.findall(r"^\|.* x \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert lines
    assert [line for line in lines if line not in page] == []


def test_every_method_has_a_section():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert [name for name, cls in METHODS.items() if f"## {cls.__name__} (`{name}`)" not in page] == []


def in_documents(wrong):
    """Return what a function finds wrong in each document."""
    return {str(path.relative_to(ROOT)): sorted(found) for path in DOCUMENTS if (found := wrong(path))}


def test_every_path_exists():
    def missing(path):
        paths = {found.rstrip(".") for found in FILES.findall(path.read_text())}
        own = {"infra/.env", "infra/ray-token"}  # users write it
        return [name for name in paths - own if not (ROOT / name).exists()]

    assert in_documents(missing) == {}


def test_no_text_is_taken_for_a_tag():
    def tags(path):
        text = re.sub(r"```.*?```|`[^`]*`|<!--.*?-->", "", path.read_text(), flags=re.DOTALL)
        return re.findall(r"<[A-Za-z][^>]*", text) if path.suffix == ".md" else []

    assert in_documents(tags) == {}


def test_every_dotted_name_exists():
    def undefined(path):
        return [name for name in set(NAMES.findall(path.read_text())) if not defined(name)]

    assert in_documents(undefined) == {}


@cache
def defined(name: str) -> bool:
    """Return whether a dotted name is a package, a module, or defined or imported in its module."""
    place, parts = ROOT, name.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    module = place / f"{parts.pop(0)}.py" if parts and (place / f"{parts[0]}.py").exists() else place / "__init__.py"
    return module.exists() and all(
        re.search(rf"^\s*(?:(?:def|class|from) .*)?\b{part}\b", module.read_text(), re.MULTILINE) for part in parts
    )


def test_every_relative_link_resolves():
    def broken(path):
        for name, anchor in LINKS.findall(re.sub(r"`[^`\n]*`", "`", path.read_text())):  # code is no link
            target = path.parent / name if name else path
            if not target.exists() or (anchor and anchor not in anchors(target)):
                yield f"{name}#{anchor}"

    assert in_documents(lambda path: [*broken(path)]) == {}


@cache
def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings(path)}


def headings(path: Path) -> list[str]:
    """Return the headings of a page."""
    return re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)


def test_every_derivation_that_code_refers_to_has_its_heading():
    code = [path.read_text() for package in PACKAGES.split("|") for path in (ROOT / package).rglob("*.py")]
    links = re.findall(r'# Derivation: (\S+), "(.*)"', "\n".join(code))
    assert links
    assert [(page, title) for page, title in links if title not in headings(ROOT / page)] == []


PUBLIC = {ROOT / f"{module.replace('.', '/')}.py" for module in hashkiln._MODULES.values()}
WITH_EXAMPLES = [
    path
    for package in ("hashing", "storage", "infra", "workflows")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text() and path not in PUBLIC
]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_docstrings_hold(path):  # tests/hashkiln/test_public_api.py runs those of hashkiln
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("data", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["without MNIST", "MNIST"])
def test_the_tutorial_shows_what_its_commands_print(data, with_prefect_server, monkeypatch, tmp_path, capsys):
    if data and not os.environ.get("HASHKILN_DATA"):
        pytest.skip("SKIPPED FOR WANT OF DATA: HASHKILN_DATA is not set")
    if not data:
        monkeypatch.delenv("HASHKILN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        runpy.run_path(str(ROOT / "docs" / "tutorial.py"))["main"]()
    shown = (ROOT / "docs" / "tutorial.md").read_text()
    assert masked(capsys.readouterr().out) == masked(shown), "run docs/tutorial.py; its docstring says how"


def masked(page: str) -> str:
    """Return a page without what differs between machines: measured values, digests, sizes of files."""
    return re.sub(r"\d+\.\d+|\b[0-9a-f]{12}\b|[\d,]+ bytes", "#", page)
