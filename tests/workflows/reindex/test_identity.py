"""Which releases of a method count as the same model."""

from dataclasses import dataclass

import pytest

from hashing.methods import catalogue
from hashing.methods.itq import ITQ
from infra.executors import InProcess
from tests.workflows.conftest import reindex, spec, table_of
from workflows.checks import UsageError
from workflows.context import Context
from workflows.reindex import fitting, planning, unchanged
from workflows.spec import digest


@dataclass(frozen=True)
class Grown(ITQ):
    """A later release with a new hyper-parameter."""

    tolerance: float = 0.0
    restarts: int = 1


@dataclass(frozen=True)
class Changed(ITQ):
    """A later release with another default."""

    n_iter: int = 20
    defaults_version = 2


def test_a_release_that_adds_a_hyper_parameter_reuses_the_models(settings, mine, monkeypatch):
    first = fitting.fit(Context.of(spec(), settings, InProcess()))
    reindex(settings, spec())
    monkeypatch.setitem(catalogue(), "itq", Grown)
    assert planning.forecast(Context.of(spec(), settings, InProcess())).reason == "reuses the model of v1"
    assert unchanged.outcome_if_unchanged(Context.of(spec(), settings, InProcess())).version == "v1"
    assert reindex(settings, spec())[0].unchanged
    again = fitting.fit(Context.of(spec(code="other"), settings, InProcess()))  # an earlier fit's, of the same rows
    assert (again.digest, again.seconds) == (first.digest, 0)
    given = {"method": "itq", "bits": 16, "parameters": {"restarts": 2}}
    with pytest.raises(UsageError, match="this run has another method or other hyper-parameters: pass --refit always"):
        fitting.fit(Context.of(spec(method=given), settings, InProcess()))
    assert fitting.fit(Context.of(spec(method=given, code="other"), settings, InProcess())).seconds > 0


def test_a_release_with_another_default_needs_a_refit(settings, mine, monkeypatch):
    reindex(settings, spec())
    monkeypatch.setitem(catalogue(), "itq", Changed)
    with pytest.raises(
        ValueError, match="this run has new defaults of itq in this release of hashkiln: pass --refit alw"
    ):
        fitting.fit(Context.of(spec(), settings, InProcess()))
    with pytest.raises(ValueError, match="this run has new defaults of itq"):
        planning.forecast(Context.of(spec(), settings, InProcess()))
    assert fitting.fit(Context.of(spec(code="other"), settings, InProcess())).seconds > 0
    reindex(settings, spec(refit="always", gate={"force": "to look at it"}))
    assert table_of(settings).version().properties["defaults_version"] == "2"
    assert planning.forecast(Context.of(spec(), settings, InProcess())).reason == "reuses the model of v2"


@pytest.mark.parametrize("parameters", [{}, {"n_iter": 50}, {"n_iter": 7}])
def test_models_by_older_programs_are_identified_by_their_specification(settings, mine, parameters):
    """Their property `fit` is a digest over all defaults, without the version of the defaults."""
    method = {"method": "itq", "bits": 16, "parameters": parameters}
    reindex(settings, spec(method=method))
    table = table_of(settings)
    base = table.version()
    every = {"method": "itq", "n_bits": 16, "n_iter": 50, "seed": 0, **parameters}
    old = {key: value for key, value in base.properties.items() if key != "defaults_version"}
    table.stage("staged-old", base.snapshot_id)
    table.replace("staged-old", [], set(), {**old, "fit": digest(every, "mine")})
    table.publish(table.version("staged-old"), base.snapshot_id)
    assert unchanged.outcome_if_unchanged(Context.of(spec(method=method), settings, InProcess())).version == "v2"
    assert reindex(settings, spec(method=method))[0].unchanged
    with pytest.raises(ValueError, match="this run has another method or other hyper-parameters"):
        planning.forecast(Context.of(spec(method={**method, "parameters": {"n_iter": 8}}), settings, InProcess()))
    with pytest.raises(ValueError, match="this run has another method or other hyper-parameters"):
        planning.forecast(Context.of(spec(method={**method, "seed": 1}), settings, InProcess()))
