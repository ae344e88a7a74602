"""The catalogue of named datasets: source, size, checksum, licence and splits of each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ..formats import FIRST_IDS, lists

LEARN, QUERY = FIRST_IDS["learn"], FIRST_IDS["query"]


@dataclass(frozen=True)
class PublishedFile:
    """A file as published."""

    name: str  # X, X.gz, or a .tar.gz with the dataset's files as members
    urls: tuple[str, ...]  # mirrors, in the order to try them; empty for a file that cannot be downloaded
    size: int | None = None  # bytes
    checksum: str | None = None  # "md5:<hex>" or "sha256:<hex>"; None if none is published
    folder: str = ""  # folder in the archive that holds its members, if not the archive's name


@dataclass(frozen=True)
class Split:
    """Rows of a file, or of several."""

    file: str  # name when unpacked; for the sample, a folder of shards
    n: int  # number of rows; 0 for all rows of the file
    d: int | None = None  # dimension of vectors
    first_id: int = 0
    array: str = ""  # the array of an HDF5 file, or the column of a Parquet file
    labels: str = ""  # the file (idx) or the column (parquet) of the labels
    hash_part: str = ""  # base | query: only the rows that a keyed hash of their ids assigns to this split
    modality: str = ""  # tfidf | both | picture | text: compute these rows (multimodal.modality_rows), not `array`
    more_files: tuple[str, ...] = ()  # files that follow the first
    classes: tuple[int, ...] = ()  # number of classes for each label byte of a row (cifar)


@dataclass(frozen=True)
class NamedDataset:
    """A named dataset. Its splits are base, query, and learn if it has rows for training only."""

    name: str
    about: str
    licence: str
    kind: Literal["vector", "image", "text"]
    metric: Literal["euclidean", "cosine", "labels"]  # decides whether a base row is relevant to a query
    format: Literal["vecs", "idx", "hdf5", "parquet", "vectordbbench", "cifar", "lists"]
    splits: Mapping[str, Split]
    files: tuple[PublishedFile, ...] = ()  # empty for the sample, which is shipped
    groundtruth: str = ""  # the file with the nearest base rows of each query, if there is one
    folder: str = ""  # folder of its files below the data folder; by default the name
    classes: int = 0  # number of different labels; 0 without labels

    @property
    def picture(self) -> tuple[int, ...]:
        """The shape of the pictures whose pixels are the vectors; empty if vectors are no pictures."""
        return {"idx": (28, 28), "cifar": (32, 32, 3)}.get(self.format, ())

    def required(self) -> set[str]:
        """Return the unpacked names of the files that the splits are read from."""
        files = {file for split in self.splits.values() for file in (split.file, *split.more_files)}
        return files | {split.labels for split in self.splits.values() if self.format == "idx"}


def _texmex(
    name: str, folder: str, about: str, d: int, sizes: tuple[int, int, int], archive: PublishedFile
) -> NamedDataset:
    splits = _base_learn_query(f"{folder}_%s.fvecs", d, sizes)
    return NamedDataset(
        name, about, "CC0", "vector", "euclidean", "vecs", splits, (archive,), f"{folder}_groundtruth.ivecs"
    )


def _base_learn_query(file: str, d: int, sizes: tuple[int, int, int]) -> Mapping[str, Split]:
    first = {"base": 0, "learn": LEARN, "query": QUERY}
    return {name: Split(file % name, n, d, first[name]) for name, n in zip(first, sizes, strict=True)}


def _texmex_archive(name: str, size: int, md5: str) -> PublishedFile:
    # TEXMEX publishes sizes and MD5SUM next to the files, and serves them only by FTP.
    return PublishedFile(name, (f"ftp://ftp.irisa.fr/local/texmex/corpus/{name}",), size, f"md5:{md5}")


def _local(name: str, size: int, sha256: str) -> PublishedFile:
    return PublishedFile(name, (), size, f"sha256:{sha256}")


def _idx(
    name: str, about: str, licence: str, mirrors: tuple[str, ...], published: dict[str, tuple[int, str]]
) -> NamedDataset:
    splits = {
        split: Split(f"{part}-images-idx3-ubyte", n, 784, first, labels=f"{part}-labels-idx1-ubyte")
        for split, part, n, first in (("base", "train", 60_000, 0), ("query", "t10k", 10_000, QUERY))
    }
    files = tuple(
        PublishedFile(file, tuple(f"{url}/{file}" for url in mirrors), size, f"md5:{md5}")
        for file, (size, md5) in ((f"{stem}-ubyte.gz", entry) for stem, entry in published.items())
    )
    return NamedDataset(name, about, licence, "vector", "labels", "idx", splits, files, classes=10)


def _cifar(
    name: str, batches: tuple[str, ...], query: str, classes: tuple[int, ...], size: int, md5: str, folder: str
) -> NamedDataset:
    splits = {
        "base": Split(batches[0], 50_000, 3072, more_files=batches[1:], classes=classes),
        "query": Split(query, 10_000, 3072, QUERY, classes=classes),
    }
    archive = f"{name}-binary.tar.gz"
    file = PublishedFile(archive, (f"https://www.cs.toronto.edu/~kriz/{archive}",), size, f"md5:{md5}", folder)
    about = f"{name.upper()}: pictures of 32 x 32 in {classes[-1]} classes, as rows of pixels"
    licence = "of its author, A. Krizhevsky"
    return NamedDataset(name, about, licence, "vector", "labels", "cifar", splits, (file,), classes=classes[-1])


def _lists(name: str, about: str, classes: int) -> NamedDataset:
    splits = {split: Split(file, 0) for split, file in lists.FILES.items()}
    files = tuple(PublishedFile(file, ()) for file in lists.FILES.values())
    about += "; local only: HashNet's lists train.txt, test.txt and database.txt, and the pictures, in the same folder"
    return NamedDataset(name, about, "of the pictures", "image", "labels", "lists", splits, files, classes=classes)


def _ann_benchmarks(
    name: str, n: int, d: int, queries: int, metric: Literal["euclidean", "cosine"], size: int | None = None
) -> NamedDataset:
    file = f"{name}.hdf5"
    splits = {"base": Split(file, n, d, array="train"), "query": Split(file, queries, d, QUERY, array="test")}
    about = f"{name} of ann-benchmarks, with 100 neighbours"
    files = (PublishedFile(file, (f"https://ann-benchmarks.com/{file}",), size),)
    return NamedDataset(name, about, "of the original data", "vector", metric, "hdf5", splits, files, groundtruth=file)


def _vectordbbench(
    name: str,
    about: str,
    d: int,
    n: int,
    metric: Literal["euclidean", "cosine"] = "cosine",
    parts: int = 1,
    sha256: Mapping[str, str] | None = None,
) -> NamedDataset:
    """Return a set of VectorDBBench: base, 1,000 queries, and the 100 to 1,000 nearest base rows of each."""
    train = ["train.parquet"] if parts == 1 else [f"train-{part:02}-of-{parts}.parquet" for part in range(parts)]
    splits = {
        "base": Split(train[0], n, d, array="emb", more_files=tuple(train[1:])),
        "query": Split("test.parquet", 1_000, d, QUERY, array="emb"),
    }
    url = f"https://assets.zilliz.com/benchmark/{name.replace('-', '_')}"
    files = tuple(
        PublishedFile(file, (f"{url}/{file}",), checksum=f"sha256:{known}" if known else None)
        for file, known in ((file, (sha256 or {}).get(file)) for file in (*train, "test.parquet", "neighbors.parquet"))
    )
    about += ", as VectorDBBench publishes them"
    licence = "of the original data"
    return NamedDataset(name, about, licence, "vector", metric, "vectordbbench", splits, files, "neighbors.parquet")


def _cross(base: str, query: str) -> Mapping[str, Split]:
    """Return the splits of openclipart for cross-modal retrieval: base and query have one modality, learn has both."""
    sizes = {"learn": (4_293, "base", "both"), "base": (4_293, "base", base), "query": (447, "query", query)}
    return {
        split: Split("openclipart.parquet", n, 4096, {"learn": LEARN}.get(split, 0), "image", "labels", part, modality)
        for split, (n, part, modality) in sizes.items()
    }


def _hashed(file: str, queries: int, n: int, column: str, labels: str) -> Mapping[str, Split]:
    sizes = {"base": n - queries, "query": queries}
    return {part: Split(file, size, array=column, labels=labels, hash_part=part) for part, size in sizes.items()}


_ALL = (
    NamedDataset(
        "sample",
        "SIFT descriptors of photographs, a sample of photosift; shipped",
        "of the pictures, see ATTRIBUTION.md in storage/sample",
        "vector",
        "euclidean",
        "parquet",
        {
            "base": Split("base", 40_000, 128, array="vector"),
            "learn": Split("learn", 5_000, 128, LEARN, array="vector"),
            "query": Split("query", 500, 128, QUERY, array="vector"),
        },
        groundtruth="groundtruth.parquet",
    ),
    _texmex(
        "sift1m",
        "sift",
        "ANN_SIFT1M of TEXMEX: SIFT descriptors of INRIA Holidays and Flickr pictures",
        128,
        (1_000_000, 100_000, 10_000),
        _texmex_archive("sift.tar.gz", 168_280_445, "b23d1b3b2ee8469d819b61ca900ef0ed"),
    ),
    _texmex(
        "siftsmall",
        "siftsmall",
        "ANN_SIFT10K of TEXMEX: SIFT descriptors, a small set in the form of SIFT1M",
        128,
        (10_000, 25_000, 100),
        _texmex_archive("siftsmall.tar.gz", 5_305_734, "0b8324a7a82d7f2663d7dcbd57642df7"),
    ),
    _texmex(
        "gist1m",
        "gist",
        "ANN_GIST1M of TEXMEX: GIST descriptors of whole pictures",
        960,
        (1_000_000, 500_000, 1_000),
        _texmex_archive("gist.tar.gz", 2_740_172_684, "31185e0f00854f74d27e8ad8d52628a9"),
    ),
    _idx(
        "mnist",
        "MNIST: handwritten digits, 28 x 28 raw pixels",
        "of its authors, LeCun, Cortes and Burges",
        ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
        {
            "train-images-idx3": (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            "train-labels-idx1": (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            "t10k-images-idx3": (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            "t10k-labels-idx1": (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        },
    ),
    _idx(
        "fashion-mnist",
        "Fashion-MNIST: Zalando's articles, 28 x 28 raw pixels",
        "MIT",
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        {
            "train-images-idx3": (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            "train-labels-idx1": (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            "t10k-images-idx3": (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            "t10k-labels-idx1": (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        },
    ),
    _cifar(
        "cifar-10",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        (10,),
        170_052_171,
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
    ),
    _cifar(
        "cifar-100",
        ("train.bin",),
        "test.bin",
        (20, 100),
        168_513_733,
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
    ),
    _lists("nus-wide", "NUS-WIDE: pictures of the 21 most frequent of its 81 concepts", 21),
    _lists("flickr25k", "MIRFlickr-25k: pictures with 38 concepts", 38),
    _lists("coco", "MS COCO: pictures with 80 kinds of objects", 80),
    _ann_benchmarks("sift-128-euclidean", 1_000_000, 128, 10_000, "euclidean", 525_128_288),
    _ann_benchmarks("gist-960-euclidean", 1_000_000, 960, 1_000, "euclidean", 3_844_648_288),
    _ann_benchmarks("mnist-784-euclidean", 60_000, 784, 10_000, "euclidean"),
    _ann_benchmarks("fashion-mnist-784-euclidean", 60_000, 784, 10_000, "euclidean"),
    *(_ann_benchmarks(f"glove-{d}-angular", 1_183_514, d, 10_000, "cosine") for d in (25, 50, 100, 200)),
    _ann_benchmarks("nytimes-256-angular", 290_000, 256, 10_000, "cosine"),
    _ann_benchmarks("deep-image-96-angular", 9_990_000, 96, 10_000, "cosine"),
    # Zilliz publishes no checksums. These are pinned by RavenDB's benchmark (RavenBench.Dataset.Vectors).
    _vectordbbench(
        "cohere-small-100k",
        "Wikipedia texts embedded by Cohere",
        768,
        100_000,
        sha256={
            "train.parquet": "a8719014d8e86bbfb64f53a21287aecf10d048d7de28c7bebb1d0559b9181b42",
            "test.parquet": "252a25003060713a268cd2bf5c5f8fab6159f13772924859487907bef64f1391",
            "neighbors.parquet": "ee07cdb43a7919bc1ad0525b3bf646036b43be5b7a0aee3ddcef06c21a42594a",
        },
    ),
    _vectordbbench(
        "cohere-medium-1m",
        "Wikipedia texts embedded by Cohere",
        768,
        1_000_000,
        sha256={
            "train.parquet": "de6b84eb08fc5203a56eef619970a14f5cae08d0a0ae0bcd23b8058d7045f381",
            "test.parquet": "a2ec76c907da22e5533ce31c1105e4fd4d3c4597915a7771d5e41897a95ecbed",
            "neighbors.parquet": "30e7467766be3e2a6b167df16388a4a35e38fa6cc9e593fb659cce81ffde0940",
        },
    ),
    _vectordbbench("cohere-large-10m", "Wikipedia texts embedded by Cohere", 768, 10_000_000, parts=10),
    _vectordbbench("openai-small-50k", "texts embedded by OpenAI's ada-002", 1536, 50_000),
    _vectordbbench("openai-medium-500k", "texts embedded by OpenAI's ada-002", 1536, 500_000),
    _vectordbbench("openai-large-5m", "texts embedded by OpenAI's ada-002", 1536, 5_000_000, parts=10),
    _vectordbbench("laion-large-100m", "pictures of LAION embedded by CLIP", 768, 100_000_000, "euclidean", parts=100),
    replace(
        _ann_benchmarks("dbpedia-openai-1000k-angular", 990_000, 1536, 10_000, "cosine"),
        about="a million DBpedia entities embedded by OpenAI's ada-002, of ann-benchmarks, with 100 neighbours",
    ),
    NamedDataset(
        "photosift",
        "SIFT descriptors of 850 pictures of Debian packages, in SIFT1M's form and size; local only",
        "of the pictures: BSD, Apache, CC-BY, CC-BY-SA, CC0 and gimp-help-en's own",
        "vector",
        "euclidean",
        "vecs",
        _base_learn_query("%s.bvecs", 128, (1_000_000, 100_000, 10_000)),
        (
            _local("base.bvecs.gz", 99_500_734, "d1ea92092d8303e7adefcc65a8774c681b22436292703d67fd808813485d8436"),
            _local("learn.bvecs.gz", 9_930_919, "76bb0b13bdf85cf1be055667a5a22cdcc7b57bd3836cf706d5dcf0942201680a"),
            _local("query.bvecs.gz", 972_662, "9be25188b1aef764b0c6aa3d9687457e541f776afb2a22905af4c4891756ef74"),
            _local(
                "groundtruth.ivecs.gz", 3_168_201, "7095c7bccb4468150362c049a72fefc490763dea489d7aca4a444450f4f073d3"
            ),
        ),
        "groundtruth.ivecs",
    ),
    NamedDataset(
        "openclipart",
        "drawings of 64 x 64, each with one or more of 56 labels; local only",
        "public domain",
        "image",
        "labels",
        "parquet",
        _hashed("openclipart.parquet", 447, 4_740, "image", "labels"),
        (_local("openclipart.parquet", 6_084_255, "6ac95bc55bb5a94747195fb8e3adea9f72bc5ffe99b4e2c39fac8030ce082b72"),),
        classes=56,
    ),
    NamedDataset(
        "wordnet",
        "short definitions, each with one of 45 classes; local only",
        "WordNet 3.0",
        "text",
        "labels",
        "parquet",
        _hashed("glosses.parquet", 11_795, 117_033, "text", "label"),
        (_local("glosses.parquet", 5_140_618, "7b8531649d9ead29c11f355b61f76c61a3956a31e731f6412d82550d24965339"),),
        classes=45,
    ),
)
_OPENCLIPART, _WORDNET = _ALL[-2:]
_ALL += (
    replace(
        _OPENCLIPART,
        name="openclipart-i2t",
        about="openclipart: queries of 32 x 32 pixels (3,072 numbers), base of TF-IDF of title and keywords (1,024)",
        kind="vector",
        folder="openclipart",
        splits=_cross(base="text", query="picture"),
    ),
    replace(
        _OPENCLIPART,
        name="openclipart-t2i",
        about="openclipart: queries of TF-IDF of title and keywords (1,024 numbers), base of 32 x 32 pixels (3,072)",
        kind="vector",
        folder="openclipart",
        splits=_cross(base="picture", query="text"),
    ),
    replace(
        _WORDNET,
        name="wordnet-tfidf",
        about="wordnet: TF-IDF of the definitions, words hashed to 1,024 dimensions",
        kind="vector",
        folder="wordnet",
        splits={part: replace(split, d=1024, modality="tfidf") for part, split in _WORDNET.splits.items()},
    ),
)
DATASETS = {dataset.name: dataset for dataset in _ALL}
