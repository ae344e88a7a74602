"""Metrics in a real Prometheus, with every query of the Grafana dashboard; traces at a real receiver of OTLP."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, namedtuple
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from infra import telemetry
from tests.conftest import free_ports
from tests.loopback import receiving
from tests.prefect_server import until

ROOT = Path(__file__).parents[2]
HARDWARE = {"GPU use", "GPU memory"}  # panels without data on a machine without GPUs
FAILING = """
from infra.executors import connect
from infra.settings import Settings

def fail(item):
    raise ValueError("wrong item")

try:
    list(connect(Settings()).map(fail, [1], "failing"))
except ValueError:
    pass
"""
RETRIED = """
import os, pathlib, time
from infra.executors import connect
from infra.settings import Settings

def end_once(folder):  # as if its machine were lost
    if not (folder / "tried").exists():
        (folder / "tried").touch()
        os._exit(1)
    while not (folder / "enough").exists():
        time.sleep(0.1)

list(connect(Settings()).map(end_once, [pathlib.Path().absolute()], "retried"))
"""


def test_nothing_is_recorded_unless_it_is_asked_for():
    assert not telemetry.measures()
    telemetry.record("no such metric")
    results = iter([1])
    assert telemetry.in_groups(results, "encode") is results


def test_a_task_counts_what_it_read_and_wrote_and_its_errors(monkeypatch):
    Files = namedtuple("Files", "files")
    Holder = namedtuple("Holder", "part")
    Part = namedtuple("Part", "rows size")
    counted = []
    monkeypatch.setattr(telemetry, "_sink", lambda name, value, labels: counted.append((name, value, *labels.values())))
    telemetry.measured(lambda item: Holder(Part(7, 1)), Files((Part(0, 30), Part(0, 12))), "encode")
    telemetry.measured(lambda item: [0], Holder(Part(5, 100)), "evaluate")
    telemetry.measured(abs, -1, "other")
    with pytest.raises(ZeroDivisionError):
        telemetry.measured(lambda item: 1 / item, 0, "failing")
    sums = Counter()
    for name, value, *labels in counted:
        sums[name, *labels] += value
    assert all(sums.pop(("task_seconds", task)) >= 0 for task in ("encode", "evaluate", "other"))
    assert {key: value for key, value in sums.items() if value} == {
        ("tasks", "encode"): 1, ("rows", "encode"): 7, ("bytes", "encode"): 42,
        ("tasks", "evaluate"): 1, ("rows", "evaluate"): 5, ("bytes", "evaluate"): 100,
        ("tasks", "other"): 1, ("task_errors", "failing", "ZeroDivisionError"): 1,
    }  # fmt: skip


@pytest.fixture
def receiver():
    """Receive OTLP on loopback; the spans, as (name, name of the parent, attributes), with the address as `.url`."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    class Spans(list):
        url = ""

    received = Spans()

    def handle(request, body):
        assert request.headers.get("Content-Encoding") is None
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            received.extend(span for scope in resource.scope_spans for span in scope.spans)

    with receiving(handle) as received.url:
        yield received


def test_each_stage_and_each_group_of_shards_is_a_span(receiver, tmp_path):
    program = """
from infra import telemetry
from infra.executors import connect
from infra.settings import Settings
executor = connect(Settings())
with telemetry.recorded_stage("encode"):
    assert list(executor.map(abs, range(-600, 0), "encode shards")) == list(range(600, 0, -1))
"""
    variables = {"HASHKILN_EXECUTOR": "inprocess", "HASHKILN_TRACES": "true", "HASHKILN_HOME": str(tmp_path)}
    environment = {**os.environ, **variables, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, cwd=ROOT, check=True, timeout=600)
    (stage,) = [span for span in receiver if span.name == "encode"]
    groups = [span for span in receiver if span.name == "encode shards"]
    assert [span.attributes[0].value.int_value for span in groups] == [256, 256, 88]
    assert {span.parent_span_id for span in groups} == {stage.span_id}
    for before, after in pairwise(groups):
        assert stage.start_time_unix_nano <= before.start_time_unix_nano <= before.end_time_unix_nano
        assert before.end_time_unix_nano <= after.start_time_unix_nano <= stage.end_time_unix_nano


class Cluster:
    """A Ray cluster of one node with its dashboard, and a Prometheus that finds it by infra/prometheus.yaml."""

    def __init__(self, folder):
        self.folder = Path(folder)
        gcs, dashboard, export, prometheus = free_ports(4)
        token = "7" * 64
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_ADDRESS": f"127.0.0.1:{gcs}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_metrics_report_interval_ms": "5000",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "HASHKILN_HOME": str(self.folder / "home"),
            "HASHKILN_METRICS": "true",
            "PYTHONPATH": str(ROOT),
        }
        self.running = []
        options = ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
        options += [f"--metrics-export-port={export}", f"--temp-dir={self.folder}", "--num-gpus=1"]  # counted, not used
        options += ["--object-store-memory=200000000", "--block"]
        self.start("ray", sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options)
        (self.folder / "ray-token").write_text(token)
        text = (ROOT / "infra" / "prometheus.yaml").read_text()
        text = text.replace("ray-head:8265", f"127.0.0.1:{dashboard}").replace("15s", "1s")
        (self.folder / "prometheus.yaml").write_text(text)
        self.url = f"http://127.0.0.1:{prometheus}"
        self.start(
            "prometheus",
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        )

    def start(self, name, *command):
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running.append(psutil.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=self.folder))

    def run(self, *command, code=0, **variables):
        run = subprocess.run(
            [sys.executable, *command],
            env={**self.environment, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert run.returncode == code, run.stdout + run.stderr

    def query(self, expression):
        """Return the values that Prometheus finds now."""
        try:
            answer = httpx.post(f"{self.url}/api/v1/query", data={"query": expression}, timeout=300).json()
        except httpx.TransportError:
            return []
        assert answer["status"] == "success", (expression, answer)
        return [float(each["value"][1]) for each in answer["data"]["result"]]

    def stop(self):
        for process in self.running:
            family = [process, *process.children(recursive=True)] if process.is_running() else []
            for each in family:
                each.kill()
            process.wait(timeout=120)


@pytest.fixture(scope="module")
def cluster():
    if not shutil.which("prometheus"):
        pytest.skip("SKIPPED FOR WANT OF PROMETHEUS: Debian has a package of this name")
    with tempfile.TemporaryDirectory(
        prefix="hk-", ignore_cleanup_errors=True
    ) as folder:  # Ray's sockets need short paths
        cluster = Cluster(folder)
        try:
            until(lambda: cluster.query('up{job="ray"} == 1'), 300, "a scraped node")
            yield cluster
        finally:
            cluster.stop()


@pytest.mark.slow
def test_every_query_of_the_dashboard_finds_data(cluster, receiver):
    sample = ("-m", "workflows.cli", "reindex", "--dataset", "sample", "--method", "lsh", "--bits")
    cluster.run(*sample, "8", HASHKILN_TRACES="true", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    cluster.run(*sample, "16", "--floor", "map=0.99", code=3)
    cluster.run("-c", FAILING)
    cluster.start("retried", sys.executable, "-c", RETRIED)

    spans, above = {span.span_id: span for span in receiver}, []
    groups = [span for span in receiver if span.name == "encode" and span.attributes]  # the first shard, and the others
    assert sorted(span.attributes[0].value.int_value for span in groups) == [1, 7]
    span = groups[0]
    while span := spans.get(span.parent_span_id):
        above.append(span.name)
    assert above[0] == "encode"  # the stage
    assert above[1].startswith("encode-")  # Prefect's task
    assert "sample__lsh8" in above[2]  # the run
    assert len({span.trace_id for span in receiver}) == 1

    def total(name, **labels):
        match = ",".join(f'{key}="{value}"' for key, value in labels.items())
        return cluster.query(f"sum(ray_hashkiln_{name}{{{match}}})")

    until(lambda: total("rows_total", task="encode") == [80_000], 300, "the rows of both runs")
    assert total("tasks_total", task="encode") == [16]
    assert total("verdicts_total", table="sample__lsh8", verdict="passed") == [1]
    assert total("verdicts_total", table="sample__lsh16", verdict="rejected") == [1]
    assert total("stage_errors_total", stage="publish", error="GateRejected") == [1]
    until(lambda: total("task_errors_total", task="failing", error="ValueError") == [1], 300, "the error of a task")
    (published,) = cluster.query("max(last_over_time(ray_hashkiln_source_time[1h]))")
    assert 0 < time.time() - published < 300

    dashboard = json.loads((ROOT / "infra" / "grafana" / "hashkiln.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = (
                target["expr"].replace("$__rate_interval", "5m").replace("$__range", "1h").replace(":15s", ":1s")
            )
            values = cluster.query(expression)  # fails if it is not valid
            if panel["title"] not in HARDWARE or shutil.which("nvidia-smi"):
                until(partial(cluster.query, expression), 300, f"data for {panel['title']}: {expression}, not {values}")
    (cluster.folder / "enough").touch()


def lost(ours, theirs, where=""):
    """Return the places of values that are missing or changed."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [place for key in ours for place in lost(ours[key], theirs.get(key), f"{where}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            place for n, pair in enumerate(zip(ours, theirs, strict=True)) for place in lost(*pair, f"{where}[{n}]")
        ]
    return [] if ours == theirs else [where]


def test_grafana_knows_all_that_the_dashboard_says():
    """Grafana's own types for dashboards read it, and drop what they do not know."""
    sdk = "grafana_foundation_sdk"
    models = pytest.importorskip(f"{sdk}.models.dashboard", reason="SKIPPED FOR WANT OF GRAFANA'S SDK: run `make dev`")
    importlib.import_module(f"{sdk}.cog.plugins").register_default_plugins()
    encoder = importlib.import_module(f"{sdk}.cog.encoder").JSONEncoder()

    def read(dashboard):
        return json.loads(encoder.encode(models.Dashboard.from_json(dashboard)))

    dashboard = json.loads((ROOT / "infra" / "grafana" / "hashkiln.json").read_text())
    assert lost(dashboard, read(dashboard)) == []
    panel = dashboard["panels"][0]
    panel["targets"][0]["legend"] = panel["targets"][0].pop("legendFormat")
    panel["gridpos"] = panel.pop("gridPos")
    assert lost(dashboard, read(dashboard)) == [".panels[0].targets[0].legend", ".panels[0].gridpos"]


def test_prometheus_accepts_its_configuration(tmp_path):
    if not (promtool := shutil.which("promtool")):
        pytest.skip("SKIPPED FOR WANT OF PROMTOOL: Debian's package prometheus has it")
    subprocess.run([promtool, "check", "config", ROOT / "infra" / "prometheus.yaml"], check=True, capture_output=True)
    assert yaml.safe_load((ROOT / "infra" / "prometheus.yaml").read_text())["scrape_configs"]
