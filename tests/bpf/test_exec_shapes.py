"""Executables and argument lists of every shape: the record, compared with /proc for the same process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf.loader import Capture
from pipeline.records import declared
from tests.bpf.acts import act, waiting
from tests.bpf.ring_reader import RING_BYTES, Reader, Record
from tests.proc import mount_point, namespace

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]


def exe(pid: int) -> bytes:
    return os.readlink(os.fsencode(f"/proc/{pid}/exe"))  # noqa: PTH115 - bytes, as they are


def mount_path(record: Record) -> bytes | None:
    """The mount point of the executable, as in the record."""
    end = int(record.body["mount_end"])
    return (record.path[: end - 1] or b"/") if end else None


@contextmanager
def waiting_from(fd: int) -> Iterator[int]:
    """Like `waiting`, from an executable that may not have a name any more."""
    name = f"/proc/self/fd/{fd}"
    child = subprocess.Popen(["nameless", "wait"], executable=name, stdin=subprocess.PIPE, pass_fds=[fd])
    try:
        yield child.pid
    finally:
        child.communicate(timeout=60)


def last_exec(reader: Reader, pid: int) -> Record:
    reader.ended(pid)
    return reader.of(pid, declared.KIND_EXEC)[-1]


def test_script_is_run_by_its_interpreter(reader: Reader, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\nread line\n")
    script.chmod(0o755)
    with waiting(script, "argument") as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        linked = declared.EXEC_THROUGH_SYMLINK if os.fspath(Path("/bin/sh").resolve()) != "/bin/sh" else 0
        assert record.body["exec_flags"] == declared.EXEC_SCRIPT | linked
        assert record.path == exe(pid)
        assert record.body["inode"] == Path("/bin/sh").stat().st_ino
        assert record.name == os.fsencode(script)
        assert record.args == Path(f"/proc/{pid}/cmdline").read_bytes()
        assert record.argv() == [b"/bin/sh", os.fsencode(script), b"argument"]


def test_symlink_and_relative_name(reader: Reader, actions: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(actions)
    child = subprocess.Popen(["./link", "wait"], cwd=tmp_path, stdin=subprocess.PIPE)
    try:
        record = reader.one(child.pid, declared.KIND_EXEC)
        assert record.path == exe(child.pid) == os.fsencode(actions)
        assert record.name == b"./link"
        assert record.body["exec_flags"] == declared.EXEC_THROUGH_SYMLINK
    finally:
        child.communicate()


#: The invoked path, in a directory with the links that the test makes, and whether it has a symbolic link in it.
WAYS = (
    ("{top}/real/deep/program", False),
    ("{top}/real//deep/./program", False),
    ("//{top}/real/deep/../deep/program", False),
    ("{top}/real/../real/deep/../../real/deep/program", False),
    ("real/deep/program", False),
    ("./real/deep//program", False),
    ("../top/real/deep/program", False),
    ("real/../real/./deep/program", False),
    ("{top}/hard", False),  # another name of the file
    ("{top}/link", True),  # the file is a link
    ("./link", True),
    ("{top}/directory/program", True),  # a directory on the way
    ("directory/program", True),
    ("{top}/directory/../deep/program", True),  # up from the link's target, not from the link's place
    ("{top}/real/deep/chain", True),
    ("{top}/real/deep/prog", True),  # names that begin or end with the program's name
    ("{top}/real/deep/gram", True),
    ("./gram", True),
    ("/proc/self/cwd/real/deep/program", True),
)


def test_symbolic_links_on_the_path_are_reported(reader: Reader, actions: Path, tmp_path: Path) -> None:
    top = tmp_path.resolve() / "top"
    (top / "real/deep").mkdir(parents=True)
    program = top / "real/deep/program"
    shutil.copy(actions, program)
    (top / "link").symlink_to("real/deep/program")
    (top / "directory").symlink_to("real/deep")
    (top / "real/deep/chain").symlink_to("../../link")
    for link in ("real/deep/prog", "real/deep/gram", "gram"):
        (top / link).symlink_to(program)
    (top / "hard").hardlink_to(program)
    for name, is_linked in WAYS:
        child = subprocess.Popen([name.format(top=top), "nothing"], cwd=top)
        assert child.wait(timeout=60) == 0
        record = last_exec(reader, child.pid)
        assert record.path == os.fsencode(top / "hard" if "hard" in name else program)
        assert record.body["exec_flags"] == (declared.EXEC_THROUGH_SYMLINK if is_linked else 0), record.name


def test_for_a_script_the_links_are_those_of_the_path_to_its_interpreter(
    reader: Reader, actions: Path, tmp_path: Path
) -> None:
    """The interpreter runs; the flag does not concern a link that leads to the script."""
    top = Path(tmp_path).resolve()
    shutil.copy(actions, top / "interpreter")
    (top / "alias").symlink_to("interpreter")
    for interpreter, flag in (("interpreter", 0), ("alias", declared.EXEC_THROUGH_SYMLINK)):
        script = top / f"by-{interpreter}"
        script.write_text(f"#!{top / interpreter} nothing\n")
        script.chmod(0o755)
        (top / f"link-{interpreter}").symlink_to(script)
        for name in (script, top / f"link-{interpreter}"):
            child = subprocess.Popen([name])
            assert child.wait(timeout=60) == 0
            record = last_exec(reader, child.pid)
            assert (record.path, record.name) == (os.fsencode(top / "interpreter"), os.fsencode(name))
            assert record.body["exec_flags"] == declared.EXEC_SCRIPT | flag


def test_an_exec_by_descriptor_followed_no_link(reader: Reader, actions: Path) -> None:
    """fexecve(3): the name that the kernel makes up, /dev/fd/N, is not a followed link."""
    fd = os.open(actions, os.O_RDONLY)
    child = os.fork()
    if child == 0:
        os.execve(fd, ["program", "nothing"], {})
    os.waitpid(child, 0)
    os.close(fd)
    record = last_exec(reader, child)
    assert record.name.startswith(b"/dev/fd/")
    assert (record.path, record.body["exec_flags"]) == (os.fsencode(actions), 0)


def test_memfd(reader: Reader, actions: Path) -> None:
    pid, _ = act(actions, "memfd")
    record = last_exec(reader, pid)
    assert record.path == b"/memfd:action"
    assert record.body["exec_flags"] == declared.EXEC_MEMFD
    assert record.body["mount_end"] == 0
    assert record.argv() == [b"action", b"nothing"]
    assert record.body["nlink"] == 0


def test_deleted_before_it_runs(reader: Reader, actions: Path, tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    shutil.copy(actions, doomed)
    fd = os.open(doomed, os.O_RDONLY)
    doomed.unlink()
    with waiting_from(fd) as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        assert record.path + b" (deleted)" == exe(pid)
        assert record.body["exec_flags"] & declared.EXEC_DELETED
        assert record.body["nlink"] == 0
    os.close(fd)


def test_chroot(reader: Reader, actions: Path, tmp_path: Path) -> None:
    jail = tmp_path / "jail" / "deep"
    (jail / "bin").mkdir(parents=True)
    shutil.copy(actions, jail / "bin" / "inner")
    with waiting(actions, "chroot", jail, "/bin/inner") as pid:
        reader.until(lambda: len(reader.of(pid, declared.KIND_EXEC)) == 2)
        record = reader.of(pid, declared.KIND_EXEC)[1]
        assert record.path == exe(pid) == os.fsencode(jail / "bin" / "inner")
        assert record.path[record.body["root_offset"] :] == b"/bin/inner"
        assert record.name == b"/bin/inner"
        assert record.body["exec_flags"] == 0
        assert mount_path(record) == mount_point("self", record.body["mount_id"]), "that of the directory, not the jail"


def test_executable_outside_the_chroot(reader: Reader, actions: Path, tmp_path: Path) -> None:
    """The directory was opened before: its executables are not below the task's root."""
    jail = tmp_path / "jail"
    (jail / "x").mkdir(parents=True)
    fd = os.open(actions, os.O_RDONLY)
    # Kernels that use TOMOYO (Debian's 5.10) look up this name, and refuse the exec if there is none.
    (jail / "dev" / "fd").mkdir(parents=True)
    (jail / "dev" / "fd" / str(fd)).touch()
    child = subprocess.Popen([actions, "jail-fd", jail, str(fd)], pass_fds=[fd])
    assert child.wait(timeout=60) == 0
    os.close(fd)
    record = last_exec(reader, child.pid)
    assert record.argv() == [b"jailed", b"nothing"]
    assert record.path == os.fsencode(actions)
    assert record.body["root_offset"] == 0
    assert record.body["exec_flags"] == declared.EXEC_NO_ROOT
    assert mount_path(record) == mount_point("self", record.body["mount_id"])


def test_mount_that_only_its_namespace_has(reader: Reader, actions: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    commands = f'mount -t tmpfs none "{place}" && cp "{actions}" "{place}/inner" && exec "{place}/inner" wait'
    with waiting("unshare", "-m", "sh", "-c", commands) as pid:
        inner = os.fsencode(place / "inner")
        reader.until(lambda: [r for r in reader.of(pid, declared.KIND_EXEC) if r.name == inner])
        record = reader.of(pid, declared.KIND_EXEC)[-1]
        assert record.path == exe(pid)
        # Not the whole path: if the tests run in a chroot, the copies of its mounts are not below our root.
        assert record.path[record.body["root_offset"] :] == inner
        assert record.body["fs_magic"] == 0x01021994  # tmpfs
        assert record.body["exec_flags"] == 0
        assert record.task["mnt_ns"] == namespace(pid, "mnt")
        where = mount_path(record)
        assert where is not None
        assert where[record.body["root_offset"] :] == os.fsencode(place) == mount_point(pid, record.body["mount_id"])
        assert not (place / "inner").exists()


def test_lazily_unmount_point(reader: Reader, actions: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    commands = (
        f'mount -t tmpfs none "{place}" && mkdir "{place}/q" && cp "{actions}" "{place}/q/inner" && cd "{place}/q" && '
        f'umount -l "{place}" && exec ./inner wait'
    )
    with waiting("unshare", "-m", "sh", "-c", commands) as pid:
        reader.until(lambda: [r for r in reader.of(pid, declared.KIND_EXEC) if r.name == b"./inner"])
        record = reader.of(pid, declared.KIND_EXEC)[-1]
        assert record.path == exe(pid) == b"/q/inner"
        assert record.body["exec_flags"] == declared.EXEC_DETACHED | declared.EXEC_NO_ROOT
        assert mount_path(record) == b"/", "the top of what is left, which is nowhere"


#: The mounts made in a directory `top`, the executed file, and the mount point of that file; all below `top`.
MOUNTS = (
    ("mount -t tmpfs none a", "a/tool", "a"),
    ("mount -t tmpfs none 'a b\\'; mkdir 'a b\\/c'", "a b\\/c/tool", "a b\\"),
    ("mount -t tmpfs none a; mkdir a/b; mount -t tmpfs none a/b; mkdir a/b/c", "a/b/c/tool", "a/b"),
    ("mount -t tmpfs none a; mount -t tmpfs none a", "a/tool", "a"),  # the upper one of two
    ("mkdir -p real/sub; mount --bind real a; mkdir -p a/sub", "a/sub/tool", "a"),
    ("touch file; cp $TOOL real/file; mount --bind real/file file", "file", "file"),  # a file on a file
    ("mount -t tmpfs none a; mkdir b; mount --move a b", "b/tool", "b"),
)


@pytest.mark.parametrize(("commands", "program", "where"), MOUNTS)
def test_where_the_mount_of_an_executable_is(
    reader: Reader, actions: Path, tmp_path: Path, commands: str, program: str, where: str
) -> None:
    top = tmp_path.resolve() / "top"
    for name in ("a", "a b\\", "real"):
        (top / name).mkdir(parents=True)
    shell = f"cd {top}; {commands}; [ -s '{program}' ] || cp $TOOL '{program}'; exec '{top}/{program}' wait"
    environment = os.environ | {"TOOL": os.fspath(actions)}
    with waiting("unshare", "-m", "sh", "-ec", shell, env=environment) as pid:
        name = os.fsencode(top / program)
        reader.until(lambda: [r for r in reader.of(pid, declared.KIND_EXEC) if r.name == name])
        record = reader.of(pid, declared.KIND_EXEC)[-1]
        assert record.path[record.body["root_offset"] :] == name
        assert mount_point(pid, record.body["mount_id"]) == os.fsencode(top / where)
        found = mount_path(record)
        assert found is not None
        assert found[record.body["root_offset"] :] == os.fsencode(top / where)


def test_recorder_in_a_chroot_sees_paths_below_it(live_kernel: None, actions: Path, tmp_path: Path) -> None:
    """Both have the same mounts, so the task's root is the global one and the recorder's is below it."""
    root = tmp_path / "root"
    root.mkdir()
    program = (
        "import os, subprocess, sys\n"
        "from pipeline.records import declared\n"
        "from pipeline.bpf.loader import Capture\n"
        "from tests.bpf.ring_reader import RING_BYTES, Reader\n"
        "from pipeline.bpf import libbpf; libbpf.library()\n"
        "os.chroot(sys.argv[1]); os.chdir('/')\n"
        "with Capture(ring_bytes=RING_BYTES) as capture:\n"
        "    reader = Reader(capture)\n"
        "    child = subprocess.Popen([sys.argv[2], 'nothing'])\n"
        "    record = reader.one(child.pid, declared.KIND_EXEC)\n"
        "    print(record.path.decode(), record.body['root_offset'], record.body['exec_flags'])\n"
        "    child.wait()\n"
    )
    # These are not private mounts: the copies that unshare makes have another root.
    commands = f'mount --rbind / "{root}" && exec "{sys.executable}" -c "$0" "{root}" "{actions}"'
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", commands, program],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    path, offset, flags = result.stdout.rsplit(None, 2) if result.stdout else ("", "", "")
    assert (path, offset) == (str(actions), "0"), result.stderr
    assert not int(flags) & (declared.EXEC_NO_ROOT | declared.EXEC_ESCAPED | declared.EXEC_DETACHED)


def test_overlay_layers(reader: Reader, actions: Path, tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    shutil.copy(actions, tmp_path / "lower" / "low")
    shutil.copy(actions, tmp_path / "upper" / "up")
    # An overlay cannot have its upper layer on another overlay, so it gets a tmpfs below it.
    commands = (
        f'cd "{tmp_path}" && mount -t tmpfs none upper && mkdir upper/u upper/w && cp lower/low upper/u/up && '
        "mount -t overlay none -o lowerdir=lower,upperdir=upper/u,workdir=upper/w merged && exec merged/$0 wait"
    )
    for name, flags in (("low", 0), ("up", declared.EXEC_UPPER_LAYER)):
        with waiting("unshare", "-m", "sh", "-c", commands, name) as pid:
            reader.until(lambda pid=pid: reader.of(pid, declared.KIND_EXIT) or found(reader, pid, b"merged/"))
            if reader.of(pid, declared.KIND_EXIT):
                missing("overlayfs cannot be mounted")
            record = found(reader, pid, b"merged/")
            assert record is not None
            assert record.path == exe(pid)
            assert record.path[record.body["root_offset"] :] == os.fsencode(tmp_path / "merged" / name)
            assert record.body["exec_flags"] == flags


def found(reader: Reader, pid: int, name: bytes) -> Record | None:
    """Return the exec record with an invoked name that begins with `name`."""
    return next((r for r in reader.of(pid, declared.KIND_EXEC) if r.name.startswith(name)), None)


def test_100_kb_of_arguments_are_cut_and_flagged(reader: Reader, actions: Path) -> None:
    words = [f"{i:099d}" for i in range(1000)]
    with waiting(actions, "wait", *words) as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        cmdline = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert len(cmdline) > 100_000
    assert record.args == cmdline[:32768]
    assert record.body["args_full_bytes"] == len(cmdline)
    assert record.body["argc"] == 1002
    assert record.body["exec_flags"] == declared.EXEC_ARGS_TRUNCATED


def test_arguments_of_exactly_the_limit_are_not_flagged(reader: Reader, actions: Path) -> None:
    used = len(os.fsencode(actions)) + 1 + len(b"wait\0")
    with waiting(actions, "wait", "x" * (32768 - used - 1), env={}) as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        assert record.args == Path(f"/proc/{pid}/cmdline").read_bytes()
    assert (record.body["args_bytes"], record.body["exec_flags"]) == (32768, 0)


def test_large_environment_is_cut_and_flagged(reader: Reader, actions: Path) -> None:
    with waiting(actions, "wait", env={f"V{i}": "y" * 1000 for i in range(50)}) as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert record.envs == environ[:32768]
    assert record.body["envs_full_bytes"] == len(environ)
    assert record.body["envc"] == 50
    assert record.body["exec_flags"] == declared.EXEC_ENVS_TRUNCATED


def test_no_arguments_at_all(reader: Reader, actions: Path) -> None:
    pid, _ = act(actions, "empty-argv", actions)
    record = last_exec(reader, pid)
    # Since Linux dcd46d897adb ("exec: Force single empty string when argv is empty") (v5.18).
    assert record.args == b"\0"
    assert (record.body["argc"], record.body["envc"], record.envs) == (1, 0, b"")


def test_bytes_that_are_not_utf8(reader: Reader, actions: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe name\n"
    shutil.copy(actions, name)
    with waiting(name, b"wait", b"\x80\xc0", b"tab\t") as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        assert record.path == record.name == exe(pid)
        assert record.argv() == [name, b"wait", b"\x80\xc0", b"tab\t"]


def test_long_and_deep_paths(reader: Reader, actions: Path, tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(60):
        deep = deep / ("d" * 50)
    deep.mkdir(parents=True)
    place = deep / ("f" * 255)
    shutil.copy(actions, place)
    with waiting(place, "wait") as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        assert record.path == exe(pid) == os.fsencode(place)
        assert record.body["exec_flags"] == 0


def test_path_that_is_too_long_keeps_its_end(reader: Reader, actions: Path, tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    whole = os.fsencode(tmp_path)
    for _ in range(45):
        os.mkdir("e" * 100, dir_fd=here)
        there = os.open("e" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, whole = there, whole + b"/" + b"e" * 100
    to = os.open("end", os.O_WRONLY | os.O_CREAT, 0o755, dir_fd=here)
    os.write(to, actions.read_bytes())
    os.close(to)
    fd = os.open("end", os.O_RDONLY, dir_fd=here)
    os.close(here)
    with waiting_from(fd) as pid:
        record = reader.one(pid, declared.KIND_EXEC)
        assert len(whole + b"/end") > 4096
        assert record.body["exec_flags"] == declared.EXEC_PATH_TRUNCATED | declared.EXEC_NO_ROOT
        assert record.path.startswith(b"/e") and (whole + b"/end").endswith(record.path)
        assert len(record.path) > 3900
    os.close(fd)
    shutil.rmtree(tmp_path / ("e" * 100))


def test_setuid_program_is_secure(reader: Reader, actions: Path, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):  # pytest's directories are accessible only to their owner
        if directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(directory.stat().st_mode | 0o055)
    program = tmp_path / "setuid"
    shutil.copy(actions, program)
    program.chmod(0o4755)
    child = subprocess.Popen([program, "nothing"], user=65534, group=65534, extra_groups=[])
    assert child.wait(timeout=60) == 0
    record = last_exec(reader, child.pid)
    assert record.body["exec_flags"] == declared.EXEC_SECURE
    assert record.body["mode"] == program.stat().st_mode
    assert (record.task["uid"], record.task["euid"], record.task["suid"]) == (65534, 0, 0)
    assert reader.one(child.pid, declared.KIND_FORK).task["uid"] == 0


# -- sshd's environment ------------------------------------------------------------------------------------------------

CONNECTION = b"SSH_CONNECTION=fe80::1234:5678:9abc:def0%a-long-name-0 50022 fe80::1%a-long-name-0 22"
CLIENT = b"SSH_CLIENT=fe80::1234:5678:9abc:def0%a-long-name-0 50022 22"

LONGEST = b"SSH_CLIENT=" + b"1" * 243  # the longest possible


def run_below(comm: bytes, environ: list[bytes], name: bytes = b"true", *, before: str = "") -> int:
    """Fork a process called `comm`, which executes /bin/true with this environment from a child; returns its pid.

    Args:
        name: of a link to the program, and so the child's comm.
        before: statements that the process runs first; if they fork, its children do the rest.
    """
    code = (
        "import os, sys\n"
        "comm, path, *environ = [os.fsencode(word) for word in sys.argv[1:]]\n"
        "open('/proc/self/comm', 'wb').write(comm)\n"
        f"{before}\n"
        "pid = os.fork() or os.execve(path, [path], dict(word.split(b'=', 1) for word in environ))\n"
        "os.waitpid(pid, 0); print(pid)"
    )
    answer = subprocess.run([sys.executable, "-c", code, comm, name, *environ], stdout=subprocess.PIPE, check=True)
    return int(answer.stdout)


@pytest.fixture(scope="module")
def bare() -> Iterator[Reader]:
    """A capture with the default settings: it records no environments."""
    with Capture(ring_bytes=RING_BYTES) as running:
        yield Reader(running)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ([b"A=1", CONNECTION, b"SECRET=x", CLIENT], [CONNECTION, CLIENT]),
        ([b"%03d=" % n + b"x" * n + b"SSH_CLIENT=1.2.3.4 1 22" for n in (0, 245, *range(248, 258), 300)], []),
        ([b"A=" + b"x" * 252, CLIENT, b"B=" + b"x" * 254, CONNECTION], [CLIENT, CONNECTION]),
        ([b"%d=1" % n for n in range(500)] + [CLIENT], [CLIENT]),
        ([LONGEST, b"SSH_CONNECTIONS=1", b"XSSH_CLIENT=1", b"SSH_CLIEN=1", b"SSH_TTY=/dev/pts/1"], [LONGEST]),
        ([LONGEST + b"1"], []),
        ([], []),
    ],
)  # fmt: skip
def test_a_program_that_sshd_executes_has_the_client_variables_only(
    bare: Reader, environ: list[bytes], told: list[bytes]
) -> None:
    record = last_exec(bare, run_below(b"sshd-session", environ, b"/bin/true"))
    assert record.envs == b"".join(word + b"\0" for word in told) + b"\0"
    assert record.body["ssh_bytes"] == len(record.envs)
    assert record.body["envs_full_bytes"] == sum(len(word) + 1 for word in environ)


def test_an_environment_that_is_captured_stands_before_it(reader: Reader) -> None:
    environ = [b"A=1", CLIENT, b"SECRET=x"]
    record = last_exec(reader, run_below(b"sshd", environ, b"/bin/true"))
    told = CLIENT + b"\0\0"
    assert record.envs == b"".join(word + b"\0" for word in environ) + told
    assert record.body["ssh_bytes"] == len(told)


def test_an_environment_that_was_not_searched_has_no_client(bare: Reader) -> None:
    environ = [b"%d=1" % n for n in range(600)]
    assert last_exec(bare, run_below(b"sshd", environ, b"/bin/true")).envs == b""


#: The child continues, its parent waits.
FORKED = "if child := os.fork(): os.waitpid(child, 0); os._exit(0)"
NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'%s')"
AS_USER = "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"


@pytest.mark.parametrize(
    ("before", "is_told"),
    [
        ("", True),
        (f"{FORKED}\n{AS_USER}", True),  # sshd does the same before it forks the user's shell
        (AS_USER, False),
        (f"{FORKED}\n{AS_USER}\n{FORKED}", False),
        (f"{NAMED % 'su'}\n{FORKED}\n{AS_USER}\n{NAMED % 'sshd'}", False),
        ("os.setresuid(0, 65534, 0)", False),
        ("os.unshare(os.CLONE_NEWUSER)", False),
    ],
)
def test_a_users_program_named_sshd_is_ignored(bare: Reader, before: str, is_told: bool) -> None:
    record = last_exec(bare, run_below(b"sshd", [CLIENT], b"/bin/true", before=before))
    assert record.envs == (CLIENT + b"\0\0" if is_told else b"")


def test_only_programs_that_sshd_executes_are_searched(bare: Reader, tmp_path: Path) -> None:
    (tmp_path / "sshd-session").symlink_to("/bin/true")
    for comm, path in (
        (b"ssh", b"/bin/true"), (b"xsshd", b"/bin/true"), (b"sshd", os.fsencode(tmp_path / "sshd-session"))
    ):  # fmt: skip
        record = last_exec(bare, run_below(comm, [CLIENT], path))
        assert (record.envs, int(record.body["ssh_bytes"])) == (b"", 0)
