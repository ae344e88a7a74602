"""The benchmarks' common parts: rows and ratios, the check of ratios, the runner, and the page."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hashing.blas import one_blas_thread
from hashing.mapreduce import Batch, Data
from hashing.statistics import moments
from infra.executors import InProcess

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "performance"


@pytest.fixture
def benchmarks(monkeypatch):
    """Return a function that imports a file of benchmarks/ by name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_a_ratio_is_the_median_of_consecutive_calls(benchmarks):
    measure = benchmarks("measure")
    seconds = {"ours": [1.0, 2.0, 4.0], "peer": [3.0, 2.0, 8.0], "limit": [0.5, 0.5, 1.0]}
    row = measure.row("case", seconds, "Mrow/s", 8)
    assert (row.ours, row.spread, row.peer, row.limit) == (4, (2, 8), 8 / 3, 16)
    assert (row.ratio, row.ratios) == (2, (1, 3))
    assert measure.line(row) == (
        "| case | 4.00 Mrow/s (2.00 to 8.00) | 2.67 Mrow/s | 2.00 (1.00 to 3.00) | 16.0 Mrow/s: reaches 25% |"
    )
    row = measure.row("case", seconds, "ms", 1000)
    assert (row.ours, row.peer, row.limit, row.ratio) == (2000, 3000, 500, 2)
    assert measure.line(row).endswith("| 500 ms: reaches 25% |")


def test_results_of_a_busy_machine_are_marked(benchmarks):
    measure = benchmarks("measure")
    idle, busy = {"average": 1.2, "busy": 0.03}, {"average": 0.4, "busy": 0.5}
    assert measure.quiet({"before": idle, "after": idle})
    assert not measure.quiet({"before": busy, "after": idle})
    assert not measure.quiet({"before": idle, "after": busy})


def test_a_fit_is_shown_with_the_lines_that_take_its_time(benchmarks):
    benchmarks("measure")
    fit = benchmarks("fit")
    x = np.random.default_rng(0).standard_normal((4000, 512), np.float32)
    with one_blas_thread(), fit.Lines() as lines:
        start = time.process_time()
        while time.process_time() < start + 0.5:
            moments(Data([[Batch(np.arange(len(x)), x)]], InProcess()))
    assert re.match(r"\d+% `.*@.*` in hashing/\w+", str(lines))


def check(committed, new):
    command = [sys.executable, "benchmarks/check.py", str(committed), str(new)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_check_fails_and_names_a_ratio_that_fell_by_a_quarter(tmp_path):
    assert check(RESULTS, RESULTS).returncode == 0
    new = shutil.copytree(RESULTS, tmp_path / "new")
    result = json.loads((RESULTS / "hamming.json").read_text())
    first, second, third = result["rows"][:3]
    first["ratio"] *= 0.74
    second["ratio"] *= 0.76
    (new / "hamming.json").write_text(json.dumps(result))
    fell = check(RESULTS, new)
    assert fell.returncode == 1
    assert f"hamming: {first['case']}: {first['ratio']:.2f}, before" in fell.stderr
    assert second["case"] not in fell.stderr
    result["rows"].remove(third)
    (new / "hamming.json").write_text(json.dumps(result))
    assert f"hamming: {third['case']}: not measured, before" in check(RESULTS, new).stderr
    full = shutil.copytree(RESULTS, tmp_path / "full")
    (full / "hamming.json").write_text(json.dumps(json.loads((RESULTS / "hamming.json").read_text()) | {"full": True}))
    assert f"hamming: {first['case']}" in (checked := check(full, new).stderr)
    assert third["case"] not in checked


def test_a_benchmark_that_fails_does_not_stop_the_others(benchmarks, tmp_path, monkeypatch, capfd):
    run = benchmarks("run")
    (tmp_path / "wrong.py").write_text("raise SystemExit(3)")
    (tmp_path / "slow.py").write_text("import threading; threading.Event().wait()")
    (tmp_path / "right.py").write_text("import sys; open(sys.argv[2], 'w').write('{}')")
    monkeypatch.setattr(run, "HERE", tmp_path)
    out = str(tmp_path / "right.json")
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path), "--seconds", "1", "wrong", "slow", "right"])
    with pytest.raises(SystemExit, match=r"failed: wrong \(exit code 3\), slow \(stopped after 1 s\)"):
        run.main()
    assert Path(out).read_text() == "{}"
    assert "--- right: done" in capfd.readouterr().out


def test_the_page_and_its_plots_are_those_of_the_results(tmp_path):
    command = [sys.executable, "docs/performance.py", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "performance.md").read_text() == run.stdout, "run make docs"
    plots = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    committed = [path for path in (ROOT / "docs" / "images").glob("*.svg") if not path.name.startswith("choose-")]
    assert plots == {path.name: path.read_text() for path in committed}


def test_every_file_of_rows_has_the_cells_of_its_line(benchmarks):
    benchmarks("measure")
    lines = benchmarks("results").LINES
    files = {path.stem: json.loads(path.read_text()) for path in RESULTS.parent.glob("*.json") if path.stem != "gpu"}
    assert files.keys() <= lines.keys()
    for name, rows in files.items():
        pairs = list(pairwise(lines[name].split()))
        given, settings = dict(pairs), {value for option, value in pairs if option == "--set"}
        assert {row["dataset"] for row in rows} == {given["--dataset"]}
        assert {row["method"] for row in rows} == set(given["--methods"].split(","))
        assert {row["bits"] for row in rows} == set(map(int, given.get("--bits", "8,16,24,32").split(",")))
        assert {row["seed"] for row in rows} == set(range(int(given.get("--seeds", 1))))
        assert {row["protocol"] for row in rows} == {given.get("--protocol", "bdnn")}
        assert {f"{r['method']}.{key}={value}" for r in rows for key, value in r["parameters"].items()} == settings


@pytest.mark.slow
def test_lines_without_a_file_are_measured_and_one_that_fails_leaves_none(benchmarks, tmp_path, monkeypatch, capfd):
    benchmarks("measure")
    results = benchmarks("results")
    small = "--dataset sample --bits 8 --protocol neighbours --methods"
    lines = {"done": "", "fails": f"{small} lsh,sgh --set sgh.lr=1e30", "new": f"{small} lsh"}
    monkeypatch.setattr(results, "LINES", lines)
    monkeypatch.setattr(sys, "argv", ["results.py", "--out", str(tmp_path)])
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    (tmp_path / "done.json").write_text("kept")
    with pytest.raises(SystemExit, match=r"^failed: fails$"):
        results.main()
    assert {path.name for path in tmp_path.iterdir()} == {"done.json", "new.json", "home"}
    assert (tmp_path / "done.json").read_text() == "kept"
    (row,) = json.loads((tmp_path / "new.json").read_text())
    assert row["versions"]["commit"] == sys.modules["measure"].commit()
    assert row["fit_cpu_seconds"] > 0
    assert capfd.readouterr().out.startswith("new: 1 rows, ")
