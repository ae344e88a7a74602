"""The code blocks of the documents: all are run, or listed in docs/blocks.py with a reason; all name what exists."""

import ast
import json
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import hashkiln
from hashing.methods import METHODS
from infra.settings import Settings
from tests.test_layers import LAYERS
from workflows.cli import app

ROOT = Path(__file__).parent.parent
BLOCKS = runpy.run_path(str(ROOT / "docs" / "blocks.py"))
DOCUMENTS = BLOCKS["documents"]()
EVERY = pytest.mark.parametrize("document", DOCUMENTS)
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"python", "sh", "bash", "text", "console", "json", "sql", "toml"}
COMMANDS = typer.main.get_command(app).commands
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
OF_EXAMPLES = {"median_pca", "mean_pca"}  # methods of packages


def test_the_page_of_the_first_hour_counts_the_blocks_that_tests_run():
    assert BLOCKS["section"]() in (ROOT / "docs" / "first-hour.md").read_text(), "run docs/blocks.py"


@EVERY
def test_a_test_runs_each_block_or_a_reason_is_given(document):
    blocks = BLOCKS["code"](document)
    assert [(b.line, b.text) for b in blocks if len(b.run_by()) + len(b.not_run()) != 1] == []
    for known in (BLOCKS["RUN"], BLOCKS["NOT_RUN"]):
        for part in known.get(document, {}):
            assert [part in block.text for block in blocks].count(True) == 1, part
    for name in {name for block in blocks for name in block.run_by()}:
        assert document in BLOCKS["IN_ORDER"] or Path(document).name in (ROOT / name).read_text(), name


@EVERY
def test_each_block_is_of_a_language_and_correct_in_it(document):
    fences = (ROOT / "docs" / f"{document}.md").read_text().count("\n```")
    assert fences == 2 * len(BLOCKS["blocks"](document)), "no fence within an item of a list, or of more backquotes"
    assert {block.language for block in BLOCKS["blocks"](document)} <= LANGUAGES
    for block in BLOCKS["code"](document):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                check_names(node)
        elif block.language in ("json", "toml"):
            {"json": json, "toml": tomllib}[block.language].loads(block.text)
    shell = "\n".join(block.text for block in BLOCKS["code"](document) if block.language in ("sh", "bash"))
    subprocess.run([shutil.which("bash"), "-n"], input=shell, text=True, check=True)


def check_names(node):
    """Fail if a program imports what our packages do not have, or names what hashkiln does not have."""
    if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in LAYERS:
        for name in node.names:
            assert hasattr(import_module(node.module), name.name) or import_module(f"{node.module}.{name.name}")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hashkiln":
        assert hasattr(hashkiln, node.attr), node.attr


def code_of(path):
    """Return the lines of shell in a page: those of its blocks, without comments, and the code within its text."""
    text = path.read_text().replace("\\\n", "")
    lines = [
        line for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```$", text, re.M | re.S) for line in block.split("\n")
    ]
    inline = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return [re.sub(r"(^|\s)#.*", "", line) for line in lines], [" ".join(code.split()) for code in inline]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(path):
    """Those of blocks must have values that the command line accepts; those in sentences may be incomplete."""
    lines, inline = code_of(path)
    for line in lines:
        for words in re.findall(r"(?:^|(?<!-n)[\s;'])hashkiln(?:\.sbatch)? ([a-z].*)", line):
            name, *rest = shlex.split(words.rstrip("'"))
            COMMANDS[name].make_context(name, list(rest))
            given = dict(pairwise(rest))
            methods = {given.get("--method", "lsh"), *given.get("--methods", "lsh").split(",")} - OF_EXAMPLES
            assert {name.replace("-", "_") for name in methods} <= METHODS.keys()
    for words in (code.split() for code in inline if re.match(r"hashkiln [a-z]", code)):
        known = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if re.match("--[a-z]", word)} <= known, words
    for line in [*lines, *inline]:
        for words in re.findall(r"^(?:\w+=\S+ )*make ((?:\S+ ?)+)$", line.strip()):
            assert {word for word in words.split() if "=" not in word} <= set(TARGETS), line


def test_the_variables_of_pages_exist_and_the_reference_has_all_settings():
    settings = {name if name == "ray_address" else f"hashkiln_{name}" for name in Settings.model_fields}
    settings = {name.upper() for name in settings}
    code = "\n".join(
        path.read_text() for folder in (*LAYERS, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    )
    for path in PAGES:
        for name in set(re.findall(r"HASHKILN_[A-Z]+(?:_[A-Z]+)*", path.read_text())):
            stage = name.removeprefix("HASHKILN_").partition("_")[0].lower()
            assert name in settings or name in code or stage in ("fit", "encode", "evaluate", "embed"), (path, name)
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert [name for name in settings if name not in page] == []


@pytest.mark.parametrize("document", BLOCKS["GUIDES"])
def test_the_examples_of_a_guide_run_in_order(document, tmp_path, monkeypatch, with_prefect_server):
    in_a_folder(tmp_path, monkeypatch)
    names: dict[str, object] = {}
    for block in BLOCKS["code"](document):
        if block.language == "python":
            exec(block.text, names)  # noqa: S102  # our own documents
        elif block.language == "sh":
            run(block.text)


def in_a_folder(folder, monkeypatch):
    """Let programs run in a folder, with a warehouse of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HASHKILN_HOME", str(folder / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")


def run(text):
    """Run commands of hashkiln in this process; each must succeed."""
    for line in text.splitlines():
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
        assert done.exit_code == 0, (line, done.output)
