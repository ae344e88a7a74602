"""The ablation of DHN (AAAI 2016, table 2) on Fashion-MNIST: DHN, DHN-B, DHN-Q and DHN-E over seeds, as markdown.

HASHKILN_DATA=… python benchmarks/ablation.py > benchmarks/results/dhn-ablation.md

Map over the full ranking of the 60,000 training pictures, ties counted as an expectation, of the first 2,000 test
pictures, by class. DHN-B ranks by the real-valued outputs of the very networks of DHN.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hashing.bits import pack
from hashing.evaluation.histograms import HammingHistogram
from hashing.evaluation.metrics import average_precision
from hashing.functions import HashFunction
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Array, Batch, Data
from hashing.methods.dhn import DHN
from infra.executors import connect
from infra.settings import Settings
from workflows.datasets import ingest, labels_of
from workflows.spec import Spec

VARIANTS = {"DHN": {}, "DHN-Q": {"quantization": 0.0}, "DHN-E": {"squared": True}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--queries", type=int, default=2000)
    options = parser.parse_args()
    settings = Settings()
    executor = connect(settings)
    dataset = ingest(Spec(dataset="fashion-mnist"), settings)
    vocabulary = labels_of(dataset, executor)
    base = dataset.shards("base", vocabulary)
    rows = joined(base)
    queries = joined(dataset.shards("query", vocabulary)).take(slice(0, options.queries))
    first = DHN(n_bits=options.bits, network="cnn", epochs=options.epochs)
    found: dict[str, list[float]] = {name: [] for name in ("DHN", "DHN-B", "DHN-Q", "DHN-E")}
    for seed in range(options.seeds):
        for name, changes in VARIANTS.items():
            method = replace(first, seed=seed, **changes)
            function = kept(settings, method, Data(base, executor))
            found[name].append(by_bits(function, rows, queries))
            if name == "DHN":
                found["DHN-B"].append(by_values(function, rows, queries))
            print(f"seed {seed}: {name} {found[name][-1]:.4f}", file=sys.stderr, flush=True)
    print(table(found, first, len(queries.ids)))


def joined(shards: Any) -> Batch:
    batches = [batch for shard in shards for batch in shard]
    return Batch(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def kept(settings: Settings, method: DHN, data: Data) -> HashFunction:
    """The function of a method, fitted once for each warehouse: a run that was cut off goes on."""
    from storage import models
    from workflows.spec import digest

    key = digest("ablation", repr(method), version("torch"))
    if not (name := models.recall(settings.warehouse_url, key)):
        name = models.save_model(settings.warehouse_url, method.fit(data))
        models.remember(settings.warehouse_url, key, name)
    return models.load_model(settings.warehouse_url, name)


def by_bits(function: HashFunction, rows: Batch, queries: Batch) -> float:
    """Mean average precision of Hamming ranking."""
    codes = pack(function.encode(queries.x))
    statistic = HammingHistogram(codes, function.n_bits, pack_labels(queries.y), queries.ids)
    state = statistic.update(statistic.zero(), rows._replace(x=pack(function.encode(rows.x))))
    return float(average_precision(statistic.finish(state)).mean())


def by_values(function: HashFunction, rows: Batch, queries: Batch) -> float:
    """Mean average precision of ranking by z'z, z = tanh(u): no binarization."""
    z, asked = np.tanh(function.project(rows.x)), np.tanh(function.project(queries.x))
    classes, wanted = rows.y.argmax(1), queries.y.argmax(1)
    return float(np.mean([precision(z @ asked[i], classes == wanted[i]) for i in range(len(asked))]))


def precision(scores: Array, relevant: Array) -> float:
    hits = relevant[np.argsort(-scores, kind="stable")]
    ranks = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean()) if len(ranks) else 0.0


def table(found: dict[str, list[float]], method: DHN, n_queries: int) -> str:
    means = {name: (np.mean(values), np.std(values, ddof=1)) for name, values in found.items()}
    lines = [
        "# The ablation of DHN on Fashion-MNIST",
        "",
        "Made by `python benchmarks/ablation.py`; edit nothing here.",
        "",
    ]
    lines += ["| variant | map, mean | deviation | seeds |", "|---|---|---|---|"]
    lines += [f"| {n} | {m:.4f} | {d:.4f} | {', '.join(f'{v:.4f}' for v in found[n])} |" for n, (m, d) in means.items()]
    dhn = means["DHN"][0]
    claims = {
        "DHN-B, real values, is above DHN": means["DHN-B"][0] > dhn,
        "DHN is above DHN-Q, without quantization": dhn > means["DHN-Q"][0],
        "DHN is above DHN-E, with squared loss": dhn > means["DHN-E"][0],
    }
    lines += ["", "The paper's order (on NUS-WIDE, CIFAR-10 and Flickr):", ""]
    for claim, holds in claims.items():
        other = next(name for name in ("DHN-B", "DHN-Q", "DHN-E") if name in claim)
        apart = abs(means[other][0] - dhn) > max(means[other][1], means["DHN"][1])
        said = ("reproduced" if holds else "not reproduced") + ("" if apart else ", inside the deviation over seeds")
        lines.append(f"- {claim}: {said}.")
    versions = {"machine": platform.machine(), **{name: version(name) for name in ("hashkiln", "numpy", "torch")}}
    lines += ["", f"{n_queries:,} queries. {method!r}. {json.dumps(versions)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(Settings().home).mkdir(parents=True, exist_ok=True)
    main()
