"""Mistakes that are detectable at the start: exit 2, one line that names the option, nothing created or computed."""

import pytest
from safetensors.numpy import save

from hashing.deep import networks
from infra.executors import InProcess
from infra.settings import Settings, SettingsError
from storage.tables import iceberg
from tests.workflows.conftest import reindex, spec
from workflows.checks import UsageError, check_run, schema_of
from workflows.context import Context
from workflows.reindex import fitting, flow
from workflows.spec import Spec


@pytest.fixture
def hashkiln(tmp_path, run_command):
    """Run the command in this process, in an empty home and with no raw files; (exit, stderr)."""

    def run(*args, **more):
        environment = {"HASHKILN_HOME": str(tmp_path / "home"), "HASHKILN_EXECUTOR": "inprocess", "COLUMNS": "80"}
        environment |= {"HASHKILN_DATA": "/nowhere"}
        code, _, error = run_command(*args, **environment | more)
        return code, error

    return run


def untouched(home):
    """Only the folder of Prefect may exist."""
    return {path.name for path in home.iterdir()} <= {"prefect"} if home.exists() else True


def method(name, bits=16, *parameters, dataset="mnist"):
    options = [option for parameter in parameters for option in ("--set", parameter)]
    return ["--dataset", dataset, "--method", name, "--bits", str(bits), *options]


def grid(dataset, methods, *options):
    return ["benchmark", "--dataset", dataset, "--methods", methods, *options]


MISTAKES = {  # the command, and what its line names
    "odd bits": (["reindex", *method("agh", 9)], "layers=2, n_bits=9"),
    "few anchors": (["fit", *method("agh", 64, "n_anchors=32")], "n_anchors=32"),
    "few nearest anchors": (["fit", *method("dgh", 8, "n_anchors=2")], "n_nearest=3, n_anchors=2"),
    "parts": (["encode", *method("kmh", 10, "n_part=4")], "n_part=4, n_bits=10"),
    "blocks": (["fit", *method("subic", 32, "units=5")], "units=5, found n_bits=32"),
    "no unit": (["fit", *method("subic", 32, "units=0")], "SuBiC's units of at least 2"),
    "groups": (["fit", *method("density_sensitive", 64, "alpha=0.1")], "alpha=0.1"),
    "no number": (["fit", *method("density_sensitive", 64, "alpha=NaN")], "alpha of at least 0, found nan"),
    "network": (["reindex", *method("dpsh", 16, "network=mpl")], "found 'mpl' in network='mpl'; did you mean mlp?"),
    "two networks": (["reindex", *method("dpsh", 16, "network=mlp+mlp")], "found network='mlp+mlp'"),
    "optimizer": (["reindex", *method("dpsh", 16, "optimizer=lion")], "optimizer: expected one of adam, sgd, found"),
    "regularizer": (["reindex", *method("dpsh", 16, "regularizers=decoy:1")], "found 'decoy:1'"),
    "augment": (["reindex", *method("dpsh", 16, "augment=true")], "augment needs a network"),
    "depth": (["reindex", *method("super_bit", 16, "depth=785")], "depth = 785"),
    "bits": (["reindex", *method("itq", 129, dataset="sample")], "n_bits = 129, d = 128"),
    "bits, not ingested": (["reindex", *method("pcah", 26, dataset="glove-25-angular")], "n_bits = 26, d = 25"),
    "pictures": (["fit", *method("sgh", 16, "network=cnn", dataset="sample")], "d = 128: use network=mlp"),
    "small pictures": (["fit", *method("sgh", 16, "network=cnn", dataset="glove-25-angular")], "network=cnn, found"),
    "view": (["fit", *method("prdh", 16, "first_view=784")], "expected first_view from 1 to 783"),
    "pictures of a view": (["fit", *method("prdh", 16, "network=cnn+mlp", "first_view=700")], "found d = 700"),
    "labels": (["reindex", *method("ksh", dataset="sample")], "KSH learns from labels"),
    "labels for tags": (["reindex", *method("thc", 16, "tags=1.0", dataset="sample")], "THC learns from labels"),
    "vectors for texts": (["encode", *method("itq", dataset="wordnet")], "network=text for texts, found ITQ"),
    "network for texts": (["encode", *method("dpsh", dataset="wordnet")], "found DPSH, with network=mlp"),
    "texts": (["encode", *method("dpsh", 16, "network=text", dataset="openclipart")], "network=text, found rows"),
    "classes": (["fit", *method("csq", 3)], "expected n_bits of at least 4 for 10 classes, found n_bits=3, in dataset"),
    "classes of a grid": (grid("cifar-100", "lsh,hyp2", "--bits", "6,8"), "cifar-100, hyp2, 6 bits: expected n_bits"),
    "relevance": (
        ["reindex", *method("lsh", dataset="sample"), "--relevance", "graded"],
        "relevance by labels needs labels",
    ),
    "dry run": (["reindex", *method("itq", 129, dataset="sample"), "--dry-run"], "n_bits = 129, d = 128"),
    "one cell of a grid": (grid("sample", "lsh,itq", "--bits", "8,256"), "sample, itq, 256 bits: expected n_bits"),
    "some cells": (grid("sample", "ksh,sdh,lsh"), "8 cells cannot be measured; leave out the methods ksh, sdh"),
    "a method of a grid": (grid("mnist", "lsh,agh", "--bits", "8,9"), "layers=2, n_bits=9"),
    "labels of a grid": (
        grid("sample", "lsh", "--protocol", "labels"),
        "sample, lsh, 8 bits: relevance by labels needs labels",
    ),
    "labels to draw by": (grid("sample", "lsh", "--protocol", "dhn"), "relevance by labels needs labels"),
    "second dataset": (grid("mnist,sample", "pcah", "--bits", "256"), "sample, pcah, 256 bits"),
    "dataset": (["reindex", *method("itq", dataset="mnst")], "did you mean mnist"),
    "dataset, nothing ingested": (
        ["encode", *method("itq", dataset="mine")],
        "found 'mine': the datasets are cifar-10",
    ),
    "dataset of a grid": (grid("sample,nowhere", "lsh"), "expected the name of a dataset, found 'nowhere'"),
    "method": (["fit", *method("itk")], "did you mean itq"),
    "method of a grid": (grid("sample", "lsh,itk"), "did you mean itq"),
    "history of no table": (["history", "mine__itq32"], "unknown code table 'mine__itq32'; existing tables: none"),
    "no table to evaluate": (["evaluate", "mine__itq32"], "existing tables: none yet"),
    "no table to search": (["search", "mine__itq32", "--queries", "query", "--out", "x"], "existing tables: none yet"),
    "no table to export": (["export", "mine__itq32", "--to", "npy", "--out", "x"], "existing tables: none yet"),
    "no table to verify": (["verify", "mine__itq32"], "existing tables: none yet"),
    "no table to roll back": (["rollback", "mine__itq32"], "existing tables: none yet"),
    "no table of versions": (["diff", "mine__itq32", "v1", "v2"], "existing tables: none yet"),
    "no table to collect": (["gc", "mine__itq32"], "existing tables: none yet"),
    "tables of no dataset": (["compare", "mine"], "expected the name of a dataset, found 'mine'"),
    "deleted dataset": (["delete", "mine", "--ids", "7", "--yes"], "ingested datasets: none yet"),
    "what is tuned": (
        grid("mnist", "dhn", "--bits", "8", "--protocol", "dhn", "--tune", "dhn.network=mlp,text"),
        "expected texts for network=text",
    ),
}


VARIABLES = {  # name, value, and what the line says
    "HASHKILN_CPUS": ("abc", "HASHKILN_CPUS: Input should be a valid integer, unable to parse string as an integer"),
    "HASHKILN_COMMIT_SECONDS": ("-1", "Input should be greater than or equal to 0, found '-1'"),
    "HASHKILN_EXECUTOR": ("in-process", "'ray' or 'inprocess', found 'in-process': did you mean inprocess?"),
    "HASHKILN_CATALOG": ("c.db", "HASHKILN_CATALOG: expected a URL such as sqlite:///catalog.db, https://host/catalog"),
    "HASHKILN_HOME": ("~nobody-here/x", "HASHKILN_HOME: cannot expand ~ in ~nobody-here/x"),
    "HASHKILN_ENCODE_GPU": (
        "1",
        "unknown variable HASHKILN_ENCODE_GPU: expected one of HASHKILN_ENCODE_CPUS, ",
    ),
    "HASHKILN_DEVISE": ("cpu", "unknown variable HASHKILN_DEVISE: did you mean HASHKILN_DEVICE?"),
    "HASHKILN_TRAINERS": ("2", "HASHKILN_TRAINERS=2 needs HASHKILN_EXECUTOR=ray"),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_wrong_setting_is_named(hashkiln, tmp_path, name):
    value, said = VARIABLES[name]
    code, error = hashkiln("methods", **{name: value})
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert untouched(tmp_path / "home")


@pytest.mark.parametrize(
    "command",
    [
        *(grid("sample", "lsh", "--bits", "8", option) for option in ("--json", "--out", "--figures")),
        ["export", "mine__lsh8", "--to", "npy", "--out"],
        ["search", "mine__lsh8", "--queries", "query", "--out"],
        ["reindex", *method("lsh", 8, dataset="sample"), "--export"],
    ],
    ids=" ".join,
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_created(hashkiln, tmp_path, command):
    (file := tmp_path / "file").touch()
    for above in (str(file), "/proc"):  # /proc refuses root, too
        place = f"{above}/new/rows"
        code, error = hashkiln(*command, f"npy={place}" if command[0] == "reindex" else place)
        assert (code, error.count("\n")) == (2, 1)
        assert f"cannot write to {above}: N" in error  # Not a directory, No such file or directory
        assert untouched(tmp_path / "home")
    assert sorted(path.name for path in tmp_path.iterdir()) in (["file"], ["file", "home"])


@pytest.mark.parametrize("command", ["reindex", "fit", "encode", "benchmark"])
def test_more_classes_than_codes_are_refused_before_anything_is_created(hashkiln, settings, mine, command):
    before = sorted(settings.home.rglob("*"))
    options = ["--methods", "csq"] if command == "benchmark" else ["--method", "csq"]
    code, error = hashkiln(command, "--dataset", "mine", *options, "--bits", "2")
    assert (code, error.count("\n")) == (2, 1)
    assert "expected n_bits of at least 3 for 6 classes, found n_bits=2, in dataset mine" in error
    assert [path for path in sorted(settings.home.rglob("*")) if "prefect" not in path.parts] == before


def test_more_classes_than_codes_of_a_large_dataset_are_refused_by_the_fit(settings, mine, monkeypatch):
    from workflows import checks

    monkeypatch.setattr(checks, "LABELS_READ", 100)
    wrong = spec(method={"method": "csq", "bits": 2})
    check_run(wrong, settings)
    with pytest.raises(UsageError, match="at least 3 for 6 classes, found n_bits=2, in dataset mine"):
        fitting.fit(Context.of(wrong, settings, InProcess()))


def test_an_unknown_version_is_refused_with_those_that_exist(hashkiln, settings, mine):
    reindex(settings, spec(method={"method": "lsh", "bits": 8}))
    for command, *options in (
        ("evaluate", "--version", "v9"),
        ("evaluate", "--beside", "v9"),
        ("search", "--version", "v9", "--queries", "query", "--out", "x"),
        ("export", "--version", "v9", "--to", "npy", "--out", "x"),
        ("verify", "--version", "v9"),
        ("diff", "v1", "v9"),
        ("rollback", "--to", "v9"),
    ):
        code, error = hashkiln(command, "mine__lsh8", *options)
        assert (code, error) == (2, "unknown version 'v9' of table mine__lsh8; existing versions: main, v1\n"), command


def test_settings_name_every_wrong_variable():
    with pytest.raises(SettingsError, match=r"^HASHKILN_CPUS: .*, found 0; HASHKILN_TRAINERS: .*, found 0$"):
        Settings(cpus=0, trainers=0)
    assert Settings(executor="inprocess", trainers=1).trainers == 1


TWICE = [
    (["reindex", *method("lsh", dataset="sample"), "--floor", "map=0.1", "--floor", "map=0.2"], "map is set twice"),
    (["reindex", *method("lsh", dataset="sample"), "--ceiling", "map=1", "--ceiling", "map=1"], "map is set twice"),
    (["reindex", *method("lsh", dataset="sample"), "--max-loss", "map=0", "--max-loss", "map=1"], "map is set twice"),
    (["fit", *method("itq", 16, "n_iter=5", "n_iter=6", dataset="sample")], "n_iter is set twice: to 5 and to 6"),
    (grid("mnist", "itq", "--set", "itq.n_iter=5", "--set", "itq.n_iter=6"), "itq.n_iter is set twice"),
    (
        grid("mnist", "dhn", "--protocol", "dhn", "--tune", "dhn.lr=0.1", "--tune", "dhn.lr=0.2"),
        "--tune dhn.lr is given twice",
    ),
]


@pytest.mark.parametrize(("command", "said"), TWICE)
def test_the_same_name_twice_is_refused(hashkiln, tmp_path, command, said):
    code, error = hashkiln(*command)
    assert code == 2
    assert said in error
    assert untouched(tmp_path / "home")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_created(hashkiln, tmp_path, name):
    command, named = MISTAKES[name]
    code, error = hashkiln(*command)
    assert code == 2
    assert error.count("\n") == 1
    assert named in error
    assert untouched(tmp_path / "home")


@pytest.mark.parametrize("command", [["reindex", *method("dpsh")], grid("mnist", "lsh,dpsh", "--bits", "16")])
def test_more_workers_than_a_batch_allows_are_refused_before_a_cluster_is_contacted(hashkiln, tmp_path, command):
    code, error = hashkiln(*command, HASHKILN_EXECUTOR="ray", HASHKILN_TRAINERS="3")
    assert code == 2
    assert error.count("\n") == 1
    assert "batch_size=128 is not divisible by the 3 training workers: change batch_size or HASHKILN_TRAINERS" in error
    assert untouched(tmp_path / "home")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["reindex", *method("dpsh", 16, "network=cnn_f")], "network=cnn_f: give --pretrained parameters"),
        (["reindex", *method("lsh")], "expected no pretrained parameters for lsh"),
        (["reindex", *method("sgh")], "expected no pretrained parameters for sgh"),
        (grid("mnist", "lsh,dpsh", "--bits", "16", "--set", "dpsh.network=cnn_f"), "mnist, dpsh, 16 bits"),
    ],
)
def test_pretrained_parameters_that_fit_no_network_are_not_stored(hashkiln, tmp_path, options, named):
    body = networks.build("cnn", 784, 16).body.state_dict()
    file = tmp_path / "cnn.safetensors"
    file.write_bytes(save({name: value.numpy() for name, value in body.items()}))
    code, error = hashkiln(*options, "--pretrained", str(file))
    assert code == 2
    assert error.count("\n") == 1
    assert named in error
    assert untouched(tmp_path / "home")


def test_pretrained_parameters_that_fit_are_stored(settings):
    body = networks.build("cnn", 784, 16).body.state_dict()
    networks.check_pretrained_shapes("cnn", 784, {name: value.numpy() for name, value in body.items()})
    with pytest.raises(ValueError, match="expected shape"):
        networks.check_pretrained_shapes("cnn", 3 * 32**2, {name: value.numpy() for name, value in body.items()})


def test_the_catalogue_describes_a_dataset_as_it_is_ingested(settings, real_data, monkeypatch):
    from workflows.datasets import ingest

    monkeypatch.setenv("HASHKILN_DATA", str(real_data))
    for name in ("mnist", "openclipart", "wordnet"):
        before = schema_of(name, Settings())
        ingest(Spec(dataset=name), Settings())
        assert schema_of(name, Settings()) == before


def test_flows_refuse_what_the_command_line_refuses(settings, mine):
    wrong = spec(method={"method": "itq", "bits": 33})
    with pytest.raises(UsageError, match="found n_bits = 33, d = 32: ask for fewer, in dataset mine"):
        check_run(wrong, settings)
    with pytest.raises(UsageError, match="found n_bits = 33, d = 32: ask for fewer, in dataset mine"):
        flow.reindex.fn(wrong)
    assert not iceberg.catalog_exists(settings.catalog_url)


def test_more_workers_than_the_cluster_has_room_for_are_refused_before_a_table_is_created(settings, mine, ray_executor):
    from dataclasses import replace

    deep = spec(method={"method": "dpsh", "bits": 16})
    with pytest.raises(UsageError, match="expected HASHKILN_TRAINERS of at most 2, the CPUs of the cluster, found 4"):
        fitting.fit(Context.of(deep, settings, replace(ray_executor, trainers=4)))
    assert not iceberg.catalog_exists(settings.catalog_url)
