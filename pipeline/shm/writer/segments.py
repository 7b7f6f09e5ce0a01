"""Files of an instance's tables: names, modes and sizes. Create them, or find those of a predecessor.

A set of segments is created under temporary names and renamed into place, `control` last, so that a name never stands
for an incomplete segment. Files are grown with posix_fallocate and never truncated: a hole in a full tmpfs would cause
a SIGBUS in a reader. Only `costs` has holes: nothing reads or writes the costs of a row before the page for them is
allocated. _segment.pyx maps them; _control.pyx and _writer.pyx write their contents. The supervisor creates
the instance's directory (this module does so if it is missing).

    segment  mode  grown by       ceiling
    control  0644  -              512-byte header, ring section, two commit slots; allocated whole
    index    0644  -              4 bytes for each pid and each key; allocated whole
    keys     0644  -              16 to 24 bytes for each (pid, pid namespace) key; allocated whole
    hot      0644  chunk_rows     128 bytes for each row
    cold     0644  chunk_rows     192 bytes for each row
    costs    0644  one page       64 bytes for each row; its length is its ceiling, with holes
    names    0644  256 KiB..4 MiB names_bytes
    args     0640  256 KiB..4 MiB args_bytes
    envs     0640  256 KiB..4 MiB envs_bytes
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import paths, proc_text, trust
from pipeline.errors import ConfigError, ProclineError, UnsupportedError, WriterExistsError
from pipeline.records.limits import TMPFS_MAGIC
from pipeline.shm.layout import layout
from pipeline.shm.layout.control_header import RINGS_MAX
from pipeline.shm.writer._keys import segment_bytes
from pipeline.shm.writer._segment import filesystem_type

#: In creation order.
SEGMENTS = (
    paths.INDEX, paths.KEYS, paths.HOT, paths.COLD, paths.COSTS, paths.NAMES, paths.ARGS, paths.ENVS, paths.CONTROL,
)  # fmt: skip
assert set(SEGMENTS) == set(paths.SEGMENTS)
LOCK = paths.WRITER_LOCK
DEFAULT_MODES = {name: 0o640 if name in (paths.ARGS, paths.ENVS) else 0o644 for name in SEGMENTS}
ARENA_FIRST_BYTES = 256 << 10
ROWS_MAX = 1 << 31
ARENA_MAX_BYTES = 64 << 30


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TablePlan:
    """Parameters of the tables. Two writers with equal plans can take over from each other.

    Attributes:
        boot_id: 16 bytes, kernel boot id.
        ring_count: number of entries of the ring section.
        row_capacity: maximum number of rows, including row 0 (never used); the ceiling.
        chunk_rows: growth step, rows.
        pid_capacity: number of pids in the index; a larger tgid cannot be indexed.
        key_capacity: index entries after the pids, for processes known by (pid, pid namespace).
        names_bytes, args_bytes, envs_bytes: ceilings of the arenas.
        checked: whether rows carry a checksum (tests).
    """

    boot_id: bytes
    ring_count: int
    row_capacity: int
    chunk_rows: int
    pid_capacity: int
    key_capacity: int
    names_bytes: int
    args_bytes: int
    envs_bytes: int
    checked: bool = False

    def __post_init__(self) -> None:
        def require(ok: bool, key: str, value: object, text: str) -> None:
            if not ok:
                raise ConfigError(f"{key}: {text}, got {value!r}", key=key, value=value)

        require(len(self.boot_id) == 16, "boot_id", self.boot_id, "expected 16 bytes")
        require(1 <= self.ring_count <= RINGS_MAX, "ring_count", self.ring_count, f"expected 1 to {RINGS_MAX}")
        require(2 <= self.row_capacity <= ROWS_MAX, "row_capacity", self.row_capacity, f"expected 2 to {ROWS_MAX}")
        require(1 <= self.chunk_rows <= 1 << 20, "chunk_rows", self.chunk_rows, "expected 1 to 1048576")
        require(2 <= self.pid_capacity <= 1 << 23, "pid_capacity", self.pid_capacity, "expected 2 to 8388608")
        require(1 <= self.key_capacity <= 1 << 20, "key_capacity", self.key_capacity, "expected 1 to 1048576")
        for key in ("names_bytes", "args_bytes", "envs_bytes"):
            value = getattr(self, key)
            require(4096 <= value <= ARENA_MAX_BYTES, key, value, f"expected 4096 to {ARENA_MAX_BYTES}")

    @property
    def slots(self) -> int:
        """Number of entries of the index: pids, then keys."""
        return self.pid_capacity + self.key_capacity

    def ceiling_bytes(self, name: str) -> int:
        """Return the maximum size of a segment, bytes."""
        match name:
            case "control":
                return layout.control_bytes(self.ring_count)[3]
            case "index":
                return _pages(self.slots * 4)
            case "keys":
                return _pages(segment_bytes(self.key_capacity))
            case "hot":
                return self.row_capacity * layout.HOT.itemsize
            case "cold":
                return self.row_capacity * layout.COLD.itemsize
            case "costs":
                return self.row_capacity * layout.COSTS.itemsize
        return int(getattr(self, f"{name}_bytes")) // layout.ARENA_UNIT_BYTES * layout.ARENA_UNIT_BYTES

    def first_bytes(self, name: str) -> int:
        """Return how much of a segment is allocated at first, bytes."""
        rows = min(self.chunk_rows, self.row_capacity)
        match name:
            case "hot":
                return rows * layout.HOT.itemsize
            case "cold":
                return rows * layout.COLD.itemsize
            case "costs":
                return 0
            case "names" | "args" | "envs":
                return min(ARENA_FIRST_BYTES, self.ceiling_bytes(name))
        return self.ceiling_bytes(name)


def lock_writer(directory: Path) -> int:
    """Lock the instance's writer.lock, creating the directory if needed; return the descriptor that holds the lock.

    The kernel releases the memory of a killed writer before its files (exit_mm before exit_files in do_exit), so the
    next holder of the lock starts after the last store of the previous one.

    Raises:
        UnsupportedError: the directory is not on tmpfs.
        UntrustedError: another user could create files in the directory, or replace it.
        WriterExistsError: another process holds the lock.
    """
    trust.Directory(directory, mine=True, make=0o755).close()
    if filesystem_type(directory) != TMPFS_MAGIC:
        raise UnsupportedError(
            f"{directory} is not on tmpfs", feature="shared tables", needs="a directory on tmpfs",
            hint="set PROCLINE_RUNTIME_DIR to a directory below /run or /dev/shm, for example /dev/shm/procline",
        )  # fmt: skip
    while True:
        # Mode 0600, because any open descriptor allows locking, and a foreign lock would block the next writer.
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A writer that ends unlinks the file. If it was opened before and locked after that, the lock is on a file
            # without a name and excludes no other process. Retry with the file that has the name now.
            if _is_named(descriptor, directory / LOCK):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
                return descriptor
        except BlockingIOError:
            text = os.pread(descriptor, 32, 0).split(b"\n")[0]
            tgid = int(text) if text.isdigit() else 0
            os.close(descriptor)
            raise WriterExistsError(
                f"{directory} already has a writer (pid {tgid or 'unknown'}); stop it first, or choose another name",
                tgid=tgid,
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def find(directory: Path, plan: TablePlan) -> tuple[dict[str, int] | None, int, str]:
    """Open the segments that a predecessor left in `directory`.

    Returns:
        (descriptors by segment, epoch, ""), or (None, epoch, reason) if there are no tables that this plan can use.
        The epoch is that of the tables that were found, 0 if there were none.
    """
    descriptors: dict[str, int] = {}
    epoch = 0
    reason = ""
    try:
        for name in reversed(SEGMENTS):
            descriptors[name] = os.open(directory / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            if name == "control":
                data = os.pread(descriptors[name], layout.CONTROL.itemsize, 0)
                if len(data) < layout.CONTROL.itemsize:
                    reason = "control is too short"
                    break
                header = np.frombuffer(data, layout.CONTROL)[0]
                if bytes(header["magic"]) == layout.MAGIC and header["layout_version"] == layout.LAYOUT_VERSION:
                    epoch = int(header["epoch"])
                reason = _mismatch(header, plan)
                if reason:
                    break
            elif os.fstat(descriptors[name]).st_size < allocated(name, header, plan):
                reason = f"{name} is shorter than control says"
                break
    except FileNotFoundError as error:
        reason = f"{Path(error.filename).name} is missing"
    except BaseException:
        close(descriptors)
        raise
    if not reason:
        return descriptors, epoch, ""
    close(descriptors)
    return None, epoch, reason


def close(descriptors: Mapping[str, int] | None) -> None:
    """Close the descriptors that `find` or `make` returned and that no segment has taken over."""
    for descriptor in (descriptors or {}).values():
        os.close(descriptor)


def allocated(name: str, header: np.void, plan: TablePlan) -> int:
    """Return the bytes of a segment (not `control`) that may be accessed, according to control."""
    match name:
        case "index" | "keys" | "costs":
            return plan.ceiling_bytes(name)
        case "hot":
            return int(header["rows_allocated"]) * layout.HOT.itemsize
        case "cold":
            return int(header["rows_allocated"]) * layout.COLD.itemsize
    return int(header[f"{name}_allocated_bytes"])


def make(
    directory: Path,
    plan: TablePlan,
    *,
    modes: Mapping[str, int] | None,
    group: int | None,
    fill_control: Callable[[int], None],
) -> dict[str, int]:
    """Create all segments, replacing existing ones; return their descriptors.

    Args:
        directory: the instance's directory.
        plan: sizes of the segments.
        modes: modes by segment that differ from DEFAULT_MODES.
        group: gid that owns args and envs; None for the process's own.
        fill_control: called with the descriptor of `control` before it is renamed into place.

    Raises:
        UnsupportedError: the file system has no room.
    """
    descriptors: dict[str, int] = {}
    try:
        for name in SEGMENTS:
            # No other user may open the file before set_access has set its final mode.
            size = plan.first_bytes(name)
            length = plan.ceiling_bytes(name) if name == "costs" else size
            descriptors[name] = _make_one(directory / f".{name}.new", 0o600, length, size)
        set_access(descriptors, modes, group)
        fill_control(descriptors["control"])
        for name in SEGMENTS:
            (directory / f".{name}.new").rename(directory / name)
    except BaseException as error:
        close(descriptors)
        for name in SEGMENTS:
            (directory / f".{name}.new").unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _full(directory, plan) from None
        raise
    return descriptors


def set_access(descriptors: Mapping[str, int], modes: Mapping[str, int] | None, group: int | None) -> None:
    """Set the files' modes regardless of the umask, and `group` for the files with arguments and environments."""
    wanted = {**DEFAULT_MODES, **(modes or {})}
    if unknown := set(wanted) - set(SEGMENTS):
        raise ConfigError(f"modes: no segment {sorted(unknown)[0]!r}", key="modes", value=unknown)
    for name, descriptor in descriptors.items():
        if group is not None and name in ("args", "envs"):
            try:
                os.fchown(descriptor, -1, group)
            except PermissionError:
                raise ConfigError(
                    f"group: this process may not give files to group {group}; run it as root or as a member",
                    key="group",
                    value=group,
                ) from None
        os.fchmod(descriptor, wanted[name])


def remove(directory: Path) -> None:
    """Unlink all segments and the lock file; readers that have them mapped keep their contents."""
    for name in (*SEGMENTS, LOCK):
        (directory / name).unlink(missing_ok=True)


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _make_one(path: Path, mode: int, length: int, allocated: int) -> int:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.ftruncate(descriptor, length)
        if allocated:
            os.posix_fallocate(descriptor, 0, allocated)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _full(directory: Path, plan: TablePlan) -> ProclineError:
    needed = sum(plan.first_bytes(name) for name in SEGMENTS)
    space = os.statvfs(directory)
    return UnsupportedError(
        f"{directory}: no room for the tables: needs {_megabytes(needed)} MB, "
        f"has {_megabytes(space.f_bavail * space.f_frsize)} MB",
        feature="shared tables", needs=f"{needed} bytes on tmpfs",
        hint="free space there, give the file system more, or lower pid_capacity and chunk_rows",
    )  # fmt: skip


def _mismatch(header: np.void, plan: TablePlan) -> str:
    """Return why the tables behind `header` cannot be continued; empty if they can."""
    if bytes(header["magic"]) != layout.MAGIC:
        return "control has another magic"
    expected = {
        "layout_version": layout.LAYOUT_VERSION, "header_bytes": layout.CONTROL.itemsize,
        "row_capacity": plan.row_capacity, "chunk_rows": plan.chunk_rows, "pid_capacity": plan.pid_capacity,
        "key_capacity": plan.key_capacity,
        "names_capacity_bytes": plan.ceiling_bytes("names"), "args_capacity_bytes": plan.ceiling_bytes("args"),
        "envs_capacity_bytes": plan.ceiling_bytes("envs"), "ring_count": plan.ring_count,
        "checked": int(plan.checked),
    }  # fmt: skip
    for field, value in expected.items():
        if int(header[field]) != value:
            return f"{field} is {int(header[field])}, not {value}"
    if header["boot_id"].tobytes() != plan.boot_id:
        return "boot_id is that of another boot"
    if header["state"] == layout.STATE_SUPERSEDED:
        return "control was superseded"
    # The pids in the tables are numbers of that namespace.
    pid_ns = proc_text.own_pid_ns()
    if header["pid_ns"] not in (0, pid_ns):
        return f"pid_ns is {int(header['pid_ns'])}, not {pid_ns}"
    places = (*layout.control_bytes(plan.ring_count)[:3], layout.changes_offset(plan.ring_count))
    found = (header["ring_offset"], header["commit_offset"], header["commit_bytes"], header["changes_offset"])
    if tuple(map(int, found)) != places or header["commit_index"] > 1:
        return "control's sections are not where they should be"
    if not 0 < header["rows_allocated"] <= plan.row_capacity:
        return "rows_allocated is out of range"
    for name in ("names", "args", "envs"):
        if not 0 < header[f"{name}_allocated_bytes"] <= plan.ceiling_bytes(name):
            return f"{name}_allocated_bytes is out of range"
    return ""


def _pages(size: int) -> int:
    return -(-size // 4096) * 4096


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):.1f}"
