"""Names that people type."""

from hashing.names import hint, spelled


def test_a_name_is_found_by_any_spelling_and_an_identical_one_first():
    assert spelled("Fashion_MNIST", ["mnist", "fashion-mnist"]) == "fashion-mnist"
    assert spelled("a-b", ["a_b", "a-b"]) == "a-b"
    assert spelled("A-b", ["a_b", "a-b"]) is None
    assert spelled("c", ["a_b"]) is None


def test_close_names_are_suggested_in_their_own_spelling():
    assert hint("fashon_mnist", ["fashion-mnist", "sift1m"], "they are") == "did you mean fashion-mnist?"
    assert hint("x", ["fashion-mnist", "sift1m"], "they are") == "they are fashion-mnist, sift1m"
    assert hint("x", [], "existing:") == "existing: none yet"
