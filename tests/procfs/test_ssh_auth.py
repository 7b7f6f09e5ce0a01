"""How an ssh session was authenticated: files as sshd writes them, and files that a user could forge."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.procfs import rooted, ssh_auth
from pipeline.procfs.ssh_auth import UNKNOWN, SshAuth, parse_auth, read_auth
from pipeline.resolver.upkeep.sessions import read_session
from tests.procfs.strangers import stranger

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEqOCq+Y3jZ4/8s2WvWs5cM0fnZ2Vn0T2yX1mCb0FaKe"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to see another user's process, or to mount")


@pytest.mark.parametrize(
    ("text", "method", "key"),
    [
        (f"publickey {KEY}\n", "publickey", KEY),
        ("password\n", "password", None),
        ("password", "password", None),
        ("keyboard-interactive/pam\n", "keyboard-interactive/pam", None),
        (f"publickey {KEY}\nkeyboard-interactive/pam\n", "publickey,keyboard-interactive/pam", KEY),
        (f"publickey {KEY}\npublickey ssh-rsa AAAA\n", "publickey,publickey", KEY),
        ("publickey sk-ssh-ed25519@openssh.com AAAA==\n", "publickey", "sk-ssh-ed25519@openssh.com AAAA=="),
        ('hostbased ssh-rsa AAAA client user "a", client host "b"\n', "hostbased", None),
        ("gssapi-with-mic alice@EXAMPLE.COM\n", "gssapi-with-mic", None),
        (f"publickey ssh-rsa {'A' * 5000}\n", "publickey", None),
    ],
)
def test_files_that_sshd_writes(text: str, method: str, key: str | None) -> None:
    assert parse_auth(text.encode()) == SshAuth(method, key)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"root:$6$abc:19000:0:99999:7:::\n", b"ssh-ed25519 AAAA root@host\n", b"publickey\n",
        b"publickey AAAA\n", b"password\n\npassword\n", b"password\nroot:x:0:0\n", b"password\0\n", b"password\xff\n",
        b"publickey ssh-rsa AA AA\x1b[2J\n", b"password \n", b"password\n" * 17, b"Password\n",
    ],
)  # fmt: skip
def test_files_that_sshd_does_not_write(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_auth(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_session_or_refused(text: bytes) -> None:
    try:
        found = parse_auth(text)
    except ValueError:
        return
    assert found.auth_method and found.auth_method.isascii()


def session(name: str, *before: str, **variables: str) -> AbstractContextManager[int]:
    """Run a process with the environment that sshd sets; yield its pid."""
    environment = {"SSH_CONNECTION": "192.0.2.7 50022 198.51.100.1 22", "USER": "alice", "SSH_USER_AUTH": name}
    return stranger([*before, "/bin/sh", "-c", "echo $$; read line"], {**os.environ, **environment, **variables})


@pytest.fixture
def file() -> Iterator[Path]:
    """A file name as sshd creates it, in the directory that sshd uses."""
    path = Path(f"/tmp/sshauth.{secrets.token_hex(8)}")
    yield path
    path.unlink(missing_ok=True)


def write(file: Path, text: str = f"publickey {KEY}\n", mode: int = 0o600) -> None:
    file.write_text(text)
    file.chmod(mode)


def auth(pid: int, name: str) -> SshAuth:
    process = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return read_auth(process, name.encode())
    finally:
        os.close(process)


def test_a_session_with_a_file(file: Path) -> None:
    write(file)
    with session(str(file)) as pid:
        assert read_session(pid) == {
            "client_ip": "192.0.2.7", "client_port": 50022, "auth_method": "publickey",
            "public_key": KEY,
        }  # fmt: skip
        file.unlink()
        assert auth(pid, str(file)) == UNKNOWN, "sshd removes it at the end"


def test_a_session_without_a_file() -> None:
    with session("") as pid:
        found = read_session(pid)
        assert found is not None and (found["auth_method"], found["public_key"]) == (None, None)


@needs_root
def test_owner_and_mode_of_the_file(file: Path) -> None:
    write(file)
    as_nobody = ("setpriv", "--reuid", "65534", "--clear-groups")
    with session(str(file), *as_nobody) as pid:
        os.chown(file, 65534, 65534)
        assert auth(pid, str(file)).auth_method == "publickey"
        os.chown(file, 0, 0)
        assert auth(pid, str(file)).auth_method == "publickey"
        os.chown(file, 1, 1)
        assert auth(pid, str(file)) == UNKNOWN, "another user's"
        os.chown(file, 65534, 65534)
        file.chmod(0o620)
        assert auth(pid, str(file)) == UNKNOWN, "others may write it"


def test_files_that_are_none_of_sshd(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "sshauth.0123"
    write(other)
    with session(str(file)) as pid:
        names = (
            str(other), f"/tmp/../tmp/{file.name}", f"{file}/", f"/tmp/x/{file.name}", "/tmp/sshauth.", "sshauth.a",
            "/etc/shadow", f"{file}\n", "/tmp/sshauth." + "a" * 65,
        )  # fmt: skip
        write(file)
        assert all(auth(pid, name) == UNKNOWN for name in names)
        file.unlink()
        file.symlink_to(other)
        assert auth(pid, str(file)) == UNKNOWN
        file.unlink()
        file.mkdir()
        assert auth(pid, str(file)) == UNKNOWN
        file.rmdir()
        write(file, f"publickey {KEY}\n" * 300)
        assert auth(pid, str(file)) == UNKNOWN, "too long"


def test_a_pipe_or_a_lease_does_not_block_the_reader(file: Path) -> None:
    os.mkfifo(file)
    with session(str(file)) as pid:
        begin = time.monotonic()
        assert auth(pid, str(file)) == UNKNOWN
        file.unlink()
        write(file)
        code = (
            "import fcntl, os, sys, signal; signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
            f"fd = os.open({str(file)!r}, os.O_RDWR)\n"
            "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK); print(flush=True); sys.stdin.read()"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdin is not None and holder.stdout is not None
            holder.stdout.readline()
            assert auth(pid, str(file)) == UNKNOWN
            holder.stdin.close()
        assert time.monotonic() - begin < 10


@needs_root
def test_a_root_of_its_own(file: Path, tmp_path: Path) -> None:
    """The file is read below the root of the session, also on another file system; ours is never used instead."""
    write(file, "password\n")
    script = f"mount -t tmpfs none /tmp && printf 'publickey {KEY}\\n' > {file} && chmod 600 {file} && exec \"$@\""
    with session(str(file), "unshare", "--mount", "sh", "-c", script, "sh") as pid:
        assert auth(pid, str(file)) == SshAuth("publickey", KEY)
    with session(str(file), "unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /tmp && exec "$@"', "sh") as pid:
        assert auth(pid, str(file)) == UNKNOWN


@needs_root
def test_no_mount_is_crossed_to_the_file(file: Path, tmp_path: Path) -> None:
    """A user can mount a self-made file system (FUSE) over an own file."""
    write(file)
    other = tmp_path / "other"
    write(other, "password\n")
    script = f'mount --bind {other} {file} && exec "$@"'
    with session(str(file), "unshare", "--mount", "sh", "-c", script, "sh") as pid:
        assert auth(pid, str(file)) == UNKNOWN


def test_file_systems_that_could_block_are_not_touched(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file)
    with session(str(file)) as pid:
        real: Callable[[int, bytes], bool] = rooted.is_root_local
        answers = iter((True, False))
        monkeypatch.setattr(rooted, "is_root_local", lambda root, mounts: next(answers))
        assert auth(pid, str(file)) == UNKNOWN
        monkeypatch.setattr(rooted, "is_root_local", real)
        monkeypatch.setattr(ssh_auth.rooted, "_LOCAL_FILE_SYSTEMS", frozenset())
        assert auth(pid, str(file)) == UNKNOWN
