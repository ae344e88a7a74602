"""The straight line as plain functions of (spec, settings, executor, references): fit, stage, evaluate, gate, publish.

Each may be run again after any failure: what is done is found in the warehouse and in the table, and not done twice.
"""

from .fitting import fit, refit_reason
from .judging import evaluate, gate, report_on
from .opening import open_table
from .planning import outlook, plan, standing
from .publishing import GateRejected, publish
from .staging import stage

__all__ = [
    "GateRejected",
    "evaluate",
    "fit",
    "gate",
    "open_table",
    "outlook",
    "plan",
    "publish",
    "refit_reason",
    "report_on",
    "stage",
    "standing",
]
