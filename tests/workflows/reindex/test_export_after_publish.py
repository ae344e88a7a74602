"""`reindex --export`: each published version is exported, once, in place of the one before."""

import json
import shutil

import faiss
import pytest

from infra.executors import InProcess
from tests.conftest import blobs
from tests.workflows.conftest import D, spec, write_shard
from workflows.checks import UsageError, check_run
from workflows.export import ExportFailed
from workflows.reindex import pipeline


def reindexed(settings, exports):
    of = spec(exports=exports, method={"method": "lsh", "bits": 16}, gate={"max_loss": {"map": 1.0}})
    return pipeline.run_stages(pipeline.open_run(of, settings, InProcess()))


def test_each_published_version_is_exported_once_in_place_of_the_one_before(settings, source, mine, tmp_path):
    exports = {"Faiss_IVF": str(tmp_path / "index"), "npy": ""}
    default = tmp_path / "home" / "exports" / "mine__lsh16" / "npy"
    assert reindexed(settings, exports).exported == (str(tmp_path / "index"), str(default))
    assert faiss.read_index_binary(str(tmp_path / "index" / "index.faiss")).ntotal == 800
    assert reindexed(settings, exports).exported == ()
    shutil.rmtree(default)
    assert reindexed(settings, exports).exported == (str(default),)
    write_shard(source, "part4.parquet", blobs(200, D, seed=4, first_id=4000))
    outcome = reindexed(settings, exports)
    assert (outcome.version, len(outcome.exported)) == ("v2", 2)
    assert faiss.read_index_binary(str(tmp_path / "index" / "index.faiss")).ntotal == 1000
    assert json.loads((default / "export.json").read_text())["version"] == "v2"
    assert sorted(path.name for path in tmp_path.iterdir() if "index" in path.name) == ["index"]  # nothing is left over


def test_an_export_that_fails_leaves_the_version_published_and_the_earlier_export(settings, source, mine, tmp_path):
    exports = {"npy": str(tmp_path / "out")}
    reindexed(settings, exports)
    write_shard(source, "part4.parquet", blobs(200, D, seed=4, first_id=4000))
    of = spec(exports=exports, method={"method": "lsh", "bits": 16}, gate={"max_loss": {"map": 1.0}})
    context = pipeline.open_run(of, settings, InProcess())
    published = []
    (tmp_path / "out" / "export.json").unlink()  # after the check, another program takes the folder
    with pytest.raises(ExportFailed, match=r"mine__lsh16 v2 is published, but .* npy .*: Run the same|v2 is published"):
        pipeline.run_stages(context, on_publish=published.append)
    assert [outcome.version for outcome in published] == ["v2"]
    assert context.open_table().version().name == "v2"
    assert (tmp_path / "out" / "codes.npy").exists()
    shutil.rmtree(tmp_path / "out")
    assert reindexed(settings, exports).exported == (str(tmp_path / "out"),)


def test_exports_that_cannot_succeed_are_refused_before_work(settings, mine, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for exports, message in (
        ({"npy": str(tmp_path / "full")}, "full is not an export of mine__itq16 to npy: choose a new folder"),
        ({"npy": str(tmp_path / "full" / "mine.txt" / "x")}, "cannot write to .*mine.txt"),
        ({"npy": str(tmp_path / ("x" * 300))}, "File name too long: .*/x+'"),
        ({"npy": "s3://bucket/x"}, "expected a local folder"),
        ({"npy": str(tmp_path / "x"), "duckdb": str(tmp_path / "x")}, "another folder for each target"),
    ):
        with pytest.raises(UsageError, match=message):
            check_run(spec(exports=exports), settings)
    with pytest.raises(LookupError, match="unknown target 'nope'"):
        check_run(spec(exports={"nope": ""}), settings)


def test_a_run_with_nothing_to_do_exports_what_is_missing(settings, mine, tmp_path, run_command):
    options = ("--dataset", "mine", "--method", "lsh", "--bits", "16", "--queries", "50")
    reindexed(settings, {})
    export = f"npy={tmp_path / 'out'}"
    status, out, _ = run_command("reindex", *options, "--export", export, HASHKILN_HOME=str(tmp_path / "home"))
    assert (status, "Nothing to do" in out, (tmp_path / "out" / "codes.npy").exists()) == (0, True, True)
    status, out, _ = run_command("reindex", *options, "--export", export, HASHKILN_HOME=str(tmp_path / "home"))
    assert (status, "Exported" in out) == (0, False)
    status, _, said = run_command("reindex", *options, "--export", "nope", HASHKILN_HOME=str(tmp_path / "home"))
    assert (status, "unknown target 'nope'" in said) == (2, True)
