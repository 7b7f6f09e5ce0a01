"""Facts of an entry that the kernel's records do not contain, compared with /proc: user names, containers, sessions,
links."""

from __future__ import annotations

import grp
import json
import os
import pty
import pwd
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pipeline import ProcessTable
from tests.cgroup_paths import cgroups_of_the_fixture
from tests.hierarchy import cgroup_v2_root, remove_cgroup
from tests.live.harness import Daemon, Recorder, each_change, resolve
from tests.proc import exe, mount, mount_point, namespace, status
from tests.waiting import eventually

pytestmark = pytest.mark.live

CGROUPS = cgroup_v2_root()
CONTAINER = "5e" * 32
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEqOCq+Y3jZ4/8s2WvWs5cM0fnZ2Vn0T2yX1mCb0FaKe"

SSHD = """
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
int main(int argc, char **argv)
{
	if (!fork()) {
		setenv("SSH_CONNECTION", "192.0.2.7 50022 198.51.100.1 22", 1);
		setenv("USER", "alice", 1);
		if (argc > 1)
			setenv("SSH_USER_AUTH", argv[1], 1);
		execl("/bin/sh", "-sh", "-c", "echo $$; sleep 60 & echo $!; exec sh -c 'sleep 60 & echo $!; wait'", NULL);
	}
	wait(NULL);
	return 0;
}
"""

#: Like `ssh HOST true`: the command ends at once.
SSHD_SHORT = """
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
int main(void)
{
	if (!fork()) {
		setenv("SSH_CONNECTION", "192.0.2.7 50022 198.51.100.1 22", 1);
		setenv("USER", "alice", 1);
		execl("/bin/true", "true", NULL);
	}
	wait(NULL);
	return 0;
}
"""


@pytest.fixture
def table(daemon: Daemon) -> Iterator[ProcessTable]:
    with daemon.attach() as attached:
        yield attached


@contextmanager
def process(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process; at the end it is killed with all its children."""
    child = subprocess.Popen(list(map(str, command)), text=True, start_new_session=True, **options)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, 9)
        child.wait()


def compile_c(source: str, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O1", "-static", "-o", target, "-x", "c", "-"], input=source, text=True, check=True)
    return target


# -- users and groups --------------------------------------------------------------------------------------------------


def test_names_of_the_hosts_users(table: ProcessTable, daemon: Daemon) -> None:
    for name in ("nobody", "daemon", "root"):
        user = pwd.getpwnam(name)
        with process(
            "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "sleep", "60"
        ) as child:
            # setpriv changes users and groups one after the other; the changes are complete when it calls exec.
            eventually(lambda child=child: resolve(table, child.pid).comm == "sleep")
            eventually(lambda child=child, name=name: resolve(table, child.pid).user == name)
            entry = resolve(table, child.pid)
            now = status(child.pid)
            users = [pwd.getpwuid(int(uid)).pw_name for uid in now["Uid"]]
            groups = [grp.getgrgid(int(gid)).gr_name for gid in now["Gid"]]
            assert [entry.user, entry.euser, entry.fsuser] == [users[0], users[1], users[3]]
            assert [entry.group, entry.egroup, entry.fsgroup] == [groups[0], groups[1], groups[3]]


def test_events_have_names_and_an_id_without_one_has_none(daemon: Daemon) -> None:
    with Recorder(daemon, "proc.exec").started() as recorder:
        with process("setpriv", "--reuid=65534", "--regid=3999999", "--clear-groups", "sleep", "60") as child:
            mine = [("sleep", "nobody", None)]
            recorder.wait_for(
                lambda events: (
                    [
                        (e["comm"], e["user"], e["group"])
                        for e in events
                        if e["pid"] == child.pid and e["comm"] == "sleep"
                    ]
                    == mine
                )
            )
        recorder.stop()


def test_the_owner_of_an_executable_has_names(table: ProcessTable, daemon: Daemon, tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    owned = tmp_path / "owned"
    shutil.copy(sleep, owned)
    os.chown(owned, pwd.getpwnam("daemon").pw_uid, grp.getgrnam("nogroup").gr_gid)
    owners = {}
    with (
        Recorder(daemon, "proc.exec").started() as recorder,
        process(sleep, "60") as usual,
        process(owned, "60") as other,
    ):
        for pid, path in ((usual.pid, sleep), (other.pid, str(owned))):
            eventually(lambda pid=pid, path=path: resolve(table, pid).argv == [path, "60"])
            facts = Path(f"/proc/{pid}/exe").stat()
            file = resolve(table, pid).file
            assert (file["uid"], file["gid"]) == (facts.st_uid, facts.st_gid)
            owners[pid] = pwd.getpwuid(facts.st_uid).pw_name, grp.getgrgid(facts.st_gid).gr_name
            assert (file["user"], file["group"]) == owners[pid]
        assert owners[other.pid] == ("daemon", "nogroup")
        recorder.wait_for(
            lambda events: owners == {
                e["pid"]: (e["file"]["user"], e["file"]["group"]) for e in events if e["pid"] in owners
            }
        )  # fmt: skip
        shown = json.loads(daemon.cli("resolve", str(other.pid), "--json").stdout)
        assert (shown["file"]["user"], shown["file"]["group"]) == ("daemon", "nogroup")
        recorder.stop()


def test_dump_and_resolve_have_names(daemon: Daemon, table: ProcessTable) -> None:
    done = daemon.cli("resolve", str(os.getpid()), "--json")
    shown = json.loads(done.stdout)
    names = {"user", "group", "euser", "egroup", "fsuser", "fsgroup"}
    assert {shown[name] for name in names} == {"root"}
    dumped = json.loads(daemon.cli("dump", "--json").stdout)
    entries = dumped["entries"] if isinstance(dumped, dict) else dumped
    (mine,) = [entry for entry in entries if entry["pid"] == os.getpid() and entry["entity_id"] == shown["entity_id"]]
    assert {mine[name] for name in names} == {"root"}


@contextmanager
def cgroup(missing: Callable[[str], NoReturn]) -> Iterator[Path]:
    if CGROUPS is None:
        missing("no cgroup v2 hierarchy is mounted")
    path = CGROUPS / f"docker-{CONTAINER}.scope"
    path.mkdir()
    try:
        yield path
    finally:
        remove_cgroup(path)


INSIDE = """
import ctypes, os, sys
PIVOT_ROOT = 155 if os.uname().machine == "x86_64" else 41
cgroup, root = sys.argv[1:]
open(cgroup + "/cgroup.procs", "w").write("0")
os.unshare(os.CLONE_NEWNS)
libc = ctypes.CDLL(None, use_errno=True)
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
assert libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0
assert libc.mount(root.encode(), root.encode(), None, MS_BIND, None) == 0
os.chdir(root)
assert libc.syscall(ctypes.c_long(PIVOT_ROOT), b".", b".") == 0, ctypes.get_errno()
assert libc.umount2(b".", MNT_DETACH) == 0
os.setgid(1000)
os.setuid(1000)
os.execv("/bin/nap", ["nap"])
"""


def test_names_in_a_container_are_its_own(
    table: ProcessTable, daemon: Daemon, tmp_path: Path, missing: Callable[[str], NoReturn]
) -> None:
    """In a container uid 1000 has another name or none, but never its name on the host."""
    root = tmp_path / "root"
    os.chown(compile_c("#include <unistd.h>\nint main(void) { return pause(); }\n", root / "bin/nap"), 1000, 0)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("inside:x:1000:1000::/:/bin/sh\n")
    (root / "etc/group").write_text("insiders:x:1000:\n")
    tmp_path.chmod(0o755)
    with Recorder(daemon, "proc.exec", "proc.exit").started() as recorder, cgroup(missing) as group:
        with process(sys.executable, "-c", INSIDE, group, root) as child:
            eventually(lambda: resolve(table, child.pid).comm == "nap")
            eventually(lambda: resolve(table, child.pid).user == "inside")
            entry = resolve(table, child.pid)
            assert (entry.euser, entry.fsuser, entry.group, entry.egroup) == (
                "inside",
                "inside",
                "insiders",
                "insiders",
            )
            assert (entry.file["uid"], entry.file["user"], entry.file["group"]) == (1000, "inside", None)
            assert (entry.uid, entry.container_id) == (int(status(child.pid)["Uid"][0]), CONTAINER)
            assert entry.mnt_ns == namespace(child.pid, "mnt") != namespace(os.getpid(), "mnt")
            pid = child.pid
        recorder.wait_for(lambda events: any(e["event"] == "exit" and e["pid"] == pid for e in events))
        events = [e for e in recorder.stop() if e["pid"] == pid]
    assert events[-1]["user"] == "inside"
    assert {e["user"] for e in events if e["container_id"] and e["uid"] == 1000} <= {"inside", None}
    assert {e["user"] for e in events if e["container_id"] and e["uid"] == 0} <= {None}, "root there is not the host's"
    assert resolve(table, pid).user == "inside", "what has ended keeps its names"


def test_names_in_a_user_namespace_are_of_the_ids_inside(table: ProcessTable) -> None:
    """In a user namespace, uid and gid 0 of this host have other ids or, if not mapped, no name; they are not root."""
    other = ("daemon", "nogroup")
    maps = (
        ((), (None, None)),
        (("--map-root-user",), ("root", "root")),
        ((f"--map-user={pwd.getpwnam(other[0]).pw_uid}", f"--map-group={grp.getgrnam(other[1]).gr_gid}"), other),
    )

    def check(pid: int, names: tuple[str | None, str | None]) -> None:
        entry = resolve(table, pid)
        assert (entry.comm, entry.uid, entry.gid) == ("sleep", 0, 0)
        assert entry.user_ns == namespace(pid, "user") != namespace(os.getpid(), "user")
        assert (entry.user, entry.euser, entry.fsuser) == (names[0],) * 3
        assert (entry.group, entry.egroup, entry.fsgroup) == (names[1],) * 3

    with ExitStack() as stack:
        pids = [stack.enter_context(process("unshare", "--user", *options, "sleep", "60")).pid for options, _ in maps]
        # The process without a name began first, and still has no name when the others have theirs.
        for pid, (_, names) in reversed(list(zip(pids, maps, strict=True))):
            eventually(partial(check, pid, names))


# -- containers --------------------------------------------------------------------------------------------------------


def test_containers_of_every_runtime(table: ProcessTable, missing: Callable[[str], NoReturn]) -> None:
    """A process is moved from cgroup to cgroup, and creates a child in each."""
    if CGROUPS is None:
        missing("no cgroup v2 hierarchy is mounted")

    def check(pid: int, path: str, container: str | None) -> None:
        assert f"0::{path}" in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        entry = resolve(table, pid)
        assert (entry.cgroup, entry.container_id) == (path, container)

    with (
        cgroups_of_the_fixture(CGROUPS / f"procline-test-{os.getpid()}") as groups,
        process(
            "sh", "-c", "while read line; do sleep 60 & echo $!; done", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as shell,
    ):
        assert shell.stdin is not None and shell.stdout is not None
        for group, container in groups.items():
            (group / "cgroup.procs").write_text(str(shell.pid))
            shell.stdin.write("\n")
            shell.stdin.flush()
            for pid in (shell.pid, int(shell.stdout.readline())):
                eventually(partial(check, pid, f"/{group.relative_to(CGROUPS)}", container))


# -- file systems ------------------------------------------------------------------------------------------------------


def test_the_file_system_of_the_executable(table: ProcessTable, daemon: Daemon, tmp_path: Path) -> None:
    other = Path("/dev/shm", f"procline-test-{os.getpid()}-sleep")
    shared = {"ext2": "ext4", "ext3": "ext4", "devtmpfs": "tmpfs", "virtiofs": "fuse", "nfs4": "nfs"}
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, other)
    try:
        with (
            Recorder(daemon, "proc.exec").started() as recorder,
            process(sleep, "60") as usual,
            process(other, "60") as in_memory,
        ):
            kinds = {}
            for pid, path in ((usual.pid, sleep), (in_memory.pid, str(other))):
                eventually(lambda pid=pid, path=path: resolve(table, pid).argv == [path, "60"])
                file = resolve(table, pid).file
                kind = mount(pid, file["mount_id"])[1][0].decode()
                kinds[pid] = shared.get(kind, kind)
                assert file["filesystem"] == kinds[pid]
            assert kinds[in_memory.pid] == "tmpfs"
            recorder.wait_for(
                lambda events: kinds == {e["pid"]: e["file"]["filesystem"] for e in events if e["pid"] in kinds}
            )
            recorder.stop()
    finally:
        other.unlink()


# -- mounts ------------------------------------------------------------------------------------------------------------


def mount_facts(file: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("mount_"): value for name, value in file.items() if name.startswith("mount_")}


def test_the_mount_of_an_executable(table: ProcessTable, daemon: Daemon, tmp_path: Path) -> None:
    """Mounts of its own namespace: the kernel reuses the id of an unmounted mount, but not the path."""
    sleep, place, other = shutil.which("sleep"), tmp_path / "place", tmp_path / "other"
    assert sleep is not None
    place.mkdir()
    other.mkdir()
    # Another test has such processes, too.
    long, longer = str(10**6 + os.getpid()), str(10**7 + os.getpid())
    mounts = f"mount -t tmpfs none {place} && cp {sleep} {place}/first && {{ {place}/first {long} & }}"
    again = (
        f"read line; umount -l {place}; mount -t tmpfs none {other} && cp {sleep} {other}/second && "
        f"{{ {other}/second {long} & }}; until grep -q second /proc/$!/comm; do sleep 0.01; done; "
        f"cd {other}; umount -l {other}; exec ./second {longer}"
    )
    with (
        Recorder(daemon, "proc.exec").started() as recorder,
        process("unshare", "-m", "sh", "-c", f"{mounts}; {again}", stdin=subprocess.PIPE) as shell,
    ):
        entries: dict[str, Any] = {}

        def runs(name: str, seconds: str) -> bool:
            found = [e for e in table.walk() if e.argv and e.argv[0].endswith(name) and e.argv[1:] == [seconds]]
            entries[name + seconds] = found[0] if len(found) == 1 else None
            return len(found) == 1

        eventually(lambda: runs("/first", long))
        usual = {"source": "mount_id", "origin": "event", "visible": True, "detached": False}
        first = entries["/first" + long].load()
        assert mount_facts(first.file) == usual | {"id": first.file["mount_id"], "path": str(place)}
        assert os.fsdecode(mount_point(first.pid, first.file["mount_id"])) == str(place)
        assert shell.stdin is not None
        shell.stdin.write("\n")
        shell.stdin.close()
        eventually(lambda: runs("/second", long) and runs("/second", longer))
        second, gone = entries["/second" + long].load(), entries["/second" + longer].load()
        assert mount_facts(second.file) == usual | {"id": second.file["mount_id"], "path": str(other)}
        assert mount_facts(gone.file) == usual | {
            "id": second.file["mount_id"], "path": None, "visible": False, "detached": True
        }  # fmt: skip
        assert resolve(table, first.pid).file["mount_path"] == str(place), "as it was when it was executed"
        pids = {first.pid: str(place), second.pid: str(other), gone.pid: None}
        recorder.wait_for(
            lambda events: pids == {
                e["pid"]: e["file"]["mount_path"]
                for e in events if e["comm"] in {"first", "second"} and e["pid"] in pids
            }
        )  # fmt: skip
        recorder.stop()
        shown = json.loads(daemon.cli("resolve", str(second.pid), "--json").stdout)
        # Names of a new namespace appear a moment later, and not to all readers at once.
        nameless = {"user": None, "group": None}
        assert resolve(table, second.pid).file | nameless == shown["file"] | nameless


def test_the_mount_of_a_process_from_before_the_start(table: ProcessTable) -> None:
    """The task iterator walks the mounts as the exec program does."""
    file = resolve(table, os.getpid()).file
    assert mount_facts(file) == {
        "id": file["mount_id"], "path": os.fsdecode(mount_point(os.getpid(), file["mount_id"])), "source": "snapshot",
        "origin": "procfs", "visible": True, "detached": False,
    }  # fmt: skip


def test_the_mount_of_a_process_that_only_proc_showed(live_kernel: None, tmp_path: Path) -> None:
    """A start without the task iterator: a mount of its own namespace, an unmounted mount, a file in memory."""
    sleep = shutil.which("sleep")
    place, other = tmp_path / "place", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    run = f"mount -t tmpfs none {place} && cp {sleep} {place}/first && exec {place}/first 60"
    gone = f"mount -t tmpfs none {other} && cp {sleep} {other}/x && cd {other} && umount -l {other} && exec ./x 60"
    memfd = (
        "import os; fd = os.memfd_create('run', os.MFD_CLOEXEC); "
        f"os.write(fd, open({sleep!r}, 'rb').read()); os.execve(fd, ['run', '60'], {{}})"
    )
    with (
        process("unshare", "-m", "sh", "-c", run) as first,
        process("unshare", "-m", "sh", "-c", gone) as second,
        process(sys.executable, "-c", memfd) as third,
    ):
        for child, name in ((first, "/first"), (second, "/x"), (third, "/memfd:run (deleted)")):
            eventually(lambda child=child, name=name: exe(child.pid).endswith(name))
        with Daemon('[capture]\ntask_iterator = "off"\n', name="mounts") as daemon, daemon.attach() as table:
            here = resolve(table, os.getpid()).file
            path = os.fsdecode(mount_point(os.getpid(), here["mount_id"]))
            assert mount_facts(here) == {
                "id": here["mount_id"], "path": path, "source": "snapshot",
                "origin": "procfs", "visible": True, "detached": False,
            }  # fmt: skip
            assert here["filesystem"] == mount(os.getpid(), here["mount_id"])[1][0].decode()
            usual = {"source": "snapshot", "origin": "procfs"}
            found = {child.pid: resolve(table, child.pid).file for child in (first, second, third)}
            for child, kind, where, visible, detached in (
                (first, "tmpfs", str(place), True, False),
                (second, None, None, None, None),
                (third, "tmpfs", None, False, True),
            ):
                file = found[child.pid]
                assert file["filesystem"] == kind
                assert mount_facts(file) == usual | {
                    "id": file["mount_id"], "path": where, "visible": visible, "detached": detached
                }  # fmt: skip


# -- sessions ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def auth_info() -> Iterator[Path]:
    """The file that sshd creates with `ExposeAuthInfo yes`, in the same directory and with the same kind of name."""
    path = Path(f"/tmp/sshauth.{secrets.token_hex(8)}")
    path.write_text(f"publickey {KEY}\nkeyboard-interactive/pam\n")
    path.chmod(0o600)
    yield path
    path.unlink()


def test_an_ssh_session_and_all_below_it(table: ProcessTable, daemon: Daemon, tmp_path: Path, auth_info: Path) -> None:
    sshd = compile_c(SSHD, tmp_path / "sshd")
    with process(sshd, auth_info, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        shell, first, second = (int(server.stdout.readline()) for _ in range(3))
        for pid in (shell, first, second):
            eventually(lambda pid=pid: resolve(table, pid).ssh_session is not None)
        sessions = [resolve(table, pid).ssh_session for pid in (shell, first, second)]
        assert sessions[0] == sessions[1] == sessions[2]
        assert sessions[0] == {
            "id": resolve(table, shell).user_session, "username": "root", "client_ip": "192.0.2.7",
            "client_port": 50022, "client_source": "exec", "auth_method": "publickey,keyboard-interactive/pam",
            "public_key": KEY,
        }  # fmt: skip
        connection = b"SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22"  # missing during an exec
        eventually(lambda: connection in Path(f"/proc/{first}/environ").read_bytes().split(b"\0"))
        assert resolve(table, server.pid).ssh_session is None, "the server is in no session"
        # A second session of the same client has another number.
        with process(sshd, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            pid = int(other.stdout.readline())
            eventually(lambda: resolve(table, pid).ssh_session is not None)
            session = resolve(table, pid).ssh_session
            assert session["id"] != sessions[0]["id"]
            assert (session["auth_method"], session["public_key"]) == (None, None), "this sshd does not report it"


def test_subscribers_learn_the_client_of_a_session(
    table: ProcessTable, daemon: Daemon, tmp_path: Path, auth_info: Path
) -> None:
    sshd = compile_c(SSHD, tmp_path / "sshd")
    with Recorder(daemon, "proc.context", "proc.exec").started() as recorder:
        with process(sshd, auth_info, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            shell = int(server.stdout.readline())
            recorder.wait_for(lambda events: any(e["event"] == "user_session" and e["pid"] == shell for e in events))
            # The file of sessions is written later if there was a login just before.
            eventually(lambda: resolve(table, shell).ssh_session is not None)
            session = resolve(table, shell).ssh_session
        (event,) = [e for e in recorder.stop() if e["event"] == "user_session" and e["pid"] == shell]
    assert event["user_session"] == session["id"] and event["entity_id"] == resolve(table, shell).entity_id
    assert event["context"] == {
        "ssh_session_id": session["id"], "ssh_username": "root", "ssh_client_ip": "192.0.2.7",
        "ssh_client_port": 50022, "ssh_auth_method": "publickey,keyboard-interactive/pam", "ssh_public_key": KEY,
        "error": None,
    }  # fmt: skip


def test_sessions_from_before_the_start(live_kernel: None, tmp_path: Path) -> None:
    sshd = compile_c(SSHD, tmp_path / "sshd")
    with process(sshd, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pids = [int(server.stdout.readline()) for _ in range(3)]
        with Daemon() as daemon, daemon.attach() as table:
            numbers = {resolve(table, pid).user_session for pid in pids}
            assert len(numbers) == 1 and None not in numbers
            before = resolve(table, pids[0]).ssh_session
            assert (before["username"], before["client_source"]) == ("root", "environ")
            (resolver,) = daemon.pids("resolver")
            os.kill(resolver, 9)
            eventually(lambda: daemon.pids("resolver") not in ([], [resolver]))
            eventually(lambda: resolve(table, pids[0]).ssh_session == before)


def short_sessions(daemon: Daemon, sshd: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Let sshd run 20 commands that end at once; return their events when all sessions were reported."""
    with Recorder(daemon, "proc.context", "proc.exec").started() as recorder:
        servers = set()
        for _ in range(20):
            with subprocess.Popen([sshd], env=environment) as server:
                servers.add(server.pid)
            assert server.returncode == 0

        def commands(events: list[dict[str, Any]]) -> set[int]:
            """Return the commands. Another test may have such an sshd, too."""
            return {each["pid"] for each in events if each["event"] == "exec" and each["ppid"] in servers}

        def reported(events: list[dict[str, Any]]) -> set[int]:
            return {each["pid"] for each in events if each["event"] == "user_session"} & commands(events)

        try:
            eventually(lambda: len(reported(recorder.events)) == 20)
        except AssertionError:
            stat = daemon.stat()
            counts = f"{len(commands(recorder.events))} commands, {len(reported(recorder.events))} sessions"
            raise AssertionError(f"{counts}: {stat['lost']}, {stat['counters']}") from None
        told = recorder.stop()
    found = [event for event in told if event["pid"] in commands(told) and event["comm"] == "true"]
    assert [event["event"] for event in found].count("exec") == len(found) // 2 == 20
    assert len({event["user_session"] for event in found if event["event"] == "user_session"}) == 20
    return found


def test_a_short_command_is_known_by_its_record(live_kernel: None, tmp_path: Path) -> None:
    """Environments are not captured: the variables read for the session appear only in the session."""
    sshd = compile_c(SSHD_SHORT, tmp_path / "sshd")
    secret = secrets.token_hex(16)
    variable = f"TOKEN_{os.getpid()}"
    with Daemon(name="short") as daemon:
        # Logins of other tests may have ended while it started.
        unread = daemon.stat()["counters"]["sessions_unread"]
        told = short_sessions(daemon, sshd, {variable: secret})
        contexts = [event["context"] for event in told if event["event"] == "user_session"]
        assert {(one["ssh_client_ip"], one["ssh_client_port"]) for one in contexts} == {("192.0.2.7", 50022)}
        # The user comes from the kernel, also for a command that has ended; the variable USER is "alice".
        assert {context.get("ssh_username") for context in contexts} == {"root"}
        assert daemon.stat()["counters"]["sessions_unread"] == unread
        assert not any(event["envs"] for event in told)
        assert all(not event["envs_truncated"] and event["envc"] is None for event in told), "nothing is kept of one"
        # The names alone can be in the arguments of other processes, also in a script that sets such variables.
        names = ("SSH_CONNECTION", "SSH_CLIENT", variable)
        values = ("SSH_CONNECTION=192.0.2.7", "SSH_CLIENT=192.0.2.7", f"{variable}=")
        hidden = [each.encode() for each in (secret, *values, *(f"{name}\0" for name in names))]
        for path in daemon.directory.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not any(each in content for each in hidden)


def test_a_short_command_with_a_captured_environment(live_kernel: None, daemon: Daemon, tmp_path: Path) -> None:
    """The settings for environments do not affect the facts of a session."""
    sshd = compile_c(SSHD_SHORT, tmp_path / "sshd")
    listed = '[capture]\nenvs_bytes = 4096\n[envs]\nshow_values = ["USER"]\n'
    whole = '[capture]\nenvs_bytes = 4096\n[envs]\nshow = "all"\n'
    with Daemon(listed, name="short") as other, Daemon(whole, name="whole") as third:
        unread = other.stat()["counters"]["sessions_unread"]
        for one, stored in (
            (daemon, ("SSH_CONNECTION", "USER")), (other, ("SSH_CONNECTION", "USER=alice")),
            (third, ("SSH_CONNECTION=192.0.2.7 50022 198.51.100.1 22", "USER=alice")),
        ):  # fmt: skip
            told = short_sessions(one, sshd, {})
            contexts = [event["context"] for event in told if event["event"] == "user_session"]
            assert {context["ssh_client_ip"] for context in contexts} == {"192.0.2.7"}
            assert {context.get("ssh_username") for context in contexts} == {"root"}
            assert {tuple(event["envs"] or ()) for event in told} == {stored}
        assert other.stat()["counters"]["sessions_unread"] == unread


def test_a_daemon_of_a_short_command_is_in_its_session(table: ProcessTable, tmp_path: Path) -> None:
    """`ssh HOST 'sleep 60 &'`."""
    source = SSHD_SHORT.replace('execl("/bin/true", "true", NULL)', 'execl("/bin/sh", "sh", "-c", COMMAND, NULL)')
    sshd = compile_c(f'#define COMMAND "sleep 60 >/dev/null 2>&1 & echo $$ $!"\n{source}', tmp_path / "sshd")
    for _ in range(5):
        answer = subprocess.run([sshd], check=True, env={}, stdout=subprocess.PIPE, text=True)
        shell, left = map(int, answer.stdout.split())
        try:
            eventually(lambda left=left: resolve(table, left).ssh_session is not None)
            session = resolve(table, left).ssh_session
            assert session["client_ip"] == "192.0.2.7" and session["id"] == resolve(table, shell).user_session
        finally:
            os.kill(left, 9)


def test_a_program_that_calls_itself_sshd_begins_no_session(table: ProcessTable, tmp_path: Path) -> None:
    sshd = compile_c(SSHD, tmp_path / "sshd")
    os.chown(sshd, 65534, 65534)
    with process(sshd, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        shell = int(server.stdout.readline())
        time.sleep(0.3)
        assert resolve(table, shell).user_session is None


# -- names behind links ------------------------------------------------------------------------------------------------


def test_busybox_and_links(table: ProcessTable, tmp_path: Path) -> None:
    program = compile_c("#include <unistd.h>\nint main(void) { return pause(); }\n", tmp_path / "bin/busybox")
    (tmp_path / "bin/ls").symlink_to("busybox")
    (tmp_path / "usr").mkdir()
    tmp_path.chmod(0o755)

    def shown(pid: int) -> tuple[Any, ...]:
        entry = resolve(table, pid)
        assert entry.path == exe(pid)
        return entry.is_through_symlink, entry.symlink_paths, entry.symlink_basename

    for command, names in (
        ((tmp_path / "bin/ls",), (True, ["/bin/ls", "/usr/bin/ls"], "ls")),
        ((program,), (False, None, None)),
        (("chroot", tmp_path, "/bin/ls"), (True, ["/bin/ls", "/usr/bin/ls"], "ls")),
        # Busybox called by its path: the argument determines the name.
        (("chroot", tmp_path, "/bin/busybox"), (False, ["/bin/busybox", "/usr/bin/busybox"], "busybox")),
    ):
        with process(*command) as child:
            eventually(lambda child=child: exe(child.pid) == str(program))
            eventually(lambda child=child, names=names: shown(child.pid) == names)


# -- namespaces --------------------------------------------------------------------------------------------------------


def test_namespaces(table: ProcessTable) -> None:
    with process("unshare", "--mount", "--net", "--user", "sleep", "60") as child:
        eventually(lambda: resolve(table, child.pid).comm == "sleep")
        entry = resolve(table, child.pid)
        for kind in ("pid", "mnt", "net", "user"):
            assert getattr(entry, f"{kind}_ns") == namespace(child.pid, kind)
        assert entry.user_ns != namespace(os.getpid(), "user")


# -- terminals ---------------------------------------------------------------------------------------------------------


def test_the_fallback_for_terminals_is_a_setting(live_kernel: None, table: ProcessTable) -> None:
    """A process of another session keeps the descriptor but loses the terminal: the kernel reports none."""
    main, other = pty.openpty()
    name = os.ttyname(other)
    # Its descriptor 0 is the terminal only just before its exec; an earlier read finds none.
    code = f"import os; os.read(0, 1); os.dup2({other}, 0); os.execlp('sleep', 'sleep', '60')"
    try:
        with (
            process("sleep", "60", stdin=other) as before,
            Daemon("[contexts]\ntty_fallback = true\n") as daemon,
            daemon.attach() as asked,
            Recorder(daemon, "proc.context", "proc.exec").started() as recorder,
            process(sys.executable, "-c", code, stdin=subprocess.PIPE, pass_fds=[other]) as child,
        ):
            wanted = "pts" + name.rpartition("/")[2]
            eventually(lambda: code in resolve(asked, child.pid).argv)
            assert child.stdin is not None
            child.stdin.close()
            eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
            assert Path(f"/proc/{child.pid}/fd/0").readlink() == Path(name)
            for pid in (before.pid, child.pid):
                eventually(lambda pid=pid: resolve(asked, pid).tty == wanted)
                assert not resolve(table, pid).tty, "without the setting only the controlling terminal counts"
            with process("sleep", "60", stdin=subprocess.DEVNULL) as none:
                eventually(lambda: resolve(asked, none.pid).comm == "sleep")
                assert not resolve(asked, none.pid).tty
            # Subscribers get it after the exec.
            seen = ("sid", child.pid, wanted)
            recorder.wait_for(lambda events: any((e["event"], e["pid"], e["tty"]) == seen for e in events))
            mine = [e for e in recorder.stop() if e["pid"] == child.pid]
            assert [(e["event"], e["tty"]) for e in mine if e["comm"] == "sleep"] == [("exec", ""), ("sid", wanted)]
    finally:
        os.close(main)
        os.close(other)


def test_a_terminal_of_the_fallback_is_inherited_and_stays(live_kernel: None) -> None:
    """After the read: a fork without an exec, changes, and an exit with a record that has no terminal."""
    code = (
        "import os, sys, time\n"
        "sys.stdin.readline()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.setsid(); open('/proc/self/comm', 'w').write('later'); time.sleep(60)\n"
        "print(child, flush=True); os.waitpid(child, 0)"
    )
    main, other = pty.openpty()
    try:
        with (
            Daemon("[contexts]\ntty_fallback = true\n" + each_change()) as daemon,
            daemon.attach() as table,
            Recorder(daemon, "proc").started() as recorder,
            process(sys.executable, "-c", code, stdin=other, stdout=subprocess.PIPE) as parent,
        ):
            wanted = "pts" + os.ttyname(other).rpartition("/")[2]
            eventually(lambda: resolve(table, parent.pid).tty == wanted)
            os.write(main, b"\n")
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            eventually(lambda: resolve(table, child).comm == "later")
            assert resolve(table, child).tty == wanted
            os.kill(child, 9)
            recorder.wait_for(lambda events: any(e["event"] == "exit" and e["pid"] == child for e in events))
            assert resolve(table, child).tty == wanted
            mine = [event for event in recorder.stop() if event["pid"] == child]
            assert {event["tty"] for event in mine} == {wanted}
            assert {"fork", "sid", "comm", "exit"} <= {event["event"] for event in mine}
    finally:
        os.close(main)
        os.close(other)


def test_controlling_terminals(table: ProcessTable) -> None:
    code = (
        "import os, pty; pid, fd = pty.fork(); pid or os.execlp('sleep', 'sleep', '60')\n"
        "print(pid, flush=True); os.read(fd, 1)"
    )
    with process(sys.executable, "-c", code, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        eventually(lambda: resolve(table, pid).comm == "sleep")
        tty = Path(f"/proc/{pid}/fd/0").readlink()
        assert resolve(table, pid).tty == "pts" + tty.name
        assert resolve(table, pid).sid == pid == os.getsid(pid)
