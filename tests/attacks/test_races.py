"""A user changes names in a directory that everybody may write to, in tight loops, while root starts and connects.

A user can win each of these races many times in a second. Nothing may follow from it: root reads nothing of the user's,
sends it nothing, and starts all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline import paths, trust
from pipeline.bus.requests import Asker
from pipeline.bus.sockets import Bus
from pipeline.bus.stream.stream_reader import StreamReader
from pipeline.errors import ProclineError, UntrustedError
from tests.attacks.harness import AS_NOBODY, Host, as_nobody
from tests.live.harness import READY_SECONDS, STOP_SECONDS
from tests.nobody import NOBODY
from tests.waiting import eventually

pytestmark = [pytest.mark.live]

#: How long a race takes at least, and how often root tries at least. A check before a use is found in 10 ms at most.
RACE_S, TRIES = 0.5, 300
#: How often root must meet what the attacker has put there, and how long a race may take. On a busy host the attacker
#: can be without a CPU for longer than RACE_S.
MEETINGS, RACE_MAX_S = 11, 60.0


@pytest.fixture
def shared(missing: Callable[[str], NoReturn]) -> Iterator[Path]:
    """A directory like /dev/shm: it belongs to root, is sticky, and everybody may write to it."""
    if os.geteuid() != 0:
        missing("only root can run an attacker with another user id")
    path = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def race(attempt: Callable[[], object], seconds: float = RACE_S, tries: int = TRIES) -> Counter[str]:
    """Repeat an attempt, which must meet the attack MEETINGS times; return how often it ended in which way."""
    ends = Counter[str]()
    began = time.monotonic()
    count = 0
    while (
        count < tries
        or time.monotonic() < began + seconds
        or (ends["UntrustedError"] < MEETINGS and time.monotonic() < began + RACE_MAX_S)
    ):
        count += 1
        try:
            attempt()
            end = "succeeded"
        except (OSError, ProclineError) as error:
            end = type(error).__name__
        ends[end] += 1
    return ends


@contextmanager
def loop_of_nobody(script: str, *arguments: str | Path) -> Iterator[Callable[[], str]]:
    """Run a script as nobody that loops until its standard input ends, and then prints a line, which is returned."""
    with as_nobody(script, *map(str, arguments), stdin=True) as attacker:
        assert attacker.stdin is not None and attacker.stdout is not None
        assert attacker.stdout.readline() == "begun\n"

        def report() -> str:
            assert attacker.poll() is None, "the attack ended early"
            assert attacker.stdin is not None and attacker.stdout is not None
            attacker.stdin.close()
            return attacker.stdout.readline()

        yield report


#: Begins the loop of an attack: `ended()` is true as soon as the standard input has ended.
BEGIN = """
import os, select, sys
def ended():
    return bool(select.select([0], [], [], 0)[0])
"""

#: One name is in turn a directory of the user's with a forged file, a link to it, a link to root's, and nothing.
SWAP = f"""
{BEGIN}
top, real = sys.argv[1:]
os.umask(0o022)
os.chdir(top)
os.makedirs("mine/default")
open("mine/default/control", "w").write("forged")
os.symlink(real, "to-real")
os.symlink(top + "/mine", "to-mine")
print("begun", flush=True)
swaps = 0
while not ended():
    for _ in range(100):
        os.rename("mine", "procline")
        os.rename("procline", "mine")
        os.rename("to-real", "procline")
        os.rename("procline", "to-real")
        os.rename("to-mine", "procline")
        os.rename("procline", "to-mine")
        swaps += 6
print(swaps, flush=True)
"""


def test_a_name_that_changes_all_the_time_is_never_read(shared: Path) -> None:
    """Between its check and its use, the name leads to another file, often one that would pass the check."""
    real = shared / "real"
    (real / "default").mkdir(parents=True)
    (real / "default" / "control").write_text("real")
    with loop_of_nobody(SWAP, shared, real) as report:
        for opened in (
            lambda: trust.read(shared / "procline/default/control"),
            lambda: trust.Directory(shared / "procline/default").close(),
            lambda: trust.Directory(shared / "procline", mine=True).close(),
        ):
            ends = race(opened)
            assert set(ends) <= {"UntrustedError", "FileNotFoundError"} and ends["UntrustedError"] >= MEETINGS, ends
        with pytest.raises(UntrustedError, match="everybody"):
            trust.Directory(shared, mine=True, make=0o755)
        assert int(report()) > 1000
    assert trust.read(real / "default" / "control") == b"real"


#: Sockets like those of an instance, in a directory that comes and goes. Counts the connections, and what is sent.
LISTEN = f"""
{BEGIN}
import socket
top = sys.argv[1]
os.umask(0)
os.chdir(top)
listeners = []
for name, kind in (
    ("stream/stream.ipc", socket.SOCK_STREAM), ("requests/requests.ipc", socket.SOCK_SEQPACKET),
    ("frames/frames.ipc", socket.SOCK_STREAM),
):
    os.makedirs("mine/default/" + name.partition("/")[0])
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    listener.bind("mine/default/" + name)
    listener.listen(64)
    listeners.append(listener)
print("begun", flush=True)
found = swaps = 0
while not ended():
    for _ in range(100):
        os.rename("mine", "procline")
        os.rename("procline", "mine")
        swaps += 2
    for listener in listeners:
        try:
            while True:
                listener.accept()
                found += 1
        except BlockingIOError:
            pass
print(found, swaps, flush=True)
"""


def test_nothing_is_sent_to_a_socket_that_comes_and_goes(shared: Path) -> None:
    """A client that checks a path after it has connected accepts the socket if it is gone by then."""
    directory = shared / "procline" / "default"

    def subscribe() -> None:
        StreamReader(paths.endpoint(paths.stream_socket(directory)), connect_timeout=0.05).close()

    def ask() -> None:
        with Asker(paths.requests_socket(directory)) as asker:
            asker.exchange(1, 20)

    def push() -> None:
        with Bus() as bus:
            bus.push(paths.frames_socket(directory))

    with loop_of_nobody(LISTEN, shared) as report:
        for attempt in (subscribe, ask, push):
            ends = race(attempt)
            assert set(ends) <= {"UntrustedError", "NotRunningError", "FileNotFoundError"}, (attempt, ends)
            assert ends["UntrustedError"] >= MEETINGS, (attempt, ends)
        found, swaps = map(int, report().split())
    assert swaps > 1000 and found == 0, f"root connected {found} times to a socket of another user"


#: The name of the fallback directory is in turn a directory, a link, and nothing.
TAKE = f"""
{BEGIN}
print("begun", flush=True)
taken = 0
while not ended():
    for make, remove in ((os.mkdir, os.rmdir), (lambda path: os.symlink("/tmp", path), os.unlink)):
        try:
            make(sys.argv[1])
            taken += 1
            remove(sys.argv[1])
        except OSError:
            pass
print(taken, flush=True)
"""

#: Claims the instance again and again; the fallback directory is removed each time.
CLAIM = """
import os, shutil, sys
from pathlib import Path
from pipeline import paths
from pipeline.supervisor.directory import InstanceDirectory
for number in range(int(sys.argv[1])):
    with InstanceDirectory("default") as directory:
        status = os.lstat(paths.FALLBACK)
        assert status.st_uid == 0 and status.st_mode & 0o7777 == 0o755, status
        directory.remove()
    shutil.rmtree(paths.FALLBACK)
print("claimed", len(list(Path("/dev/shm").iterdir())))
"""


@contextmanager
def attacking(host: Host, script: str) -> Iterator[subprocess.Popen[str]]:
    """A user attacks the fallback directory; closing standard input ends that, and one line of output reports it."""
    attack = [*AS_NOBODY, sys.executable, "-I", "-c", script, paths.FALLBACK]
    with subprocess.Popen(host.inside(*attack), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attacker:
        assert attacker.stdout is not None and attacker.stdout.readline() == "begun\n"
        yield attacker


def ended(attacker: subprocess.Popen[str]) -> str:
    """End the attack, and return its report."""
    assert attacker.stdin is not None and attacker.stdout is not None
    attacker.stdin.close()
    return attacker.stdout.readline()


def test_a_user_cannot_keep_root_from_the_fallback_directory(missing: Callable[[str], NoReturn]) -> None:
    """The user creates and removes it all the time. A start that finds it missing loses it a moment later."""
    if os.geteuid() != 0:
        missing("only root can put another user's directory aside")
    host = Host()
    try:
        with attacking(host, TAKE) as attacker:
            done = subprocess.run(
                host.inside(sys.executable, "-c", CLAIM, "200"), env=host.environment, capture_output=True, text=True,
                timeout=120, cwd="/",
            )  # fmt: skip
            taken = int(ended(attacker))
        assert done.returncode == 0 and done.stdout.startswith("claimed"), done.stderr[-2000:]
        assert taken > 100, "the attack did not take place"
    finally:
        host.close()


#: Tries everything in the directory of an instance, as soon as it is root's. Paths are relative to its descriptor, so
#: that what succeeds is a breach and not a change of the user's own files.
BREAK_IN = f"""
{BEGIN}
import errno, json, socket
root = sys.argv[1]
DIRECTORIES = ["", "default", *("default/" + name for name in
               ("users", "containers", "packages", "hashes", "frames", "stream", "requests", "tracers"))]
FILES = ["default/" + name for name in (
    "control", "index", "hot", "cold", "costs", "names", "args", "envs", "keys", "supervisor.lock", "writer.lock",
    "processes",
    "tiers", "retention", "sampling", "sessions", "stream/journal", ".processes.new", ".control.new", "users/host.json",
)]
SECRET = {{"default/" + name for name in ("args", "envs", "supervisor.lock", "writer.lock", "stream/journal")}}
SOCKETS = {{
    "default/stream/stream.ipc": socket.SOCK_STREAM, "default/stream/inner.ipc": socket.SOCK_STREAM,
    "default/frames/frames.ipc": socket.SOCK_STREAM, "default/requests/own.ipc": socket.SOCK_SEQPACKET,
    "default/requests/.o": socket.SOCK_SEQPACKET,
}}
here = os.path.join("/dev/shm", "mine")
os.umask(0)
os.makedirs(here, exist_ok=True)
open(here + "/file", "w").close()
os.symlink("/tmp", here + "/link")
tries, breaches, wins = 0, [], 0
REFUSED = {{errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENXIO,
           errno.ECONNREFUSED, errno.ENOTEMPTY, errno.EXDEV, errno.ELOOP, errno.EBUSY}}


def attempt(what, name, action):
    global tries
    tries += 1
    try:
        action()
    except OSError as error:
        if error.errno in REFUSED:
            return
        raise
    breaches.append([what, name])


def connect(at, name, kind):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(f"/proc/self/fd/{{at}}/{{name}}")


def look(at):
    for name in DIRECTORIES:
        below = name + "/x" if name else "x"
        attempt("mkdir", below, lambda: os.mkdir(below, dir_fd=at))
        attempt("create", below, lambda: os.close(os.open(below, os.O_CREAT | os.O_WRONLY, dir_fd=at)))
        attempt("link", below, lambda: os.symlink("/tmp", below, dir_fd=at))
        if name:
            attempt("replace", name, lambda: os.rename(here + "/link", name, dst_dir_fd=at))
            attempt("take", name, lambda: os.rename(name, here + "/taken", src_dir_fd=at))
            attempt("chmod", name, lambda: os.chmod(name, 0o777, dir_fd=at))
            attempt("own", name, lambda: os.mkdir(name, dir_fd=at))
    for name in FILES:
        attempt("write", name, lambda: os.close(os.open(name, os.O_WRONLY | os.O_NONBLOCK, dir_fd=at)))
        attempt("replace", name, lambda: os.rename(here + "/file", name, dst_dir_fd=at))
        attempt("unlink", name, lambda: os.unlink(name, dir_fd=at))
        attempt("first", name, lambda: os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=at)))
        if name in SECRET:
            attempt("read", name, lambda: os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=at)))
    for name, kind in SOCKETS.items():
        attempt("connect", name, lambda: connect(at, name, kind))


print("begun", flush=True)
while not ended() and not breaches:
    try:
        os.mkdir(root)
        wins += 1
        os.mkdir(root + "/default")
        os.symlink("/tmp", root + "/default/users")
    except OSError:
        pass
    try:
        at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        continue
    if os.fstat(at).st_uid == 0:
        look(at)
    else:
        for action, name in ((os.unlink, "/default/users"), (os.rmdir, "/default"), (os.rmdir, "")):
            try:
                action(root + name)
            except OSError:
                pass
    os.close(at)
print(json.dumps({{"tries": tries, "breaches": breaches, "wins": wins}}), flush=True)
"""


def test_no_attack_succeeds_while_a_daemon_starts_ends_and_takes_over(live_kernel: None, tmp_path: Path) -> None:
    """In /dev/shm/procline, from before the first start, while the daemon's processes are killed and readers attach."""
    host = Host()
    log = tmp_path / "log"
    daemons: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = host.inside(sys.executable, "-m", "pipeline.cli.main", "run")
        with log.open("ab") as file:
            daemons.append(
                subprocess.Popen(
                    command, env=host.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/"
                )
            )
        waited = host.cli("wait", "--timeout", str(READY_SECONDS))
        assert waited.returncode == 0, (waited.stderr, log.read_text()[-3000:])

    def pids(role: str) -> list[int]:
        found = json.loads(host.cli("stat", "--json").stdout)["processes"]
        return [each["pid"] for each in found if each["role"].startswith(role)]

    def readers_see_it() -> None:
        found = json.loads(host.cli("resolve", str(os.getpid()), "--json", "--ask").stdout)
        assert found["pid"] == os.getpid()
        assert host.path(paths.FALLBACK).stat().st_uid == host.path(f"{paths.FALLBACK}/default").stat().st_uid == 0
        assert host.cli("subscribe", "--timeout", "0.3", "fork").returncode == 0

    try:
        with attacking(host, BREAK_IN) as attacker:
            start()
            readers_see_it()
            (resolver,) = pids("resolver")
            os.kill(resolver, signal.SIGKILL)
            eventually(lambda: pids("resolver") not in ([], [resolver]), limit_s=READY_SECONDS)
            assert host.cli("wait", "--timeout", str(READY_SECONDS)).returncode == 0
            readers_see_it()
            (supervisor,) = pids("supervisor")
            os.kill(supervisor, signal.SIGKILL)
            daemons[-1].wait(STOP_SECONDS)
            start()
            readers_see_it()
            daemons[-1].send_signal(signal.SIGTERM)
            assert daemons[-1].wait(3 * STOP_SECONDS) == 0
            start()
            readers_see_it()
            report = json.loads(ended(attacker))
        assert report["breaches"] == [] and report["tries"] > 1000, report
        assert report["wins"] > 0, "the daemon was faster than the attack"
        for fake in ("users", "containers", "stream", "requests", "frames"):
            assert not host.path(f"{paths.FALLBACK}/default/{fake}").is_symlink()
        assert NOBODY not in {each.lstat().st_uid for each in host.path(f"{paths.FALLBACK}/default").rglob("*")}
    finally:
        for daemon in daemons:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(3 * STOP_SECONDS)
        host.close()
