"""Where the files of a named dataset lie: found here, or downloaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from ..files.download import Progress, download, file_digest, recorded_checksum
from .catalogue import File, NamedDataset

log = logging.getLogger(__name__)

SAMPLE = Path(__file__).parent.parent / "sample"


def locate_or_fetch(
    dataset: NamedDataset, data_dir: Path, source: str | Path | None = None, progress: Progress | None = None
) -> dict[str, Path]:
    """Where each file is, by unpacked name: plain, .gz, or the .tar.gz that holds it.

    source is a folder, with the files in it or in <folder>/<name>/, where they then must be; or the URL of a folder
    that mirrors the published files. Without a folder they are looked for in <data_dir>/<name>/, and downloaded to
    there. Raises ValueError where files are not found and cannot be downloaded, OSError where no server gives them.
    """
    if dataset.name == "sample":
        return {file: SAMPLE / file for file in dataset.required() | {dataset.truth}}
    mirror = str(source) if source is not None and "://" in str(source) else None
    home = data_dir / (dataset.folder or dataset.name)
    local = Path(source).expanduser().absolute() if source is not None and not mirror else None
    folders = [local / dataset.name, local] if local else [home]
    wanted = dataset.required() | ({dataset.truth} - {""})
    found = {file: path for file in sorted(wanted) if (path := _find(dataset, file, folders))}
    missing = sorted(wanted - found.keys())
    if dataset.required() <= found.keys():
        return found
    if local or not (mirror or all(file.urls for file in dataset.files)):
        names = " or ".join(_names(dataset, next(file for file in missing if file in dataset.required())))
        where = " or ".join(str(folder) for folder in folders)
        raise ValueError(f"{dataset.name}: expected {names} in {where}, found none, and nowhere to download it from")
    for file in missing:
        published = next(f for f in dataset.files if f.name in _names(dataset, file))
        found[file] = home / published.name
        if not found[file].exists():
            _fetch(published, home, mirror, progress)
    return found


def _names(dataset: NamedDataset, file: str) -> list[str]:
    return [file, f"{file}.gz", *(f.name for f in dataset.files if f.name.endswith(".tar.gz"))]


def _find(dataset: NamedDataset, file: str, folders: list[Path]) -> Path | None:
    unpacked = [f.folder or f.name.removesuffix(".tar.gz") for f in dataset.files if f.name.endswith(".tar.gz")]
    places = [place for folder in folders for place in (folder, *(folder / name for name in unpacked))]
    return next((p / name for p in places for name in _names(dataset, file) if (p / name).is_file()), None)


def _fetch(file: File, home: Path, mirror: str | None, progress: Progress | None) -> None:
    urls = (f"{mirror.rstrip('/')}/{file.name}",) if mirror else file.urls
    for url in urls:
        try:
            log.info("downloading %s to %s", url, home)
            return download(url, home / file.name, file.size, file.checksum, progress)
        except (OSError, ValueError) as error:
            if url == urls[-1]:
                raise
            log.warning("%s; trying the next mirror", error)


def provenance(dataset: NamedDataset, files: Mapping[str, Path]) -> dict[Path, str]:
    """What is known of each file: "verified, ..." where it is the published one, else "unverified, ..." and why.

    Reads the files that have a checksum to compare with. An unverified file can be used: its rows are checked as read.
    """
    return {path: _provenance(dataset, path) for path in sorted(set(files.values()))}


def _provenance(dataset: NamedDataset, path: Path) -> str:
    if dataset.name == "sample":
        return "verified, shipped with hashkiln"
    published = next((file.checksum for file in dataset.files if file.name == path.name), None)
    expected = published or recorded_checksum(path)
    if not expected:
        return "unverified, no checksum is known"
    found = f"{expected.split(':')[0]}:{file_digest(path, expected.split(':')[0])}"
    if found != expected:
        return f"unverified, expected {expected}, found {found}"
    return f"verified, {found}" if published else f"unverified, as first downloaded, {found}"
