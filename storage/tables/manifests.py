"""The parts that manifests of Iceberg list. Manifests never change, so each is read once in a process."""

from collections.abc import Iterable, Sequence

from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestEntry, ManifestFile
from pyiceberg.utils.concurrent import ExecutorFactory

from .iceberg import to_part
from .parts import Part

KEPT = 1000  # manifests whose parts are kept in memory
_MANIFESTS: dict[str, list[Part]] = {}  # the parts by the URL of the manifest, oldest first


def listed_parts(manifests: Sequence[ManifestFile], io: FileIO) -> list[Part]:
    """Return the parts that manifests list.

    Every commit and stage of a run needs all parts, and reads only new manifests. A scan by Iceberg takes longer,
    because it evaluates filters for each file.
    """
    known = dict(_MANIFESTS)
    new = [manifest for manifest in manifests if manifest.manifest_path not in known]
    read = ExecutorFactory.get_or_create().map(lambda manifest: manifest.fetch_manifest_entry(io), new)
    for manifest, entries in zip(new, read, strict=True):
        known[manifest.manifest_path] = remember(manifest, entries)
    return [part for manifest in manifests for part in known[manifest.manifest_path]]


def remember(manifest: ManifestFile, entries: Iterable[ManifestEntry]) -> list[Part]:
    """Return the parts of a manifest that was read or written, and keep them."""
    parts = _MANIFESTS[manifest.manifest_path] = [to_part(entry.data_file) for entry in entries]
    for oldest in list(_MANIFESTS)[:-KEPT]:
        _MANIFESTS.pop(oldest, None)
    return parts
