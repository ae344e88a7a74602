"""Every place of the warehouse matches its own paths and those of no other place."""

import pytest

from storage import warehouse
from storage.warehouse import Place

FIELDS = {
    "digest": "0a" * 32,
    "run": "0a" * 8,
    "dataset": "mine",
    "subset": "mine-dhn-0123abcd",
    "table": "mine__itq32",
    "page": "staged-0123456789ab",
    "path": "rank0/state.pt",
    "part": "00016",
    "last": "00031",
    "format": "1",
    "piece": f"{'0a' * 32}-3",
}
PLACES = {name: place for name, place in vars(warehouse).items() if isinstance(place, Place)}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_matches_its_own_paths(name):
    place = PLACES[name]
    path = place.url("", **FIELDS).lstrip("/")
    match = place.pattern.fullmatch(path)
    assert {field: FIELDS[field] for field in match.groupdict()} == match.groupdict()
    assert not place.pattern.fullmatch(f"{path}x") or path.endswith(tuple(FIELDS.values()))
    assert not warehouse.TEMPORARY.fullmatch(path)


def test_places_of_files_are_distinct():
    """Except that a subset is a dataset."""
    files = {name: place.url("", **FIELDS).lstrip("/") for name, place in PLACES.items() if "." in place.template}
    for name, path in files.items():
        others = {other for other in files if other != name and PLACES[other].pattern.fullmatch(path)}
        assert others <= {"DATASET"}, name


def test_all_folders_outside_the_tables_are_listed():
    below = {place.template.partition("/")[0] for name, place in PLACES.items() if name != "TABLES"}
    assert {*warehouse.FOLDERS} == below - {"data", "quarantine", "metadata", "{part}.parquet", "index"}
