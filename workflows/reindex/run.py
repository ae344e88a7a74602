"""A run of the flow `reindex` in this process, with Prefect embedded unless a server is named."""

from __future__ import annotations

import os
from typing import Any

from infra.executors import Progress, connect, silent
from infra.settings import Settings

from ..checks import check_run
from ..context import Context
from ..datasets import known
from ..embedded import prefect_home
from ..records import RunOutcome
from ..spec import Spec, valid
from .publishing import GateRejected
from .unchanged import standing


def reindex(dataset: str, *, method: str = "itq", bits: int = 32, seed: int = 0, **options: Any) -> RunOutcome:
    """Encode what changed in a dataset, measure it beside what is published, and publish it if it is good enough.

    This is `hashkiln reindex`: a Prefect flow whose tasks run on Ray.

    Parameters
    ----------
    dataset : str
        A named dataset, or one that was ingested.
    method : str, default "itq"
        A name of `hashkiln methods`.
    bits : int, default 32
        Length of the codes.
    seed : int, default 0
        Random seed.
    **options
        Fields of `workflows.spec.Spec`: source, code, refit, max_drift, bad_rows, protocol and gate, the last two as
        dicts such as `gate={"floors": {"map": 0.25}}`. All others are hyper-parameters of the method, as in `fit`.

    Returns
    -------
    RunOutcome
        The table and the version that readers see now, whether there was nothing to do, and where the report lies.
        Of a published version on which there was nothing to do, `verdict` says whether it keeps the gate's rules.

    Raises
    ------
    ValueError
        If an option is unknown, or its value out of range.
    GateRejected
        If the gate refuses the new version. Readers go on seeing the published one.

    Examples
    --------
    >>> import hashkiln
    >>> outcome = hashkiln.reindex("sample", method="lsh", bits=8)
    >>> outcome.table, outcome.version, outcome.rows
    ('sample__lsh8', 'v1', 40000)
    """
    fields = {name: options.pop(name) for name in options.keys() & Spec.model_fields.keys()}
    chosen = {"method": method, "bits": bits, "seed": seed, "parameters": options}
    spec = valid(Spec, dataset=dataset, method=chosen, **fields)
    check_run(spec, Settings())
    return run(spec)


def run(spec: Spec, progress: Progress = silent) -> RunOutcome:
    """Run the flow, unless there is nothing to do: then the verdict says whether the gate's rules hold."""
    if outcome := nothing_to_do(spec):
        return outcome
    prefect_home()
    from . import flow

    flow.show(progress)
    try:
        return flow.reindex(spec)
    except GateRejected as rejected:
        if not rejected.outcome:
            raise
        return rejected.outcome


def nothing_to_do(spec: Spec) -> RunOutcome | None:
    """The outcome of a run with nothing to do, without Prefect, whose embedded server takes ten seconds to start.

    A Prefect server that was named is told of every run.
    """
    settings = Settings()
    told = bool(os.environ.get("PREFECT_API_URL"))
    here = spec.dataset == "sample" or known(spec.dataset, settings)
    return standing(Context.of(spec, settings, connect(settings))) if here and not told else None
