"""Another user's tables in the place of an instance: root does not read them, and they do not prevent a start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.harness import AS_NOBODY, Host, as_nobody, finished, unharmed
from tests.live.harness import CHECKOUT, READY_SECONDS, STOP_SECONDS, Daemon
from tests.nobody import NOBODY

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("live_kernel")]

#: Copies the real tables to the default path of an instance, and keeps the heartbeat of the copy recent.
PLANT = """
import os, shutil, sys
source, target = sys.argv[1:]
os.umask(0o022)
os.makedirs(target)
for name in os.listdir(source):
    path = os.path.join(source, name)
    if os.path.isfile(path) and os.access(path, os.R_OK):
        shutil.copyfile(path, os.path.join(target, name))
print("planted")
"""
KEEP_ALIVE = """
import struct, sys, time
with open(sys.argv[1], "r+b") as control:
    while True:
        control.seek(48)
        control.write(struct.pack("<Q", time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
        control.flush()
        print("beat", flush=True)
        time.sleep(0.1)
"""

#: Run by the owner of the tables; -I ignores PYTHONPATH.
OWN_LOOK = f"""
import sys
sys.path.insert(0, {str(CHECKOUT)!r})
from pipeline import ProcessTable
print(ProcessTable.attach().resolve(1).pid)
"""


@pytest.fixture(scope="module")
def planted(daemon: Daemon) -> Iterator[Host]:
    """Copies of real tables that belong to nobody, with a heartbeat."""
    # Runs as nobody inside: setpriv drops the same privileges as as_nobody.
    drop = [*AS_NOBODY, sys.executable, "-I", "-c"]
    target = "/dev/shm/procline/default"
    host = Host()
    try:
        # Below /tmp, because the private /dev/shm hides the original. With arguments, so that no segment is missing.
        with tempfile.TemporaryDirectory(dir="/tmp") as passed:
            Path(passed).chmod(0o755)
            for path in daemon.directory.iterdir():
                if path.is_file() and not path.name.endswith(".lock"):
                    shutil.copyfile(path, Path(passed) / path.name)
            plant = host.inside(*drop, PLANT, passed, target)
            assert subprocess.run(plant, stdout=subprocess.PIPE, text=True, check=True).stdout == "planted\n"
        beat = subprocess.Popen(host.inside(*drop, KEEP_ALIVE, f"{target}/control"), stdout=subprocess.PIPE, text=True)
        try:
            assert beat.stdout is not None and beat.stdout.readline() == "beat\n"
            assert host.path(target).stat().st_uid == NOBODY
            # The tables are valid: their owner can read them.
            owner = subprocess.run(
                host.inside(*drop, OWN_LOOK), env=host.environment, stdout=subprocess.PIPE, text=True, check=True
            )
            assert owner.stdout == "1\n"
            yield host
        finally:
            beat.kill()
            beat.communicate()
    finally:
        host.close()


@pytest.mark.parametrize(
    "command",
    [["resolve", "1"], ["resolve", "1", "--ask"], ["stat"], ["dump", "--json"], ["wait", "--timeout", "1"],
     ["subscribe", "--timeout", "1"]],
    ids=" ".join,
)  # fmt: skip
def test_root_does_not_read_planted_tables(planted: Host, daemon: Daemon, command: list[str]) -> None:
    with unharmed(daemon):
        done = planted.cli(*command)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == "" and "/dev/shm/procline belongs to uid 65534" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_doctor_shows_nothing_of_planted_files(planted: Host) -> None:
    directory = planted.path("/dev/shm/procline/default")
    (directory / "tiers").write_text('{"invented": "by nobody"}')
    os.chown(directory / "tiers", NOBODY, NOBODY)
    checks = {check["name"]: check for check in json.loads(planted.cli("doctor", "--json").stdout)["checks"]}
    assert "belongs to uid 65534" in checks["instance"]["detail"] and checks["instance"]["ok"] is not True
    assert not [name for name in checks if "invented" in name]


def test_the_daemon_starts_where_others_have_planted_tables(planted: Host, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(
            planted.inside(sys.executable, "-m", "pipeline.cli.main", "run"),
            env=planted.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
        )  # fmt: skip
    try:
        waited = planted.cli("wait", "--timeout", str(READY_SECONDS))
        assert waited.returncode == 0, (waited.stderr, (tmp_path / "log").read_text())
        found = json.loads(planted.cli("resolve", str(daemon.pid), "--json").stdout)
        assert found["pid"] == daemon.pid
        assert planted.path("/dev/shm/procline/default").stat().st_uid == 0
        (aside,) = planted.path("/dev/shm").glob("procline-not-ours-*")
        assert aside.stat().st_uid == NOBODY and aside.name in (tmp_path / "log").read_text()
        assert (aside / "default" / "control").exists(), "the daemon must not delete files of another user"
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(3 * STOP_SECONDS)
    assert code == 0, (tmp_path / "log").read_text()


#: Tries to change files and directories of the live instance.
MEDDLE = """
import os, sys
root, name = os.path.split(sys.argv[1])
tried = [
    lambda: os.rename(sys.argv[1], sys.argv[1] + ".away"),
    lambda: os.rename(root, root + ".away"),
    lambda: os.mkdir(os.path.join(sys.argv[1], "x")),
    lambda: os.unlink(os.path.join(sys.argv[1], "control")),
    lambda: os.truncate(os.path.join(sys.argv[1], "control"), 0),
    lambda: os.chmod(os.path.join(sys.argv[1], "control"), 0o666),
    lambda: open(os.path.join(sys.argv[1], "hot"), "r+b"),
]
for number, attempt in enumerate(tried):
    try:
        attempt()
    except PermissionError:
        continue
    sys.exit(f"attempt {number} succeeded")
"""


def test_others_cannot_change_a_live_instances_files(daemon: Daemon) -> None:
    with unharmed(daemon), as_nobody(MEDDLE, str(daemon.directory)) as attacker:
        finished(attacker)
        assert daemon.cli("resolve", "1").returncode == 0
