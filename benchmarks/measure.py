"""Shared parts of the benchmarks: calls timed in turns, rates of the machine, and results as a table and a file.

A benchmark yields rows, and `run` prints them as a table. With --json FILE it also writes them, with the commit, the
machine and its load: benchmarks/run.py does so for all, and docs/performance.py makes a page of the files.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numpy as np
import threadpoolctl

ROOT = Path(__file__).parent.parent
QUIET = 0.1  # share of the cores that other programs may use
HEAD = "| | Hashkiln | peer | ratio | limit |\n|---|---|---|---|---|"


@dataclass
class Row:
    """A measured case. `ratio` is how many times faster Hashkiln is than the peer; ranges are those of all repeats."""

    case: str
    unit: str
    ours: float
    spread: tuple[float, float]
    peer: float | None = None
    ratio: float | None = None
    ratios: tuple[float, float] | None = None
    limit: float | None = None
    note: str = ""


@dataclass
class Point:
    """A point of a plot of `y` (with its unit) by `x`, both on logarithmic axes."""

    x_name: str
    y_name: str
    series: str
    x: float
    y: float


def in_turns(
    ways: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.thread_time
) -> dict[str, list[float]]:
    """Return the seconds of every call. The calls alternate, so that other load affects all; the first round warms up.

    Thread time hardly depends on other load. It is that of one core if all libraries use one thread.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds


def row(
    case: str, seconds: Mapping[str, Sequence[float]], unit: str, amount: float = 1, limit: float | None = None,
    note: str = "",
) -> Row:  # fmt: skip
    """Return a row from seconds: of "ours" and, if measured, of the "peer" and of the "limit".

    With a unit per second, such as Mrow/s, `amount` is the work of a call in this unit; otherwise the number of units
    in a second. `limit` is given in the unit if it was not measured.
    """

    def value(elapsed: float) -> float:
        return amount / elapsed if unit.endswith("/s") else amount * elapsed

    ours = seconds["ours"]
    found = Row(case, unit, value(statistics.median(ours)), _range(map(value, ours)), limit=limit, note=note)
    if "limit" in seconds:
        found.limit = value(statistics.median(seconds["limit"]))
    if "peer" in seconds:
        ratios = [theirs / mine for mine, theirs in zip(ours, seconds["peer"], strict=True)]
        found.peer, found.ratio = value(statistics.median(seconds["peer"])), statistics.median(ratios)
        found.ratios = _range(ratios)
    return found


def _range(values: Iterable[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[0], ordered[-1]


def line(row: Row) -> str:
    """Return a row of the table whose head is HEAD."""
    unit = row.unit
    low, high = map(number, row.spread)
    ours = f"{number(row.ours)} {unit}" + (f" ({low} to {high})" if low != high else "")
    peer = "" if row.peer is None else f"{number(row.peer)} {unit}"
    ratio, limit = "", ""
    if row.ratio is not None and row.ratios:
        ratio = "{} ({} to {})".format(*map(number, (row.ratio, *row.ratios)))
    if row.limit:
        share = row.ours / row.limit if unit.endswith("/s") else row.limit / row.ours
        limit = f"{number(row.limit)} {unit}: reaches {share:.0%}"
    case = f"{row.case}; {row.note}" if row.note else row.case
    return f"| {case} | {ours} | {peer} | {ratio} | {limit} |"


def number(value: float) -> str:
    """Return a number with three digits, or whole if it is larger.

    >>> number(0.01234), number(1.5), number(12345.6)
    ('0.0123', '1.50', '12,346')
    """
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}"


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--full", action="store_true", help="measure the cases that take minutes, too")
    made.add_argument("--json", type=Path, help="file to write the results to")
    return made


def run(
    doc: str,
    options: argparse.Namespace,
    measured: Iterable[Row | Point],
    *,
    peer: str = "",
    limit: str = "",
    packages: Sequence[str] = (),
    remarks: str = "",
) -> None:
    """Print what a benchmark yields, and write it to the file of --json.

    Parameters
    ----------
    doc
        Docstring of the benchmark; its first line is the question.
    peer, limit
        What the columns of that name show.
    packages
        Those whose version matters, besides hashkiln and numpy.
    remarks
        What explains the results, in Markdown.
    """
    before, start = load(), time.monotonic()
    found = machine(packages)
    print(f"{doc.splitlines()[0]}\nPeer: {peer or 'none'}. Limit: {limit or 'none'}.\n{found}\n\n{HEAD}", flush=True)
    rows: list[Row] = []
    points: list[Point] = []
    for each in measured:
        if isinstance(each, Row):
            rows.append(each)
            print(line(each), flush=True)
        else:
            points.append(each)
            print(f"{each.series}: {each.y:.4g} {each.y_name} at {each.x:,.10g} {each.x_name}", flush=True)
    print(remarks)
    if options.json:
        known = {name: value for name, value in vars(options).items() if name not in ("json", "full", "folder")}
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in known.items()}
        result = {
            "question": doc.splitlines()[0], "peer": peer, "limit": limit, "full": options.full, "settings": settings,
            **found, "threads": threads(), "before": before, "after": load(),
            "seconds": round(time.monotonic() - start, 1), "remarks": remarks.strip(),
            "rows": [short(asdict(each)) for each in rows], "points": [short(asdict(each)) for each in points],
        }  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def short(values: dict[str, Any]) -> dict[str, Any]:
    """Return values without empty ones, floats with five digits."""
    some = {name: value for name, value in values.items() if value not in (None, "")}
    return json.loads(json.dumps(some), parse_float=lambda text: float(f"{float(text):.5g}"))


# --- the machine ------------------------------------------------------------------------------------------------------


def load() -> dict[str, float]:
    """Return the load average of the last minute, and the share of the cores that are busy in a second of waiting.

    The average includes the benchmark before this one, so the share decides whether the machine is quiet.
    """
    busy, total = _ticks()
    time.sleep(1)
    busy_after, total_after = _ticks()
    return {
        "average": round(os.getloadavg()[0], 2),
        "busy": round((busy_after - busy) / max(1, total_after - total), 3),
    }


def _ticks() -> tuple[int, int]:
    """Return the ticks that all cores were busy, and all ticks; zeros except on Linux."""
    file = Path("/proc/stat")
    if not file.exists():
        return 0, 0
    ticks = [int(word) for word in file.read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and waiting for disks


def quiet(result: Mapping[str, Any]) -> bool:
    """Return whether the machine was quiet before and after a result was measured."""
    return max(result[when]["busy"] for when in ("before", "after")) <= QUIET


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Return the commit, the date, the versions and the processor."""
    info = Path("/proc/cpuinfo")
    model = re.search("model name\\s*: (.*)", info.read_text()) if info.exists() else None
    return {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("hashkiln", "numpy", *packages)},
        "cpu": model[1] if model else platform.machine(),
        "cores": cores(),
    }


def commit() -> str:
    """Return the commit of the code, with + if files were changed since."""
    return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")


def cores() -> int:
    """Return the number of cores that the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(*command: str) -> str:
    found = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)  # noqa: S607  # git of the PATH
    return found.stdout.strip()


def threads() -> dict[str, int]:
    """Return the threads of each library that computes with threads."""
    return {pool["prefix"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}


def popcounts(n_bits: int) -> float | None:
    """Return the pairs per second of a core if nothing but population counts of 512 bits took time, one per cycle.

    None for a processor without that instruction.
    """
    info = Path("/proc/cpuinfo")
    return clock_rate() * 512 / n_bits if info.exists() and "avx512_vpopcntdq" in info.read_text() else None


@numba.njit
def _chain(n: int) -> int:
    value = np.uint64(n)
    for _ in range(n):
        value = value * np.uint64(6364136223846793005) ^ value >> np.uint64(1)  # nothing that a compiler can shorten
    return value


def clock_rate() -> float:
    """Return the cycles per second, from a chain of multiplications (3 cycles) and exclusive ors (1)."""
    n = 20_000_000
    return 4 * n / min(in_turns({"": lambda: _chain(n)}, 3)[""])


def read_rate() -> float:
    """Return the bytes per second that a core reads from memory, in a scalar product of 256 MiB."""
    x = np.ones(2**26, np.float32)
    with threadpoolctl.threadpool_limits(1):
        return x.nbytes / min(in_turns({"": lambda: x @ x}, 3)[""])
