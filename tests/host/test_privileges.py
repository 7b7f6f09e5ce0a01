"""Dropping privileges: in separate processes, checked in /proc and by calls that must fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.host import privileges
from pipeline.records.capabilities import CAP_SYS_PTRACE

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: drops its privileges")


_IMPORTS = """
import os, pathlib
from pipeline.host.privileges import *
from pipeline.records.capabilities import *
"""


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


STATUS = """
for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    name, _, value = line.partition(":")
    if name in {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}:
        print(name, int(value, 16))
    elif name in {"NoNewPrivs", "Uid", "Gid"}:
        print(name, *value.split())
"""


def _status(code: str) -> dict[str, str]:
    output = _run(textwrap.dedent(code) + STATUS)
    return dict(line.split(" ", 1) for line in output.splitlines() if line[0].isupper())


@needs_root
def test_nothing_is_kept_by_default() -> None:
    status = _status("assert drop_capabilities() == frozenset()")
    assert [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == ["0"] * 5


@needs_root
def test_only_kept_capabilities_are_usable() -> None:
    status = _status("assert drop_capabilities({CAP_SYS_PTRACE, 62}) == {CAP_SYS_PTRACE}")
    mask = str(1 << CAP_SYS_PTRACE)
    assert [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == ["0", mask, mask, mask, "0"]


@needs_root
def test_a_lowered_capability_comes_back() -> None:
    code = """
    def effective():
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("CapEff")), 16)
    before = effective()
    with lowered((CAP_SETUID, CAP_BPF)):
        assert before & ~effective() == 1 << CAP_SETUID | 1 << CAP_BPF
    assert effective() == before
    """
    _run(code)


@needs_root
def test_root_without_capabilities_has_no_privileges() -> None:
    code = """
    drop_capabilities()
    for act in (lambda: os.setuid(1), lambda: os.chroot("/"), lambda: os.sched_setaffinity(1, {0}) or os.nice(-1)):
        try:
            act()
            print("allowed")
        except PermissionError:
            print("refused")
    """
    assert _run(code).split() == ["refused"] * 3


def test_dropping_twice_and_without_privileges_is_harmless() -> None:
    assert _run("drop_capabilities(); drop_capabilities(); print('done')") == "done"


@needs_root
def test_user_is_changed_for_good_and_kept_capabilities_survive() -> None:
    status = _status("print('kept', sorted(confine(user='nobody', keep={CAP_SYS_PTRACE})[0]))")
    assert len(set(status["Uid"].split())) == 1 and status["Uid"].split()[0] != "0"
    assert status["CapEff"] == status["CapPrm"] == str(1 << CAP_SYS_PTRACE)
    assert status["NoNewPrivs"] == "1"


@needs_root
def test_supplementary_groups_are_the_users() -> None:
    code = "become('nobody'); print(0 in os.getgroups() or 0 in os.getresgid(), os.getresuid()[0] != 0)"
    assert _run(code) == "False True"


def test_becoming_the_same_user_needs_no_privilege() -> None:
    assert _run("import pwd; become(pwd.getpwuid(os.getuid()).pw_name); print('done')") == "done"


def test_unknown_user_is_named() -> None:
    with pytest.raises(privileges.ConfigError, match="no user 'nosuchuser'"):
        privileges.become("nosuchuser")


@needs_root
def test_a_user_that_cannot_be_set_is_an_error_with_a_hint() -> None:
    code = """
    drop_capabilities()
    try:
        become("nobody")
    except UnsupportedError as error:
        print(error)
    """
    assert "start it as root" in _run(code)


def test_threads_that_would_keep_their_privileges_are_an_error() -> None:
    code = """
    import threading
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        drop_capabilities()
    except RuntimeError as error:
        print(error)
    stop.set()
    thread.join()
    """
    assert "2 threads" in _run(code)


@needs_root
def test_exec_of_a_set_user_id_program_gains_nothing() -> None:
    """Without `set_no_new_privs` the same program, executed by the same user, becomes root."""
    # Not tmp_path: other users cannot enter pytest's directories.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        Path(directory).chmod(0o755)
        helper = Path(directory) / "helper"
        helper.write_bytes(Path("/bin/cat").read_bytes())
        helper.chmod(0o4755)
        code = f"""
        {{}}
        os.execv({os.fspath(helper)!r}, ["helper", "/proc/self/status"])
        """
        if os.statvfs(directory).f_flag & os.ST_NOSUID:
            helper = Path(shutil.copy(helper, "/var/tmp/procline-test-helper"))
            helper.chmod(0o4755)
            code = code.replace(f"{directory}/helper", os.fspath(helper))
        try:
            gained = _run(code.format("become('nobody')"))
            refused = _run(code.format("confine(user='nobody')"))
        finally:
            helper.unlink()

    def effective_uid(output: str) -> str:
        return next(line for line in output.splitlines() if line.startswith("Uid:")).split()[2]

    assert effective_uid(gained) == "0" and effective_uid(refused) != "0"


def test_a_crash_leaves_no_core_file(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pipeline.host.privileges import disable_core_dumps\n{}\nos.chdir(sys.argv[1]); os.abort()"
    )
    child = subprocess.Popen([sys.executable, "-c", code.format("disable_core_dumps()"), os.fspath(tmp_path)])
    _, status = os.waitpid(child.pid, 0)
    child.returncode = 0
    assert os.WTERMSIG(status) == signal.SIGABRT and not os.WCOREDUMP(status)
    assert not list(tmp_path.iterdir())


@needs_root
def test_memory_is_closed_to_others_of_the_same_user() -> None:
    """Without PR_SET_DUMPABLE a process can read the memory of another process of the same user."""
    code = """
    import subprocess, sys
    become("nobody")
    disable_core_dumps()
    probe = "import sys; open('/proc/' + sys.argv[1] + '/mem', 'rb')"
    done = subprocess.run([sys.executable, "-S", "-c", probe, str(os.getpid())], capture_output=True, cwd="/")
    print("PermissionError" in done.stderr.decode())
    """
    assert _run(code) == "True"


def _ends(pid: int, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True
        if stat.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("user", [None, pytest.param("nobody", marks=needs_root)])
def test_process_ends_with_its_parent_also_after_a_change_of_user(user: str | None) -> None:
    child = "from pipeline.host.privileges import confine; import os, time\n"
    child += f"print(confine(parent_tgid=os.getppid(), user={user!r})[1], flush=True); time.sleep(60)"
    parent = "import subprocess, sys, time\n"
    parent += f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
    parent += "print(child.stdout.readline().decode().strip(), child.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        alive, pid = process.stdout.readline().split()
        assert alive == "True"
        process.kill()
        process.wait()
        assert _ends(int(pid))


def test_parent_that_ended_before_is_noticed() -> None:
    assert _run("print(pdeathsig(os.getppid()), pdeathsig(2**22 - 1))") == "True False"
