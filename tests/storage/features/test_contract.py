"""The content of users' files is understood and reported, or refused with the option that decides."""

import io
import pickle
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.features import all_rows, media
from storage.features.contract import SourceRefused, understand
from storage.features.dataset import Dataset
from storage.features.rows import Columns

N, D = 60, 8
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 6, N)
X = RNG.integers(-100, 100, (N, D)).astype(np.int8)
WORDS = np.array(["ant", "bee", "cat", "dog", "eel", "fox"])


def write(folder, name="a.parquet", ids=None, vector=None, **columns):
    folder.mkdir(exist_ok=True)
    values = {"id": np.arange(N) if ids is None else ids, "vector": list(X) if vector is None else vector, **columns}
    pq.write_table(pa.table({key: value for key, value in values.items() if value is not None}), folder / name)
    return str(folder)


def read(splits, columns, labels_as=None, metric="euclidean", split="base", bad_rows="refuse"):
    """Return the contract, and ids, vectors and labels of a split as later stages read them."""
    splits = splits if isinstance(splits, dict) else {"base": splits}
    kind, dim, columns, said = understand(splits, columns, labels_as, metric)
    dataset = Dataset(
        name="d", kind=kind, dim=dim, splits=splits, columns=columns, metric=metric, source="", bad_rows=bad_rows
    )
    shards = dataset.shards(split)
    labels = sorted(set().union(*(shard.distinct_labels() for shard in shards)), key=str)
    batches = [batch for shard in dataset.shards(split, tuple(labels)) for batch in shard]
    y = np.concatenate([batch.y for batch in batches]) if labels else None
    return said[split], np.concatenate([b.ids for b in batches]), np.concatenate([b.x for b in batches]), labels, y


LISTS = pa.array(X.tolist(), pa.list_(pa.int8()))
VECTORS = {
    "list": LISTS,
    "large_list": LISTS.cast(pa.large_list(pa.int8())),
    "fixed_size_list": LISTS.cast(pa.list_(pa.int8(), D)),
    "list_view": pa.array(X.tolist(), pa.list_view(pa.int8())),
    "large_list_view": pa.array(X.tolist(), pa.large_list_view(pa.int8())),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(X.astype(np.float32)),
    **{
        str(kind): LISTS.cast(pa.list_(kind))
        for kind in (pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64())
    },
    "float16": pa.array(list(X.astype(np.float16)), pa.list_(pa.float16())),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_vectors_of_every_type_are_read(tmp_path, kind):
    said, ids, x, _, _ = read(write(tmp_path / "d", vector=VECTORS[kind]), Columns())
    np.testing.assert_array_equal(ids, np.arange(N))
    np.testing.assert_array_equal(x, X)
    assert (x.dtype, said.rows, said.files) == (np.float32, N, 1)
    assert f"vectors of dimension {D}" in said.x


@pytest.mark.parametrize("kind", [np.uint8, bool])
def test_vectors_without_a_sign_are_read(tmp_path, kind):
    expected = (X > 0).astype(kind)
    _, _, x, _, _ = read(write(tmp_path / "d", vector=[row.tolist() for row in expected]), Columns())
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int16", "int32"])
@pytest.mark.parametrize("fixed", [False, True])
def test_vectors_stored_as_bytes_are_read_by_their_declared_type(tmp_path, dtype, fixed):
    rows = [row.tobytes() for row in X.astype(dtype)]
    column = pa.array(rows, pa.binary(len(rows[0])) if fixed else pa.binary())
    source = write(tmp_path / "d", vector=column)
    said, _, x, _, _ = read(source, Columns(dtype=dtype))
    np.testing.assert_array_equal(x, X)
    assert f"bytes as {dtype}" in said.x
    for name, other in (("narrow", X[:, :4]), ("torn", X)):
        later = pa.array(
            [row.tobytes() + b"x" * (name == "torn" and i == 3) for i, row in enumerate(other.astype(dtype))]
        )
        write(tmp_path / name, vector=pa.array(rows))
        write(tmp_path / name, "b.parquet", ids=np.arange(N) + N, vector=later)
    with pytest.raises(SourceRefused, match=r"expected vectors of dimension 8, found 4, in row 0 of .*b\.parquet"):
        read(str(tmp_path / "narrow"), Columns(dtype=dtype))
    torn = read(str(tmp_path / "torn"), Columns(dtype=dtype), bad_rows="drop")[2]
    np.testing.assert_array_equal(torn, np.vstack([X, np.delete(X, 3, axis=0)]))
    if np.dtype(dtype).itemsize > 1:
        write(tmp_path / "torn", "b.parquet", ids=np.arange(N) + N, vector=[row.tobytes()[1:] for row in X])
        with pytest.raises(SourceRefused, match=rf"expected bytes of whole {dtype}, found .* row 0 of .*b\.parquet"):
            read(str(tmp_path / "torn"), Columns(dtype=dtype))
    with pytest.raises(SourceRefused, match="vectors stored as bytes need --vector-dtype"):
        read(source, Columns())


def test_bytes_of_bfloat16_are_the_upper_halves_of_float32(tmp_path):
    halves = X.astype(np.float32).view(np.uint32) >> 16
    source = write(tmp_path / "d", vector=pa.array([row.tobytes() for row in halves.astype("<u2")]))
    said, _, x, _, _ = read(source, Columns(dtype="bfloat16"))
    np.testing.assert_array_equal(x, (halves << 16).view(np.float32))
    assert "bytes as bfloat16" in said.x


@pytest.mark.parametrize(("how", "message"), [("npy", "found files of NumPy"), ("pickle", "found pickles")])
def test_vectors_in_containers_are_no_bytes_of_numbers(tmp_path, how, message):
    def stored(row):
        if how == "pickle":
            return pickle.dumps(row)
        np.save(content := io.BytesIO(), row)
        return content.getvalue()

    source = write(tmp_path / "d", vector=[stored(row) for row in X])
    with pytest.raises(SourceRefused, match=f"expected bytes of numbers, {message}, .*: store those of x.tobytes"):
        read(source, Columns(dtype="int8"))


def test_types_of_extensions_are_named(tmp_path):
    keys = pa.ExtensionArray.from_storage(pa.json_(), pa.array([f'"{i}"' for i in range(N)]))
    said, *_ = understand({"base": write(tmp_path / "d", ids=keys)}, Columns(keyed=True), None, "euclidean")[3].values()
    assert said.ids == "keys (json) in column id"


def test_a_field_of_a_struct_is_read_by_its_path(tmp_path):
    inner = pa.StructArray.from_arrays([LISTS], ["values"], mask=pa.array([i == 3 for i in range(N)]))
    nested = pa.StructArray.from_arrays([inner], ["of"])
    source = write(tmp_path / "d", vector=nested)
    kind, dim, columns, _ = understand({"base": source}, Columns(x="vector.of.values"), None, "euclidean")
    dataset = Dataset(
        name="d", kind=kind, dim=dim, splits={"base": source}, columns=columns, source="", bad_rows="drop"
    )
    x = np.concatenate([batch.x for batch in dataset.shards("base")[0]])
    np.testing.assert_array_equal(x, np.delete(X, 3, axis=0))  # null as the struct is
    with pytest.raises(SourceRefused, match=r"expected a column vector.of.other, found id, vector"):
        read(source, Columns(x="vector.of.other"))


LABELS = {
    "lists": [[int(c)] for c in CLASSES],
    "integers": CLASSES,
    "int8": pa.array(CLASSES, pa.int8()),
    "strings": WORDS[CLASSES].tolist(),
    "dictionary": pa.array(WORDS[CLASSES]).dictionary_encode(),
    "lists of dictionary": pa.ListArray.from_arrays(
        pa.array(np.arange(N + 1), pa.int32()), pa.array(WORDS[CLASSES]).dictionary_encode()
    ),
    "large lists of strings": pa.array([[w] for w in WORDS[CLASSES]], pa.large_list(pa.large_string())),
    "fixed-size lists": pa.array([[int(c)] for c in CLASSES], pa.list_(pa.int16(), 1)),
    "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(CLASSES.astype(np.int32)[:, None]),
    "strings with commas": [f"the {w}, which is wild" if w == "ant" else w for w in WORDS[CLASSES]],
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_type_are_read(tmp_path, kind):
    said, _, _, labels, y = read(write(tmp_path / "d", labels=LABELS[kind]), Columns(labels="labels"))
    classes = (
        [[w in str(label) for label in labels].index(True) for w in WORDS[CLASSES]] if "commas" in kind else CLASSES
    )
    np.testing.assert_array_equal(y.argmax(axis=1), classes)
    np.testing.assert_array_equal(y.sum(axis=1), 1)
    assert labels in (list(range(6)), WORDS.tolist(), [*WORDS[1:], "the ant, which is wild"])
    assert "6 distinct in the first 60 rows" in said.labels


def test_bools_and_rows_without_labels_are_read(tmp_path):
    flags = pa.array([None if i == 2 else bool(i % 2) for i in range(N)])
    _, _, _, labels, y = read(write(tmp_path / "d", labels=flags), Columns(labels="labels"))
    assert (labels, y[2].tolist(), y[3].tolist()) == ([0, 1], [0, 0], [0, 1])


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.bool_(), pa.float32()])
def test_multi_hot_labels_are_read_as_the_user_says(tmp_path, kind):
    hot = np.eye(6, dtype=int)[CLASSES]
    hot[1] = [1, 0, 1, 0, 0, 1]
    source = write(tmp_path / "d", labels=pa.array(hot.tolist()).cast(pa.list_(kind)))
    with pytest.raises(SourceRefused, match="pass --labels-as multi-hot or --labels-as values"):
        read(source, Columns(labels="labels"))
    said, _, _, labels, y = read(source, Columns(labels="labels"), "multi-hot")
    assert labels == list(range(6))
    np.testing.assert_array_equal(y, hot)
    assert "multi-hot of width 6" in said.labels
    if kind == pa.float32():
        with pytest.raises(SourceRefused, match="expected labels of integers, strings or bools"):
            read(source, Columns(labels="labels"), "values")
    else:
        assert read(source, Columns(labels="labels"), "values")[3] == [0, 1]


@pytest.mark.parametrize("width", [2, 6])
@pytest.mark.parametrize(("off", "on"), [(-1, 1), ("0", "1"), ("no", "yes"), (0, 255)])
def test_lists_of_two_values_that_are_like_multi_hot_labels_are_refused(tmp_path, off, on, width):
    hot = [[on if c % width == place else off for place in range(width)] for c in CLASSES]
    source = write(tmp_path / "d", labels=hot)
    with pytest.raises(SourceRefused, match=rf"lists of {width} values .* and .* are like multi-hot labels: .*, or"):
        read(source, Columns(labels="labels"))
    assert read(source, Columns(labels="labels"), "values")[3] == sorted([off, on])
    assert read(write(tmp_path / "e", labels=[["ant", "bee"]] * N), Columns(labels="labels"))[3] == ["ant", "bee"]


def test_one_flag_a_row_can_be_multi_hot(tmp_path):
    source = write(tmp_path / "d", labels=[[int(c > 2)] for c in CLASSES])
    assert read(source, Columns(labels="labels"))[3] == [0, 1]
    _, _, _, labels, y = read(source, Columns(labels="labels"), "multi-hot")
    assert labels == [0]
    np.testing.assert_array_equal(y[:, 0], CLASSES > 2)


@pytest.mark.parametrize("joined", ["{},{}", "{} | {}", "[{}; {}]", "{}, {}", '["{}", "{}"]'])
def test_strings_that_may_be_several_labels_are_refused(tmp_path, joined):
    labels = [joined.format(w, "even" if i % 2 else "odd") for i, w in enumerate(WORDS[CLASSES])]
    source = write(tmp_path / "d", labels=labels)
    with pytest.raises(SourceRefused, match="can be one label or several: pass --labels-as values"):
        read(source, Columns(labels="labels"))
    assert read(source, Columns(labels="labels"), "values")[3] == sorted(set(labels))


def test_labels_are_alike_in_all_files_and_splits(tmp_path):
    def labels_of(name, first, other, split="base"):
        base = write(tmp_path / name / "base", labels=first)
        where = "base" if split == "base" else "query"
        later = write(tmp_path / name / where, "b.parquet", ids=np.arange(N) + N, labels=other)
        return read({"base": base} | ({} if split == "base" else {split: later}), Columns(labels="labels"))[3]

    one, hot = [[int(c)] for c in CLASSES], np.eye(6, dtype=int)[CLASSES].tolist()
    ambiguous = r"b\.parquet: lists of 6 .* pass --labels-as multi-hot or --labels-as values"
    (tmp_path / "empty").mkdir()
    assert labels_of("empty", one, [[]] * N) == list(range(6))
    for name, other, message in (
        ("later", hot, ambiguous),
        ("null", [[None]] * N, r"expected labels, found null in a list, in row 0 of .*b\.parquet"),
        ("joined", [["a,b"], ["a"]] * (N // 2), "found list<.*string"),
        ("floats", CLASSES[:, None].astype(float).tolist(), r"column labels: expected list.* found list.*double"),
        ("bytes", [[w.encode()] for w in WORDS[CLASSES]], r"found list.*binary.*, in column labels of .*b\.parquet"),
        ("hot", hot, "pass --labels-as multi-hot or --labels-as values"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(SourceRefused, match=message):
            labels_of(name, one, other, "query" if name == "hot" else "base")
    (tmp_path / "words").mkdir()
    with pytest.raises(SourceRefused, match=r"b\.parquet: 'ant, bee' can be one label or several"):
        labels_of("words", WORDS[CLASSES].tolist(), ["ant", "ant, bee"] * (N // 2))


def test_labels_that_are_not_multi_hot_are_refused_as_such(tmp_path):
    source = write(tmp_path / "d", labels=[[int(c)] * 3 for c in CLASSES])
    with pytest.raises(SourceRefused, match="expected lists of 0 and 1, all of one length"):
        read(source, Columns(labels="labels"), "multi-hot")
    with pytest.raises(SourceRefused, match="found double"):
        read(write(tmp_path / "e", labels=CLASSES / 2), Columns(labels="labels"))
    later = np.eye(3, dtype=int)[CLASSES % 3].tolist()
    write(tmp_path / "f", labels=later)
    write(tmp_path / "f", "b.parquet", ids=np.arange(N) + N, labels=[[*row, 0] for row in later])
    with pytest.raises(SourceRefused, match=r"width 3 as in .*a.parquet, found 4, in .*b.parquet"):
        read(str(tmp_path / "f"), Columns(labels="labels"), "multi-hot")


def test_multi_hot_labels_may_be_missing_from_a_file_or_split(tmp_path):
    hot = pa.array(np.eye(6, dtype=int)[CLASSES].tolist())
    for name in ("base", "query"):
        write(tmp_path / name, labels=pa.array([[]] * N, hot.type))
    write(tmp_path / "base", "b.parquet", ids=np.arange(N) + N, labels=hot)
    splits = {name: str(tmp_path / name) for name in ("base", "query")}
    for split in splits:
        assert read(splits, Columns(labels="labels"), "multi-hot", split=split)[3] == (
            list(range(6)) if split == "base" else []
        )
    write(tmp_path / "base", "b.parquet", ids=np.arange(N) + N, labels=pa.array([[]] * N, hot.type))
    with pytest.raises(
        SourceRefused, match="multi-hot labels in the first rows of a file, found none in column labels"
    ):
        read(splits, Columns(labels="labels"), "multi-hot")


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()])
def test_ids_of_every_integer_type_are_read(tmp_path, kind):
    _, ids, _, _, _ = read(write(tmp_path / "d", ids=pa.array(np.arange(N), kind)), Columns())
    np.testing.assert_array_equal(ids, np.arange(N))


def test_queries_are_read_like_the_base_rows(tmp_path):
    base = write(tmp_path / "base", labels=LABELS["lists"])
    few = {"vector": list(X[:, :4]), "labels": LABELS["lists"]}
    cases = {
        "narrow": (few, r"expected vectors of dimension 8, found 4, in row 0 of .*narrow/a.parquet"),
        "unlabelled": ({}, r"expected a column labels, found id, vector, in .*unlabelled/a.parquet"),
        "texts": (few | {"vector": WORDS[CLASSES].tolist()}, r"expected vectors, lists of numbers, found string"),
        "words": ({"ids": WORDS[CLASSES].tolist(), "labels": LABELS["lists"]}, "expected integer ids, found string"),
    }
    for name, (columns, message) in cases.items():
        splits = {"base": base, "query": write(tmp_path / name, **columns)}
        with pytest.raises(SourceRefused, match=message):
            read(splits, Columns(labels="labels"))
    empty = write(tmp_path / "empty", ids=[], vector=pa.array([], pa.list_(pa.float32())), labels=[])
    with pytest.raises(SourceRefused, match=r"expected at least one row, found none in .*empty"):
        read({"base": base, "query": empty}, Columns(labels="labels"))


def test_sources_that_no_stage_could_encode_are_refused(tmp_path):
    alike = write(tmp_path / "alike", ids=np.zeros(N, int))
    with pytest.raises(SourceRefused, match=r"expected distinct ids, found 0 in rows 0 and 1 of .*alike/a.parquet"):
        read(alike, Columns())
    keys = write(tmp_path / "keys", ids=["a", "b", "a"] * 20)
    with pytest.raises(SourceRefused, match="expected distinct keys, found 'a' in rows 0 and 2"):
        read(keys, Columns(keyed=True))
    numbers = write(tmp_path / "numbers", ids=pa.array(range(N)).cast(pa.decimal128(30, 1)))  # "1.0" and "1.00"
    write(tmp_path / "numbers", "b.parquet", ids=pa.array(range(N)).cast(pa.decimal128(30, 2)))
    with pytest.raises(SourceRefused, match=r"column id: expected decimal128\(30, 1\) .* found decimal128\(30, 2\)"):
        read(numbers, Columns(keyed=True))
    (tmp_path / "zero").mkdir()
    table = pa.table({"id": range(N), "vector": pa.array([[]] * N, pa.list_(pa.float32(), 0))})
    with pa.ipc.new_file(tmp_path / "zero" / "a.arrow", table.schema) as file:
        file.write_table(table)
    with pytest.raises(SourceRefused, match=r"column vector: expected lists of values, found fixed_size_list.*\[0\]"):
        read(str(tmp_path / "zero"), Columns())
    null = write(tmp_path / "null", vector=pa.array([None] * N, pa.list_(pa.float32())))
    with pytest.raises(SourceRefused, match="found only null or empty ones"):
        read(null, Columns())
    mixed = write(tmp_path / "mixed")
    write(tmp_path / "mixed", "b.parquet", ids=np.arange(N) + N, vector=WORDS[CLASSES].tolist())
    for x in ("vector", ""):
        with pytest.raises(SourceRefused, match=r"column vector: expected list.* found string, in .*b.parquet"):
            read(mixed, Columns(x=x))
    with pytest.raises(SourceRefused, match=r"expected a column nope, found id, vector, .*--vector-column"):
        read(write(tmp_path / "other"), Columns(x="nope"))
    with pytest.raises(SourceRefused, match=r"did you mean vector\? name yours by --vector-column"):
        read(write(tmp_path / "other"), Columns(x="vectr"))
    with pytest.raises(SourceRefused, match=r"expected a column vector, image or text, found id, e"):
        read(renamed(tmp_path), Columns(x=""))


@pytest.mark.parametrize(
    ("name", "strings", "message"),
    [
        ("vector", [str(row.tolist()) for row in X], r"found vectors as strings, such as '\[.*store lists of numbers"),
        ("text", [",".join(map(str, row / 8)) for row in X], "found vectors as strings"),
        ("text", [str(row) for row in X], "found vectors as strings"),
        ("vector", WORDS[CLASSES].tolist(), "expected vectors, found strings, .* pass --vector-column vector"),
        ("image", WORDS[CLASSES].tolist(), "expected images, found strings, .* pass --vector-column image"),
        ("image", [f"images/{i}.JPG" for i in range(N)], "found paths of pictures as strings, such as 'images/0.JPG'"),
        ("text", [f"https://example.org/{i}.png" for i in range(N)], "found paths of pictures as strings"),
    ],
)
def test_strings_are_texts_only_if_they_can_be(tmp_path, name, strings, message):
    pq.write_table(pa.table({"id": range(N), name: strings}), source := str(tmp_path / "a.parquet"))
    with pytest.raises(SourceRefused, match=message):
        understand({"base": source}, Columns(x=""), None, "euclidean")
    if strings == WORDS[CLASSES].tolist():
        assert understand({"base": source}, Columns(x=name), None, "euclidean").kind == "text"


def test_every_file_of_a_split_is_checked_by_its_footer(tmp_path):
    def two(name, **columns):
        write(tmp_path / name)
        return read(write(tmp_path / name, "b.parquet", **{"ids": np.arange(N) + N} | columns), Columns())

    with pytest.raises(SourceRefused, match=r"expected vectors of dimension 8, found 4, in row 0 of .*b\.parquet"):
        two("narrow", vector=list(X[:, :4]))
    with pytest.raises(
        SourceRefused, match=r"expected distinct ids, found 0 in .*alike/a\.parquet and in .*b\.parquet"
    ):
        two("alike", ids=np.arange(N))
    for name, ids, message in (
        ("null", pa.array([*range(N, 2 * N - 1), None]), r"an id in every row, found null in row 59 of .*b\.parquet"),
        (
            "large",
            pa.array(range(2**63, 2**63 + N), pa.uint64()),
            r"int64, found .*b\.parquet; ingest --key-column reads",
        ),
    ):
        with pytest.raises(SourceRefused, match=message):
            two(name, ids=ids)
    assert two("empty", ids=[], vector=[])[0].rows == N
    nulls = write(tmp_path / "nulls")  # bad rows, which a run may drop
    write(tmp_path / "nulls", "b.parquet", ids=np.arange(N) + N, vector=pa.array([None] * N, pa.list_(pa.int8())))
    assert understand({"base": nulls}, Columns(), None, "euclidean").dim == D
    (tmp_path / "arrow").mkdir()
    for name, x in {"a": X, "b": X[:, :4]}.items():
        table = pa.table({"id": range(N), "vector": x.tolist()})
        with pa.ipc.new_file(tmp_path / "arrow" / f"{name}.arrow", table.schema) as file:
            file.write_table(table)
    with pytest.raises(SourceRefused, match=r"expected vectors of dimension 8, found 4, in row 0 of .*b\.arrow"):
        read(str(tmp_path / "arrow"), Columns())
    for name in "ab":  # whose rows are numbered alike
        with pa.ipc.new_file(tmp_path / "arrow" / f"{name}.arrow", table.schema) as file:
            file.write_table(table)
    with pytest.raises(SourceRefused, match=r"expected distinct ids, found 0 in .*a\.arrow and in .*b\.arrow"):
        read(str(tmp_path / "arrow"), Columns())
    few = X.tolist()
    few[0] = few[0][:3]
    with pytest.raises(ValueError, match=r"expected vectors of dimension 8, found 3, in row 0 of .*d/a.parquet"):
        read(write(tmp_path / "d", vector=few), Columns())
    keys = write(tmp_path / "keys", ids=WORDS[[3, 1, 2]].tolist(), vector=list(X[:3]))
    write(tmp_path / "keys", "b.parquet", ids=WORDS[[4, 1]].tolist(), vector=list(X[:2]))
    with pytest.raises(SourceRefused, match=r"expected distinct keys, found 'bee' in .*a.parquet and in .*b.parquet"):
        understand({"base": keys}, Columns(keyed=True), None, "euclidean")


MANY = 5000  # more than the first rows that are read whole
LATER = {
    "id": ([*range(MANY - 1), 7], "id", r"expected distinct ids, found 7 in rows 7 and 4999 of .*b\.parquet"),
    "key": ([*map(str, range(MANY - 1)), "7"], "id", r"expected distinct keys, found '7' in rows 7 and 4999 of .*b\.p"),
    "null key": (
        [*map(str, range(MANY - 1)), None],
        "id",
        r"a key in every row, found null in row 4999 of .*b\.parquet",
    ),
    "reserved id": ([*range(MANY - 1), -1], "id", r"ids other than -1.*row 4999 of .*b\.parquet"),
    "key not in UTF-8": (
        pa.array([*(b"%d" % i for i in range(MANY - 1)), b"\xff"]).view(pa.string()),
        "id",
        r"expected keys in UTF-8, found other bytes, in row 4999 of .*b\.parquet: store them as binary",
    ),
    "UTF-8": (
        pa.array([b"a"] * (MANY - 1) + [b"\xff"]).view(pa.string()),
        "labels",
        r"labels in UTF-8, found other bytes, in row 4999 of .*b\.parquet",
    ),
    "width": ([[0, 1]] * (MANY - 1) + [[0, 1, 0]], "labels", r"width 2, found 3, in row 4999 of .*b\.parquet"),
    "number": ([[0, 1]] * (MANY - 1) + [[0, 2]], "labels", r"0 and 1, found \[0, 2\], in row 4999 of .*b\.parquet"),
    "null": (
        [["a"]] * (MANY - 1) + [["a", None]],
        "labels",
        r"labels, found null in a list, in row 4999 of .*b\.parquet",
    ),
    "beyond": (pa.array([*range(MANY - 1), 2**63], pa.uint64()), "labels", r"int64.*in row 4999 of .*b\.parquet"),
}


@pytest.mark.parametrize("case", LATER)
@pytest.mark.parametrize("split", ["base", "query"])
def test_ids_and_labels_of_later_rows_are_checked(tmp_path, case, split):
    values, column, message = LATER[case]
    keyed, multi_hot = "key" in case, case in ("width", "number")
    table = {"id": np.arange(MANY), "vector": [X[0]] * MANY, "labels": np.zeros(MANY, np.int64), column: values}
    rest = {"labels": None if column == "id" else table["labels"][:N]}
    base = write(tmp_path / "base", ids=[f"{i}" for i in range(-N, 0)] if keyed else np.arange(MANY, MANY + N), **rest)
    write(tmp_path / split, "b.parquet", table.pop("id"), table.pop("vector"), **(table if column == "labels" else {}))
    columns = Columns(keyed=keyed, labels="labels" if column == "labels" else None)
    splits = {"base": base, split: str(tmp_path / split)}
    with pytest.raises(SourceRefused, match=message):
        understand(splits, columns, "multi-hot" if multi_hot else None, "euclidean")


def test_keys_of_two_files_are_compared(tmp_path):
    keys = write(tmp_path / "d", ids=[f"{i}" for i in range(N)])
    write(tmp_path / "d", "b.parquet", ids=[*(f"b{i}" for i in range(N - 1)), "7"])
    with pytest.raises(SourceRefused, match=r"found '7' in row 7 of .*a\.parquet and in row 59 of .*b\.parquet"):
        understand({"base": keys}, Columns(keyed=True), None, "euclidean")


def test_strings_that_are_not_in_utf_8_are_refused_or_bad_rows(tmp_path):
    strings = pa.array([b"a \xff", b"", *[b"the ant"] * (N - 2)]).view(pa.string())
    with pytest.raises(SourceRefused, match=r"strings in UTF-8, found b'a \\xff'"):
        read(write(tmp_path / "labels", tag=strings), Columns(labels="tag"))
    texts = write(tmp_path / "texts", vector=WORDS[CLASSES].tolist())
    write(tmp_path / "texts", "b.parquet", ids=np.arange(N, 2 * N), vector=strings)
    with pytest.raises(ValueError, match=r"expected a text in UTF-8, found b'a \\xff', in row 0 of .*b\.parquet"):
        read(texts, Columns(x="vector"))
    assert read(texts, Columns(x="vector"), bad_rows="drop")[1].tolist() == [*range(N), *range(N + 1, 2 * N)]


def test_what_is_left_to_reindex_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(all_rows, "CHECKED", N)
    folder = write(tmp_path / "d", labels=CLASSES)
    assert "reindex" not in str(read(folder, Columns(labels="labels"))[0])
    write(tmp_path / "d", "b.parquet", ids=[N, N], vector=list(X[:2]), labels=CLASSES[:2])
    said = understand({"base": folder}, Columns(labels="labels"), None, "euclidean").splits["base"]
    assert said.ids == "ids (int64) in column id; reindex checks those after the first 60 rows"
    assert said.labels.endswith("in the first 60 rows; reindex checks those after the first 60 rows")


def test_columns_that_cannot_be_told_apart_are_refused(tmp_path):
    with pytest.raises(SourceRefused, match="expected different columns for ids, vectors and labels, found id twice"):
        read(write(tmp_path / "one"), Columns(labels="id"))
    (tmp_path / "two").mkdir()
    table = pa.Table.from_arrays([pa.array(range(N)), LISTS, LISTS], ["id", "vector", "vector"])
    pq.write_table(table, tmp_path / "two" / "a.parquet")
    with pytest.raises(SourceRefused, match=r"expected one column vector, found 2, in .*a\.parquet"):
        read(str(tmp_path / "two"), Columns())
    words = write(tmp_path / "words", vector=WORDS[CLASSES].tolist())
    with pytest.raises(SourceRefused, match="--vector-dtype is for bytes, found string"):
        read(words, Columns(dtype="float32"))


def renamed(tmp_path):
    pq.write_table(pa.table({"id": np.arange(N), "e": LISTS}), tmp_path / "renamed.parquet")
    return str(tmp_path / "renamed.parquet")


def test_a_vector_of_zeros_has_no_cosine(tmp_path):
    x = X.astype(np.float32)
    x[5] = 0
    source = write(tmp_path / "d", vector=list(x))
    assert len(read(source, Columns())[1]) == N
    with pytest.raises(ValueError, match=r"expected a vector other than zero, which has no cosine, in row 5 of"):
        read(source, Columns(), metric="cosine")


def test_vectors_compared_by_hamming_distance_are_bits(tmp_path):
    source = write(tmp_path / "d", vector=[(row > 0).tolist() for row in X])
    assert len(read(source, Columns(), metric="hamming")[1]) == N
    with pytest.raises(SourceRefused, match=r"expected a vector of 0 and 1, compared by hamming, .* in row 0 of .*e/a"):
        read(write(tmp_path / "e"), Columns(), metric="hamming")
    late = (X > 0).astype(float)
    late[7, 2] = 0.5
    write(tmp_path / "d", "b.parquet", ids=np.arange(N) + N, vector=list(late))
    with pytest.raises(
        ValueError, match=r"expected a vector of 0 and 1, .* in row 7 of .*b\.parquet; reindex and embed"
    ):
        read(source, Columns(), metric="hamming")


def png(pixels, kind="PNG", **options):
    content = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(content, kind, **options)
    return content.getvalue()


def test_pictures_are_read_by_their_depth_and_mode():
    def first(content):
        return media.pixels(content, media.dim("image", 8))[:3].tolist()

    assert first(png(np.full((8, 8), 50_000, np.uint16))) == [195] * 3  # 50,000 / 257
    assert first(png(np.full((8, 8), 50_000, np.uint16), "TIFF")) == [195] * 3
    assert first(png(np.full((8, 8), 0.5, np.float32), "TIFF")) == [128] * 3
    assert first(b"P5 8 8 1023\n" + np.full(64, 1023, ">u2").tobytes()) == [255] * 3
    with pytest.raises(ValueError, match="expected a picture with values from 0 to 1, found 0 to 7: convert it"):
        first(png(np.arange(64, dtype=np.float32).reshape(8, 8) % 8, "TIFF"))
    with pytest.raises(ValueError, match="found signed or 32-bit integers: convert it"):
        first(png(np.full((8, 8), 200, np.int32), "TIFF"))
    clear = np.zeros((8, 8, 4), np.uint8)
    assert first(png(clear)) == [255] * 3  # transparent: white, not the colour that nobody sees
    palette = Image.fromarray(np.full((8, 8, 3), [0, 0, 255], np.uint8)).convert("P")
    assert first(png(palette)) == [0, 0, 255]
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert first(png(cmyk, "TIFF"))[0] > 200
    turned = np.zeros((8, 8, 3), np.uint8)
    turned[-1] = 255  # white below
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert first(png(turned, exif=exif)) == [255] * 3


def test_warnings_about_pictures_are_not_printed(recwarn, tmp_path):
    jpeg = png(np.full((8, 8, 3), 90, np.uint8), "JPEG")
    exif = b"\xff\xe1\x00\x14Exif\0\0MM\0*\0\0\0\x08\0\x7f\x01\x12"  # cut off
    content = jpeg[:2] + exif + jpeg[2:]
    assert media.pixels(content, media.dim("image", 8))[0] == 90
    broken = b"P6 1x 8 255 "  # Pillow raises ValueError
    pq.write_table(pa.table({"id": range(2), "image": [broken, content]}), tmp_path / "p.parquet")
    said = understand({"base": str(tmp_path / "p.parquet")}, Columns(x=""), None, "euclidean").splits["base"]
    assert "the first 8 x 8 JPEG RGB" in said.x
    assert not recwarn.list


def test_errors_of_decoders_are_those_of_a_bad_row():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    jpeg = png(np.full((8, 8, 3), 90, np.uint8), "JPEG", exif=exif)
    for at in range(20, 80):  # some bytes of the EXIF data
        broken = jpeg[:at] + b"\0" + jpeg[at + 1 :]
        with suppress(ValueError):
            media.pixels(broken, media.dim("image", 8))


def test_structs_of_bytes_hold_vectors_or_pictures_but_no_paths(tmp_path):
    structs = [{"bytes": row.astype(np.float32).tobytes()} for row in X]
    np.testing.assert_array_equal(read(write(tmp_path / "v", vector=structs), Columns(dtype="float32"))[2], X)
    paths = [{"bytes": None, "path": f"{i}.jpg"} for i in range(N)]
    for kind in (pa.null(), pa.binary()):
        column = pa.array(paths, pa.struct({"bytes": kind, "path": pa.string()}))
        pq.write_table(pa.table({"id": range(N), "image": column}), tmp_path / "p.parquet")
        with pytest.raises(SourceRefused, match=r"found null, .*: store their bytes"):
            read(str(tmp_path / "p.parquet"), Columns(x=""))


def test_pictures_in_structs_are_read(tmp_path):
    rows = [{"bytes": png(np.full((4, 4), 10 * i, np.uint8)), "path": None} for i in range(5)]
    pq.write_table(pa.table({"id": range(5), "image": rows}), tmp_path / "d.parquet")
    said, _, x, _, _ = read(str(tmp_path / "d.parquet"), Columns(x=""))
    assert x[:, 0].tolist() == [0, 10, 20, 30, 40]
    assert said.x == "pictures, the first 4 x 4 PNG L (structs with bytes) in column image"


def test_labels_that_are_not_read_are_named(tmp_path):
    said, *_ = read(write(tmp_path / "d", labels=LABELS["lists"]), Columns())
    assert said.labels == "none; column labels is not read without --label-column labels"
