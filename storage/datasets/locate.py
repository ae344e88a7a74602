"""Find the files of a named dataset on disk, or download them."""

import logging
from collections.abc import Mapping
from pathlib import Path

from ..files.download import Progress, download, file_digest, recorded_checksum
from .catalogue import NamedDataset, PublishedFile

logger = logging.getLogger(__name__)

SAMPLE = Path(__file__).parent.parent / "sample"


def locate_or_fetch(
    dataset: NamedDataset, data_dir: Path, source: str | Path | None = None, progress: Progress | None = None
) -> dict[str, Path]:
    """Return the path of each file by its unpacked name: the file itself, its .gz, or the .tar.gz that holds it.

    Parameters
    ----------
    data_dir
        Files are searched in <data_dir>/<name>/, and downloaded to it.
    source
        A folder, which must contain the files directly or in <folder>/<name>/; or the URL of a folder that mirrors the
        published files.
    progress
        Called with the number of bytes downloaded so far and the total.

    Raises
    ------
    ValueError
        If files are missing and cannot be downloaded, or differ from the published ones.
    OSError
        If all downloads fail.
    """
    if dataset.name == "sample":
        return {file: SAMPLE / file for file in dataset.required() | {dataset.groundtruth}}
    mirror = str(source) if source is not None and "://" in str(source) else None
    home = data_dir / (dataset.folder or dataset.name)
    local = Path(source).expanduser().absolute() if source is not None and not mirror else None
    folders = [local / dataset.name, local] if local else [home]
    wanted = dataset.required() | ({dataset.groundtruth} - {""})
    found = {file: path for file in sorted(wanted) if (path := _find(dataset, file, folders))}
    missing = sorted(wanted - found.keys())
    if dataset.required() <= found.keys():
        return found
    if local or not (mirror or all(file.urls for file in dataset.files)):
        names = " or ".join(_names(dataset, next(file for file in missing if file in dataset.required())))
        where = " or ".join(str(folder) for folder in folders)
        raise ValueError(
            f"{dataset.name}: no {names} in {where}, and no URL to download it: pass --from FOLDER to `hashkiln ingest`"
        )
    for file in missing:
        published = next(f for f in dataset.files if f.name in _names(dataset, file))
        found[file] = home / published.name
        if not found[file].exists():
            _fetch(published, home, mirror, progress)
    return found


def _names(dataset: NamedDataset, file: str) -> list[str]:
    """Return the names of the files on disk that may contain a file."""
    return [file, f"{file}.gz", *(f.name for f in dataset.files if f.name.endswith(".tar.gz"))]


def _find(dataset: NamedDataset, file: str, folders: list[Path]) -> Path | None:
    unpacked = [f.folder or f.name.removesuffix(".tar.gz") for f in dataset.files if f.name.endswith(".tar.gz")]
    places = [path for folder in folders for path in (folder, *(folder / name for name in unpacked))]
    return next((path / name for path in places for name in _names(dataset, file) if (path / name).is_file()), None)


def _fetch(file: PublishedFile, home: Path, mirror: str | None, progress: Progress | None) -> None:
    urls = (f"{mirror.rstrip('/')}/{file.name}",) if mirror else file.urls
    for url in urls:
        try:
            logger.info("downloading %s to %s", url, home)
            return download(url, home / file.name, file.size, file.checksum, progress)
        except (OSError, ValueError) as error:
            if url == urls[-1]:
                raise
            logger.warning("%s; trying the next mirror", error)


def provenance(dataset: NamedDataset, files: Mapping[str, Path]) -> dict[Path, str]:
    """Return for each file "verified, …" if it has the published checksum, else "unverified, …" and the reason.

    Every file with a known checksum is read. Unverified files can be used: their rows are checked when they are read.
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
