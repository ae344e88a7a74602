"""Check the results of everything that runs on a GPU, then measure its speed beside what limits it.

    python benchmarks/gpu.py [--seconds 330] [--out PATH] [--only SECTION...] [--small]

Sections run in the order of SECTIONS. Each is reported as failed, and the rest still runs, if a result is wrong or it
raises; sections that no longer fit in the time are reported as skipped. The exit status is 1 if any section failed.
--small runs everything on the CPU with small inputs: the kernels by Triton's interpreter, the rest by torch. It checks
the script, and its rates mean nothing. Needs only hashing/ and infra/, numpy, scipy, numba and torch with Triton.

Rates are medians of repeated calls, timed by events on the device. Bounds come from the card's multiprocessors and
their highest clock, 16 population counts per clock and multiprocessor, and from the rate of a copy in its memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
SMALL = "--small" in sys.argv
if SMALL:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from hashing import bits  # noqa: E402  # needs the path above
from hashing.families import DeepHash  # noqa: E402  # needs the path above
from hashing.functions import HashFunction  # noqa: E402  # needs the path above
from hashing.hamming import layout, scan, tensors  # noqa: E402  # needs the path above
from hashing.mapreduce import Batch, Data  # noqa: E402  # needs the path above
from hashing.neighbours.exact import NearestNeighbours  # noqa: E402  # needs the path above

DEVICE = "cpu" if SMALL else "cuda"
POPCOUNTS = 16  # per clock and multiprocessor; compute capability 9.0
CLOCK = 1.98e9  # of an H100 or H200, where nvidia-smi does not say
FLOORS = {"histogram with labels": 100, "count_within": 300, "topk, k=100": 100}  # Gpair/s at 64 bits

Row = dict[str, Any]


class Wrong(Exception):
    """A result that differs from the reference."""


@dataclass
class Card:
    name: str
    driver: str
    multiprocessors: int
    clock: float  # Hz
    bandwidth: float  # bytes read and written per second

    def popcount_bound(self, n_bits: int) -> float:
        """Return pairs per second if nothing but population counts took time."""
        return self.multiprocessors * self.clock * POPCOUNTS / -(-n_bits // 32)


def kernels() -> Any:
    """Return the module that scan uses for CUDA tensors here."""
    if find_spec("triton"):
        from hashing.hamming import cuda

        return cuda
    return tensors


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call, after one that compiles and warms up."""
    run()
    if DEVICE == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)


def measured(run: Callable[[], object]) -> tuple[float, float]:
    """Return the median seconds of a call and the GB that it takes on the device."""
    if DEVICE == "cpu":
        return seconds(run), 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    elapsed = seconds(run)
    return elapsed, (torch.cuda.max_memory_allocated() - before) / 1e9


def card() -> Card:
    """Return what is known of the device, with the measured rate of a copy."""
    if DEVICE == "cpu":
        return Card("CPU", "", 1, 1e9, 1e10)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True).stdout.splitlines() if which("nvidia-smi") else []
    driver, clock = (found[0].split(", ") if found else ("unknown", str(CLOCK / 1e6)))[:2]
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    bandwidth = 2 * len(source) / seconds(lambda: target.copy_(source))
    properties = torch.cuda.get_device_properties(0)
    return Card(properties.name, driver, properties.multi_processor_count, float(clock) * 1e6, bandwidth)


def random_codes(n: int, n_bits: int, seed: int = 0) -> np.ndarray:
    return bits.pack(np.random.default_rng(seed).random((n, n_bits)) < 0.5)


def clustered_codes(n: int, n_bits: int, seed: int = 0) -> np.ndarray:
    """Return codes around few centres, with many ties and duplicates, like those of learnt functions."""
    rng = np.random.default_rng(seed)
    centres = rng.random((max(1, n // 50), n_bits)) < 0.5
    flips = rng.random((n, n_bits)) < rng.choice([0.0, 0.02, 0.1], (n, 1))
    return bits.pack(centres[rng.integers(0, len(centres), n)] ^ flips)


def some_labels(n: int, n_labels: int, seed: int = 1) -> np.ndarray:
    return layout.pack_labels(np.random.default_rng(seed).random((n, n_labels)) < 0.05)


def on_device(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE) for array in arrays]


def equal(what: str, actual: Any, expected: Any) -> None:
    """Raise Wrong unless both hold the same numbers."""
    pairs = zip(*((r if isinstance(r, tuple) else (r,)) for r in (actual, expected)), strict=True)
    for i, (one, other) in enumerate(pairs):
        one, other = (part.cpu().numpy() if isinstance(part, torch.Tensor) else part for part in (one, other))
        if one.shape != other.shape or not (one == other).all():
            differ = f"{(one != other).sum():,} of {other.size:,}" if one.shape == other.shape else f"shape {one.shape}"
            raise Wrong(f"{what}: result {i} differs from the CPU's in {differ} values")


def check_kernels(n_bits: int, n: int, n_queries: int, reference: Any, wide: bool = False) -> Row:
    """Compare the kernels with a reference on random and on clustered codes."""
    start = time.perf_counter()
    for codes in (random_codes(n, n_bits), clustered_codes(n, n_bits)):
        labels = some_labels(n, 70)
        arrays = codes[:n_queries].copy(), codes, labels[:n_queries].copy(), labels
        host = arrays if reference is scan else tuple(torch.from_numpy(array) for array in arrays)
        device = on_device(*arrays)

        def compare(name: str, *rest: Any, labelled: bool = False, host: Any = host, device: Any = device) -> None:
            def call(module: Any, q: Any, x: Any, q_labels: Any, x_labels: Any) -> Any:
                more = (n_bits, q_labels, x_labels) if labelled else ()
                return getattr(module, name)(q, x, *more, *rest)

            equal(f"{name} {n_bits} bits {rest}", call(kernels(), *device), call(reference, *host))

        compare("histogram", labelled=True)
        compare("topk", min(100, n // 2))
        if wide:
            continue
        compare("histogram", n_bits)
        compare("graded_histogram", 3, labelled=True)
        compare("count_within", n_bits // 3)
        compare("within", n_bits // 3)
        compare("topk", 1)
        compare("topk", n + 1 if n < 3000 else 1000)
        places = np.random.default_rng(2).integers(0, n_queries, 999), np.random.default_rng(3).integers(0, n, 999)
        rows = on_device(*places)
        expected = places if reference is scan else tuple(torch.from_numpy(part) for part in places)
        equal(
            f"pair_distances {n_bits} bits",
            kernels().pair_distances(*device[:2], *rows),
            reference.pair_distances(*host[:2], *expected),
        )
    name = "Numba" if reference is scan else "torch on the CPU"
    return {"what": f"kernels equal {name}, {n_bits} bits, {n_queries} x {n}", "value": time.perf_counter() - start,
            "unit": "s"}  # fmt: skip


def kernels_are_exact(card: Card) -> Iterator[Row]:
    """The kernels against matrix products of torch on the CPU, which the tests compare with the Numba kernels."""
    for n_bits in (64,) if SMALL else (64, 32, 20, 128, 256):
        yield check_kernels(n_bits, *((120, 2) if SMALL else (20_011, 67)), tensors)


def neighbours_are_exact(card: Card) -> Iterator[Row]:
    """Ids and distances, bit for bit, against the Numba kernels."""
    rng = np.random.default_rng(0)
    n, n_queries, k = (500, 20, 10) if SMALL else (40_000, 200, 100)
    for name, x in {
        "bytes": rng.integers(0, 256, (n, 128)).astype(np.float32),
        "grid": rng.integers(0, 3, (n, 8)).astype(np.float32),  # ties and duplicates
        "far": (rng.normal(size=(n, 100)) + 1e4).astype(np.float32),  # rounding hides most of the order
    }.items():
        found = [neighbours(x, n_queries, k, device) for device in (DEVICE, None)]
        equal(f"exact neighbours, {name}", *found)
        yield {"what": f"exact neighbours equal, {name}, {n_queries} x {n}, k={k}", "value": 1, "unit": ""}


def neighbours(x: np.ndarray, n_queries: int, k: int, device: str | None, batch: int = 1 << 18) -> Any:
    ids = np.arange(len(x))
    statistic = NearestNeighbours(x[:n_queries].astype(np.float32), ids[:n_queries], k, device=device)
    state = statistic.zero()
    for start in range(0, len(x), batch):
        state = statistic.update(state, Batch(ids[start : start + batch], x[start : start + batch]))
    return statistic.finish(state)


def hamming_rates(card: Card) -> Iterator[Row]:
    """Billions of pairs per second of random codes, with codes and results on the device."""
    module = kernels()
    for n_bits in (64, 128, 256, 1024):
        n, q = (300, 3) if SMALL else (1 << 23, 4096 if n_bits <= 256 else 1024)
        if SMALL and n_bits > 64:
            return
        generator = torch.Generator(DEVICE).manual_seed(0)
        codes = torch.randint(0, 256, (n, n_bits // 8), dtype=torch.uint8, device=DEVICE, generator=generator)
        queries = codes[torch.randperm(n, device=DEVICE)[:q]].contiguous()
        queries[:, 0] ^= 5
        labels = (1 << torch.randint(0, 10, (n, 1), device=DEVICE)).view(torch.uint64)
        query_labels = labels[:q].contiguous()
        radius = n_bits // 4
        cases = {
            "histogram": lambda q=queries, x=codes, b=n_bits: module.histogram(q, x, b),
            "histogram with labels": lambda q=queries, x=codes, b=n_bits, ql=query_labels, xl=labels: module.histogram(
                q, x, b, ql, xl
            ),
            "count_within": lambda q=queries, x=codes, r=radius: module.count_within(q, x, r),
            "within": lambda q=queries, x=codes, r=radius: module.within(q, x, r),
            "topk, k=100": lambda q=queries, x=codes: module.topk(q, x, 100),
            "topk, k=1": lambda q=queries, x=codes: module.topk(q, x, 1),
        }
        for what, run in cases.items():
            elapsed, memory = measured(run)
            bound = min(card.popcount_bound(n_bits), card.bandwidth * q / codes.shape[1])
            floor = FLOORS.get(what) if n_bits == 64 else None
            yield {"what": f"{what}, {n_bits} bits, {q:,} x {n:,}", "value": n * q / elapsed / 1e9, "unit": "Gpair/s",
                   "bound": bound / 1e9, "floor": floor, "memory_gb": memory}  # fmt: skip


def few_queries(card: Card) -> Iterator[Row]:
    """One query over many codes, which memory limits."""
    n = 500 if SMALL else 1 << 28
    codes = torch.randint(0, 256, (n, 8), dtype=torch.uint8, device=DEVICE)
    elapsed, memory = measured(lambda: kernels().count_within(codes[:1], codes, 10))
    yield {"what": f"count_within, 64 bits, 1 x {n:,}", "value": n / elapsed / 1e9, "unit": "Gpair/s",
           "bound": card.bandwidth / 8 / 1e9, "memory_gb": memory}  # fmt: skip


def matrix_products(card: Card) -> Iterator[Row]:
    """count_within by int8 products on the matrix units, and by the products of tensors.py, for comparison."""
    if find_spec("triton"):
        import int8_products

        for n_bits in (64,) if SMALL else (64, 128, 256):
            n, q = (300, 3) if SMALL else (1 << 22, 4096)
            codes = torch.randint(0, 256, (n, n_bits // 8), dtype=torch.uint8, device=DEVICE)
            signs = tensors.unpacked_bits(codes).to(torch.int8) * 2 - 1
            radius, queries = n_bits // 3, codes[:q].contiguous()
            expected = kernels().count_within(queries, codes, radius)
            equal("int8 products", int8_products.count_within(signs[:q], signs, radius), expected)
            elapsed, memory = measured(lambda x=signs, q=q, r=radius: int8_products.count_within(x[:q], x, r))
            yield {"what": f"count_within by int8 products, {n_bits} bits, {q:,} x {n:,}",
                   "value": n * q / elapsed / 1e9, "unit": "Gpair/s", "memory_gb": memory,
                   "note": "codes unpacked beforehand, to 8 times the memory"}  # fmt: skip
    n, q = (300, 3) if SMALL else (1 << 21, 1024)
    codes = torch.randint(0, 256, (n, 8), dtype=torch.uint8, device=DEVICE)
    elapsed, memory = measured(lambda: tensors.count_within(codes[:q], codes, 16))
    yield {"what": f"count_within by torch products, 64 bits, {q:,} x {n:,}", "value": n * q / elapsed / 1e9,
           "unit": "Gpair/s", "memory_gb": memory}  # fmt: skip


def neighbour_rate(card: Card) -> Iterator[Row]:
    """Exact neighbours of SIFT-like bytes, from memory of the host, beside one core on a part of the queries."""
    n, q, part, k = (2000, 40, 20, 10) if SMALL else (1_000_000, 10_000, 1024, 100)
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 160, (1000, 128))
    x = (centres[rng.integers(0, 1000, n)] + rng.integers(0, 60, (n, 128))).clip(0, 255).astype(np.float32)
    neighbours(x[: 2 * k], min(q, k), k, DEVICE)  # warms up
    start = time.perf_counter()
    found = neighbours(x, q, k, DEVICE)
    elapsed = time.perf_counter() - start
    start = time.thread_time()
    expected = neighbours(x, part, k, None)
    core = (time.thread_time() - start) * q / part
    equal("exact neighbours", tuple(result[:part] for result in found), expected)
    yield {"what": f"exact neighbours, {q:,} x {n:,} x 128, k={k}", "value": n * q / elapsed / 1e9, "unit": "Gpair/s"}
    yield {"what": "exact neighbours, times one core", "value": core / elapsed, "unit": "x", "floor": 20,
           "note": f"one core by {part} queries"}  # fmt: skip


def functions() -> Iterator[tuple[str, HashFunction, np.ndarray]]:
    """Yield name, function and rows of a linear, a kernel and a deep function."""
    from hashing.deep import networks
    from hashing.methods.itq import ITQ
    from hashing.methods.ksh import KSH
    from infra.executors import InProcess

    rng = np.random.default_rng(0)
    n, d = (400, 32) if SMALL else (400_000, 512)
    labels = rng.integers(0, 10, n)
    x = (rng.normal(size=(10, d))[labels] + rng.standard_normal((n, d), np.float32)).astype(np.float32)
    learn = Batch(np.arange(n), x, np.eye(10, dtype=np.uint8)[labels]).take(slice(0, 5000))
    data = Data([[learn]], InProcess())
    yield "ITQ", ITQ(16 if SMALL else 64, n_iter=3).fit(data), x
    yield "KSH", KSH(8 if SMALL else 64, n_anchors=40 if SMALL else 300, n_iter=1).fit(data), x
    side, network = (16, "cnn") if SMALL else (224, "resnet50")
    torch.manual_seed(0)
    built = networks.build(network, 3 * side * side, 64)
    parameters = tuple(value.float().numpy() for value in built.state_dict().values() if value.dim())
    pictures = rng.integers(0, 256, (20 if SMALL else 4096, 3 * side * side), dtype=np.uint8)
    yield f"{network} {side}", DeepHash(parameters, network, 3 * side * side, 64), pictures


def encoding(card: Card) -> Iterator[Row]:
    """Rows per second from memory of the host, and how far the values are from the CPU's."""
    for name, function, x in functions():
        some = x[: 32 if function.dim > 10_000 else 5000]
        u = function.project(some)
        for precision in ("float32", "bf16") if isinstance(function, DeepHash) else ("float32",):
            placed = function.to(DEVICE, precision)  # type: ignore[arg-type]  # a Literal
            found = placed.project(some)
            error, differ = np.abs(found - u).max() / np.abs(u).max(), ((found >= 0) != (u >= 0)).mean()
            if error > (1e-3 if precision == "float32" else 0.1):
                raise Wrong(f"{name} {precision}: u differs from the CPU's by {error:.1e} of the largest |u|")
            start = time.perf_counter()
            placed.encode(x)
            elapsed = time.perf_counter() - start
            note = f"u within {error:.1e} of the CPU's, relative to the largest; {differ:.1e} of the bits differ"
            yield {"what": f"encode, {name}, {precision}, {len(x):,} x {function.dim}", "value": len(x) / elapsed,
                   "unit": "rows/s", "note": note}  # fmt: skip


def training(card: Card) -> Iterator[Row]:
    """Our training loop beside a bare torch loop with all rows on the device; the bound is its rate."""
    from training import compare

    cases: dict[str, tuple[tuple[Any, ...], Row]] = {
        "mlp 512-d, batch 512": (("mlp", 512, 102_400, 512), {"epochs": 6}),
        "resnet50 224, batch 64": (("resnet50", 3 * 224**2, 2048, 64), {"epochs": 3}),
        "resnet50 224, batch 64, bf16": (("resnet50", 3 * 224**2, 2048, 64), {"epochs": 3, "precision": "bf16"}),
    }
    if SMALL:
        cases = {"mlp 32-d, batch 32": (("mlp", 32, 320, 32), {"epochs": 3})}
    for name, (case, settings) in cases.items():
        found = compare(*case, device=DEVICE, **settings)
        bare = found["bare_rows_per_second"]
        yield {"what": f"train, {name}", "value": found["rows_per_second"], "unit": "rows/s", "bound": bare,
               "floor": (0.9 if "resnet" in name else 0.95) * bare,
               "note": f"ratio by epoch {found['ratio']:.2f}; ours ends each epoch with a checkpoint"}  # fmt: skip


def other_widths_are_exact(card: Card) -> Iterator[Row]:
    """The Numba kernels as the reference, then the widths whose kernels take long to compile."""
    yield check_kernels(64, *((120, 2) if SMALL else (20_011, 67)), scan)
    for n_bits in () if SMALL else (1, 33, 96, 129, 512, 1000):
        yield check_kernels(n_bits, 5_003, 35, tensors)
    if not SMALL:
        yield check_kernels(4096, 1_003, 9, tensors, wide=True)


SECTIONS: dict[str, Callable[[Card], Iterator[Row]]] = {
    section.__name__: section
    for section in (
        kernels_are_exact, neighbours_are_exact, hamming_rates, few_queries, neighbour_rate, matrix_products, encoding,
        training, other_widths_are_exact,
    )
}  # fmt: skip


def run_section(name: str, card: Card, deadline: float) -> tuple[list[Row], str]:
    """Return the rows of a section, and its status: ok, or the error."""
    rows: list[Row] = []
    if time.monotonic() > deadline:
        return rows, "skipped: out of time"
    try:
        measure = SECTIONS[name]
        for row in measure(card):
            rows.append({"section": name, **row})
            print(line(rows[-1]), flush=True)
            if time.monotonic() > deadline:
                return rows, "cut short: out of time"
    except Wrong as error:
        return rows, f"failed: {error}"
    except Exception as error:  # of any kind: the other sections still run
        traceback.print_exc()
        return rows, f"failed: {type(error).__name__}: {error}"
    return rows, "ok"


def line(row: Row) -> str:
    """Return a row of the table."""
    bound, floor, memory = row.get("bound"), None if SMALL else row.get("floor"), row.get("memory_gb")
    share = f"{row['value'] / bound:.0%} of {bound:,.4g}" if bound else ""
    least = f"{floor:,.4g}{'' if row['value'] >= floor else ' MISSED'}" if floor else ""
    cells = [row["what"], f"{row['value']:,.4g} {row['unit']}", share, least, f"{memory:.2f} GB" if memory else "",
             row.get("note", "")]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def versions_here() -> dict[str, str]:
    found = {"python": sys.version.split()[0], "cuda": str(torch.version.cuda)}
    for package in ("torch", "triton", "numba", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def report(path: Path, head: dict[str, Any], rows: list[Row], ends: dict[str, str]) -> None:
    """Write FILE.json and FILE.md with the sections that have finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({**head, "sections": ends, "rows": rows}, indent=1) + "\n")
    said = ", ".join(f"{name} {value}" for name, value in head["versions"].items())
    text = [
        "# On a GPU", "",
        f"`benchmarks/gpu.py` on {head['card']['name']}, {head['date']}; driver {head['card']['driver']}, {said};",
        f"{head['card']['multiprocessors']} multiprocessors at up to {head['card']['clock'] / 1e6:.0f} MHz, copies at "
        f"{head['card']['bandwidth'] / 1e9:,.0f} GB/s.", "",
        "| | measured | of the bound | floor | memory beside the input | |", "|---|---|---|---|---|---|",
        *map(line, rows), "",
        "| section | |", "|---|---|", *(f"| {name} | {end} |" for name, end in ends.items()),
    ]  # fmt: skip
    path.with_suffix(".md").write_text("\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small inputs on the CPU, to check this script")
    parser.add_argument("--seconds", type=float, default=330, help="time budget")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu", help="of the .json and the .md"
    )
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    options = parser.parse_args()
    if not SMALL and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device: --small checks this script on the CPU")
    start = time.monotonic()
    found, rows, ends = card(), [], {}
    head = {"card": vars(found), "date": datetime.now(UTC).strftime("%Y-%m-%d"), "versions": versions_here()}
    print(f"{found}\n{head['versions']}", flush=True)
    for name in options.only:
        began = time.monotonic()
        more, end = run_section(name, found, start + options.seconds)
        rows += more
        ends[name] = f"{end} ({time.monotonic() - began:.0f} s)"
        print(f"--- {name}: {ends[name]}", flush=True)
        report(options.out, head, rows, ends)
    sys.exit(any("failed" in end for end in ends.values()))


if __name__ == "__main__":
    main()
