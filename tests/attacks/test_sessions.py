"""An unprivileged user calls a shell `sshd`, like that of root, and runs commands in it with variables of a session.

Each of these commands used to be shown as an ssh session of root. Many of them blocked the resolver until the
supervisor considered it hung and replaced it.
"""

from __future__ import annotations

import pytest

from pipeline.shm.names import ssh
from tests.attacks.harness import as_nobody, unharmed
from tests.live.harness import Daemon
from tests.nobody import NOBODY
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

COMMANDS = 2000
CLIENT = "203.0.113.66"

#: In a new user namespace the user is root, and a file mounted over another keeps owner and inode: the shell's file
#: belongs to root, and its name is sshd. The last command keeps running, so that it can be checked.
FORGE = r"""
import subprocess, sys, time
commands, client = sys.argv[1:]
script = '''
mount -t tmpfs none /tmp && : >/tmp/sshd && mount --bind /bin/bash /tmp/sshd || exit 3
export SSH_CONNECTION="$2 50022 198.51.100.1 22" SSH_CLIENT="$2 50022 22" USER=root LOGNAME=root
exec /tmp/sshd -c 'for ((i = 0; i < $1; i++)); do /bin/true; done; /bin/sleep 300 & echo $!; exec >&-; wait' sshd "$1"
'''
forged = subprocess.Popen(
    ["unshare", "-Urm", "/bin/bash", "-c", script, "forge", commands, client], stdout=subprocess.PIPE, text=True
)
print(forged.stdout.readline().strip(), flush=True)
time.sleep(300)
"""


def test_a_program_called_sshd_begins_no_session_and_delays_nothing(daemon: Daemon) -> None:
    before = daemon.stat()["counters"]
    with unharmed(daemon), daemon.attach() as table, as_nobody(FORGE, COMMANDS, CLIENT) as attacker:
        assert attacker.stdout is not None
        last = int(attacker.stdout.readline())
        eventually(lambda: (entry := table.resolve(last)) is not None and entry.comm == "sleep")
        entries = [entry for entry in table.walk(exited=True) if entry.uid == NOBODY]
        assert sum(entry.comm == "true" for entry in entries) > COMMANDS // 2
        assert not [entry for entry in entries if entry.user_session or entry.ssh_session]
        assert CLIENT not in (daemon.directory / ssh.FILE).read_text()
    after = daemon.stat()["counters"]
    assert after["sessions_refused"] - before["sessions_refused"] > COMMANDS
