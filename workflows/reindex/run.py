"""Run the flow `reindex` in this process, with embedded Prefect unless a server is configured."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from infra.executors import Progress, connect, silent
from infra.settings import Settings

from ..checks import check_run, dataset_name
from ..context import Context
from ..embed import is_current
from ..embedded import forget_unsent, prefect_home
from ..indexing import store_missing
from ..ingested import is_available
from ..records import RunOutcome
from ..spec import Spec, valid
from .pipeline import exported
from .publishing import GateRejected
from .unchanged import outcome_if_unchanged

logger = logging.getLogger(__name__)


def reindex(dataset: str, *, method: str = "itq", bits: int = 32, seed: int = 0, **options: Any) -> RunOutcome:
    """Encode new and changed rows of a dataset, and publish the new version if the gate passes.

    This does what `hashkiln reindex` does: it runs a Prefect flow whose tasks run on Ray.

    Parameters
    ----------
    dataset : str
        A named dataset, or the name of an ingested one.
    method : str, default "itq"
        A method listed by `hashkiln methods`.
    bits : int, default 32
        Code length in bits.
    seed : int, default 0
        Random seed.
    **options
        Fields of `workflows.spec.Spec`: source, code, refit, max_drift, bad_rows, index, precision, exports, protocol
        and gate, the last three as dicts such as `gate={"floors": {"map": 0.25}}` or `exports={"npy": "out"}`. Others
        are hyper-parameters of the method, as in `fit`.

    Returns
    -------
    RunOutcome
        The table, its published version, whether nothing had changed, and the location of the report. If nothing had
        changed, `verdict` says whether the published version satisfies the rules of the gate.

    Raises
    ------
    ValueError
        If an option is unknown, or its value out of range.
    LookupError
        If there is no dataset of that name.
    GateRejected
        If the gate refuses the new version. The published version does not change.

    Examples
    --------
    >>> import hashkiln
    >>> outcome = hashkiln.reindex("sample", method="lsh", bits=8)
    >>> outcome.table, outcome.version, outcome.rows
    ('sample__lsh8', 'v1', 40000)
    """
    fields = {name: options.pop(name) for name in options.keys() & Spec.model_fields.keys()}
    chosen = {"method": method, "bits": bits, "seed": seed, "parameters": options}
    spec = valid(Spec, dataset=dataset_name(dataset, Settings()), method=chosen, **fields)
    check_run(spec, Settings())
    return run(spec)


def run(spec: Spec, progress: Progress = silent) -> RunOutcome:
    """Run the flow. If the published version is up to date, only check the rules of the gate."""
    if outcome := nothing_to_do(spec):
        return exported(outcome, spec) if outcome.verdict.passed else outcome
    progress("start Prefect", 0, 0)
    logger.info("starting Prefect; an embedded server takes about ten seconds")
    prefect_home()
    from . import flow

    ended = flow.begin(progress)
    try:
        return _recorded(lambda: flow.reindex(spec), ended)
    except GateRejected as rejected:
        if not rejected.outcome:
            raise
        return rejected.outcome


def _recorded(run: Callable[[], RunOutcome], ended: Future[RunOutcome]) -> RunOutcome:
    """Return the result of a run, even if the Prefect server went away for good before it recorded the end.

    Raises ConnectionError if the server went away before the run began.
    """
    from httpx import HTTPError
    from prefect.settings import temporary_settings

    try:
        with temporary_settings():  # the flow changes them if the server does not answer
            return run()
    except HTTPError as error:
        if ended.done() and ended.exception() is error:  # not of the server
            raise
        forget_unsent()
        server = os.environ.get("PREFECT_API_URL", "of this process")
        if not ended.done():
            raise ConnectionError(f"the Prefect server {server} failed before the run began: {error}") from error
        logger.warning("the Prefect server %s does not answer, and does not show how this run ended: %s", server, error)
    return ended.result()


def nothing_to_do(spec: Spec) -> RunOutcome | None:
    """Return the outcome of a run if the published version is up to date, else None.

    This saves the ten seconds that an embedded Prefect server takes to start. With a Prefect server of the user's, the
    result is None, because that server records every run.
    """
    settings = Settings()
    if os.environ.get("PREFECT_API_URL") or not is_available(spec.dataset, settings):
        return None
    context = Context.of(spec, settings, connect(settings))
    if not is_current(context.dataset, settings):
        return None
    outcome = outcome_if_unchanged(context)
    if outcome and spec.index:
        store_missing(context, outcome.version)
    return outcome
