"""Where a version comes from, in words: data, method, model, software, machine and time."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from hashing.names import counted
from infra.settings import current_user
from storage.features.dataset import Dataset
from storage.tables.table import Version

from ..context import Context
from ..records import Staged
from ..reindex.source import environment, hardware
from ..spec import MethodSpec


def lineage(
    context: Context, staged: Staged, version: Version, shards: int, times: Mapping[str, float]
) -> dict[str, str]:
    """Return what a run was made from and on, by name; `times` are the seconds of its stages."""
    model = staged.model
    fitted = f"fitted in {model.seconds:,.1f} s" if model.seconds else "reused"
    code = environment()
    return {
        "dataset": _dataset(context.dataset),
        "source": f"{counted(staged.rows, 'row')} in {counted(shards, 'file')} under {context.dataset.splits['base']}",
        "this run": f"encoded {counted(staged.encoded, 'row')}{rate(staged)}, "
        f"removed {counted(staged.removed, 'part')}",
        "method": method_in_words(context.spec.method),
        "random seed": str(context.spec.method.seed),
        "model": f"{model.digest[:12]}, {fitted}" + (f": {model.reason}" if model.reason else ""),
        "base version": base(staged),
        "seconds per stage": ", ".join(f"{name} {seconds:,.1f}" for name, seconds in times.items()) or "not measured",
        "device": f"{version.properties.get('device', 'cpu')}, {context.spec.precision}",
        "host": f"{platform.node()}: {hardware()}; executor {context.settings.executor}",
        "software": ", ".join(f"{name} {number}" for name, number in code.items() if name != "machine"),
        "started by": current_user(),
        "branch": staged.branch,
        "source fingerprint": staged.source[:12],
    }


def method_in_words(method: MethodSpec) -> str:
    """Return the method, its length and all of its hyper-parameters; those that are not the defaults come first."""
    own = method.hyperparameters
    changed = [f"{name} = {own[name]}" for name in own if name in method.parameters]
    rest = [f"{name} = {own[name]}" for name in own if name not in method.parameters]
    set_here = f"; set for this table: {', '.join(changed)}" if changed else ""
    defaults = f"; {'others' if changed else 'hyper-parameters'}: {', '.join(rest)}" if rest else ""
    start = f"; pretrained parameters {method.pretrained[:12]}" if method.pretrained else ""
    return f"{method.method}, {method.bits} bits{set_here}{defaults}{start}"


def base(staged: Staged) -> str:
    """Return the version that was published when staging began."""
    return staged.base if staged.base != "v0" else "none"


def rate(staged: Staged) -> str:
    """Return the time and the rate of encoding, with a space before them; empty if nothing was encoded."""
    seconds = staged.encode_seconds
    return f" in {seconds:,.1f} s ({staged.encoded / seconds:,.0f} rows/s)" if staged.encoded and seconds else ""


def _dataset(dataset: Dataset) -> str:
    kind = f"vectors of {dataset.dim:,} dimensions" if dataset.kind == "vector" else f"{dataset.kind}s"
    return f"{dataset.name}: {kind}, metric {dataset.metric}; splits {', '.join(dataset.splits)}; {dataset.source}"
