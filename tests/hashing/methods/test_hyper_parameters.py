"""Hyper-parameters and kinds of rows that cannot work are refused before a row is read."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from hashing.deep import architectures
from hashing.deep.backbones import BACKBONES
from hashing.deep.method import Deep
from hashing.methods import METHODS, check_against, check_hyperparameters


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("agh", {"n_bits": 9}, "expected layers=1, or 2 and an even n_bits, found layers=2, n_bits=9"),
        ("agh", {"n_bits": 9, "layers": 3}, "found layers=3, n_bits=9"),
        ("agh", {"n_bits": 32, "n_anchors": 16}, "expected more anchors than the 16 eigenvectors .* n_anchors=16: ask"),
        ("agh", {"n_bits": 8, "n_nearest": 301}, "of at most n_anchors, found n_nearest=301, n_anchors=300"),
        ("dgh", {"n_bits": 300}, "expected more anchors than the 300 eigenvectors"),
        ("dgh", {"n_bits": 8, "n_anchors": 2}, "found n_nearest=3, n_anchors=2"),
        ("thc", {"n_bits": 300}, "expected more anchors than the 300 eigenvectors"),
        ("thc", {"n_bits": 8, "network": "text", "n_topics": 2049}, "expected n_topics of at most 2048, found 2049"),
        ("kmh", {"n_bits": 10, "n_part": 4}, "from 1 to 12 that divides n_bits, found n_part=4, n_bits=10"),
        ("kmh", {"n_bits": 26, "n_part": 13}, "found n_part=13, n_bits=26"),
        ("subic", {"n_bits": 32, "units": 5}, "expected n_bits divisible by units=5, found n_bits=32"),
        ("density_sensitive", {"n_bits": 64, "alpha": 0.1}, "each of 64 bits, found at most 15 with alpha=0.1"),
        ("density_sensitive", {"n_bits": 64, "alpha": 0.5, "n_nearest": 1}, "found at most 32 with .*n_nearest=1"),
        ("dpsh", {"network": "mpl"}, "expected the name of a network, found 'mpl' in network='mpl'; did you mean mlp"),
        ("dpsh", {"network": "zzz"}, "found 'zzz' in network='zzz'; the networks are mlp, linear, "),
        ("dpsh", {"network": "mlp+mlp"}, r"^expected one network, found network='mlp\+mlp'$"),
        ("prdh", {"network": "mlp+mpl"}, r"found 'mpl' in network='mlp\+mpl'; did you mean mlp"),
        ("prdh", {"network": "mlp+mlp+mlp"}, r"^expected one network, or two joined by a \+, found .*mlp'$"),
        ("dpsh", {"optimizer": "lion"}, "optimizer: expected one of adam, sgd, found 'lion'$"),
        ("dpsh", {"augment": True}, "augment needs a network among .*, found network=mlp"),
        ("dpsh", {"regularizers": "decoy:0.1"}, "such as decov:0.1.*; found 'decoy:0.1'; did you mean decov"),
    ],
)
def test_hyper_parameters_that_conflict_are_refused(name, values, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](**{"n_bits": 32, **values})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("agh", {"n_bits": 9, "layers": 1}),
        ("agh", {"n_bits": 598}),
        ("kmh", {"n_bits": 36, "n_part": 12}),
        ("subic", {"n_bits": 30, "units": 5}),
        ("prdh", {"network": "cnn+mlp", "augment": True}),
    ],
)
def test_hyper_parameters_that_agree_are_accepted(name, values):
    METHODS[name](**{"n_bits": 32, **values})


def test_every_method_of_the_catalogue_is_made_with_its_defaults():
    for bits in (2, 8, 12, 32, 256):
        for name, cls in METHODS.items():
            if name != "subic" or bits % 4 == 0:
                cls(n_bits=bits)


def test_an_unknown_hash_layer_is_refused():
    @dataclass(frozen=True)
    class Odd(Deep):
        hash_layer = "spiral"

    with pytest.raises(ValueError, match="expected a hash layer among linear, divide, blocks, normed, found 'spiral'"):
        Odd(8)


def test_normalization_of_two_views_is_refused():
    @dataclass(frozen=True)
    class Two(Deep):
        views = 2
        hash_layer = "normed"

    with pytest.raises(ValueError, match="expected one view for the hash layer normed"):
        Two(8)


def test_normalization_of_a_batch_of_one_row_is_refused():
    with pytest.raises(ValueError, match=r"expected batch_size of at least 2 .*, found batch_size=1"):
        METHODS["orthohash"](8, batch_size=1)
    assert METHODS["crovca"](8, batch_size=1).copies == 2


@pytest.mark.parametrize("margin", [0.0, -1.0])
def test_a_margin_of_dpn_that_asks_for_nothing_is_refused(margin):
    with pytest.raises(ValueError, match="expected DPN's margin above 0"):
        check_hyperparameters(METHODS["dpn"](8, margin=margin))


@pytest.mark.parametrize(
    ("name", "values", "rows", "message"),
    [
        *((name, {"n_bits": 64}, ("vector", 32, True), "expected n_bits <= d, .*, found n_bits = 64, d = 32")
          for name in ("itq", "pcah", "pca_rr", "kmh", "ba", "dh", "supervised_dh", "uh_bdnn", "sh_bdnn")),
        ("super_bit", {"depth": 33}, ("vector", 32, True), "depth from 0 to d = 32, found depth = 33"),
        ("ksh", {}, ("vector", 32, False), "KSH learns from labels, and the rows have none"),
        ("dpsh", {}, ("vector", 32, False), "DPSH learns from labels"),
        ("thc", {"tags": 2.0}, ("vector", 32, False), "THC learns from labels"),
        ("dpsh", {"network": "cnn"}, ("vector", 50, True), "expected square images, .*, found d = 50: use"),
        ("dpsh", {"network": "cnn_skip"}, ("vector", 64, True), "at least 16 x 16 for network=cnn_skip, found d = 64"),
        ("prdh", {"first_view": 32}, ("vector", 32, True), "expected first_view from 1 to 31, .* 32 dimensions, found"),
        ("prdh", {"network": "cnn+mlp", "first_view": 250}, ("vector", 300, True), "square images, .* d = 250"),
        ("itq", {}, ("text", 32, True), "network=text for texts, found ITQ, which reads vectors"),
        ("dpsh", {}, ("text", 32, True), "network=text for texts, found DPSH, with network=mlp"),
        ("dpsh", {"network": "text"}, ("image", 3072, True), "for network=text, found rows of kind image"),
    ],
)  # fmt: skip
def test_rows_that_a_method_cannot_learn_from_are_refused_by_kind_dimension_and_labels(name, values, rows, message):
    with pytest.raises(ValueError, match=message):
        check_against(METHODS[name](**{"n_bits": 16, **values}), *rows)


@pytest.mark.parametrize(
    ("name", "values", "rows"),
    [
        ("itq", {"n_bits": 32}, ("vector", 32, False)),
        ("lsh", {"n_bits": 64}, ("vector", 32, False)),
        ("super_bit", {"n_bits": 64}, ("vector", 32, False)),
        ("thc", {}, ("vector", 32, False)),
        ("dpsh", {"network": "text"}, ("text", 32, True)),
        ("dpsh", {"network": "cnn"}, ("vector", 784, True)),
        ("dpsh", {"network": "alexnet"}, ("image", 3 * 64**2, True)),
        ("prdh", {"network": "cnn+mlp", "first_view": 3072}, ("vector", 4096, True)),
    ],
)
def test_rows_that_a_method_can_learn_from_are_accepted(name, values, rows):
    check_against(METHODS[name](**{"n_bits": 16, **values}), *rows)


def test_methods_that_need_a_code_for_each_class_are_marked():
    """Their head refuses 17 classes at 4 bits, and so does the check before a run."""
    for cls in METHODS.values():
        if not issubclass(cls, Deep):
            continue
        method, refused = cls(n_bits=4), pytest.raises(ValueError, match="at least 5 for 17 classes, found n_bits=4")
        method.head(32, 16)
        check_against(method, "vector", 32, True, 16)
        if not cls.class_codes:
            method.head(32, 17)
            check_against(method, "vector", 32, True, 17)
            continue
        with refused:
            method.head(32, 17)
        with refused:
            check_against(method, "vector", 32, True, 17)


def test_names_of_networks_are_those_of_their_bodies():
    assert tuple(BACKBONES) == architectures.NETWORKS


def test_the_catalogue_needs_no_torch():
    code = "import sys, hashing.methods; print([m for m in ('torch', 'numba', 'ray', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
