"""How many of the 10 nearest rows do codes of one bit or more a dimension find, and is it what was measured before?

    HASHKILN_DATA=… python benchmarks/quantizers.py [--json FILE]

Raw pixels of Fashion-MNIST (60,000 x 784, 500 test queries, Euclidean) and definitions of WordNet by all-MiniLM-L6-v2
(20,000 x 384, 500 other definitions as queries, cosine), as embeddings.py makes them. Candidates are 1, 3 and 10 times
as many as neighbours. `BEFORE` is what programs written for this purpose in numpy found, from the same formulas and the
same pixels, but from other definitions and another rotation; Lucene reports 0.443, 0.629 and 0.730 (after 2 and 3 times
as many) for one bit of OSQ on these pixels, by a graph.

tests/hashing/quantizers/test_recall.py checks the pixels, within TOLERANCE. No result of the texts is stored yet.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import hashkiln
from hashing.evaluation.by_score import NearestByScore
from hashing.mapreduce import Array, Batch, Data, Metric
from hashing.neighbours.candidates import AsymmetricTopK
from hashing.neighbours.exact import NearestNeighbours
from hashing.quantizers.contract import Quantizer
from infra.executors import InProcess
from infra.settings import Settings
from workflows.datasets import ingest
from workflows.ingested import dataset_of
from workflows.spec import Spec

K, QUERIES, ROWS = 10, 500, 20_000
FACTORS = (1, 3, 10)
TOLERANCE = 0.015  # of the pixels: seeds and rotations differ
RESULT = Path(__file__).parent / "results" / "embeddings" / "quantizers.json"


class Scheme(NamedTuple):
    """A method of d times `bits` bits, and how rows are ranked."""

    method: str
    bits: float  # a dimension
    real: bool = False  # queries are real-valued: not binary or, for an estimator, not rounded to 4 bits
    centred: bool = True

    def __str__(self) -> str:
        options = ", real queries" if self.real else "" if self.centred else ", not centred"
        return f"{self.method}, {self.bits:g} bit{'s' if self.bits > 1 else ''}{options}"


BEFORE: dict[Scheme, dict[str, tuple[float, float, float]]] = {
    Scheme("sign", 1, centred=False): {"texts": (0.594, 0.852, 0.974)},  # refused for pixels, which are never negative
    Scheme("sign", 1): {"pixels": (0.396, 0.652, 0.849), "texts": (0.592, 0.860, 0.975)},
    Scheme("pca_rr", 1): {"pixels": (0.550, 0.838, 0.964), "texts": (0.601, 0.872, 0.980)},
    Scheme("pca_rr", 1, True): {"pixels": (0.607, 0.892, 0.980), "texts": (0.724, 0.968, 0.998)},
    Scheme("rabitq", 1): {"pixels": (0.701, 0.962, 0.998), "texts": (0.725, 0.966, 0.999)},
    Scheme("rabitq", 1, True): {"pixels": (0.718, 0.969, 0.999), "texts": (0.733, 0.971, 0.999)},
    Scheme("osq", 1): {"pixels": (0.444, 0.744, 0.930), "texts": (0.725, 0.961, 0.999)},
    Scheme("osq", 2): {"pixels": (0.704, 0.946, 0.991), "texts": (0.834, 0.996, 1.000)},
    Scheme("qdrant", 1.5): {"pixels": (0.430, 0.686, 0.877), "texts": (0.609, 0.867, 0.978)},
    Scheme("qdrant", 2): {"pixels": (0.486, 0.740, 0.903), "texts": (0.680, 0.935, 0.995)},
    Scheme("turboquant", 1, True): {"pixels": (0.718, 0.969, 0.999), "texts": (0.733, 0.971, 0.999)},
    Scheme("turboquant", 2, True): {"pixels": (0.846, 0.998, 1.000), "texts": (0.862, 0.999, 1.000)},
    Scheme("turboquant", 4, True): {"pixels": (0.949, 1.000, 1.000), "texts": (0.953, 1.000, 1.000)},
}  # turboquant: its estimates divided by those of a row by itself, as ours are


class Vectors(NamedTuple):
    """Rows and queries, their metric, and the nearest rows of each query."""

    base: Array  # (n, d)
    queries: Array  # (q, d)
    metric: Metric
    truth: Array  # (q, K) int64


def vectors(base: Array, queries: Array, metric: Metric) -> Vectors:
    nearest = NearestNeighbours(queries, np.full(len(queries), -1), K, metric)
    return Vectors(base, queries, metric, data_of(base).reduce(nearest)[0])


def data_of(x: Array) -> Data:
    return Data([[Batch(np.arange(len(x)), x)]], InProcess())


def recalls(scheme: Scheme, found: Vectors) -> tuple[float, ...]:
    """Return the recall of the K nearest rows among the first K, 3 K and 10 K rows."""
    base, queries, metric, truth = found
    parameters = {} if scheme.centred else {"centred": False}
    bits = int(scheme.bits * base.shape[1])
    hasher = hashkiln.fit(base, method=scheme.method, bits=bits, metric=metric, **parameters)
    function, most = hasher.function, K * max(FACTORS)
    if isinstance(function, Quantizer):
        nearest = NearestByScore(function.estimator(queries, metric, scheme.real), len(queries), most)
        rows = data_of(function.encode_rows(base)).reduce(nearest)[1]
    elif scheme.real:
        rows = data_of(hasher.encode(base)).reduce(AsymmetricTopK(hasher.project(queries), most))[1]
    else:
        rows = hashkiln.search(hasher.encode(base), hasher.encode(queries), most)[1]
    pairs = list(zip(truth, rows, strict=True))
    return tuple(float(np.mean([np.isin(near, some[: f * K]).mean() for near, some in pairs])) for f in FACTORS)


def measured(found: dict[str, Vectors]) -> Iterator[dict[str, Any]]:
    for scheme, by_rows in BEFORE.items():
        for name, before in by_rows.items():
            yield {"scheme": str(scheme), "rows": name, "recall_at_10": recalls(scheme, found[name]), "before": before}


def main() -> None:
    import embeddings  # in the folder of the script, and not needed where tests import this module
    import measure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    settings = Settings()
    pixels = ingest(Spec(dataset="fashion-mnist"), settings)
    texts = dataset_of(Spec(dataset=embeddings.words(settings.home / "encoders")), settings)
    x = embeddings.split_of(texts, "base").x
    base, queries = (embeddings.split_of(pixels, split).x for split in ("base", "query"))
    found = {
        "pixels": vectors(base, queries[:QUERIES], "euclidean"),
        "texts": vectors(x[:ROWS], x[ROWS : ROWS + QUERIES], "cosine"),
    }
    rows = []
    for row in measured(found):
        rows.append(row)
        print(json.dumps(row), flush=True)
    options.json.write_text(json.dumps({**measure.machine(("faiss-cpu", "torch")), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
