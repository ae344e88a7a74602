"""What a user may ask for, and what does not fit together."""

import pytest
from straight_line import D, reindex, spec

from infra.executors import InProcess
from storage.features import Columns
from workflows import ingest, stages
from workflows.spec import Spec

pytest_plugins = ["straight_line"]


def test_what_does_not_fit_together_is_refused(settings, mine):
    with pytest.raises(LookupError, match=r"expected a dataset 'other' in .*: `hashkiln ingest` brings it"):
        stages.fit(spec(dataset="other"), settings, InProcess())
    with pytest.raises(ValueError, match="found 'other': did you mean"):
        reindex(settings, spec(dataset="other"))
    unlabelled = ingest.ingest_source("bare", mine.splits["base"], settings, Columns(id="key", x="embedding"))
    assert unlabelled.dim == D
    with pytest.raises(ValueError, match="expected labels, for relevance by labels, found none in dataset bare"):
        reindex(settings, spec(dataset="bare", protocol={"relevance": "labels", "queries": 50}))
    with pytest.raises(ValueError, match=r"expected more than 5000 rows in mine, .*, found 800: ask for fewer"):
        reindex(settings, spec(protocol={"queries": 5000}))
    with pytest.raises(ValueError, match="expected a column vector, found key, embedding, tags"):
        ingest.ingest_source("bad", mine.splits["base"], settings, Columns(id="key"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "A b"}, "expected a name of a-z, 0-9, _ and -, found 'A b'"),
        ({"method": {"method": "itk"}}, "expected the name of a method, found 'itk'; did you mean itq"),
        ({"method": {"bits": 0}}, "greater than or equal to 1"),
        ({"method": {"bits": 4097}}, "less than or equal to 4096"),
        ({"method": {"parameters": {"iter": 3}}}, r"expected parameters of itq among \['n_iter'\], found iter"),
        ({"method": {"parameters": {"n_iter": "many"}}}, "expected a int for itq's n_iter, found 'many'"),
        ({"method": {"parameters": {"n_iter": True}}}, "expected a int for itq's n_iter, found True"),
        ({"refit": "sometimes"}, "Input should be 'never', 'always' or 'drift'"),
        ({"protocol": {"neighbours": 0}}, "greater than or equal to 1"),
        ({"bitz": 3}, "Extra inputs are not permitted"),
    ],
)
def test_specifications_are_checked_where_they_enter(values, message):
    with pytest.raises(ValueError, match=message):
        Spec.model_validate({"dataset": "sample", **values})
