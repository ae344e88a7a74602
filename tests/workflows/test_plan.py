"""The recommended code is the cheapest that was measured to reach the target, and its command reaches it."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import queries
from storage.features.dataset import dataset_names, load_dataset
from storage.features.rows import Columns
from tests.workflows import conftest
from workflows import datasets, plan
from workflows.checks import UsageError
from workflows.spec import Spec


@pytest.fixture
def vectors(settings, tmp_path):
    """Three shards of 400 keyed rows of 16 dimensions, of uneven variance."""
    rng = np.random.default_rng(0)
    for part in range(3):
        x = (rng.normal(size=(400, 16)) * np.linspace(3, 0.5, 16)).astype(np.float32)
        table = pa.table({"key": [f"{part}-{i}" for i in range(400)], "vector": list(x)})
        (tmp_path / "vectors").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "vectors" / f"{part}.parquet")
    return datasets.ingest_source("vectors", str(tmp_path / "vectors"), settings, Columns(id="key", keyed=True))


FOUR = {
    *(("itq", bits) for bits in (8, 16)), *(("pca_rr", bits) for bits in (8, 16)),
    *(("lsh", bits) for bits in (8, 16, 32)), *(("matryoshka", bits) for bits in (8, 16)),
}  # fmt: skip
SIXTEEN = {  # a row of rabitq has up to six bits a dimension, and 4 bytes of correctives
    *((name, 16) for name in ("itq", "pca_rr", "matryoshka")), *(("lsh", bits) for bits in (32, 64, 128)),
    *((name, bits) for name in ("rabitq", "pca_rabitq") for bits in (32, 96)),
}  # fmt: skip


@pytest.mark.parametrize(("budget", "recall", "codes"), [(4, 0.8, FOUR), (16, 0.5, SIXTEEN)])
def test_the_choice_is_the_cheapest_that_reaches_the_target_and_the_gate_passes_it(
    settings, vectors, budget, recall, codes
):
    found = plan.plan("vectors", budget, recall)
    assert {(one.method, one.bits) for one in found.measured} == codes
    assert max(one.bytes for one in found.measured) == budget
    assert all(one.low <= one.recall <= one.high for one in found.measured)
    reaching = [one for one in found.measured if one.low >= recall]
    assert found.reached
    assert found.choice.rerank == min(one.rerank for one in reaching)
    assert queries.load_queries(settings.warehouse_url, "vectors") is None  # they are for the first run to draw
    name, bits = re.search(r"--method (\S+) --bits (\d+)", found.reindex).groups()
    metric = re.search(rf"--floor (\S+)={recall}", found.reindex)[1]
    assert metric.startswith("estimator.") == name.endswith("rabitq")
    protocol = {"relevance": "neighbours", "neighbours": 10}
    spec = Spec(
        dataset="vectors", method={"method": name, "bits": bits}, protocol=protocol, gate={"floors": {metric: recall}}
    )
    _, report, version = conftest.reindex(settings, spec)
    assert version == "v1"
    assert report.measured.metrics[metric].value == pytest.approx(found.choice.recall, abs=0.01)


def test_a_large_dataset_is_measured_on_a_sample_that_is_drawn_once(settings, vectors, monkeypatch):
    monkeypatch.setattr(plan, "SAMPLE", 1100)
    monkeypatch.setattr(plan, "FILES", 1100)
    found = plan.plan("vectors", 1, 0.99)
    assert (found.rows, found.sample, found.reached) == (1200, 1100, True)
    (name,) = (name for name in dataset_names(settings.warehouse_url) if "-plan-" in name)
    sample = load_dataset(settings.warehouse_url, name)
    assert sum(shard.rows for shard in sample.shards("base")) == 1100
    assert plan.plan("vectors", 1, 0.99).measured == found.measured


def test_the_command_prints_the_table_and_fails_if_no_code_reaches_the_target(settings, vectors, run_command):
    exit_code, out, _ = run_command("plan", "--dataset", "vectors", "--budget", "1B", "--recall", "1", "--json")
    found = json.loads(out)
    assert (exit_code, found["reached"], "--floor" in found["reindex"]) == (1, False, False)
    exit_code, out, _ = run_command("plan", "--dataset", "vectors", "--budget", "1", "--recall", "0.5")
    assert exit_code == 0
    assert "hashkiln reindex --dataset vectors --method " in out
    assert "; 1 byte a row, 1,200 in all" in " ".join(out.split())
    assert run_command("plan", "--dataset", "vectors", "--budget", "0B", "--recall", "0.5")[0] == 2


def test_texts_and_too_few_rows_are_refused(settings, tmp_path, vectors):
    pq.write_table(pa.table({"id": range(3), "text": ["a", "b", "c"]}), tmp_path / "texts.parquet")
    datasets.ingest_source("texts", str(tmp_path / "texts.parquet"), settings, Columns(x=""))
    with pytest.raises(UsageError, match="dataset texts holds texts: turn them into vectors by `hashkiln embed` first"):
        plan.plan("texts", 16, 0.9)
    pq.write_table(pa.table({"id": range(3), "vector": [[0.0, 1.0]] * 3}), tmp_path / "few.parquet")
    datasets.ingest_source("few", str(tmp_path / "few.parquet"), settings, Columns())
    with pytest.raises(UsageError, match="expected more than 1000 rows to measure on, found 3"):
        plan.plan("few", 16, 0.9)
