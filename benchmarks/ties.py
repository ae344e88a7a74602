"""How much MAP depends on the order of tied rows: the table in docs/evaluation.md.

    HASHKILN_DATA=... python benchmarks/ties.py [--bits 8 16 24 32 48 64] [--seed 0] [--queries 10000]

MNIST by ITQ, fitted on the 60,000 training images, which are also the database; the test images are the queries.
Relevant are the images of the query's class, or its 50 nearest images by Euclidean distance. The table shows the worst,
expected and best MAP over all orders of the rows at each distance.
"""

import argparse

import measure
import numpy as np

from hashing.bits import pack
from hashing.evaluation import histograms, metrics
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch, Data
from hashing.methods.itq import ITQ
from hashing.neighbours.exact import NearestNeighbours
from infra.executors import InProcess
from infra.settings import Settings
from storage import datasets


def read(split: str) -> Batch:
    dataset = datasets.get("mnist")
    blocks = list(datasets.read_split(dataset, split, datasets.locate_or_fetch(dataset, Settings().data_folder)))
    ids, x = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("ids", "x"))
    labels = np.concatenate([block.labels for block in blocks])[:, 0]
    return Batch(ids, x.astype(np.float32), np.eye(10, dtype=np.uint8)[labels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 16, 24, 32, 48, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=10_000)
    options = parser.parse_args()
    base, queries = read("base"), read("query").take(slice(options.queries))
    data = Data([[base]], InProcess())
    truth, _ = data.reduce(NearestNeighbours(queries.x, queries.ids, 50))
    print(f"MNIST, ITQ with 50 iterations, seed {options.seed}, {len(base.ids):,} rows, {len(queries.ids):,} queries;")
    versions = measure.machine(("scipy", "numba"))["versions"]
    print(f"{', '.join(f'{name} {version}' for name, version in versions.items())}; MAP in %\n")
    names = ["worst", "expected", "best", "best - worst"]
    print("| bits | " + " | ".join([f"class: {names[0]}", *names[1:], f"50 nearest: {names[0]}", *names[1:]]) + " |")
    print("|" + "---|" * 9)
    for n_bits in options.bits:
        function = ITQ(n_bits, seed=options.seed).fit(data)
        codes, query_codes = (pack(function.encode(part.x)) for part in (base, queries))
        values = []
        for statistic in (
            histograms.HammingHistogram(query_codes, n_bits, pack_labels(queries.y), queries.ids),
            histograms.NeighbourHistogram(query_codes, n_bits, truth, queries.ids),
        ):
            h = Data([[base._replace(x=codes)]], InProcess()).reduce(statistic)
            worst, best = (100 * bound.mean() for bound in metrics.average_precision_bounds(h))
            values += [worst, 100 * metrics.average_precision(h).mean(), best, best - worst]
        print(f"| {n_bits} | " + " | ".join(f"{value:.2f}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    main()
