"""`procline why` on real processes: logins, changes of user, containers, unusual executables."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.hierarchy import cgroup_v2_root, remove_cgroups
from tests.live.harness import Daemon, each_change, unused_pid
from tests.live.podman import ROOTFS, podman, runtime
from tests.live.ssh_server import USER, Server
from tests.waiting import eventually

pytestmark = pytest.mark.live


#: How long apt-get may wait for another one.
LOCK_S = 60


@pytest.fixture(scope="module")
def daemon(live_kernel: None) -> Iterator[Daemon]:
    """A daemon that sees each change of credentials, also one that is undone before the next comparison."""
    with Daemon('[args]\nshow = "raw"\n' + each_change()) as running:
        yield running


@pytest.fixture(scope="module")
def comparing(live_kernel: None) -> Iterator[Daemon]:
    """A daemon that finds changes of credentials by comparison, and makes none while a test runs."""
    with Daemon('[capture]\ncredentials = "sampled"\nsampling_interval_s = 60\n') as running:
        yield running


SETPRIV = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


def why(daemon: Daemon, pid: int, *options: str) -> dict[str, Any]:
    done = daemon.cli("why", str(pid), "--json", *options)
    assert done.returncode == 0, done.stderr
    story: dict[str, Any] = json.loads(done.stdout)
    return story


def text_of(daemon: Daemon, pid: int, *options: str) -> str:
    done = daemon.cli("why", str(pid), *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_kind(story: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [finding for finding in story["findings"] if finding["kind"] == kind]


def one(story: dict[str, Any], kind: str) -> dict[str, Any]:
    (finding,) = of_kind(story, kind)
    return finding


@contextmanager
def running(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in its own session; at the end it is killed with its children."""
    process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def sleeper(seconds: str, limit_s: float = 5) -> int:
    """Return the pid of the youngest process that executes ``sleep SECONDS``: a test that failed may have left one."""

    def found() -> int:
        youngest = (0, 0)
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                try:
                    words = (directory / "cmdline").read_bytes().split(b"\0")[:-1]
                    if words == [b"sleep", seconds.encode()] and (directory / "exe").readlink().name == "sleep":
                        start = int((directory / "stat").read_text().rpartition(")")[2].split()[19])
                        youngest = max(youngest, (start, int(directory.name)))
                except OSError:
                    continue
        return youngest[1]

    return int(eventually(found, limit_s))


def test_a_login_by_ssh(server: Server, daemon: Daemon) -> None:
    with server.ssh(USER, "sleep 7301; true") as client:
        assert client.stdin is not None
        pid = sleeper("7301")
        uid = pwd.getpwnam(USER).pw_uid

        def session() -> dict[str, Any]:
            (found,) = of_kind(why(daemon, pid), "ssh_session") or [{}]
            return found if found and found["facts"]["username"] else {}

        found = eventually(session, 30)
        story = why(daemon, pid)
        assert (found["proof"], found["facts"]["client_ip"], found["facts"]["username"]) == ("root", "127.0.0.1", USER)
        assert f"in the ssh session of {USER} from 127.0.0.1" in story["summary"]
        login = one(story, "ssh_authentication")
        assert login["proof"] == "claimed" and login["facts"]["auth_method"] == "publickey"
        key = server.key.with_suffix(".pub")
        shown = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True).stdout
        assert login["facts"]["fingerprint"] == shown.split()[1]
        change = of_kind(story, "user_change")[-1]
        assert (change["proof"], change["facts"]["how"]) == ("kernel", "privileged_caller")
        assert (change["facts"]["from"]["uid"], change["facts"]["to"]["uid"]) == (0, uid)
        assert change["facts"]["program"] in {"sshd", "sshd-session"}
        text = text_of(daemon, pid)
        assert f"Why it runs as {USER} (uid {uid})" in text and "[claimed]" in text
        os.kill(pid, 9)


_SECONDS = itertools.count(73100)


@pytest.mark.parametrize("program", ["su", "sudo", "runuser", "setpriv"])
@pytest.mark.parametrize(("instance", "proof"), [("daemon", "kernel"), ("comparing", "inferred")])
def test_programs_that_change_the_user(
    request: pytest.FixtureRequest, instance: str, proof: str, program: str, missing: Callable[[str], NoReturn]
) -> None:
    daemon: Daemon = request.getfixturevalue(instance)
    # Another case may run beside, and what the case before has killed may still be there.
    seconds = f"{next(_SECONDS)}.{os.getpid()}"
    command = {
        "su": ("su", "-s", "/bin/sh", "nobody", "-c", f"sleep {seconds}; true"),
        "sudo": ("sudo", "-u", "nobody", "sleep", seconds),
        "runuser": ("runuser", "-u", "nobody", "--", "sleep", seconds), "setpriv": (*SETPRIV, "sleep", seconds),
    }[program]  # fmt: skip
    if shutil.which(program) is None:
        missing(f"{program} is not installed")
    with running(*command):
        pid = sleeper(seconds)
        nobody = pwd.getpwnam("nobody").pw_uid
        change = eventually(lambda: of_kind(why(daemon, pid), "user_change"))[-1]
        assert (change["proof"], change["facts"]["how"]) == (proof, "privileged_caller")
        assert (change["facts"]["from"]["uid"], change["facts"]["to"]["uid"]) == (0, nobody)
        assert (change["facts"]["program"], change["facts"]["program_proof"]) == (program, "root")
        assert f"On the way, {program} changed the user from root to nobody." in text_of(daemon, pid)
        os.kill(pid, 9)  # it is not in our process group everywhere


def test_a_change_that_only_the_next_exec_shows(comparing: Daemon) -> None:
    """A program that is not known for it changed the user: it or the one that it executed, no event shows which."""
    nobody = pwd.getpwnam("nobody").pw_uid
    code = f"import os; os.setuid({nobody}); os.execv('/usr/bin/sleep', ['sleep', '7311'])"
    with running(sys.executable, "-c", code) as process:
        change = eventually(lambda: of_kind(why(comparing, process.pid), "user_change"))[-1]
        python, sleep = change["facts"]["candidates"]
        assert (change["proof"], change["facts"]["program"], change["facts"]["path"]) == ("kernel", None, None)
        assert "python" in python and sleep == "/usr/bin/sleep"
        assert "user_change" in [each["kind"] for each in why(comparing, process.pid)["unknown"]]


def test_a_user_who_becomes_root_through_a_set_user_id_file(daemon: Daemon, tmp_path: Path) -> None:
    """The file is a copy of sleep, so its name and place say nothing; the kernel's facts do."""
    directory = Path("/usr/local/lib/procline-test-why")
    directory.mkdir()
    try:
        copy = directory / "sudo"
        shutil.copy("/usr/bin/sleep", copy)
        copy.chmod(0o4755)
        with running(*SETPRIV, "sh", "-c", f"{copy} 7320; true"):
            pid = eventually(lambda: _child_with(daemon, copy))
            story = why(daemon, pid)
            first, last = of_kind(story, "user_change")
            assert first["facts"]["program"] == "setpriv"
            assert (last["facts"]["how"], last["facts"]["program"]) == ("set_user_id_file", None)
            assert (last["facts"]["to"]["uid"], last["facts"]["to"]["euid"]) == (pwd.getpwnam("nobody").pw_uid, 0)
            assert "a set-user-ID file of root" in last["text"]
            assert "with the rights of root" in story["summary"]
    finally:
        shutil.rmtree(directory)


def _child_with(daemon: Daemon, path: Path) -> int:
    with daemon.attach() as table:
        return next((entry.pid for entry in table.walk(exited=False) if entry.path == str(path)), 0)


def test_a_false_sudo_is_not_taken_for_sudo(daemon: Daemon, tmp_path: Path) -> None:
    copy = tmp_path / "sudo"
    shutil.copy(shutil.which("setpriv") or "", copy)
    with running(copy, *SETPRIV[1:], "sleep", "7321"):
        pid = sleeper("7321")
        change = eventually(lambda: of_kind(why(daemon, pid), "user_change"))[-1]
        assert (change["facts"]["program"], change["facts"]["program_proof"]) == (None, "claimed")
        assert "On the way, sudo" not in why(daemon, pid)["summary"]


def test_a_daemon_that_detached_itself(daemon: Daemon) -> None:
    subprocess.run(["setsid", "sh", "-c", "sh -c 'sleep 7330 & '"], check=True)
    pid = sleeper("7330")
    try:
        story = eventually(lambda: (told := why(daemon, pid)) and of_kind(told, "adopted") and told)
        adopted = one(story, "adopted")
        creator = story["lineage"][0]
        assert adopted["facts"]["creator_pid"] == creator["pid"] and creator["exit_time_ns"] is not None
        assert creator["link"] == "creator" and adopted["time_ns"] == creator["exit_time_ns"]
        assert adopted["facts"]["adopter_pid"] == int(Path(f"/proc/{pid}/stat").read_text().split()[3])
        # The real origin is this test, although nothing in /proc says so any more.
        assert os.getpid() in [each["pid"] for each in story["lineage"]]
    finally:
        os.kill(pid, 9)


def test_a_program_in_memory(daemon: Daemon) -> None:
    code = (
        "import os; fd = os.memfd_create('kworker/0:1'); os.write(fd, open('/usr/bin/sleep', 'rb').read());"
        r"os.execve(f'/proc/self/fd/{fd}', ['[kworker]\x1b[2J\" started by root\n', '7340'], {})"
    )
    with running(sys.executable, "-c", code) as process:
        pid = process.pid
        finding = eventually(
            lambda: [each for each in of_kind(why(daemon, pid), "executable_in_memory") if each["pid"] == pid]
        )
        assert [each["proof"] for each in finding] == ["kernel"]
        text = text_of(daemon, process.pid)
        assert "\x1b" not in text and '\\x1b[2J\\" started by root' in text
        assert text.startswith('"memfd:kworker/0:1" (pid ')


def test_a_deleted_and_a_replaced_executable(daemon: Daemon) -> None:
    directory = Path("/usr/local/lib/procline-test-why-files")
    directory.mkdir()
    try:
        program = directory / "service"
        shutil.copy("/usr/bin/sleep", program)
        with running(program, "7350") as process:
            eventually(lambda: one(why(daemon, process.pid), "program")["facts"]["path"] == str(program))
            assert not of_kind(why(daemon, process.pid), "executable_gone")
            program.unlink()
            assert one(why(daemon, process.pid), "executable_gone")["proof"] == "kernel"
            shutil.copy("/usr/bin/cat", program)
            assert one(why(daemon, process.pid), "executable_replaced")["facts"]["path"] == str(program)
    finally:
        shutil.rmtree(directory)


def test_a_script_and_how_it_ended(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "backup.sh"
    script.write_text("#!/bin/sh\nsleep 0.3\nexit 3\n")
    script.chmod(0o755)
    before_ns = time.time_ns()
    process = subprocess.Popen([script, "--full"])
    eventually(lambda: one(why(daemon, process.pid), "program")["facts"]["script"] == str(script))
    process.wait()
    story = eventually(lambda: (told := why(daemon, process.pid)) and of_kind(told, "ended") and told)
    program = one(story, "program")
    assert (program["proof"], program["facts"]["script_is_claimed"]) == ("kernel", False)
    ended = one(story, "ended")
    assert (ended["facts"]["cause"], ended["facts"]["code"]) == ("exited", 3)
    assert story["summary"].startswith(f"backup.sh (pid {process.pid}) ran as ") and "with code 3" in story["summary"]
    # The same process as of a time at which it ran: its end is described as something later.
    at_ns = story["process"]["start_time_ns"] + 200_000_000
    assert before_ns < at_ns < ended["time_ns"]
    past = why(daemon, process.pid, "--at", str(at_ns))
    assert past["asked_at_ns"] == at_ns and past["process"]["state"] == "running"
    assert "Later it exited" in past["summary"]


def test_the_script_of_an_interpreter_is_a_claim(daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "x.py"
    script.write_text("import time\ntime.sleep(60)\n")
    with running(sys.executable, script) as process:
        program = eventually(
            lambda: (found := one(why(daemon, process.pid), "program")) and found["facts"]["script"] and found
        )
        assert (program["proof"], program["facts"]["script"]) == ("claimed", str(script))
        assert f'"{script}"' in text_of(daemon, process.pid)


def test_a_job_of_a_cron_that_is_not_the_systems(daemon: Daemon, tmp_path: Path) -> None:
    fake = tmp_path / "cron"
    shutil.copy("/bin/dash", fake)
    with running(fake, "-c", "sh -c 'sleep 7360; true'; true"):
        job = eventually(lambda: of_kind(why(daemon, sleeper("7360")), "cron_job"))[-1]
        assert job["proof"] == "claimed" and "which anybody may have named so" in job["text"]
        assert "as part of a job of cron" not in why(daemon, sleeper("7360"))["summary"]


def test_a_process_that_was_killed(daemon: Daemon) -> None:
    process = subprocess.Popen(["sleep", "7370"])
    eventually(lambda: why(daemon, process.pid)["process"]["images"][-1]["name"] == "sleep")
    process.kill()
    process.wait()
    story = eventually(lambda: (told := why(daemon, process.pid)) and of_kind(told, "ended") and told)
    assert "was killed" in story["summary"] and "SIGKILL" in story["summary"]
    assert "signal_sender" in [each["kind"] for each in story["unknown"]]


def test_pid_1_kernel_threads_and_unknown_pids(daemon: Daemon) -> None:
    assert "pid 1, the first process" in why(daemon, 1)["summary"]
    kthreadd = daemon.cli("why", "2")
    assert kthreadd.returncode == 1 and "kernel thread" in kthreadd.stderr
    free = unused_pid()
    nobody = daemon.cli("why", str(free))
    assert (nobody.returncode, nobody.stdout) == (1, "") and f"knows no process {free}" in nobody.stderr


def test_a_process_from_before_the_capture(daemon: Daemon) -> None:
    story = why(daemon, os.getpid())
    missing = {each["kind"]: each for each in story["unknown"]}
    assert missing["creator"]["pid"] == os.getpid()
    assert "who started it is not known" in story["summary"]
    assert one(story, "parent")["facts"]["creator_pid"] == os.getppid()


def test_a_reader_without_rights(daemon: Daemon) -> None:
    done = subprocess.run(
        [*SETPRIV, sys.executable, "-m", "pipeline.cli.main", "why", "1", "--name", daemon.name],
        env=daemon.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "ModuleNotFoundError" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("another user cannot read this checkout")
    assert done.returncode == 0, done.stderr
    assert "Command lines of other users: " in done.stdout


def test_a_container_of_podman(daemon: Daemon) -> None:
    options, name = runtime(), f"procline-why-{os.getpid()}"
    started = podman(*options, "run", "--detach", "--rm", "--network=none", "--name", name, *ROOTFS, "sleep", "7380")
    assert started.returncode == 0, started.stderr
    container_id = started.stdout.split()[-1]
    try:
        pid = sleeper("7380")
        story = eventually(lambda: (told := why(daemon, pid)) and of_kind(told, "container") and told)
        found = one(story, "container")
        assert (found["proof"], found["facts"]["id"], found["facts"]["name"]) == ("root", container_id, name)
        assert found["facts"]["entered_pid"] in {pid, *(each["pid"] for each in story["lineage"])}
        assert f"in the container {name}." in story["summary"]
        # By its number in the container.
        namespace = Path(f"/proc/{pid}/ns/pid").stat().st_ino
        assert why(daemon, 1, "--pid-ns", str(namespace))["process"]["pid"] == pid
        # podman ended at once, and conmon adopted what it had started.
        assert any(image["name"] == "podman" for each in story["lineage"] for image in each["images"])
    finally:
        podman("rm", "--force", "--time", "1", name)


def test_a_maintainer_script_of_a_package_that_apt_installs(daemon: Daemon, tmp_path: Path) -> None:
    """The real apt-get and dpkg install a package without files on this host, which is removed again."""
    control, package = tmp_path / "tree" / "DEBIAN", tmp_path / "procline-test-why.deb"
    control.mkdir(parents=True)
    control.parent.chmod(0o755)
    control.chmod(0o755)
    (control / "control").write_text(
        "Package: procline-test-why\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
        "Description: test\n"
    )
    seconds = f"90.{os.getpid()}"
    (control / "postinst").write_text(f"#!/bin/sh\nsleep {seconds} || true\n")
    (control / "postinst").chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", control.parent, package], check=True)
    options = ["--yes", "-o", "APT::Sandbox::User=root", "-o", f"DPkg::Lock::Timeout={LOCK_S}"]
    install = ["apt-get", "install", *options, str(package)]
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    try:
        with subprocess.Popen(install, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL):
            pid = sleeper(seconds, LOCK_S)  # another apt-get may have the lock
            try:
                story = why(daemon, pid)
            finally:
                os.kill(pid, signal.SIGTERM)
    finally:
        subprocess.run(["dpkg", "--purge", "procline-test-why"], check=False, capture_output=True)
    script = one(story, "maintainer_script")
    assert (script["facts"]["package"], script["facts"]["script"]) == ("procline-test-why", "postinst")
    managers = of_kind(story, "package_manager")
    assert [each["facts"]["program"] for each in managers] == ["apt-get", "dpkg"]
    assert managers[0]["facts"]["argv"] == install
    assert {each["proof"] for each in (script, *managers)} == {"root"}
    assert "by a maintainer script of the package procline-test-why" in story["summary"]


def test_root_in_a_user_namespace_is_still_the_user(daemon: Daemon) -> None:
    with running(*SETPRIV, "unshare", "--user", "--map-root-user", "sleep", "7381"):
        pid = sleeper("7381")
        story = eventually(lambda: (told := why(daemon, pid)) and of_kind(told, "user_change") and told)
        nobody = pwd.getpwnam("nobody").pw_uid
        image = story["process"]["images"][-1]
        assert (image["uid"], image["euid"]) == (nobody, nobody)
        assert "runs as root" not in story["summary"]


def test_a_cgroup_named_like_a_unit(daemon: Daemon, missing: Callable[[str], NoReturn]) -> None:
    root = cgroup_v2_root()
    if root is None:
        missing("cgroup version 2 is not mounted")
    group = root / "procline-test-why.slice" / "why-test.service"
    group.mkdir(parents=True)
    try:
        with running("sh", "-c", f"echo $$ > {group}/cgroup.procs; exec sleep 7382"):
            pid = sleeper("7382")
            story = eventually(lambda: (told := why(daemon, pid)) and of_kind(told, "unit") and told)
            unit = one(story, "unit")
            assert unit["facts"]["unit"] == story["process"]["unit"] == "why-test.service"
            assert unit["proof"] == ("root" if Path("/run/systemd/system").is_dir() else "inferred")
    finally:
        remove_cgroups(group.parent, root)
