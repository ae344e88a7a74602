"""Documents match the code: generated pages are current; paths, names, links and commands in documents exist."""

import doctest
import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.main
from typer.testing import CliRunner

import hashkiln
from hashing.methods import METHODS
from tests.workflows.reports.browser import launched
from workflows.cli import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "docs").glob("*.py"),
    *(ROOT / "benchmarks").glob("*.py"),
    ROOT / "benchmarks" / "results" / "README.md",
    ROOT / "prefect.yaml",
]
EVERY = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
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
    assert len(found) == len({name for name, _ in found}) == len({colour for _, colour in found}) == 8


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


@EVERY
def test_every_path_exists(path):
    paths = {found.rstrip(".") for found in FILES.findall(path.read_text())}
    own = {"infra/.env", "infra/ray-token"}  # users write it
    assert sorted(name for name in paths - own if not (ROOT / name).exists()) == []


@EVERY
def test_no_text_is_taken_for_a_tag(path):
    text = re.sub(r"```.*?```|`[^`]*`|<!--.*?-->", "", path.read_text(), flags=re.DOTALL)
    assert path.suffix != ".md" or re.findall(r"<[A-Za-z][^>]*", text) == []


@EVERY
def test_every_dotted_name_exists(path):
    assert sorted(name for name in set(NAMES.findall(path.read_text())) if not defined(name)) == []


def defined(name: str) -> bool:
    """Return whether a dotted name is a package, a module, or defined or imported in its module."""
    place, parts = ROOT, name.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    module = place / f"{parts.pop(0)}.py" if parts and (place / f"{parts[0]}.py").exists() else place / "__init__.py"
    return module.exists() and all(
        re.search(rf"^\s*(?:(?:def|class|from) .*)?\b{part}\b", module.read_text(), re.MULTILINE) for part in parts
    )


@EVERY
def test_every_relative_link_resolves(path):
    broken = []
    for name, anchor in LINKS.findall(path.read_text()):
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{name}#{anchor}")
    assert broken == []


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings(path)}


def headings(path: Path) -> list[str]:
    """Return the headings of a page."""
    return re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)


@EVERY
def test_every_command_and_option_exists(path):
    commands = typer.main.get_command(app).commands
    unknown = []
    for line in re.findall(r"^hashkiln ([a-z].*)", path.read_text(), re.MULTILINE):
        name, *words = shlex.split(line, comments=True)
        known = {option for parameter in commands[name].params for option in parameter.opts} if name in commands else ()
        unknown += [f"{name} {word}" for word in words if word.startswith("--") and word not in known]
        unknown += [] if known else [name]
    assert unknown == []


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


BLOCKS = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("data", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["without MNIST", "MNIST"])
def test_the_tutorial_shows_what_its_commands_print(data):
    env = os.environ | ({} if data else {"HASHKILN_DATA": ""})
    if data and not env.get("HASHKILN_DATA"):
        pytest.skip("SKIPPED FOR WANT OF DATA: HASHKILN_DATA is not set")
    run = subprocess.run([sys.executable, "docs/tutorial.py"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert not run.returncode, run.stderr
    shown = (ROOT / "docs" / "tutorial.md").read_text()
    assert masked(run.stdout) == masked(shown), "run docs/tutorial.py; its docstring says how"


def masked(page: str) -> str:
    """Return a page without what differs between machines: measured values, digests, sizes of files."""
    return re.sub(r"\d+\.\d+|\b[0-9a-f]{12}\b|[\d,]+ bytes", "#", page)


FIRST_HOUR = runpy.run_path(str(ROOT / "docs" / "first_hour.py"))


def test_the_page_of_the_first_hour_counts_the_blocks_that_tests_run():
    assert FIRST_HOUR["executed"]() in (ROOT / "docs" / "first-hour.md").read_text(), "run docs/first_hour.py"


@pytest.mark.parametrize("name", FIRST_HOUR["GUIDES"])
def test_the_examples_of_a_guide_run_in_order(name, tmp_path, monkeypatch):
    """Run the blocks of Python, and the commands, in one folder; each command must succeed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    names: dict[str, object] = {}
    blocks = BLOCKS.findall((ROOT / "docs" / "how-to" / f"{name}.md").read_text())
    assert blocks
    for language, text in blocks:
        if language == "python":
            exec(text, names)  # noqa: S102  # our own documents
        for line in text.splitlines() if language == "sh" else ():
            done = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
            assert done.exit_code == 0, (line, done.output)


@pytest.mark.slow
def test_the_python_examples_of_pages_run(tmp_path, monkeypatch):
    """Run the blocks of each page in order, on a small table of products that the pages take as given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    x, y = np.random.default_rng(0).normal(size=(1000, 128)).astype(np.float32), np.arange(1000) % 2
    products = {"sku": [f"sku-{i}" for i in range(1000)], "vector": list(x), "tag": np.array(["shoes", "boots"])[y]}
    pq.write_table(pa.table(products), "products.parquet")
    for name, bits in (("products", "64"), ("mine", "32")):
        for command in (
            ["ingest", "products.parquet", "--name", name, "--key-column", "sku", "--label-column", "tag"],
            ["reindex", "--dataset", name, "--method", "itq", "--bits", bits, "--queries", "10"],
        ):
            done = CliRunner().invoke(app, command, catch_exceptions=False)
            assert done.exit_code == 0, (command, done.output)
    given = {"np": np, "hashkiln": hashkiln, "x": x, "y": y, "query_x": x[:10], "query_y": y[:10]}
    for page in FIRST_HOUR["PAGES"]:
        names = given | {"queries": x[:10], "cheap_ids": [1, 2, 3]}
        for language, text in BLOCKS.findall((ROOT / "docs" / f"{page}.md").read_text()):
            if language == "python":
                exec(text, names)  # noqa: S102  # our own documents
        if page == "serving":
            names["table"].close()  # ends its thread
