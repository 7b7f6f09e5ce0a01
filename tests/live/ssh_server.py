"""A real sshd with a user and a key of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
from pathlib import Path

from tests.ports import free_port
from tests.waiting import eventually

PROGRAM = Path("/usr/sbin/sshd")

#: A user of this test process alone: others have their own servers at the same time, and delete their users.
USER = f"procline-ssh-{os.getpid()}"
#: Its number. A free one could be that of a user that another test process has just deleted, and a daemon would still
#: know the name of that user.
UID = 2_000_000 + os.getpid()


class Server:
    """An sshd of root, and a user that can log in with a key."""

    def __init__(self, directory: Path) -> None:
        self.key = directory / "key"
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        authorized = directory / "authorized_keys"
        shutil.copy(self.key.with_suffix(".pub"), authorized)
        self.port = free_port()
        authorized.chmod(0o644)
        config = directory / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {directory}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {authorized}\nStrictModes no\nPasswordAuthentication no\nExposeAuthInfo yes\n"
            "PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        )
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.log = directory / "log"
        self.process = subprocess.Popen([PROGRAM, "-D", "-f", config, "-E", self.log])
        eventually(self.answers)

    def answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def ssh(self, user: str, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ssh", *self.options, f"{user}@127.0.0.1", command], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    @property
    def options(self) -> list[str]:
        """The options with which a client reaches it."""
        return [
            "-i", str(self.key), "-p", str(self.port), "-F", "none", "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
        ]  # fmt: skip

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def change_users(*command: str) -> None:
    """Run a command that changes the host's users; it refuses while another one does, in other test processes too."""
    with PROGRAM.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, check=True)
