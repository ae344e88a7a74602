"""Validation of specifications."""

import pytest

from infra.executors import InProcess
from storage.features.rows import Columns
from tests.workflows.conftest import D, reindex, spec
from workflows import datasets
from workflows.context import Context
from workflows.reindex import fitting
from workflows.spec import MethodSpec, Spec, digest


def test_inconsistent_specifications_are_refused(settings, mine):
    with pytest.raises(LookupError, match=r"no dataset 'other' in .*: add it .*; ingested datasets: mine$"):
        fitting.fit(Context.of(spec(dataset="other"), settings, InProcess()))
    with pytest.raises(LookupError, match=r"found 'other': the datasets are mine, cifar-10, .*"):
        reindex(settings, spec(dataset="other"))
    unlabelled = datasets.ingest_source("bare", mine.splits["base"], settings, Columns(id="key", x="embedding"))
    assert unlabelled.dim == D
    with pytest.raises(ValueError, match="relevance by labels needs labels: dataset bare has none"):
        reindex(settings, spec(dataset="bare", protocol={"relevance": "labels", "queries": 50}))
    with pytest.raises(ValueError, match="800 rows are too few to draw 5,000 queries from: pass fewer by --queries"):
        reindex(settings, spec(protocol={"queries": 5000}))
    with pytest.raises(ValueError, match="expected a column vector, found key, embedding, tags"):
        datasets.ingest_source("bad", mine.splits["base"], settings, Columns(id="key"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "A b"}, "expected a name of a-z, 0-9, _ and - that starts with a letter or a digit, found 'A b'"),
        ({"method": {"method": "itk"}}, "expected the name of a method, found 'itk'; did you mean itq"),
        ({"method": {"bits": 0}}, "greater than or equal to 1"),
        ({"gate": {"floors": {"map": True}}}, "Input should be a valid number"),
        ({"method": {"parameters": {"n_iter": [1]}}}, r"expected a number or a string for n_iter, found \[1\]"),
        ({"method": {"bits": 4097}}, "less than or equal to 4096"),
        ({"method": {"parameters": {"iter": 3}}}, "expected parameters of itq, found iter: did you mean n_iter"),
        ({"method": {"parameters": {"n_iter": "many"}}}, "expected n_iter of itq as int, found 'many'"),
        ({"method": {"parameters": {"n_iter": True}}}, "expected n_iter of itq as int, found True"),
        ({"method": {"parameters": {"n_iter": 0}}}, "expected ITQ's n_iter of at least 1, found 0"),
        ({"method": {"method": "sdh", "parameters": {"width": 0.0}}}, "expected SDH's width above 0, found 0.0"),
        ({"method": {"method": "dh", "parameters": {"decay": -1.0}}}, "expected DH's decay of at least 0, found -1.0"),
        ({"method": {"method": "ba", "parameters": {"mu": float("nan")}}}, "expected BA's mu above 0, found nan"),
        ({"method": {"method": "dhn", "parameters": {"validation": 1.0}}}, "of at least 0 and below 1, found 1.0"),
        ({"method": {"method": "dhn", "parameters": {"batch_size": -5}}}, "batch_size of at least 1, found -5"),
        ({"method": {"method": "subic", "parameters": {"units": 1}}}, "expected SuBiC's units of at least 2, found 1"),
        ({"refit": "sometimes"}, "Input should be 'never', 'always' or 'drift'"),
        ({"protocol": {"neighbours": 0}}, "greater than or equal to 1"),
        ({"bitz": 3}, "Extra inputs are not permitted"),
    ],
)
def test_specifications_are_validated_on_construction(values, message):
    with pytest.raises(ValueError, match=message):
        Spec.model_validate({"dataset": "sample", **values})


def test_a_method_is_identified_by_values_that_differ_from_its_defaults():
    plain, other = (MethodSpec(method="dhn", parameters=given) for given in ({}, {"regularizers": "so:0.1"}))
    assert plain.identity() == {"method": "dhn", "n_bits": 32, "defaults_version": 1}
    assert other.identity() == {**plain.identity(), "regularizers": "so:0.1"}
    assert MethodSpec(method="dhn", parameters={"epochs": 20, "augment": False}).identity() == plain.identity()
    one, same = (MethodSpec(method="dhn", parameters={"lr": value}).identity() for value in (1, 1.0))
    assert digest(one) == digest(same) != digest(plain.identity())
    assert MethodSpec(method="dhn", seed=3).identity() == {**plain.identity(), "seed": 3}
    assert MethodSpec(method="pcah", seed=3).identity() == MethodSpec(method="pcah").identity()  # nothing is random


def test_a_fit_reads_labels_only_for_methods_that_use_them():
    asks = [MethodSpec(method=name).reads_labels for name in ("itq", "ksh", "dpsh", "sgh", "thc")]
    assert asks == [False, True, True, False, False]
    assert MethodSpec(method="thc", parameters={"tags": 2.0}).reads_labels
