"""benchmarks/gpu.py runs on the CPU, needs few packages, and reports sections that fail or do not fit in the time."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
WITHOUT = """
import runpy, sys
for name in ("ray", "prefect", "pydantic", "pydantic_settings", "storage", "workflows", "fsspec", "faiss"):
    sys.modules[name] = None  # so that importing it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


def test_every_section_runs_on_the_cpu(tmp_path):
    run = [sys.executable, "-c", WITHOUT, str(FILE), "--small", "--out", str(tmp_path / "gpu")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["section"] for row in found["rows"]} == set(found["sections"])
    assert all(end.startswith("ok") for end in found["sections"].values())
    table = (tmp_path / "gpu.md").read_text()
    assert all(row["what"] in table for row in found["rows"])


def test_a_section_that_fails_does_not_stop_the_others(gpu, tmp_path, monkeypatch, capsys):
    def wrong(card):
        yield {"what": "before", "value": 1, "unit": ""}
        gpu.equal("sum", (gpu.np.array([1, 2]),), (gpu.np.array([1, 3]),))

    def broken(card):
        raise MemoryError("no room")
        yield

    def late(card):
        monkeypatch.setattr(time, "monotonic", lambda: 1e12)
        yield {"what": "the last", "value": 2, "unit": ""}
        yield {"what": "one too many", "value": 3, "unit": ""}

    sections = {"wrong": wrong, "broken": broken, "late": late, "too late": late}
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    monkeypatch.setattr(gpu, "SMALL", True)
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu")])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["what"] for row in found["rows"]] == ["before", "the last"]
    ends = {name: end.rpartition(" (")[0] for name, end in found["sections"].items()}
    assert ends == {
        "wrong": "failed: sum: result 0 differs from the CPU's in 1 of 2 values",
        "broken": "failed: MemoryError: no room",
        "late": "cut short: out of time",
        "too late": "skipped: out of time",
    }
    assert "no room" in capsys.readouterr().err
