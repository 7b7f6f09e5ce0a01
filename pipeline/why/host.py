"""Facts of this host about processes: units, login sessions, containers, executables.

All of it describes the present, on this host. So it is used only for an instance of this boot, and every statement
from here names its source.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import proc_text
from pipeline.host import boot
from pipeline.records.limits import PF_KTHREAD
from pipeline.software import container_files
from pipeline.why import host_files, systemd

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

SAME, REPLACED, DELETED = "same", "replaced", "deleted"


class Host:
    """This host.

    Args:
        root: where its files are.
        run: calls systemctl.
    """

    def __init__(self, root: str = "/", run: systemd.Run = systemd.run) -> None:
        self._root = root
        self._run = run
        self.is_systemd = systemd.is_running(root)

    def unit(self, name: str) -> systemd.UnitFacts | None:
        """Return systemd's facts about a unit."""
        return systemd.unit_facts(name, self._run) if self.is_systemd else None

    def login_session(self, number: str) -> dict[str, str] | None:
        """Return what systemd-logind recorded about a session."""
        return systemd.login_session(number, self._root)

    def container(self, container_id: str) -> container_files.Names | None:
        """Return what the runtimes' files say about a container. Raises `container_files.NotAllowedError`."""
        return container_files.names_of(container_id, self._root)

    def has_container_files(self) -> bool:
        """Whether any container runtime keeps files here."""
        return container_files.has_files(self._root)

    def executable(self, entry: EntryFields) -> str | None:
        """Return whether the file at the path of an executable is still the same one; None: unknown.

        Only for processes that see the files of this host.
        """
        path, inode = entry.get("path"), entry.get("inode")
        if not path or not inode or not path.startswith("/"):
            return None
        try:
            found = host_files.inode_of(path, self._root)
        except (FileNotFoundError, NotADirectoryError):
            return DELETED
        except (OSError, ValueError):
            return None
        return None if found is None else SAME if found == inode else REPLACED


class NoHost(Host):
    """The host of another boot, such as that of a recording: nothing can be asked."""

    def __init__(self) -> None:
        self.is_systemd = False

    def unit(self, name: str) -> systemd.UnitFacts | None:
        """Nothing."""
        return None

    def login_session(self, number: str) -> dict[str, str] | None:
        """Nothing."""
        return None

    def container(self, container_id: str) -> container_files.Names | None:
        """Nothing."""
        return None

    def has_container_files(self) -> bool:
        """Nothing."""
        return False

    def executable(self, entry: EntryFields) -> str | None:
        """Nothing."""
        return None


def host_of(entry: EntryFields, init: EntryFields | None = None) -> Host:
    """Return this host if a process belongs to its current boot, and its files are those that the caller sees.

    Args:
        entry: the process.
        init: pid 1 of the instance. In a container, the caller's files and service manager are other ones.
    """
    try:
        boot_id = boot.boot_id().hex()
        mine = Path("/proc/self/ns/mnt").stat().st_ino
    except OSError:
        return NoHost()
    if (init or {}).get("mnt_ns") not in (None, mine):
        return NoHost()
    return Host() if (entry.get("entity_id") or "").startswith(f"{boot_id}-") else NoHost()


def is_kernel_thread(pid: int) -> bool:
    """Whether a pid of this host is a kernel thread now."""
    try:
        fields = proc_text.stat_fields(Path(f"/proc/{pid}/stat").read_bytes())
        return bool(int(fields[proc_text.TASK_FLAGS]) & PF_KTHREAD)
    except (OSError, ValueError, IndexError):
        return False
