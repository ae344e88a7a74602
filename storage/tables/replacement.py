"""The Iceberg snapshot that removes and adds parts. It reads and writes only the manifests that list a removed part."""

from pyiceberg.manifest import ManifestEntry, ManifestEntryStatus, ManifestFile
from pyiceberg.table.update.snapshot import _OverwriteFiles

from .manifests import listed_parts, remember


class Replacement(_OverwriteFiles):
    """An overwrite that costs what the manifests of removed parts cost.

    That of pyiceberg evaluates the partition of each removed file for each manifest, reads the manifests twice, and
    hashes the text of each entry. It also keeps manifests without files in all later snapshots.
    """

    _kept: list[ManifestFile]  # manifests without removed parts
    _rest: list[list[ManifestEntry]]  # what is left of each of the others

    def _build_delete_files_partition_predicate(self) -> None:
        """Do nothing: manifests are found by the parts that they list."""

    def _deleted_entries(self) -> list[ManifestEntry]:
        """Return the entries of the removed parts. Raises ValidationException if one is missing."""
        self._kept, self._rest, deleted = [], [], list[ManifestEntry]()
        removed = {file.file_path for file in self._deleted_data_files}
        parent = self._transaction.table_metadata.snapshot_by_id(self._parent_snapshot_id or 0)
        for manifest in parent.manifests(self._io) if parent else ():
            listed = {part.url for part in listed_parts([manifest], self._io)}
            if listed and listed.isdisjoint(removed):
                self._kept.append(manifest)
            elif listed:
                self._rest.append([])
                for entry in manifest.fetch_manifest_entry(self._io):
                    if entry.data_file.file_path in removed:
                        entry.status, entry.snapshot_id = ManifestEntryStatus.DELETED, self._snapshot_id
                        deleted.append(entry)
                    else:
                        entry.status = ManifestEntryStatus.EXISTING
                        self._rest[-1].append(entry)
        self._validate_required_deletes(deleted)
        return deleted

    def _existing_manifests(self) -> list[ManifestFile]:
        """Return the manifests of the parts that stay, after writing those that are new."""
        return self._kept + [self._written(entries) for entries in self._rest if entries]

    def _written(self, entries: list[ManifestEntry]) -> ManifestFile:
        with self.new_manifest_writer(self.spec(entries[0].data_file.spec_id)) as writer:
            for entry in entries:
                writer.add_entry(entry)
        manifest = writer.to_manifest_file()
        remember(manifest, entries)
        return manifest
