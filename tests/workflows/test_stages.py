"""The straight line without a flow: what is encoded, what is published, what is refused, and what it all equals."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import blobs

from hashing import evaluation
from hashing.bits import pack
from hashing.mapreduce import Batch
from infra.executors import InProcess
from infra.settings import Settings
from storage import codes, features, filesystem, models, tables
from storage.features import Columns, Dataset
from workflows import ingest, measure, stages
from workflows.references import Verdict
from workflows.spec import Spec
from workflows.stages import GateRejected

D, CLASSES = 32, ["ant", "bee", "cat", "dog", "elk", "fox"]


def write_shard(folder, name, batch):
    """A Parquet shard of a user: own column names, labels by name."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.x.ravel()), D)
    labels = [[CLASSES[c]] for c in batch.y.argmax(1)]
    pq.write_table(pa.table({"key": batch.ids, "embedding": vectors, "tags": labels}), folder / name)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    return Settings()


@pytest.fixture
def source(tmp_path):
    """Four shards of 200 rows; the dataset `mine` uses them where they lie."""
    for i in range(4):
        write_shard(tmp_path / "source", f"part{i}.parquet", blobs(200, D, seed=i, first_id=1000 * i))
    return tmp_path / "source"


@pytest.fixture
def mine(settings, source):
    columns = Columns(id="key", x="embedding", labels="tags")
    return ingest.ingest_source("mine", str(source), settings, columns)


SPEC = {"dataset": "mine", "method": {"method": "itq", "bits": 16}, "protocol": {"queries": 50}}


def spec(**changes):
    return Spec.model_validate({**SPEC, **changes})


def reindex(settings, of, executor=None):
    """The flow's stages. What was staged, its report, and the version that readers then see."""
    executor = executor or InProcess()
    ingest.ingest(of, settings)
    staged = stages.stage(of, settings, executor, stages.fit(of, settings, executor))
    if staged.unchanged:
        return staged, None, staged.base
    report = stages.evaluate(of, settings, executor, staged)
    verdict = stages.gate(of, settings, staged, report)
    return staged, report, stages.publish(of, settings, staged, report, verdict, "page")


def table_of(settings, name="mine__itq16"):
    return stages.open_table(settings, name)


def published_rows(settings, name="mine__itq16"):
    """What readers see, as one batch."""
    table = table_of(settings, name)
    batches = [batch for shard in table.shards(table.version().snapshot_id) for batch in shard]
    rows = Batch(*(None if field[0] is None else np.concatenate(field) for field in zip(*batches, strict=True)))
    assert len(np.unique(rows.ids)) == len(rows.ids)
    return rows


def published_codes(settings, name="mine__itq16"):
    """id -> code of what readers see."""
    rows = published_rows(settings, name)
    return dict(zip(rows.ids.tolist(), rows.x.tolist(), strict=True))


def encoded_anew(settings, dataset, name="mine__itq16"):
    """id -> code, from the source and the published model."""
    function = models.load(settings.warehouse_url, table_of(settings, name).version().properties["model"])
    batches = [batch for shard in dataset.shards("base") for batch in shard]
    return {
        i: code
        for batch in batches
        for i, code in zip(batch.ids.tolist(), pack(function.encode(batch.x)).tolist(), strict=True)
    }


def test_what_is_published_equals_the_source_encoded_anew(settings, mine):
    staged, report, version = reindex(settings, spec())
    assert (version, staged.rows, staged.encoded, staged.removed) == ("v1", 800, 800, 0)
    assert published_codes(settings) == encoded_anew(settings, mine)
    properties = table_of(settings).version().properties
    assert properties["model"] == staged.model.digest
    assert Spec.model_validate_json(properties["spec"]) == spec()
    assert properties["report"] == "page"
    assert report.comparison is None


def test_a_second_run_finds_nothing_to_do(settings, mine):
    reindex(settings, spec())
    snapshots = table_of(settings).versions()
    staged, _, version = reindex(settings, spec())
    assert staged.unchanged
    assert (version, staged.encoded) == ("v1", 0)
    assert table_of(settings).versions() == snapshots


def test_only_what_changed_is_encoded(settings, mine, source):
    reindex(settings, spec())
    before = table_of(settings).parts(table_of(settings).version().snapshot_id)
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1000))  # changed
    write_shard(source, "part9.parquet", blobs(70, D, seed=10, first_id=9000))  # added
    (source / "part3.parquet").unlink()  # removed
    staged, report, version = reindex(settings, spec())
    assert (version, staged.rows, staged.encoded, staged.removed) == ("v2", 620, 220, 2)
    after = table_of(settings).parts(table_of(settings).version().snapshot_id)
    assert {name for name in after if before.get(name) == after[name]} == {"part0.parquet", "part2.parquet"}
    assert published_codes(settings) == encoded_anew(settings, mine)
    assert staged.model.digest == table_of(settings).version("v1").properties["model"]
    assert report.comparison.rows == 550 - len(own_rows_of_most_queries(settings))


def own_rows_of_most_queries(settings):
    """Each query's own row is not ranked: the rows ranked for most queries are one less, unless theirs have gone."""
    table = table_of(settings)
    ids = published_codes(settings).keys()
    judge = measure.judge(
        spec(), features.load(settings.warehouse_url, "mine"), table.vocabulary, settings.warehouse_url, InProcess()
    )
    return [] if any(i not in ids for i in judge.queries.ids.tolist()) else [0]


def test_versions_are_compared_on_the_rows_that_both_have(settings, mine, source):
    """Against a histogram made from the two versions by hand, with another model and changed rows."""
    reindex(settings, spec())
    old = published_rows(settings)
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1100))
    write_shard(source, "part5.parquet", blobs(100, D, seed=5, first_id=5000))
    again = spec(refit="always", gate={"force": "to look at it"})
    _, report, version = reindex(settings, again)
    new = published_rows(settings)
    assert version == "v2"
    table = table_of(settings)
    judge = measure.judge(spec(), mine, table.vocabulary, settings.warehouse_url, InProcess())

    def mean_precision(rows, name, keep):
        function = models.load(settings.warehouse_url, table.version(name).properties["model"])
        rows = rows.take(np.isin(rows.ids, keep))
        queries = pack(function.encode(judge.queries.x))
        distance = np.bitwise_count(queries[:, None] ^ rows.x).sum(-1)
        relevant = judge.queries.y @ rows.y.T > 0
        ranked = judge.queries.ids[:, None] != rows.ids
        histogram = np.zeros((2, len(queries), 17), np.int64)
        for q in range(len(queries)):
            histogram[0, q] = np.bincount(distance[q, ranked[q]], minlength=17)
            histogram[1, q] = np.bincount(distance[q, ranked[q] & relevant[q]], minlength=17)
        return evaluation.average_precision(histogram).mean()

    common = np.intersect1d(old.ids, new.ids)
    assert report.comparison.version == "v1"
    value = report.comparison.staged.metrics["map"].value
    assert value == pytest.approx(mean_precision(new, "v2", common), abs=1e-12)
    assert report.comparison.published.metrics["map"].value == pytest.approx(
        mean_precision(old, "v1", common), abs=1e-12
    )
    assert report.measured.metrics["map"].value == pytest.approx(mean_precision(new, "v2", new.ids), abs=1e-12)


def test_in_process_and_ray_publish_the_same_files(settings, mine, monkeypatch, tmp_path, ray_executor):
    _, report, _ = reindex(settings, spec())
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "other"))
    other = Settings()
    ingest.ingest_source("mine", mine.splits["base"], other, mine.columns)
    _, other_report, _ = reindex(other, spec(), ray_executor)
    names = [
        sorted(part.url.rsplit("/", 1)[1] for part in table_of(s).parts(table_of(s).version().snapshot_id).values())
        for s in (settings, other)
    ]
    assert names[0] == names[1]  # the names are the SHA-256 of the content
    assert other_report == report


def test_a_new_model_makes_every_shard_stale(settings, mine, source):
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(400, D, seed=4, first_id=4000))
    kept, _, _ = reindex(settings, spec())
    assert (kept.encoded, kept.removed) == (400, 0)  # refit never: the published model, whatever rows came
    refit, _, version = reindex(settings, spec(refit="always", gate={"force": "test"}))
    assert (version, refit.encoded, refit.removed) == ("v3", 1200, 5)
    assert refit.model.digest != kept.model.digest
    assert published_codes(settings) == encoded_anew(settings, mine)
    assert reindex(settings, spec(refit="always"))[0].unchanged


def test_another_method_under_the_same_name_must_be_asked_for(settings, mine):
    reindex(settings, spec(code="codes16"))
    other = {"code": "codes16", "method": {"method": "lsh", "bits": 16}}
    with pytest.raises(ValueError, match="expected table mine__codes16 to stay with its model"):
        reindex(settings, spec(**other))
    _, _, version = reindex(settings, spec(**other, refit="always", gate={"force": "test"}))
    assert version == "v2"
    with pytest.raises(ValueError, match="expected 16 bits, as table mine__codes16 has, found 32"):
        reindex(settings, spec(code="codes16", method={"method": "lsh", "bits": 32}, refit="always"))


def test_the_gate_keeps_what_is_not_good_enough_from_readers(settings, mine, source):
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    with pytest.raises(GateRejected, match=r"map 0\.\d+ is under its floor of 0\.9900"):
        reindex(settings, spec(gate={"floors": {"map": 0.99}}))
    table = table_of(settings)
    assert table.version().name == "v1"
    rejected = [v for v in table.versions() if v.name.startswith("rejected-")]
    assert len(rejected) == 1
    assert "under its floor" in rejected[0].properties["verdict"]
    with pytest.raises(GateRejected, match=r"expected a floor of a metric among map, .*, found 'mapp'"):
        reindex(settings, spec(gate={"floors": {"mapp": 0.1}}))
    forced, _, version = reindex(settings, spec(gate={"floors": {"map": 0.99}, "force": "the boss says so"}))
    assert (version, forced.encoded) == ("v2", 0)  # what was rejected is encoded already
    assert "the boss says so" in table_of(settings).version().properties["verdict"]


def test_a_loss_beyond_the_noise_is_refused_and_one_inside_it_is_not(settings, mine):
    reindex(settings, spec(code="c"))
    worse = {"code": "c", "method": {"method": "lsh", "bits": 16, "seed": 3}, "refit": "always"}
    with pytest.raises(GateRejected, match=r"map -0\.\d+ .* against v1 on the 799 rows of both is a loss"):
        reindex(settings, spec(**worse))
    _, report, version = reindex(settings, spec(**worse, gate={"max_loss": 1.0}))
    assert version == "v2"
    assert report.comparison.map_difference.high < 0


def test_a_new_version_cannot_be_published_over_somebody_elses(settings, mine, source):
    executor = InProcess()
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    slow = spec()
    staged = stages.stage(slow, settings, executor, stages.fit(slow, settings, executor))
    report = stages.evaluate(slow, settings, executor, staged)
    write_shard(source, "part5.parquet", blobs(50, D, seed=5, first_id=5000))
    assert reindex(settings, spec())[2] == "v2"
    with pytest.raises(tables.PublishConflict, match="somebody else published"):
        stages.publish(slow, settings, staged, report, Verdict(passed=True, reasons=(), notes=()), "page")
    assert table_of(settings).version().name == "v2"


def test_a_source_that_changes_after_staging_is_not_fully_covered(settings, mine, source):
    executor = InProcess()
    staged = stages.stage(spec(), settings, executor, stages.fit(spec(), settings, executor))
    report = stages.evaluate(spec(), settings, executor, staged)
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    verdict = stages.gate(spec(), settings, staged, report)
    assert not verdict.passed
    assert "1 of 5 source shards are not in it, such as part4.parquet" in verdict.reasons[0]


def test_a_run_that_was_stopped_goes_on_where_it_was(settings, mine, source, monkeypatch):
    """A bad shard stops the first run; what was encoded before it is not encoded again."""
    good = (source / "part2.parquet").read_bytes()
    batch = blobs(200, D, seed=2, first_id=2000)
    batch.x[7, 3] = np.nan
    monkeypatch.setenv("HASHKILN_COMMIT_SHARDS", "1")
    settings = Settings()
    model = stages.fit(spec(), settings, InProcess())
    stamp = (source / "part2.parquet").stat()
    write_shard(source, "part2.parquet", batch)
    with pytest.raises(ValueError, match=r"NaN or infinity, in row 7 of .*part2\.parquet"):
        stages.stage(spec(), settings, InProcess(), model)
    with pytest.raises(ValueError, match=r"NaN or infinity, in row 7 of .*part2\.parquet"):
        stages.stage(spec(), settings, InProcess(), model)
    (branch,) = [v.name for v in table_of(settings).versions()]
    assert sorted(table_of(settings).parts(table_of(settings).version(branch).snapshot_id)) == [
        "part0.parquet",
        "part1.parquet",
    ]
    assert table_of(settings).version().name == "v0"
    (source / "part2.parquet").write_bytes(good)
    assert stamp.st_size == len(good)
    staged, _, version = reindex(settings, spec())
    assert (version, staged.rows) == ("v1", 800)


def test_an_id_in_two_shards_is_refused(settings, mine, source):
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=3190))
    with pytest.raises(ValueError, match=r"expected unique ids, found 10 in two shards \(3190, …\), of part3"):
        reindex(settings, spec())
    assert table_of(settings).version().name == "v0"


def test_drawn_queries_are_frozen_kept_from_training_and_not_ranked_themselves(settings, mine, source):
    reindex(settings, spec())
    table = table_of(settings)
    judge = measure.judge(spec(), mine, table.vocabulary, settings.warehouse_url, InProcess())
    assert judge.drawn
    assert len(judge.queries.ids) == 50
    write_shard(source, "part4.parquet", blobs(400, D, seed=4, first_id=4000))
    reindex(settings, spec(protocol={"queries": 70}))
    again = measure.judge(spec(), mine, table_of(settings).vocabulary, settings.warehouse_url, InProcess())
    for a, b in zip(judge.queries, again.queries, strict=True):
        np.testing.assert_array_equal(a, b)
    drawn = measure.judge(spec(protocol={"queries": 70, "new_queries": True}), mine, table_of(settings).vocabulary,
                          settings.warehouse_url, InProcess())  # fmt: skip
    assert len(drawn.queries.ids) == 70
    histogram = judge.histogram(
        models.load(settings.warehouse_url, table.version().properties["model"]),
        table.shards(table.version().snapshot_id),
        InProcess(),
    )
    assert (histogram[0].sum(1) == 799).all()
    x = np.concatenate([batch.x for shard in mine.shards("base") for batch in shard])
    ids = np.concatenate([batch.ids for shard in mine.shards("base") for batch in shard])
    first = np.isin(ids, judge.queries.ids) | (ids >= 4000)
    weight = models.load(settings.warehouse_url, table.version().properties["model"])
    mean = x[~first].astype(np.float64).mean(0)
    np.testing.assert_allclose(mean @ weight.weight.astype(np.float64), weight.threshold, rtol=1e-3, atol=1e-4)


def test_all_of_it_on_s3(mine, s3, monkeypatch, tmp_path):
    """Source, warehouse and models on S3."""
    bucket = f"{s3}/{tmp_path.name}"
    for shard in mine.shards("base"):
        with open(shard.url, "rb") as file:
            filesystem.write(f"{bucket}/source/{shard.name}", file.read())
    monkeypatch.setenv("HASHKILN_WAREHOUSE", f"{bucket}/warehouse")
    settings = Settings()
    dataset = ingest.ingest_source("mine", f"{bucket}/source", settings, mine.columns)
    staged, _, version = reindex(settings, spec(), InProcess())
    assert (version, staged.encoded) == ("v1", 800)
    assert published_codes(settings) == encoded_anew(settings, dataset)
    filesystem.remove(f"{bucket}/source/part3.parquet")
    staged, _, version = reindex(settings, spec(), InProcess())
    assert (version, staged.rows, staged.encoded, staged.removed) == ("v2", 600, 0, 1)
    assert reindex(settings, spec())[0].unchanged


def test_neighbours_are_computed_once_and_kept(settings, mine):
    by_distance = spec(protocol={"relevance": "neighbours", "neighbours": 5, "queries": 50})
    _, report, _ = reindex(settings, by_distance)
    assert "the 5 nearest rows by Euclidean distance" in report.protocol
    truth = list((settings.home / "warehouse" / "truth").iterdir())
    assert len(truth) == 1
    stamp = truth[0].stat().st_mtime_ns
    table = table_of(settings)
    judge = measure.judge(by_distance, mine, table.vocabulary, settings.warehouse_url, InProcess())
    assert truth[0].stat().st_mtime_ns == stamp
    batches = [batch for shard in mine.shards("base") for batch in shard]
    x, ids = (np.concatenate([getattr(batch, field) for batch in batches]) for field in ("x", "ids"))
    distance = ((judge.queries.x[:, None].astype(np.float64) - x) ** 2).sum(-1)
    distance[judge.queries.ids[:, None] == ids] = np.inf
    np.testing.assert_array_equal(
        judge.neighbours, ids[np.lexsort((np.broadcast_to(ids, distance.shape), distance))[:, :5]]
    )


def test_new_labels_take_the_next_places(settings, mine, source):
    reindex(settings, spec())
    assert table_of(settings).vocabulary == tuple(CLASSES)
    batch = blobs(30, D, seed=4, first_id=4000)
    table = pa.table({"key": batch.ids, "embedding": pa.array(batch.x.tolist()), "tags": [["aardvark", "bee"]] * 30})
    pq.write_table(table, source / "part4.parquet")
    reindex(settings, spec())
    assert table_of(settings).vocabulary == (*CLASSES, "aardvark")
    part = table_of(settings).parts(table_of(settings).version().snapshot_id)["part4.parquet"]
    (read,) = codes.CodeShard(part, 16, 7)
    np.testing.assert_array_equal(read.y, np.tile([0, 1, 0, 0, 0, 0, 1], (30, 1)))


def test_rows_named_by_strings_have_ids_that_never_change(settings, tmp_path):
    """--key-column: the id is the key's place in an append-only map, whatever shard the key is in."""

    def write(name, first, n):
        batch = blobs(n, D, seed=first, first_id=first)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.x.ravel()), D)
        (tmp_path / "keyed").mkdir(exist_ok=True)
        pq.write_table(pa.table({"sku": [f"sku{i}" for i in batch.ids], "v": vectors}), tmp_path / "keyed" / name)

    def key_of_id():
        parts = sorted((settings.home / "warehouse" / "datasets" / "keyed" / "keys").iterdir())
        rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
        return {row["id"]: row["key"] for row in rows}

    write("a.parquet", 0, 100)
    write("b.parquet", 500, 100)
    dataset = ingest.ingest_source("keyed", str(tmp_path / "keyed"), settings, Columns(id="sku", keyed=True, x="v"))
    of = Spec.model_validate({**SPEC, "dataset": "keyed", "protocol": {"queries": 20, "neighbours": 5}})
    reindex(settings, of)
    before = key_of_id()
    assert sorted(before) == list(range(200))
    assert set(before.values()) == {f"sku{i}" for i in [*range(100), *range(500, 600)]}
    (tmp_path / "keyed" / "a.parquet").unlink()
    write("c.parquet", 50, 100)  # half of its keys were in the shard that has gone
    staged, _, version = reindex(settings, of)
    assert (version, staged.encoded) == ("v2", 100)
    after = key_of_id()
    assert before.items() <= after.items()
    assert len(after) == 250
    assert published_codes(settings, "keyed__itq16") == encoded_anew(settings, dataset, "keyed__itq16")
    assert {after[i] for i in published_codes(settings, "keyed__itq16")} == {
        f"sku{i}" for i in [*range(50, 150), *range(500, 600)]
    }
    write("d.parquet", 140, 20)
    with pytest.raises(ValueError, match="expected unique ids, found 10 in two shards"):
        reindex(settings, of)


def test_what_does_not_fit_together_is_refused(settings, mine, tmp_path):
    with pytest.raises(LookupError, match=r"expected a dataset 'other' in .*: `hashkiln ingest` brings it"):
        stages.fit(spec(dataset="other"), settings, InProcess())
    with pytest.raises(ValueError, match="found 'other': did you mean"):
        reindex(settings, spec(dataset="other"))
    pictures = Dataset(name="pictures", kind="image", dim=None, splits={"base": str(tmp_path)}, source="")
    features.save(settings.warehouse_url, pictures)
    with pytest.raises(ValueError, match="expected a dataset of vectors, found images in pictures: embed them first"):
        reindex(settings, spec(dataset="pictures"))
    unlabelled = ingest.ingest_source("bare", mine.splits["base"], settings, Columns(id="key", x="embedding"))
    assert unlabelled.dim == D
    with pytest.raises(ValueError, match="expected labels, for relevance by labels, found none in dataset bare"):
        reindex(settings, spec(dataset="bare", protocol={"relevance": "labels", "queries": 50}))
    with pytest.raises(ValueError, match=r"expected more than 5000 rows in mine, .*, found 800: ask for fewer"):
        reindex(settings, spec(protocol={"queries": 5000}))
    with pytest.raises(ValueError, match="expected a column vector, found key, embedding, tags"):
        ingest.ingest_source("bad", mine.splits["base"], settings, Columns(id="key"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "A b"}, "expected a name of a-z, 0-9, _ and -, found 'A b'"),
        ({"method": {"method": "itk"}}, "expected the name of a method, found 'itk'; did you mean itq"),
        ({"method": {"bits": 0}}, "greater than or equal to 1"),
        ({"method": {"bits": 4097}}, "less than or equal to 4096"),
        ({"method": {"parameters": {"iter": 3}}}, r"expected parameters of itq among \['n_iter'\], found iter"),
        ({"method": {"parameters": {"n_iter": "many"}}}, "expected a int for itq's n_iter, found 'many'"),
        ({"method": {"parameters": {"n_iter": True}}}, "expected a int for itq's n_iter, found True"),
        ({"refit": "sometimes"}, "Input should be 'never' or 'always'"),
        ({"protocol": {"neighbours": 0}}, "greater than or equal to 1"),
        ({"bitz": 3}, "Extra inputs are not permitted"),
    ],
)
def test_specifications_are_checked_where_they_enter(values, message):
    with pytest.raises(ValueError, match=message):
        Spec.model_validate({"dataset": "sample", **values})
