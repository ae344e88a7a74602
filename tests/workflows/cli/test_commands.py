"""The command line: output and exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.nodes import installed_versions
from tests.conftest import blobs
from tests.workflows.cli.terminal import Terminal
from workflows import doctor

HASHKILN = str(Path(sys.executable).with_name("hashkiln"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def environment(home):
    return {"HASHKILN_HOME": str(home), "HASHKILN_EXECUTOR": "inprocess", "COLUMNS": "120"}


@pytest.fixture
def hashkiln(environment):
    """Run the command in a process of its own; (exit, stdout, stderr)."""

    def run(*args, **more):
        result = subprocess.run(
            [HASHKILN, *args], env={**os.environ, **environment, **more}, capture_output=True, text=True, timeout=600
        )
        assert "Traceback" not in result.stderr, result.stderr
        return result.returncode, result.stdout, result.stderr

    return run


@pytest.fixture
def here(environment, run_command):
    """Run the command in this process; (exit, stdout, stderr)."""

    def run(*args, **more):
        return run_command(*args, **environment | more)

    return run


def test_help_of_everything_has_an_example(here):
    code, output, _ = here("--help")
    assert code == 0
    names = ["methods", "datasets", "fetch", "ingest", "fit", "encode", "evaluate", "reindex", "history", "doctor"]
    names += ["deploy", "search", "export", "benchmark", "rollback", "diff", "compare", "verify", "gc", "delete"]
    names += ["tables", "demo", "embed", "plan"]
    assert all(f" {name} " in output for name in names)
    for name in names:
        code, output, _ = here(name, "--help")
        assert code == 0
        assert "Example" in output


def test_json_output(here):
    assert {row["method"] for row in json.loads(here("methods", "--json")[1])} >= {"lsh", "pcah", "itq"}
    found = {row["dataset"]: row for row in json.loads(here("datasets", "--json")[1])}
    assert {"sample", "sift1m", "siftsmall", "gist1m", "mnist", "fashion-mnist", "photosift"} <= found.keys()
    assert found["sample"]["from"] == "shipped"


def test_listings_fit_80_columns_and_one_entry_has_the_rest(here):
    for listing in ("methods", "datasets"):
        lines = here(listing, COLUMNS="80")[1].rstrip("\n").split("\n")
        assert max(map(len, lines)) <= 80
        assert len(lines) < 1 + len(json.loads(here(listing, "--json")[1])) + 5  # a line each
    output = here("methods", "ITQ", COLUMNS="80")[1]
    assert "n_iter=50, seed=0" in output
    assert "CVPR 2011" in output
    assert json.loads(here("datasets", "fashion_mnist", "--json")[1])["dimension"] == 784
    assert here("methods", "itk")[0] == 2


def test_errors_are_json_on_request(here):
    cases = {
        ("fit", "--dataset", "sampel"): ("LookupError", "did you mean sample?"),
        ("fit", "--dataset", "sample", "--bits", "0"): ("UsageError", "--bits: Input should be greater"),
        ("fit",): ("MissingParameter", "Missing option '--dataset'."),
        ("fit", "--dataset", "sample", "--refit", "alway"): ("BadParameter", "did you mean always?"),
        ("delete", "nothing", "--ids", "3"): ("LookupError", "no dataset 'nothing'"),
        ("evaluate",): ("BadParameter", "pass either TABLE"),
    }
    for args, (kind, message) in cases.items():
        code, output, error = here(*args, "--json")
        found = json.loads(output)["error"]
        assert (code, found["exit"], found["type"], error) == (2, 2, kind, "")
        assert message in found["message"]
    code, output, error = here("benchmark", "--dataset", "sample", "--methods", "itk", "--json=rows.json")  # a file
    assert (code, output, "did you mean itq" in error) == (2, "", True)


def test_an_unexpected_error_is_one_line_and_its_traceback_is_shown_on_request(here, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a defect\nof two lines")

    monkeypatch.setattr(doctor, "examine", fail)
    line = "unexpected ZeroDivisionError: a defect of two lines: set HASHKILN_VERBOSE=1 for the traceback"
    assert here("doctor") == (1, "", f"{line}\n")
    code, out, _ = here("doctor", "--json")
    assert (code, json.loads(out)["error"]["message"]) == (1, line)
    with pytest.raises(ZeroDivisionError):
        here("doctor", HASHKILN_VERBOSE="1")


def test_hyphens_and_underscores_are_the_same(here):
    options = ("--dry_run", "--method", "UH-BDNN", "--set", "n-iter=3", "--max_loss", "map-at-1000=0.5", "--json")
    code, output, _ = here("reindex", "--dataset", "SAMPLE", *options, "--Bad_Rows", "DROP")
    assert (code, json.loads(output)["table"]) == (0, "sample__uh_bdnn32")
    code, _, error = here("reindex", "--dataset", "sample", "--set", "n-iter=3", "--set", "n_iter=4")
    assert (code, "each hyper-parameter once, found n-iter, n_iter" in error) == (2, True)


def test_the_version_is_that_of_the_package(here):
    assert here("--version") == (0, f"hashkiln {version('hashkiln')}\n", "")


def test_fetch_verifies_the_published_checksums(hashkiln):
    code, output, error = hashkiln("fetch", "sample", "--json")
    assert code == 0
    assert all(Path(path).exists() for path in json.loads(output).values())
    assert "verified, shipped with hashkiln" in " ".join(error.split())


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("history", "nothing"), 2, "unknown code table 'nothing'; existing tables:"),
        (("evaluate", "nothing"), 2, "unknown code table 'nothing'"),
        (("evaluate",), 2, "pass either TABLE, or --codes FILE with --labels FILE"),
        (("evaluate", "--codes", "/nowhere.npy", "--labels", "/nowhere.npy"), 2, "no such file: /nowhere.npy"),
        (("search", "nothing", "--queries", "query", "--out", "x"), 2, "unknown code table"),
        (("search", "x", "--queries", "query", "--out", "x", "--k", "0"), 2, "--k: Input should be greater than or"),
        (
            ("search", "x", "--queries", "q", "--out", "x", "--radius", "1", "--rerank", "20"),
            2,
            "radius cannot be combined",
        ),
        (("export", "nothing", "--to", "npy", "--out", "x"), 2, "unknown code table"),
        (("export", "x", "--to", "solr", "--out", "/nowhere"), 2, "'pgvector', 'duckdb', 'milvus', 'lance'"),
        (("export", "x", "--to", "fais", "--out", "/nowhere"), 2, "mean faiss-flat or faiss-ivf or faiss-hnsw?"),
        (("benchmark", "--dataset", "sample", "--methods", "lsh", "--protocol", "lable"), 2, "did you mean labels?"),
        (("fit", "--dataset", "nothing"), 2, "expected the name of a dataset, found 'nothing'"),
        (("fetch", "nothing"), 2, "expected the name of a dataset, found 'nothing': the named datasets are"),
        (("compare", "nothing"), 2, "expected the name of a dataset, found 'nothing'"),
        (("fetch", "photosift"), 1, "photosift"),
        (("fetch", "mnist", "--from", "/nowhere"), 1, "/nowhere"),
        (("reindex", "--dataset", "A b"), 2, "0-9, _ and - that starts with a letter or a digit, found 'A b'"),
        (("reindex", "--dataset", "sample", "--bits", "0"), 2, "--bits: Input should be greater than or equal to 1"),
        (("reindex", "--dataset", "sample", "--method", "itk"), 2, "did you mean itq"),
        (("reindex", "--dataset", "sample", "--set", "n_iter"), 2, "expected NAME=VALUE, found 'n_iter'"),
        (
            ("reindex", "--dataset", "sample", "--refit", "often"),
            2,
            "value for '--refit': 'often' is not one of",
        ),
        (
            ("fit", "--dataset", "sample", "--method", "lsh", "--set", "n=1"),
            2,
            "of lsh, found n: it has none",
        ),
        (("reindex",), 2, "Missing option"),
        (("ingest", "mnst"), 2, "mnst is not a named dataset: did you mean mnist?"),
        (("ingest", "/nowhere/x"), 2, "/nowhere/x is not a named dataset: pass --name NAME"),
        (("ingest", "s3://mnist"), 2, "s3://mnist is not a named dataset: pass --name NAME"),
        (("ingest", "/nowhere", "--name", "x"), 2, "no such file or folder: /nowhere"),
        (
            ("ingest", "/nowhere", "--name", "_x"),
            2,
            "0-9, _ and - that starts with a letter or a digit, found '_x'",
        ),
        (
            ("embed", "--dataset", "sample", "--encoder", "e", "--name", "A b"),
            2,
            "expected a name of a-z, 0-9, _ and -",
        ),
        (("evaluate", "--codes", "x", "--labels", "y", "--beside", "v1"), 2, "need a TABLE, not --codes"),
        (("evaluate", "--codes", "x", "--labels", "y", "--neighbours", "5"), 2, "need a TABLE, not --codes"),
        (("evaluate", "sample__lsh64", "--bits", "8"), 2, "need --codes, not a TABLE"),
        (
            ("evaluate", "sample__lsh64", "--neighbours", "0"),
            2,
            "--neighbours: Input should be greater",
        ),
        (("evaluate", "--codes", "x", "--labels", "y", "--bits", "0"), 2, "Invalid value for '--bits'"),
        (
            ("benchmark", "--dataset", "sample, sample", "--methods", "lsh"),
            2,
            "expected distinct values, found repeated sample",
        ),
        (
            ("benchmark", "--dataset", "sample", "--methods", "lsh", "--seeds", "0"),
            2,
            "Invalid value for '--seeds'",
        ),
        (("delete", "nothing", "--ids", ",".join(map(str, range(200))), "--yes"), 2, "no dataset 'nothing' in"),
        (("delete", "sample", "--ids", "1_000", "--yes"), 2, "such as 7 or -12, found '1_000'"),
        (("delete", "sample", "--ids", "7"), 2, "pass --yes to delete without confirmation"),
        (("delete", "mnst", "--ids", "7"), 2, "no dataset 'mnst' in"),
        (
            ("benchmark", "--dataset", "sample", "--methods", "lsh", "--bits", "8,x"),
            2,
            "--bits: Input should",
        ),
        (("reindex", "--dataset", "sample", "--floor", "mpa=1"), 2, "--floor: unknown metric 'mpa': did you mean map?"),
        (("reindex", "--dataset", "sample", "--set", "n_iters=1"), 2, "expected parameters of itq, found n_iters"),
        (("plan", "--dataset", "A b", "--budget", "4B", "--recall", "0.5"), 2, "expected a name of a-z, 0-9, _ and -"),
        (("nonsense",), 2, "No such command 'nonsense'"),
    ],
)
def test_mistakes_give_one_line_and_an_exit_code(here, args, code, message):
    found, _, error = here(*args, HASHKILN_DATA="/nowhere/data")
    assert found == code
    assert message in " ".join(error.replace("│", " ").split())


def test_a_refused_command_prints_one_line_and_leaves_no_folder(hashkiln, tmp_path):
    home = tmp_path / "new"
    found = hashkiln("verify", "nothing", HASHKILN_HOME=str(home))
    assert found == (2, "", "unknown code table 'nothing'; existing tables: none yet\n")
    assert not home.exists()


def test_codes_of_another_tool_that_are_no_codes_are_wrong_usage(here, tmp_path):
    np.save(tmp_path / "x.npy", blobs(20, 8, seed=0).x)
    np.save(tmp_path / "y.npy", np.zeros(20, int))
    code, _, error = here("evaluate", "--codes", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy"))
    assert code == 2
    assert "expected codes of -1 and +1, or bool, or packed uint8, found" in error


def test_the_first_run_ends_with_what_to_do_next_and_the_second_finds_nothing_to_do(hashkiln):
    folder = str(Path(HASHKILN).parent)
    code, output, error = hashkiln("demo", PATH=folder)
    assert code == 0, error
    published, compared, report, following = output.splitlines()
    assert published == "Published sample__itq32 v1: 40,000 rows"
    assert compared.startswith("itq at 32 bits: map 0.3")
    assert Path(report.removeprefix("Report: ")).exists()
    assert following.startswith("Next: hashkiln methods")
    lines = hashkiln("demo", PATH="")[1].splitlines()
    assert lines[:3] == ["Nothing to do: sample__itq32 v1 is up to date.", compared, report]
    assert re.match("Next: source .*/bin/activate; hashkiln methods", lines[3])


def test_a_table_is_published_evaluated_and_listed(here, home, with_prefect_server):
    options = ("--dataset", "sample", "--method", "lsh", "--bits", "64")
    code, output, error = here("reindex", *options)
    assert code == 0, error
    assert "Published sample__lsh64 v1: 40,000 rows, 40,000 encoded" in output
    report = Path(output.partition("Report: ")[2].strip())
    assert "<!doctype html>" in report.read_text()
    assert "http://" not in report.read_text().partition("<script")[0]
    code, output, _ = here("reindex", *options, "--json")
    outcome = json.loads(output)
    assert (code, outcome["unchanged"], outcome["version"], outcome["report"]) == (0, True, "v1", str(report))
    (event,) = json.loads(here("history", "sample__lsh64", "--json")[1])
    assert (event["version"], event["published"], event["rows"]) == ("v1", "now", 40_000)
    listed = {row["table"]: row for row in json.loads(here("tables", "--json")[1])}
    assert {"version": "v1", "rows": 40_000, "bits": 64, "method": "lsh"}.items() <= listed["sample__lsh64"].items()
    assert max(map(len, here("tables", COLUMNS="80")[1].splitlines())) <= 80
    code, _, error = here("reindex", "--dataset", "sample", "--method", "lsh", "--bits", "8", "--code", "lsh64")
    assert (code, error) == (2, "table sample__lsh64 has codes of 64 bits, not 8: choose another --code\n")
    assert here("history", "sample--LSH64")[0] == 0  # case, hyphens and underscores do not matter
    assert "did you mean sample__lsh64" in here("history", "sample__lsh65")[2]
    measured = json.loads(here("evaluate", "sample__lsh64", "--neighbours", "10", "--json")[1])
    assert "the 10 nearest rows" in measured["protocol"]
    assert measured["overlap"] == "database: {0}; training set: {0}".format("0 rows by id, 0 by content")
    assert 0 < measured["measured"]["metrics"]["map"]["value"] < 1
    code, _, error = here("evaluate", "sample__lsh64", "--relevance", "labels")
    assert (code, error) == (2, "relevance by labels needs labels: dataset sample has none\n")
    code, output, _ = here("evaluate", "sample__lsh64", "--beside", "v1")
    assert (code, "v1, common" in output, "map_pessimistic" in output) == (0, True, True)
    asked = ("sample__lsh64", "--queries", "query", "--k", "3", "--rerank", "9", "--out", str(home / "found.parquet"))
    found = json.loads(here("search", *asked, "--json")[1])
    assert (found["version"], found["rows"], found["distance"]) == ("v1", 1500, "squared Euclidean")
    assert pq.read_table(home / "found.parquet").column_names == ["query", "rank", "id", "distance"]
    assert here("export", "sample__lsh64", "--to", "npy", "--out", str(home / "arrays"))[0] == 0
    np.save(home / "labels.npy", np.arange(40_000) % 10)
    files = ("--codes", str(home / "arrays" / "codes.npy"), "--labels", str(home / "labels.npy"))
    measured = json.loads(here("evaluate", *files, "--queries", "100", "--json")[1])
    assert 0.09 < measured["measured"]["metrics"]["map"]["value"] < 0.11


def test_the_gate_has_its_own_exit_code(here, with_prefect_server):
    options = ("--dataset", "sample", "--method", "pcah", "--bits", "16", "--floor")
    code, _, error = here("reindex", *options, "map=0.99")
    assert code == 3
    assert "was not published: map 0." in error
    assert "is below its floor of 0.9900" in error
    (event,) = json.loads(here("history", "sample__pcah16", "--json")[1])
    assert event["version"].startswith("rejected-")
    assert here("evaluate", "sample__pcah16")[0] == 2  # no published version


def test_models_are_fitted_once_and_codes_staged_without_being_published(here, tmp_path):
    batch = blobs(500, 8)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.x.ravel()), 8)
    (tmp_path / "mine").mkdir()
    pq.write_table(pa.table({"key": np.arange(500), "v": vectors}), tmp_path / "mine" / "a.parquet")
    columns = ("--id-column", "key", "--vector-column", "v")
    code, output, _ = here("ingest", str(tmp_path / "mine"), "--name", "mine", *columns, "--json")
    assert (code, json.loads(output)["dim"]) == (0, 8)
    options = ("--dataset", "mine", "--method", "itq", "--bits", "8", "--set", "n_iter=3", "--json")
    assert here("fit", *options)[0] == 2  # 1000 queries cannot be drawn from 500 rows
    frozen = ("--dataset", "sample", "--method", "itq", "--bits", "8", "--set", "n_iter=3", "--json")
    first, again = (json.loads(here("fit", *frozen)[1]) for _ in range(2))
    assert first["model"] == again["model"]
    assert (first["seconds"] > 0, again["seconds"]) == (True, 0)
    assert here("history", "sample__itq8")[0] == 2  # a fit leaves a model, no table
    staged = json.loads(here("encode", *frozen)[1])
    assert (staged["rows"], staged["encoded"]) == (40_000, 40_000)
    assert staged["version"].startswith("staged-")
    assert json.loads(here("encode", *frozen)[1]) == {**staged, "encoded": 0}


def test_doctor_checks_everything(hashkiln, here):
    code, output, _ = here("doctor", "--json")
    found = {row["what"]: row["state"] for row in json.loads(output)}
    assert code == 0
    assert set(found.values()) == {"ok"}
    assert found.keys() == {"libraries", "warehouse", "catalog", "data", "disk", "executor", "prefect"}
    ill = {"HASHKILN_EXECUTOR": "ray", "RAY_ADDRESS": "127.0.0.1:1", "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    code, output, _ = hashkiln("doctor", "--json", **ill)
    assert code == 1
    failed = {row["what"]: row["remedy"] for row in json.loads(output) if row["state"] == "failed"}
    assert failed.keys() == {"executor", "prefect"}
    assert "RAY_AUTH_TOKEN" in failed["executor"]


@pytest.mark.parametrize("named", [True, False])
def test_doctor_asks_every_node_of_the_cluster(here, ray_executor, named):
    address = ray_executor.join().split()[2].rstrip(":") if named else ""
    code, output, _ = here("doctor", "--json", HASHKILN_EXECUTOR="ray", RAY_ADDRESS=address)
    node = json.loads(output)[-1]
    assert code == 0
    assert node["what"].endswith("(127.0.0.2)")
    assert node["found"].startswith("same versions, warehouse usable")
    assert re.search(r" GiB of memory for tasks, \d+ GPUs$", node["found"])


@pytest.mark.parametrize(
    ("found", "says", "remedy"),
    [
        ({}, "same versions, warehouse usable, 1024.0 GiB free on its disk, 4.0 GiB of memory for tasks, 1 GPUs", ""),
        ({"versions": {**installed_versions(), "ray": "2.0"}}, "node a has ray 2.0 instead of", "use one image"),
        ({"time": 1000 - 100}, "its clock is 100 s off", "synchronise the clocks"),
        ({"time": 1001 + 100}, "its clock is 100 s off", "synchronise the clocks"),
        ({"time": 1000 - 29}, "same versions", ""),
        ({"free": 2**29}, "0.50 GiB free on its disk", "free some space"),
        ({"memory": 2**28}, "0.2 GiB of memory for tasks", "give the node more memory"),
        ({"memory": 2**28, "cpus": 0}, "0.2 GiB of memory for tasks", ""),  # a driver's runs no tasks
        ({"warehouse": "OSError: /mnt/w"}, "cannot use the warehouse: OSError: /mnt/w", "that every node mounts"),
    ],
)
def test_doctor_says_what_is_wrong_with_a_node_and_what_to_do(found, says, remedy):
    well = doctor.Node(installed_versions(), 1000, 2**40, cpus=2, memory=2**32, gpus=1, warehouse="")
    row = doctor._node_row("a", well._replace(**found), 1000, 1001)
    assert says in row["found"]
    assert remedy in row["remedy"]
    assert row["state"] == ("failed" if remedy else "ok")


@pytest.mark.parametrize(
    ("error", "says", "remedy"),
    [
        (ConnectionError("no answer: lost"), "no answer: lost", "wait a minute for Ray to notice"),
        (ModuleNotFoundError("No module named 'workflows'"), "cannot run hashkiln", "use one image"),
    ],
)
def test_doctor_says_why_a_node_does_not_answer(error, says, remedy):
    row = doctor._node_row("a", error, 1000, 1001)
    assert (row["state"], says in row["found"], remedy in row["remedy"]) == ("failed", True, True)


def test_ctrl_c_says_what_is_kept_and_the_same_command_resumes(environment, prefect_server):
    """The signal reaches all processes of the terminal, embedded Prefect's server too."""
    options = ["reindex", "--dataset", "sample", "--method", "lsh", "--bits", "24"]
    command = [sys.executable, "-m", "workflows.cli", *options]
    env = {**os.environ, **environment, "TERM": "xterm"}
    kept = "Interrupted. Finished work is kept, and nothing is half published. To continue, run again: hashkiln "
    terminal = Terminal()
    with subprocess.Popen(command, env=env, stderr=terminal.theirs, start_new_session=True) as run:
        os.close(terminal.theirs)
        terminal.read(until="to encode")
        os.killpg(run.pid, signal.SIGINT)
        lines = terminal.read()
        assert kept + " ".join(options) in lines
        assert re.search(r"\nencode +\S+ +not finished +[\d.]+ s\n", lines)
        assert terminal.shows_cursor
        assert run.wait() == 130
    env["PREFECT_API_URL"] = prefect_server.url  # saves the start of another one
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "Published sample__lsh24 v1: 40,000 rows" in done.stdout
    assert re.search(r"^evaluate: 40,000 rows, [\d,]+ rows/s, [\d.]+ s$", done.stderr, re.MULTILINE)
    assert "\x1b" not in done.stderr  # a line for each stage, and no display
