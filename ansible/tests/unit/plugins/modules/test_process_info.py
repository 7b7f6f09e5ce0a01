"""Processes are found by name, path and pid, with their ancestors."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from ansible_collections.procline.procline.plugins.modules import process_info


def entry(pid, ppid, path, **changed):
    """Return an entry as `procline dump --json` prints it."""
    return {
        "pid": pid, "ppid": ppid, "path": path, "comm": (path or "kthread").rpartition("/")[2][:15],
        "script_path": None,
        "argv": [path], "user": "root", "uid": 0, "cgroup": "/", "container_id": None, "marks": [],
        "start_time_ns": pid * 1000, "exit_time_ns": None, **changed,
    }  # fmt: skip


INIT = entry(1, 0, "/usr/lib/systemd/systemd")
SSHD = entry(900001, 1, "/usr/sbin/sshd")
SCRIPT = entry(900002, 900001, "/usr/bin/python3.13", script_path="/srv/app/2/bin/serve", comm="serve")
GONE = entry(900003, 900001, "/usr/sbin/sshd", exit_time_ns=5)
LONG = entry(900004, 1, "/usr/bin/a-name-longer-than-the-kernel-keeps")
THREAD = entry(900005, 2, None)


@pytest.fixture
def table(command):
    """Fill the table of the fake command."""
    command.answer("dump", out={"entries": [SCRIPT, INIT, LONG, SSHD, GONE, THREAD]})
    for each, chain in (
        (INIT, []),
        (SSHD, [INIT]),
        (SCRIPT, [SCRIPT, SSHD, SSHD, INIT]),
        (GONE, [SSHD, INIT]),
        (LONG, [INIT]),
    ):
        command.answer("ancestors", str(each["pid"]), out=chain)
        command.answer("resolve", str(each["pid"]), out=each)
    command.answer("ancestors", str(THREAD["pid"]), out=[])
    command.answer("resolve", "77", code=1, err="not found")
    return command


def pids(result):
    return [process["pid"] for process in result["processes"]]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"name": "sshd"}, [900001]),
        ({"name": "sshd", "include_exited": True}, [900001, 900003]),
        ({"name": "serve"}, [900002]),
        ({"name": "python3.13"}, [900002]),
        ({"name": "a-name-longer-than-the-kernel-keeps"}, [900004]),
        ({"name": "kthread"}, [900005]),
        ({"path": "/usr/sbin/sshd"}, [900001]),
        ({"path": "/srv/app/2/*"}, [900002]),
        ({"path": "/srv/app/1/*"}, []),
        ({"name": "sshd", "path": "/usr/local/*"}, []),
        ({"pid": 900001}, [900001]),
        ({"pid": 900003}, []),
        ({"pid": 900003, "include_exited": True}, [900003]),
        ({"pid": 77}, []),
    ],
)
def test_processes_are_found(run, table, asked, found):
    result = run(process_info, **asked)
    assert pids(result) == found
    assert result["changed"] is False


def test_each_ancestor_is_listed_once_and_the_process_is_not(run, table):
    (process,) = run(process_info, pid=900002)["processes"]
    assert [each["pid"] for each in process["ancestors"]] == [900001, 1]
    assert process["ancestors"][0]["name"] == "sshd"


def test_ancestors_can_be_left_out(run, table):
    (process,) = run(process_info, name="serve", ancestors=False)["processes"]
    assert "ancestors" not in process
    assert not any("ancestors" in call for call in table.calls)


def test_check_mode_answers_in_the_same_way(run, table):
    assert run(process_info, name="sshd", check_mode=True) == run(process_info, name="sshd")


def test_something_must_be_asked_for(run, table):
    assert "one of the following is required: name, path, pid" in run(process_info)["msg"]


def test_an_instance_that_is_busy_is_asked_again(run, command):
    command.answer("dump", code=75, err="running, behind by 2 s")
    command.answer("dump", out={"entries": [INIT]})
    assert pids(run(process_info, name="systemd", ancestors=False)) == [1]


def test_an_instance_that_does_not_run_is_an_error(run, command):
    command.answer("dump", code=3, err="procline: 'default' is not running")
    result = run(process_info, name="systemd", timeout=0)
    assert result["failed"]
    assert result["msg"] == "procline: 'default' is not running"


def test_an_error_that_does_not_pass_is_not_repeated(run, command):
    command.answer("dump", code=2, err="procline: no access")
    assert run(process_info, name="systemd", timeout=60)["failed"]
    assert len(command.calls) == 1


@pytest.fixture
def running(tmp_path):
    """Run a copy of sleep; yield its path and pid."""
    path = tmp_path / "sleep"
    shutil.copy("/usr/bin/sleep", path)
    with subprocess.Popen([path, "60"]) as process:
        yield path, process.pid
        process.kill()


def test_a_replaced_executable_is_recognized(running):
    path, pid = running
    live = entry(pid, os.getpid(), str(path))
    assert process_info.is_replaced(live) is False
    new = path.with_name("new")
    shutil.copy("/usr/bin/sleep", new)
    new.rename(path)
    assert process_info.is_replaced(live) is True
    path.unlink()
    assert process_info.is_replaced(live) is True


def test_nothing_is_said_of_an_executable_that_cannot_be_compared():
    assert process_info.is_replaced(GONE) is None
    assert process_info.is_replaced(THREAD) is None
    assert process_info.is_replaced(entry(2**22 + 1, 1, "/usr/bin/sleep")) is None
