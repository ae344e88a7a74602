"""The registry of metrics, and the gate rules that refer to it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from workflows import cli
from workflows.evaluation.metrics import metric_values
from workflows.evaluation.registry import GATED, HEALTH, METRICS
from workflows.evaluation.rules import Rule
from workflows.spec import Gate, Spec


def histograms(seed):
    """Return a random graded histogram as of Judge.histogram: many ties, empty balls, queries without hits."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 40, (3, 30, 17)) * (rng.random((3, 30, 17)) < 0.4)
    grades[0, :, 16] += 1
    grades[1:, :5] = 0
    return np.stack([grades.sum(axis=0), grades[1:].sum(axis=0), *grades])


@pytest.mark.parametrize("seed", range(20))
def test_metrics_are_those_of_the_registry_and_lie_in_their_ranges(seed):
    graded = histograms(seed)
    for histogram, k, needs in (
        (graded, 0, {"relevant rows", "graded relevance"}),
        (graded[:2], 0, {"relevant rows"}),
        (graded[:2], 7, {"relevant rows", "neighbours"}),
    ):
        found = metric_values(histogram, k)
        assert list(found) == [name for name, metric in METRICS.items() if metric.needs in needs]
        for name, values in found.items():
            assert values.min() >= METRICS[name].low - 1e-12, name
            assert values.max() <= METRICS[name].high + 1e-12, name


def test_recall_after_reranking_is_that_of_the_candidates():
    rng = np.random.default_rng(0)
    x, queries = rng.normal(size=(300, 6)), rng.normal(size=(8, 6))
    true = np.argsort(((queries[:, None] - x) ** 2).sum(axis=2), axis=1)[:, :5]
    distances = ((queries[:, None] > 0) != (x > 0)).sum(axis=2)
    relevant = np.zeros(distances.shape, bool)
    np.put_along_axis(relevant, true, True, axis=1)
    histogram = np.array([[np.bincount(d[keep], minlength=7) for d, keep in zip(distances, kept, strict=True)]
                          for kept in (np.ones_like(relevant), relevant)])  # fmt: skip
    for factor in (1, 2, 4, 10):
        found = metric_values(histogram, 5)[f"recall_reranked_x{factor}"]
        orders = [np.lexsort((rng.random(distances.shape), distances), axis=1) for _ in range(400)]
        mean = np.mean([np.take_along_axis(relevant, order[:, : 5 * factor], 1).sum(1) / 5 for order in orders], axis=0)
        np.testing.assert_allclose(found, mean, atol=0.05)  # 400 random orders of the ties


def test_the_registry_is_complete():
    assert all(name == metric.name and metric.low < metric.high and metric.about for name, metric in METRICS.items())
    assert list(HEALTH) == [name for name, metric in METRICS.items() if metric.needs == "codes"]
    code = "import sys, workflows.evaluation.rules; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_help_lists_every_metric_that_a_rule_can_use():
    output = CliRunner().invoke(cli.app, ["reindex", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(name in output for name in GATED)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("floor", "mapp", 0.1), r"unknown metric 'mapp': did you mean map\?"),
        (("ceiling", "health.entropie", 0.1), r"unknown metric 'health.entropie': did you mean health.entropy"),
        (("loss", "zebra", 0.1), "unknown metric 'zebra': the metrics are map, map_pessimistic, .*, health.balance, "),
        (("floor", "map_dhn", 0.1), "unknown metric 'map_dhn'"),  # of `benchmark` alone
        (("floor", "map", 1.5), "a floor of map must be between 0 and 1, found 1.5"),
        (("ceiling", "recall_at_1000", -0.1), "a ceiling of recall_at_1000 must be between 0 and 1, found -0.1"),
        (("floor", "map", float("nan")), "a floor of map must be between 0 and 1, found nan"),
        (("ceiling", "health.constant_bits", -1), "a ceiling of health.constant_bits must be at least 0, found -1"),
        (("loss", "map", 1.1), "a loss of map must be between 0 and 1, found 1.1"),
        (("loss", "health.entropy", 0.1), "health.entropy is not compared with the published version"),
    ],
)
def test_an_invalid_rule_cannot_be_constructed(rule, message):
    with pytest.raises(ValueError, match=message):
        Rule(*rule)


def test_rules_report_whether_they_hold():
    values = {"map": 0.5}
    assert Rule("floor", "map", 0.5).judge(values) == (True, "map 0.5000 is within its floor of 0.5000")
    assert Rule("floor", "map", 0.6).judge(values) == (False, "map 0.5000 is below its floor of 0.6000")
    assert Rule("ceiling", "map", 0.5).judge(values)[0]
    assert Rule("ceiling", "map", 0.4).judge(values) == (False, "map 0.5000 is above its ceiling of 0.4000")
    assert Rule("floor", "map", 0.5).judge({"map": float("nan")})[0] is False
    assert Rule("floor", "ndcg", 0.5).judge(values) == (
        False, "ndcg was not measured: its floor of 0.5000 cannot be checked",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["floors", "max_loss"])
def test_a_rule_of_graded_metrics_needs_graded_relevance(kind):
    rules = {"dataset": "mine", "gate": {kind: {"ndcg": 0.1}}}
    for relevance in ("auto", "labels", "neighbours"):
        with pytest.raises(ValueError, match=f"gate: ndcg needs --relevance graded, found --relevance {relevance}"):
            Spec.model_validate({**rules, "protocol": {"relevance": relevance}})
    assert Spec.model_validate({**rules, "protocol": {"relevance": "graded"}}).gate.model_dump()[kind] == {"ndcg": 0.1}


@pytest.mark.parametrize(
    "options", [("--floor", "mapp=0.1"), ("--ceiling", "map=NaN"), ("--max-loss", "map=7"), ("--floor", "ndcg=0.1")]
)
def test_the_command_refuses_an_invalid_rule_and_creates_nothing(options, tmp_path, run_command):
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    given = ["reindex", "--dataset", "sample", "--pretrained", str(tmp_path / "weights.pth"), *options]
    assert run_command(*given, HASHKILN_HOME=str(tmp_path / "home"))[0] == 2
    assert not (tmp_path / "home").exists()


def test_stored_specifications_are_read_even_if_invalid_today():
    """Such as one with a renamed metric, or a bound or hyper-parameter that would be refused today."""
    old = {
        "dataset": "mine",
        "method": {"method": "itq", "bits": 16, "seed": 0, "parameters": {"n_steps": 3}},
        "gate": {"floors": {"mapp": 0.1, "map": 7.0, "ndcg": 0.1}, "max_loss": 0.25},
    }
    found = Spec.stored(json.dumps(old))
    assert found.gate == Gate.model_construct(floors=old["gate"]["floors"], max_loss={"map": 0.25})
    assert found.method.parameters == {"n_steps": 3}
    with pytest.raises(ValueError, match="unknown metric 'mapp'"):
        Spec.model_validate(old)
    with pytest.raises(ValueError, match="unknown metric 'mapp'"):
        _ = found.gate.bounds
