"""Mounts of executables that are known only from ``/proc``, found on real mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.procfs import mounts
from pipeline.procfs.filesystems import magic_of
from pipeline.procfs.info import ProcInfo, to_record
from pipeline.procfs.mounts import MountPoints
from pipeline.procfs.proc_reader import WANT_DEFAULT, WANT_NS, ProcReader
from pipeline.records import declared

SLEEP = Path(shutil.which("sleep") or "/bin/sleep").resolve()
TMPFS = 0x01021994


@pytest.fixture
def reader() -> Iterator[ProcReader]:
    with ProcReader() as found:
        yield found


@contextmanager
def shell(script: str) -> Iterator[int]:
    """Run a script in its own mount namespace that ends with `exec`; return the pid after the exec."""
    if os.geteuid():
        pytest.skip("needs root to mount")
    command = ["unshare", "--mount", "sh", "-ec", f"echo $$; {script}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        pid = int(child.stdout.readline())
        # Closed by the program when it is executed, or when it fails.
        while (Path(f"/proc/{pid}/comm").read_text()) in {"sh\n", "mount\n", "cp\n"} and child.poll() is None:
            os.sched_yield()
        try:
            yield pid
        finally:
            child.kill()


def mount_facts(reader: ProcReader, pid: int, want: int = WANT_DEFAULT) -> tuple[ProcInfo, bytes | None, int]:
    """Return the facts that were read, the mount point by the record, and the type."""
    info = reader.read(pid, want)
    assert info is not None and info.exe is not None
    row = to_record(info).exec[0]
    end = int(row["mount_end"])
    return info, (info.exe[: end - 1] or b"/") if end else None, int(row["fs_magic"])


def test_our_own_executable(reader: ProcReader) -> None:
    info, where, magic = mount_facts(reader, os.getpid())
    lines = [line.split(b" ") for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    (line,) = [line for line in lines if int(line[0]) == info.mount_id]
    kind = line[line.index(b"-") + 1].decode()
    assert where == line[4]
    assert magic == magic_of(kind) != 0
    assert mount_facts(reader, os.getpid(), WANT_DEFAULT & ~WANT_NS)[1:] == (None, 0)


@pytest.mark.parametrize(
    ("script", "program", "mount"),
    [
        ("mount -t tmpfs none {top}/a; cp {sleep} {top}/a/tool", "a/tool", "a"),
        ("mount -t tmpfs none '{top}/b c\\'; cp {sleep} '{top}/b c\\/tool'", "b c\\/tool", "b c\\"),
        ("touch {top}/file; mount --bind {sleep} {top}/file", "file", "file"),
    ],
)
def test_a_mount_that_only_its_namespace_has(
    reader: ProcReader, tmp_path: Path, script: str, program: str, mount: str
) -> None:
    for name in ("a", "b c\\"):
        (tmp_path / name).mkdir()
    with shell(script.format(top=tmp_path, sleep=SLEEP) + f"; exec '{tmp_path / program}' 60") as pid:
        info, where, magic = mount_facts(reader, pid)
        assert (info.exe, where) == (os.fsencode(tmp_path / program), os.fsencode(tmp_path / mount))
        kind = subprocess.run(["stat", "-fc", "%t", f"/proc/{pid}/exe"], capture_output=True, text=True, check=True)
        assert f"{magic:x}" == kind.stdout.strip()


def test_a_mount_that_is_gone_is_unknown(reader: ProcReader, tmp_path: Path) -> None:
    """No process can reach it any more. It keeps its id, and the path of a file on a detached mount leads nowhere."""
    make = f"mount -t tmpfs none {tmp_path}; cp {SLEEP} {tmp_path}/tool"
    with shell(f"{make}; cd {tmp_path}; umount -l {tmp_path}; exec ./tool 60") as pid:
        info, where, magic = mount_facts(reader, pid)
        assert info.mount_id and info.exe == b"/tool"
        assert (where, magic) == (None, 0)


def test_outside_of_its_root(reader: ProcReader, tmp_path: Path) -> None:
    """The mount is not in the list of the process; if both share a mount namespace, it is in ours."""
    if os.geteuid():
        pytest.skip("needs root to change the root directory")
    code = f"import os; os.chroot({str(tmp_path)!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        info, where, magic = mount_facts(reader, child.pid)
        child.kill()
    assert info.root == os.fsencode(tmp_path)
    assert (where, magic) == mount_facts(reader, os.getpid())[1:]
    assert where is not None
    assert to_record(info).exec[0]["exec_flags"] & declared.EXEC_NO_ROOT
    assert not to_record(mount_facts(reader, os.getpid())[0]).exec[0]["exec_flags"] & declared.EXEC_NO_ROOT


def test_a_memfd_is_on_no_mount(reader: ProcReader) -> None:
    code = (
        "import os; fd = os.memfd_create('run', os.MFD_CLOEXEC); "
        f"os.write(fd, open({str(SLEEP)!r}, 'rb').read()); os.execve(fd, ['run', '60'], {{}})"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        try:
            while not str(Path(f"/proc/{child.pid}/exe").readlink()).startswith("/memfd:"):
                os.sched_yield()
            info, where, magic = mount_facts(reader, child.pid)
            assert info.is_memfd
            assert (where, magic) == (None, TMPFS)
        finally:
            child.kill()


# -- readings of files made by hand ----------------------------------------------------------------------------------


class Host:
    """A directory that looks like procfs, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ns = 0
        self.proc = os.open(directory, os.O_PATH)
        (directory / "self").mkdir()
        self.points = MountPoints(self.proc, lambda: self.now_ns)
        self.mounts("self")

    def mounts(self, pid: str, *lines: str) -> None:
        (self.directory / pid).mkdir(exist_ok=True)
        text = "".join(f"{line}\n" for line in lines)
        (self.directory / pid / "mountinfo").write_bytes(os.fsencode(text))

    def find(
        self,
        path: str,
        mount_id: int = 30,
        device: int = 8 << 20 | 1,
        *,
        pid: str = "7",
        mnt_ns: int = 1,
        root: str = "/",
    ) -> tuple[int, int] | None:
        fd = os.open(self.directory / pid, os.O_PATH)
        try:
            return self.points.find(fd, b"", mnt_ns, os.fsencode(root), mount_id, device, os.fsencode(path))
        finally:
            os.close(fd)


def line(mount_id: int, point: str, kind: str = "ext4", device: str = "8:1") -> str:
    return f"{mount_id} 1 {device} / {point} rw,relatime shared:1 - {kind} /dev/x rw"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    os.close(made.proc)


def test_one_reading_serves_a_namespace_for_a_second(host: Host) -> None:
    host.mounts("7", line(29, "/"), line(30, "/srv"))
    assert host.find("/srv/x") == (5, 0xEF53)
    host.mounts("7", line(30, "/srv/x"))
    assert host.find("/srv/y") == (5, 0xEF53)
    assert host.find("/srv/x/y", mnt_ns=2) == (7, 0xEF53), "another namespace"
    host.now_ns += mounts.MAX_AGE_NS + 1
    assert host.find("/srv/y") is None
    assert host.find("/srv/x/y") == (7, 0xEF53)


def test_a_mount_that_is_newer_than_the_reading_is_found(host: Host) -> None:
    host.mounts("7", line(30, "/"))
    assert host.find("/x") == (1, 0xEF53)
    host.mounts("7", line(30, "/"), line(31, "/new", "tmpfs", "0:50"))
    assert host.find("/new/x", 31, 50) == (5, TMPFS)
    # An executable on a mount that is not in the list does not cause further readings.
    (host.directory / "7" / "mountinfo").unlink()
    assert host.find("/else/x", 32) is None
    host.mounts("7", line(32, "/else"))
    assert host.find("/else/x", 32) is None
    host.now_ns += mounts.MAX_AGE_NS + 1
    assert host.find("/else/x", 32) == (6, 0xEF53)


def test_the_number_of_a_mount_that_is_gone_is_not_believed(host: Host) -> None:
    host.mounts("7", line(30, "/srv", device="0:40"))
    assert host.find("/srv/x", device=40) == (5, 0xEF53)
    host.mounts("7", line(30, "/srv/new", "tmpfs", "0:41"))
    assert host.find("/srv/new/x", device=41) == (9, TMPFS)


def test_devices_that_files_have_of_their_own(host: Host) -> None:
    """On btrfs, stat(2) has a subvolume's device and mountinfo the file system's: read again once, not each time."""
    host.mounts("7", line(30, "/", "btrfs", "0:40"))
    assert host.find("/x", device=41) == (1, 0x9123683E)
    host.mounts("7", line(30, "/other"))
    assert host.find("/x", device=41) == (1, 0x9123683E)


def test_points_are_below_the_root_of_the_process(host: Host) -> None:
    host.mounts("7", line(30, "/"), line(31, "/usr"))
    assert host.find("/jail/bin/x", root="/jail") == (6, 0xEF53)
    assert host.find("/jail/usr/x", 31, root="/jail") == (10, 0xEF53)
    assert host.find("/bin/x", root="/jail") is None, "executed before the root was changed"
    assert host.find("/jailed/x", root="/jail") is None


def test_a_chroot_in_our_namespace(host: Host, tmp_path: Path) -> None:
    (tmp_path / "self" / "ns").mkdir()
    (tmp_path / "self" / "ns" / "mnt").touch()
    own = (tmp_path / "self" / "ns" / "mnt").stat().st_ino
    host.points = MountPoints(host.proc, lambda: 0)
    host.mounts("self", line(30, "/"))
    host.mounts("7")
    assert host.find("/jail/bin/x", root="/jail", mnt_ns=own) == (1, 0xEF53)
    assert host.find("/jail/bin/x", root="/jail", mnt_ns=own + 1) is None


def test_names_are_escaped_and_lines_may_be_broken(host: Host) -> None:
    host.mounts("7", "", "30", line(30, "/a\\040b\rc\\134"), "31 1 8:1 / /x rw - ext4", line(32, "/y", "fuse.sshfs"))
    assert host.find("/a b\rc\\/x") == (8, 0xEF53)
    assert host.find("/x/y", 31) is None
    assert host.find("/y/x", 32) == (3, 0x65735546)


def test_unreadable_is_unknown_and_tables_are_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "TABLES_MAX", 2)
    (host.directory / "8").mkdir()
    assert host.find("/x", pid="8") is None
    host.mounts("7", line(30, "/"))
    for n in range(5):
        assert host.find("/x", mnt_ns=10 + n) == (1, 0xEF53)
    assert len(host.points._tables) <= 2
