"""Complete an entry that was decoded from the kernel: paths first, then the other fields (specification 3.3.10).

The single fields are filled by `fields`.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.errors import ProclineError
from pipeline.resolver.api.fields import FieldFiller
from pipeline.resolver.api.stats import Stats
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.collaborators import MountResolver, PathResolver
from pipeline.resolver.entries.model import (
    NO_FILE,
    FileEvent,
    InvalidKeyPathError,
    PathResolutionError,
    ResolverError,
)


class Completer:
    """Completes entries before they are inserted.

    Args:
        fields: fills single fields.
        stats: counts paths that could not be resolved.
        mounts: file systems of mounts; None: unknown.
        paths: paths of files that the kernel did not report; None: such a file is an error.
    """

    def __init__(
        self, fields: FieldFiller, stats: Stats, mounts: MountResolver | None, paths: PathResolver | None
    ) -> None:
        self._fields = fields
        self._stats = stats
        self._mounts = mounts
        self._paths = paths

    def complete(self, entry: ProcessCacheEntry, is_path_whole: bool = True) -> None:
        """Complete an entry.

        Args:
            entry: in no table yet.
            is_path_whole: False if the kernel stored only the beginning of the executable's path.

        Raises:
            PathResolutionError: the path of the executable or the interpreter is unknown; do not insert the entry.
            ResolverError: the file system is unknown; do not insert the entry.
        """
        self._find_path(entry, "file_event", is_path_whole)
        if entry.has_interpreter:
            self._find_path(entry, "interpreter", True)
        else:
            entry.interpreter = NO_FILE.with_names("", "")
        self._fields.set_args(entry)
        self._fields.set_envs(entry)
        self._fields.set_tty(entry)
        self._fields.set_users_groups(entry)
        self._fields.set_boot_times(entry)
        self._fields.set_symlink(entry)
        file = entry.file_event
        if self._mounts is not None and file.mount_id:
            try:
                kind = self._mounts.filesystem(file.mount_id, file.device, entry.pid)
            except (LookupError, OSError) as error:
                raise ResolverError(f"pid {entry.pid}: file system of mount {file.mount_id}: {error}") from error
            entry.file_event = replace(file, filesystem=kind)

    def _find_path(self, entry: ProcessCacheEntry, field: str, is_whole: bool) -> None:
        file: FileEvent = getattr(entry, field)
        try:
            entry.set(**{field: self._with_path(entry, file, is_whole)})
        except (ProclineError, LookupError, OSError) as error:
            entry.set(**{field: file.unresolved(str(error))})
            self._stats.add("path_error")
            raise PathResolutionError(f"pid {entry.pid}: path of inode {file.inode}: {error}") from error

    def _with_path(self, entry: ProcessCacheEntry, file: FileEvent, is_whole: bool) -> FileEvent:
        if file.inode == 0:
            raise InvalidKeyPathError("the file has no inode", inode=0, mount_id=file.mount_id)
        if is_whole and (file.pathname or file.is_pathname_resolved):
            # The BPF programs resolve the path in the kernel, while the file is still there.
            return file if file.is_pathname_resolved else file.with_pathname(file.pathname)
        if self._paths is None:
            raise InvalidKeyPathError(
                "the kernel reported no path, and the resolver was created without a collaborator for paths",
                inode=file.inode,
                mount_id=file.mount_id,
            )
        return self._paths.resolve(file, entry.pid_context)
