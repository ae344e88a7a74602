"""What ingest accepts, every later stage accepts: random schemas, from ingest to search and export."""

import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.settings import Settings
from storage.features.contract import SourceRefused
from storage.features.rows import Columns
from tests.workflows.conftest import reindex
from workflows import datasets
from workflows.export import export_version
from workflows.opening import open
from workflows.spec import Spec

N, D = 50, 6
NUMBERS = [
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.bool_(),
]
LISTS = [
    pa.list_,
    pa.large_list,
    pa.list_view,
    pa.large_list_view,
    lambda kind: pa.list_(kind, D),
    lambda kind: pa.fixed_shape_tensor(kind, [D]),
]
IDS = [
    pa.int8(),
    pa.uint16(),
    pa.int32(),
    pa.int64(),
    pa.uint64(),
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.binary(),
    pa.binary(16),
    pa.uuid(),
    pa.decimal128(20, 0),
]
LABELS = [
    None,
    pa.int8(),
    pa.int64(),
    pa.string(),
    pa.large_string(),
    pa.bool_(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.float64(),
]
CUTS = {"one file": [N], "two files": [30, N], "two files and an empty one": [30, N, N]}
FEW, MANY = 25, 400  # schemas


def column_of_ids(kind, rows, rng):
    if kind in (pa.uuid(), pa.binary(16)):
        return pa.array([int(i).to_bytes(16, "big") for i in rows], kind)
    if pa.types.is_integer(kind):
        return pa.array(rows, kind)
    if pa.types.is_decimal(kind):
        return pa.array([Decimal(int(i)) for i in rows], kind)
    return pa.array([f"key {i}" for i in rows]).cast(kind)


def column_of_vectors(kind, make, rng, nulls):
    x = rng.integers(0, 2, (N, D)) if kind in (pa.bool_(), pa.uint8(), pa.uint16()) else rng.integers(-50, 50, (N, D))
    x[~x.any(axis=1), 0] = 1  # by cosine, a vector of zeros is a bad row
    rows = x.astype(bool).tolist() if kind == pa.bool_() else x.tolist()
    if kind == pa.float16():
        rows = list(x.astype(np.float16))
    for row in range(nulls):
        rows[row] = None
    made = make(kind)
    if isinstance(made, pa.FixedShapeTensorType):
        return pa.ExtensionArray.from_storage(made, pa.array(rows, made.storage_type))
    return pa.array(rows, made)


def column_of_labels(kind, form, rng):
    values = rng.integers(0, 3, N)
    if kind is None:
        return None
    texts = kind in (pa.string(), pa.large_string()) or pa.types.is_dictionary(kind)
    plain = (
        [f"class {v}" for v in values]
        if texts
        else [bool(v) for v in values]
        if kind == pa.bool_()
        else values.tolist()
    )
    if form == "one":
        return (
            pa.array(plain, kind.value_type).dictionary_encode()
            if pa.types.is_dictionary(kind)
            else pa.array(plain, kind)
        )
    value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
    width = {"list": 1, "multi-hot": 3}[form]
    if form == "multi-hot" and not texts:
        return pa.array([[int(v == c) for c in range(3)] for v in values]).cast(pa.list_(value_type))
    return pa.array([[value] * width for value in plain], pa.list_(value_type))


@st.composite
def schemas(draw):
    return {
        "numbers": draw(st.sampled_from(NUMBERS)),
        "lists": draw(st.sampled_from(LISTS)),
        "ids": draw(st.sampled_from(IDS)),
        "labels": draw(st.sampled_from(LABELS)),
        "form": draw(st.sampled_from(["one", "list", "multi-hot"])),
        "labels_as": draw(st.sampled_from([None, None, "values", "multi-hot"])),
        "metric": draw(st.sampled_from([None, "cosine", "ip", "hamming"])),
        "nulls": draw(st.sampled_from([0, 0, 0, 2, N])),
        "keyed": draw(st.booleans()),
        "nested": draw(st.booleans()),
        "own_queries": draw(st.booleans()),
        "container": draw(st.sampled_from(["parquet", "arrow"])),
        "cuts": draw(st.sampled_from(list(CUTS))),
        "seed": draw(st.integers(0, 99)),
    }


def write(folder, schema, rows):
    rng = np.random.default_rng(schema["seed"])
    vectors = column_of_vectors(schema["numbers"], schema["lists"], rng, schema["nulls"])
    table = {"id": column_of_ids(schema["ids"], rows, rng)}
    table["vector"] = pa.StructArray.from_arrays([vectors], ["values"]) if schema["nested"] else vectors
    if (labels := column_of_labels(schema["labels"], schema["form"], rng)) is not None:
        table["labels"] = labels
    folder.mkdir()
    table = pa.table(table)
    stops = CUTS[schema["cuts"]]
    for start, stop in zip([0, *stops], stops, strict=False):
        part, name = table.slice(start, stop - start), f"{start}-{stop}"
        if schema["container"] == "parquet":
            pq.write_table(part, folder / f"{name}.parquet")
        else:
            with pa.ipc.new_stream(folder / f"{name}.arrow", table.schema) as file:
                file.write_table(part, max_chunksize=20)
    return str(folder)


def run(schema, home):
    """Return whether ingest accepts the files; then they are encoded, searched and exported."""
    own = Settings()
    source = write(home / "source", schema, np.arange(N))
    query = write(home / "query", schema, 60 + np.arange(N)) if schema["own_queries"] else None
    columns = Columns(
        keyed=schema["keyed"],
        x="vector.values" if schema["nested"] else "",
        labels="labels" if schema["labels"] else None,
    )
    try:
        datasets.ingest_source("d", source, own, columns, query, labels_as=schema["labels_as"], metric=schema["metric"])
    except SourceRefused:
        return False
    method = {"method": "lsh", "bits": 8}
    spec = Spec(dataset="d", method=method, bad_rows="drop", protocol={"queries": 10, "neighbours": 5})
    staged, _, _ = reindex(own, spec)
    assert staged.rows == N - schema["nulls"]
    table = open("d__lsh8", settings=own)
    x = np.random.default_rng(0).normal(size=(3, D))
    _, ids = table.search(x, k=5, rerank=20)
    assert ids.shape == (3, 5)
    export_version("d__lsh8", "npy", str(home / "out"))
    assert len(np.load(home / "out" / "ids.npy")) == staged.rows
    return True


def tried(examples):
    """Try some schemas, and return how many were accepted and refused."""
    outcomes = {"accepted": 0, "refused": 0}

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(schemas())
    def try_schema(schema):
        with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
            patch.setenv("HASHKILN_HOME", home)
            patch.setenv("HASHKILN_EXECUTOR", "inprocess")
            outcomes["accepted" if run(schema, Path(home)) else "refused"] += 1

    try_schema()
    print(outcomes)
    assert sum(outcomes.values()) == examples
    return outcomes


def test_what_ingest_accepts_every_later_stage_accepts():
    assert min(tried(FEW).values()) > 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_ingest_accepts_every_later_stage_accepts_in_many_schemas():
    assert min(tried(MANY).values()) > 60


def test_the_page_says_how_many_schemas_are_tried():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "bring-your-data.md").read_text()
    assert f"tries {FEW} random schemas, `make test-all` {MANY} more" in " ".join(page.split())
