"""Find the splits of a dataset in folders that are used in place."""

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..features import rows
from ..features.rows import Columns
from ..files import filesystem

SPLITS = "dataset_dict.json"  # names the splits of a Hugging Face DatasetDict
SPLIT = re.compile(r"(train|validation|val|dev|test)([-_.\d].*)?")  # names of files of a split, as on the hub
TABLES = {"_delta_log/*.json": "Delta Lake", "metadata/*.metadata.json": "Iceberg", ".hoodie/*": "Hudi"}


def find_splits(
    source: str, query: str | None, columns: Columns, forms: Sequence[str]
) -> tuple[dict[str, str], Columns]:
    """Return the URL of each split of a source that is used in place, and how its columns are read.

    In a Hugging Face DatasetDict with the splits train and test, train is the base and test the queries. For folders of
    .npy files beside a folder of Parquet files, `columns.x` names the folder of vectors, and may be empty if there is
    only one. `forms` describes all forms of sources, for messages. Raises ValueError if a folder has several splits,
    several folders of vectors, or files of several forms; if it has none, with the forms that are read;
    FileNotFoundError if there are no files.
    """
    splits = {"base": source} | ({"query": query} if query else {})
    found = {split: _splits_in(url) for split, url in splits.items()}
    if set(found["base"]) == {"train", "test"} and not query:
        splits = {"base": found["base"]["train"], "query": found["base"]["test"]}
    else:
        splits = {split: _only_split(url, found[split]) for split, url in splits.items()}
    parts = {split: _npy_and_metadata(url, columns.x) for split, url in splits.items()}
    vectors, metadata = parts["base"]
    if any((folder, beside) != (vectors, metadata) for folder, beside in parts.values()):
        raise ValueError(f"expected the same folders in {query} as in {source}: {vectors} and {metadata}")
    if metadata:
        return (
            {split: filesystem.join(url, vectors) for split, url in splits.items()},
            columns.model_copy(update={"x": "vector", "metadata": metadata}),
        )
    for url in splits.values():
        _check_no_table(url)
        _check_form(url, forms)
    return splits, columns


def _splits_in(url: str) -> dict[str, str]:
    """Return the splits of a Hugging Face DatasetDict, by name; none for other folders."""
    file = filesystem.join(url, SPLITS)
    if not any(entry.url == file for entry in filesystem.listing(url)):
        return {}
    return {name: filesystem.join(url, name) for name in json.loads(filesystem.read_bytes(file))["splits"]}


def _only_split(url: str, found: dict[str, str]) -> str:
    if len(found) > 1:
        urls = list(found.values())
        raise ValueError(
            f"{url} has the splits {', '.join(found)}: ingest one of them, such as {urls[0]}, and queries from "
            f"another one by --query {urls[-1]}"
        )
    return next(iter(found.values()), url)


def _npy_and_metadata(url: str, named: str) -> tuple[str, str]:
    """Return the names of the folders of vectors and of their metadata; empty if a folder has no such folders."""
    folders: dict[str, set[str]] = {".npy": set(), ".parquet": set()}
    for file in filesystem.listing(url):
        folder, _, name = filesystem.relative_path(url, file.url).rpartition("/")
        if (suffix := rows.form(name)) in folders:
            folders[suffix].add(folder)
    vectors, metadata = sorted(folders[".npy"]), sorted(folders[".parquet"])
    if not vectors or not metadata or "" in (*vectors, *metadata) or set(vectors) & set(metadata):
        return "", ""
    if len(metadata) > 1 or "/" in metadata[0]:
        raise ValueError(f"{url}: expected one folder of metadata beside the vectors, found {', '.join(metadata)}")
    if named not in vectors and (len(vectors) > 1 or named not in ("", "vector")):
        raise ValueError(f"{url} has the vectors {', '.join(vectors)}: choose one by --vector-column")
    chosen = named if named in vectors else vectors[0]
    return chosen, metadata[0]


def _check_no_table(url: str) -> None:
    """Raise ValueError for the folder of a table, whose files may be of earlier versions."""
    for file in filesystem.inventory(url, 2):
        name = filesystem.relative_path(url, file.url)
        if owner := next((owner for pattern, owner in TABLES.items() if fnmatchcase(name, pattern)), None):
            raise ValueError(
                f"{url} is a table of {owner}, whose files may hold rows of old versions: export its rows to Parquet"
            )


def _check_form(url: str, known: Sequence[str]) -> None:
    """Raise ValueError unless a folder has files of one form of rows and one split. `known` describes all forms."""
    files = filesystem.listing(url)
    forms = sorted({rows.form(file.url) for file in files} - {""})
    if len(forms) > 1:
        raise ValueError(f"{url} has files of several forms, {' and '.join(forms)}: keep each form in its own folder")
    if not forms:
        names = [file.url.rsplit("/", 1)[-1] for file in files[:3]]
        raise ValueError(f"{url}: expected one of: {'; '.join(known)}; found {', '.join(names)}")
    names = [file.url.rsplit("/", 1)[-1] for file in files if rows.form(file.url)]
    if len(splits := sorted({match[1] for name in names if (match := SPLIT.fullmatch(name.lower()))})) > 1:
        raise ValueError(
            f"{url} has files of several splits, {' and '.join(splits)}: move those of each split to a folder of its "
            "own, and ingest one, with queries from another by --query"
        )
