"""Forms of files that are used in place: the same rows in each form, from ingest to search, export and re-indexing."""

import io
import json
import tarfile
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.features.contract import SourceRefused
from storage.features.rows import Columns
from storage.files import filesystem
from tests.workflows.conftest import reindex
from workflows import datasets
from workflows.export import export_version
from workflows.ingested import dataset_of
from workflows.opening import open as open_table
from workflows.search import search
from workflows.spec import Spec

D, FILES, ROWS = 8, 3, 40  # rows of each file
RNG = np.random.default_rng(0)
X = RNG.normal(size=(FILES * ROWS, D)).astype(np.float32)
CLASSES = ["ant", "bee", "cat"]
LABELS = np.repeat(CLASSES, ROWS)  # one class in each file, so that folders can hold it
SPEC = Spec(dataset="d", method={"method": "lsh", "bits": 16}, protocol={"queries": 10})


def rows_of(i):
    return slice(i * ROWS, (i + 1) * ROWS)


def columns_of(i, labels=True):
    table = {"id": np.arange(FILES * ROWS)[rows_of(i)], "vector": list(X[rows_of(i)])}
    return pa.table(table | ({"tag": LABELS[rows_of(i)]} if labels else {}))


def parquet(folder):
    for i in range(FILES):
        pq.write_table(columns_of(i), folder / f"{i}.parquet")
    return Columns(x="", labels="tag")


def hive(folder):
    for i, label in enumerate(CLASSES):
        (folder / f"tag={label}").mkdir()
        pq.write_table(columns_of(i, labels=False), folder / f"tag={label}" / "part-0.parquet")
    return Columns(x="", labels="tag")


def arrow(folder):
    for i in range(FILES):
        with pa.ipc.new_file(folder / f"{i}.arrow", (table := columns_of(i)).schema) as file:
            file.write_table(table, max_chunksize=7)
    return Columns(x="", labels="tag")


def hugging_face(folder):
    import datasets as hf

    features = {
        "emb": hf.List(hf.Value("float32"), length=D),
        "kind": hf.ClassLabel(names=CLASSES),
        "name": hf.Value("string"),
    }
    hf.disable_progress_bars()
    rows = {"emb": X, "kind": [CLASSES.index(label) for label in LABELS], "name": LABELS}
    hf.Dataset.from_dict(rows, features=hf.Features(features)).save_to_disk(folder, num_shards=FILES)
    (folder / "cache-0123.arrow").write_bytes(b"of another operation")
    return Columns(x="emb", labels="kind")


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def npy_bytes(x):
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def webdataset(folder):
    for i in range(FILES):
        with tarfile.open(folder / f"{i:05}.tar", "w") as archive:
            for row in range(FILES * ROWS)[rows_of(i)]:
                add(archive, f"./shard/{row:06}.npy", npy_bytes(X[row]))
                add(archive, f"./shard/{row:06}.json", json.dumps({"about": {"tag": LABELS[row]}}).encode())
    return Columns(x="", labels="json.about.tag")


def embedding_folders(folder):
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir()
    for i in range(FILES):
        np.save(folder / "img_emb" / f"img_emb_{i}.npy", X[rows_of(i)])
        np.save(folder / "text_emb" / f"text_emb_{i}.npy", np.zeros((ROWS, D), np.float16))
        table = pa.table({"url": [f"u{row}" for row in range(FILES * ROWS)[rows_of(i)]], "tag": LABELS[rows_of(i)]})
        pq.write_table(table, folder / "metadata" / f"metadata_{i:02}.parquet", row_group_size=7)
    return Columns(x="img_emb", labels="tag", id="url", keyed=True)


FORMS = [parquet, hive, arrow, hugging_face, webdataset, embedding_folders]
EVERY = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


@pytest.fixture
def source(tmp_path, form):
    folder = tmp_path / "source with spaces é"
    folder.mkdir()
    return folder, form(folder)


def data_files(folder):
    files = [path for path in folder.rglob("*") if path.suffix in (".parquet", ".arrow", ".tar")]
    return sorted(path for path in files if not path.name.startswith("cache-"))


@EVERY
@pytest.mark.parametrize("place", ["local", "s3"])
def test_every_form_gives_the_same_codes_and_labels(tmp_path, settings, source, place, request):
    folder, columns = source
    url = str(folder)
    if place == "s3":
        url = f"{request.getfixturevalue('s3')}/{tmp_path.name}/{folder.name}"
        for file in filesystem.inventory(str(folder)):
            name = filesystem.relative_path(str(folder), file.url)
            filesystem.write_bytes(f"{url}/{name}", filesystem.read_bytes(file.url))
    dataset = datasets.ingest_source("d", url, settings, columns)
    assert dataset.understood["base"].rows == FILES * ROWS
    assert dataset.understood["base"].files == FILES
    reindex(settings, SPEC)
    table = open_table("d__lsh16", settings=settings)
    assert sorted(table.vocabulary) == CLASSES
    function = table.function
    export_version("d__lsh16", "npy", str(tmp_path / "out"))
    ids, codes = np.load(tmp_path / "out" / "ids.npy"), np.load(tmp_path / "out" / "codes.npy")
    order = np.argsort(ids)
    np.testing.assert_array_equal(ids[order], np.arange(FILES * ROWS))
    expected = np.packbits(function.encode(X), axis=1, bitorder="little")
    if not dataset.columns.keyed:  # else keys have their ids in the order of their first run
        np.testing.assert_array_equal(codes[order], expected)
    np.save(tmp_path / "q.npy", X[[3, 77]])
    search("d__lsh16", str(tmp_path / "q.npy"), str(tmp_path / "found.parquet"))
    found = pq.read_table(tmp_path / "found.parquet").to_pylist()
    if dataset.columns.keyed:
        keys = {"webdataset": "shard/{:06}", "embedding_folders": "u{}"}[folder_form(columns)]
        assert [row["key"] for row in found if row["rank"] == 1] == [keys.format(3), keys.format(77)]
    else:
        assert [row["id"] for row in found if row["rank"] == 1] == [3, 77]


def folder_form(columns):
    return "embedding_folders" if columns.keyed else "webdataset"


@EVERY
def test_a_changed_file_of_any_form_is_encoded_again_and_no_other(settings, source):
    folder, columns = source
    datasets.ingest_source("d", str(folder), settings, columns)
    assert reindex(settings, SPEC)[0].encoded == FILES * ROWS
    assert reindex(settings, SPEC)[0].unchanged
    for file in (data_files(folder)[1], *list(folder.rglob("img_emb_2.npy"))):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        assert reindex(settings, SPEC)[0].encoded == ROWS


@EVERY
def test_a_damaged_file_of_any_form_is_refused_at_ingest_in_one_line(settings, source):
    folder, columns = source
    file = data_files(folder)[0]
    for content in (file.read_bytes()[:100], b"", b"no data " * 1000):
        file.write_bytes(content)
        with pytest.raises(SourceRefused, match=file.name) as raised:
            datasets.ingest_source("d", str(folder), settings, columns)
        assert "\n" not in str(raised.value)


def ingest(folder, settings, name="d", query=None, **columns):
    return datasets.ingest_source(name, str(folder), settings, Columns(**{"x": ""} | columns), query and str(query))


def refused(folder, settings, message, **given):
    with pytest.raises(SourceRefused, match=message) as raised:
        ingest(folder, settings, **given)
    assert "\n" not in str(raised.value)


def part(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(ROWS), "vector": list(X[:ROWS])} | columns), path)


def test_folders_of_values_are_labels_or_are_ignored_aloud(tmp_path, settings):
    for i, tag in enumerate(("1", "02", "__HIVE_DEFAULT_PARTITION__")):
        part(tmp_path / "n" / f"tag={tag}" / "a.parquet", id=np.arange(ROWS) + ROWS * i)
    said = ingest(tmp_path / "n", settings).understood["base"].labels
    assert said == "none; column tag is not read without --label-column tag"
    dataset = ingest(tmp_path / "n", settings, labels="tag")
    assert dataset.understood["base"].labels.startswith("values (int64) in the names of the folders")
    assert set().union(*(shard.distinct_labels() for shard in dataset.shards("base"))) == {1, 2}
    part(tmp_path / "two" / "tag=2" / "a.parquet")
    part(tmp_path / "two" / "tag=02" / "a.parquet", id=np.arange(ROWS) + ROWS)
    found = ingest(tmp_path / "two", settings, labels="tag").shards("base")
    assert set().union(*(shard.distinct_labels() for shard in found)) == {"2", "02"}
    part(tmp_path / "n" / "tag=a%20b" / "a.parquet", id=np.arange(ROWS) + 3 * ROWS)
    with pytest.raises(ValueError, match=r"expected integers as tag, as at ingest, found 'a b', .*: ingest again"):
        [shard.distinct_labels() for shard in dataset.shards("base")]
    dataset = ingest(tmp_path / "n", settings, labels="tag")
    assert set().union(*(shard.distinct_labels() for shard in dataset.shards("base"))) == {"1", "02", "a b"}


def test_folders_of_values_that_contradict_the_files_are_refused(tmp_path, settings):
    part(tmp_path / "both" / "tag=a" / "a.parquet", tag=["b"] * ROWS)
    refused(tmp_path / "both", settings, "labels tag are a column of .* and in the names of its folders", labels="tag")
    part(tmp_path / "some" / "tag=a" / "a.parquet")
    part(tmp_path / "some" / "a.parquet")
    refused(tmp_path / "some", settings, "expected a folder tag=value .* found none for .*some/a.parquet", labels="tag")
    part(tmp_path / "ids" / "id=7" / "a.parquet")
    refused(tmp_path / "ids", settings, "id is both a column and in the names .* --id-column or --key-column")
    part(tmp_path / "x" / "vector=7" / "a.parquet")
    refused(tmp_path / "x", settings, "vector is both a column and in the names .* --vector-column")


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        ("_delta_log/0.json", "Delta Lake"),
        ("metadata/v1.metadata.json", "Iceberg"),
        (".hoodie/hoodie.properties", "Hudi"),
    ],
)
def test_tables_of_other_tools_are_refused(tmp_path, settings, file, owner):
    part(tmp_path / "d" / "data" / "a.parquet")
    (tmp_path / "d" / file).parent.mkdir(parents=True)
    (tmp_path / "d" / file).write_text("{}")
    refused(tmp_path / "d", settings, f"is a table of {owner}, whose files may hold rows of old versions: export")


def save(folder, splits, **features):
    import datasets as hf

    hf.disable_progress_bars()
    rows = {name: hf.Dataset.from_dict(columns, features=hf.Features(features)) for name, columns in splits.items()}
    hf.DatasetDict(rows).save_to_disk(folder)


def test_train_and_test_of_a_hugging_face_dataset_are_base_and_queries(tmp_path, settings):
    import datasets as hf

    pictures = [Image.new("RGB", (8, 8), ["red", "blue"][i % 2]) for i in range(ROWS)]
    table = {"image": pictures, "label": [i % 2 - (i == 7) * 2 for i in range(ROWS)]}  # -1: without a label
    few = {name: values[:6] for name, values in table.items()}
    names = hf.ClassLabel(names=["red", "blue, red"])  # a ClassLabel is one label
    save(tmp_path / "two", {"train": table, "test": few}, image=hf.Image(), label=names)
    dataset = ingest(tmp_path / "two", settings, labels="label")
    assert (dataset.kind, {split: held.rows for split, held in dataset.understood.items()}) == (
        "image",
        {"base": ROWS, "query": 6},
    )
    blocks = list(dataset.shards("query", ("red", "blue, red"))[0].read_blocks())
    assert blocks[0].batch.ids.tolist() == [2**41 + i for i in range(6)]
    assert blocks[0].labels.to_pylist() == [[0], [1], [0], [1], [0], [1]]
    base = next(iter(dataset.shards("base", ("red", "blue, red"))[0].read_blocks()))
    assert base.labels.to_pylist()[6:9] == [[0], [], [0]]
    save(tmp_path / "three", {"train": table, "test": few, "validation": few}, image=hf.Image(), label=names)
    refused(
        tmp_path / "three", settings, "has the splits train, test, validation: ingest one of them, such as .*/train"
    )
    dataset = ingest(tmp_path / "three" / "train", settings, query=tmp_path / "three" / "validation")
    assert dataset.understood["query"].rows == 6


def test_labels_in_lists_have_the_names_of_a_hugging_face_dataset(tmp_path, settings):
    import datasets as hf

    tags = [[0, 1] if i % 2 else [] for i in range(ROWS)]
    names = hf.List(hf.ClassLabel(names=["x", "y"]))
    save(tmp_path / "d", {"train": {"vector": X[:ROWS], "tags": tags}}, vector=hf.List(hf.Value("float32")), tags=names)
    dataset = ingest(tmp_path / "d", settings, labels="tags")
    block = next(iter(dataset.shards("base", ("x", "y"))[0].read_blocks()))
    assert block.labels.to_pylist() == tags
    other = hf.List(hf.ClassLabel(names=["y", "x"]))
    table = {"vector": X[:ROWS], "tags": tags}
    save(tmp_path / "q", {"train": table}, vector=hf.List(hf.Value("float32")), tags=other)
    with pytest.raises(SourceRefused, match=r"expected the labels x, y as in .*d/train.*arrow, found y, x, in .*q/tr"):
        ingest(tmp_path / "d", settings, query=tmp_path / "q", labels="tags")


def shard(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            add(archive, name, content)


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("041.npy", b"no array", r"a\.tar: expected vector in member 041.npy, found something else than an .npy array"),
        ("041.npy", npy_bytes(X[:2]), r"expected vector in member 041.npy, found \(2, 8\) float32 instead of a vector"),
        ("000.cls", b"x", "expected cls in member 000.cls, found invalid literal"),
        ("000.jpg", b"", "expected one image in sample 000, found 000.png and 000.jpg"),
    ],
)
def test_a_bad_member_of_a_webdataset_is_named(tmp_path, settings, member, content, message):
    good = {"000.png": b"p"} if member == "000.jpg" else {}
    good |= {} if member.startswith("000") else {f"{i:03}.npy": npy_bytes(X[i]) for i in range(4)}
    good |= {member: content} | ({"000.npy": npy_bytes(X[0])} if member == "000.cls" else {})
    shard(tmp_path / "a.tar", good)
    refused(tmp_path / "a.tar", settings, message, labels="cls" if member.endswith("cls") else None)


def test_pictures_classes_and_texts_of_a_webdataset(tmp_path, settings):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "png")
    suffixes = ["png", "JPG", "jpeg"]
    members = {f"a/{i:03}.{suffixes[i % 3]}": file.getvalue() for i in range(9)}
    members = {**members, **{f"a/{i:03}.cls": b"%d" % (i % 2) for i in range(9)}, "a/readme": b"", "README.md": b"no"}
    shard(tmp_path / "p" / "a.tar", dict(sorted(members.items(), reverse=True)))
    dataset = ingest(tmp_path / "p", settings, labels="cls")
    assert (dataset.kind, dataset.columns.id, dataset.understood["base"].rows) == ("image", "__key__", 10)


def test_sources_that_lack_a_part_are_refused(tmp_path, settings):
    import datasets as hf

    shard(tmp_path / "t" / "a.tar", {f"{i}.npy": npy_bytes(X[i]) for i in range(9)})
    with (tmp_path / "t" / "a.tar").open("r+b") as file:
        file.truncate(2000)  # within a header
    refused(tmp_path / "t", settings, r"a\.tar: expected a whole \.tar file without compression, found a truncated one")
    hf.Dataset.from_dict({"vector": X[:ROWS]}).save_to_disk(tmp_path / "h", num_shards=3)
    (tmp_path / "h" / "data-00001-of-00003.arrow").unlink()
    refused(tmp_path / "h", settings, r"expected all files that .*state.json names, found no data-00001-of-00003.arrow")
    with (tmp_path / "two.npy").open("wb") as file:
        np.save(file, X)
        np.save(file, X)
    refused(tmp_path / "two.npy", settings, rf"expected {len(X)} rows in {X.nbytes + 128} bytes, found \d+ bytes")


def test_compressed_tars_are_refused_in_words(tmp_path, settings):
    shard(tmp_path / "gz" / "a.tar.gz", {"0.npy": npy_bytes(X[0])}, "w:gz")
    refused(tmp_path / "gz", settings, r"WebDataset \.tar files \(without compression\).*; found a.tar.gz")
    refused(tmp_path / "gz" / "a.tar.gz", settings, r"WebDataset \.tar files \(without compression\)")
    shard(tmp_path / "named" / "a.tar", {"0.npy": npy_bytes(X[0])}, "w:gz")
    refused(tmp_path / "named", settings, r"a\.tar: expected a whole \.tar file without compression")


def test_memory_does_not_grow_with_a_webdataset(tmp_path, settings):
    wide = npy_bytes(np.ones(2**14, np.float32))
    shard(tmp_path / "a.tar", {f"{i:05}.npy": wide for i in range(2000)})  # 128 MB
    tracemalloc.start()
    dataset = ingest(tmp_path / "a.tar", settings)
    assert dataset.understood["base"].rows == 2000
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()


def test_folders_of_vectors_and_metadata_must_match(tmp_path, settings):
    def write(name, files):
        for file, rows in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            if file.endswith(".npy"):
                np.save(tmp_path / name / file, rows)
            else:
                pq.write_table(pa.table({"key": [f"{i}" for i in range(rows)]}), tmp_path / name / file)

    x = X[:ROWS]
    cases = {
        "other": (
            {"v/e_0.npy": x, "m/e_1.parquet": ROWS},
            "Parquet file with the number 0 in .*found none for .*e_0.npy",
        ),
        "more": (
            {"v/0.npy": x, "m/0.parquet": ROWS, "m/1.parquet": ROWS},
            "file of vectors for each .*none for .*1.parq",
        ),
        "rows": (
            {"v/0.npy": x, "m/0.parquet": 9},
            "expected as many rows in .*0.parquet as in .*0.npy, found 9 and 40",
        ),
        "two": (
            {"v/0.npy": x, "w/0.npy": x, "m/0.parquet": ROWS},
            "has the vectors v, w: choose one by --vector-column",
        ),
        "mixed": ({"0.npy": x, "0.parquet": ROWS}, "files of several forms, .npy and .parquet"),
        "hub": (
            {"data/train-00000-of-00002.parquet": ROWS, "data/Test-00000-of-00001.parquet": ROWS},
            "files of several splits, test and train: move those of each split to a folder of its own",
        ),
        "columns": ({"v/0.npy": np.asfortranarray(x)}, "expected rows one after another"),
        "objects": ({"v/0.npy": np.array([[{}]])}, r"expected vectors \(n, d\) of numbers"),
        "flat": ({"v/0.npy": x[0]}, r"expected vectors \(n, d\) of numbers"),
        "narrow": ({"0.npy": x, "1.npy": x[:, :3]}, r"expected .*\[8\] as in .*0.npy, found .*\[3\], in .*1.npy"),
    }
    for name, (files, message) in cases.items():
        write(name, files)
        refused(tmp_path / name, settings, message)
    write("swapped", {"0.npy": x[:0], "1.npy": x.astype(">f8")})
    dataset = ingest(tmp_path / "swapped", settings)
    assert (dataset.understood["base"].rows, dataset.dim) == (ROWS, D)
    batch = next(iter(dataset.shards("base")[1]))
    np.testing.assert_array_equal(batch.x, x)


def test_ids_move_with_the_rows_before_them(tmp_path, settings):
    folder = tmp_path / "x"
    folder.mkdir()
    for i in range(3):
        np.save(folder / f"{i}.npy", X[rows_of(i)])
    ingest(folder, settings)
    assert reindex(settings, SPEC)[0].encoded == FILES * ROWS
    np.save(folder / "1.npy", X[:10])
    assert reindex(settings, SPEC)[0].encoded == 10 + ROWS  # the last file has other ids now
    ids = np.concatenate([shard.ids(shard.url) for shard in dataset_of(SPEC, settings).shards("base")])
    np.testing.assert_array_equal(ids, np.arange(2 * ROWS + 10))
