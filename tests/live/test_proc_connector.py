"""`procline run --source proc-connector`: the same commands and tables without a BPF program."""

from __future__ import annotations

import grp
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.errors import UnsupportedError
from pipeline.host.boot import now_boot_ns
from pipeline.procfs.proc_reader import WANT_ALL, read_process
from pipeline.sources.proc_connector.netlink import close_socket, open_socket
from tests.actor import Actor
from tests.hierarchy import cgroup_v2_root, remove_cgroup, v1_hierarchy
from tests.live.agreement import Difference, differences
from tests.live.harness import Daemon, Recorder, resolve, run_workload, running_workload
from tests.live.storms import Storm, Watcher, images_of
from tests.live.test_changes import CONTAINER, STORM
from tests.proc import namespace
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.alone]

CONFIG = """
[args]
show = "raw"
"""
FORKS, EXECS = 4001, 1009
TICK_NS = 10_000_000
#: Facts without an event are read 1 s and 10 s after an exec or a change of credentials, and otherwise every
#: repair.check_interval_s (docs/sources.md).
LOOKED_FOR = {"capabilities", "login uid", "tty", "ns", "container", "cgroup_id", "cgroup"}
REPAIRED_S = 120 + 10


def connector_daemon(config: str = CONFIG) -> Daemon:
    return Daemon(config, "--source", "proc-connector")


@pytest.fixture(scope="module")
def connector(missing: Callable[[str], NoReturn]) -> None:
    try:
        close_socket(open_socket(1 << 16))
    except UnsupportedError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def running(connector: None) -> Iterator[Daemon]:
    with connector_daemon() as daemon:
        yield daemon


@pytest.fixture
def table(running: Daemon):
    with running.attach() as attached:
        yield attached


def assert_soon_agrees(table, timeout: float, ours: Collection[int] = ()) -> int:
    """Wait until the table agrees with /proc; returns the number of compared processes.

    Process groups are not compared, because no event reports the groups that shells give to their jobs. Facts without
    an event are compared for the processes `ours` and for this process. Other processes of this host can drop
    capabilities at any time; such a difference must not outlast the next repair.
    """
    ours = {os.getpid(), *ours}

    def look() -> tuple[list[Difference], int]:
        found, compared = differences(table, groups=False)
        late = [one for one in found if one.fact in LOOKED_FOR and one.pid not in ours]
        wrong = [one.text for one in found if one not in late]
        assert not wrong, "\n".join(wrong)
        return late, compared

    late, compared = eventually(look, limit_s=timeout, pause_s=0.2)

    def settle() -> None:
        nonlocal late
        now = {(one.pid, one.fact) for one in differences(table, groups=False)[0]}
        late = [one for one in late if (one.pid, one.fact) in now]
        assert not late, "\n".join(one.text for one in late)

    if late:
        eventually(settle, limit_s=REPAIRED_S, pause_s=0.5)
    return compared


# -- what happened, exactly --------------------------------------------------------------------------------------------


def test_a_storm_is_delivered_exactly_and_in_order(running: Daemon, workload: Path) -> None:
    with Recorder(running, "proc.fork", "proc.exec", "proc.exit").started() as recorder:
        made = run_workload(workload, "storm", FORKS, EXECS)
        parent = made[0][2]
        recorder.wait_for(lambda seen: sum(e["event"] == "exit" and e["pid"] == parent for e in seen), 60)
        seen = recorder.stop()
    lives: dict[str, list[str]] = defaultdict(list)
    for event in seen:
        if event.get("ppid") == parent:
            lives[event["entity_id"]].append(event["event"])
    assert Counter(map(tuple, lives.values())) == {("fork", "exit"): FORKS, ("fork", "exec", "exit"): EXECS}
    pids = Counter(event["pid"] for event in seen if event["event"] == "fork" and event["ppid"] == parent)
    assert pids == Counter(pid for _, pid, _ in made)
    assert not [event for event in seen if event["event"] == "missed"]
    assert sum(running.stat()["lost"].values()) == 0


def test_table_and_proc_agree_after_a_storm(running: Daemon, table, workload: Path) -> None:
    """Within the time of the second read, because capabilities have no event."""
    with ExitStack() as stack:
        sleepers = [stack.enter_context(subprocess.Popen(["sleep", "600"])) for _ in range(23)]
        for sleeper in sleepers:
            stack.callback(sleeper.kill)
        run_workload(workload, "storm", FORKS, EXECS)
        assert assert_soon_agrees(table, 5, [sleeper.pid for sleeper in sleepers]) > len(sleepers)


def test_a_process_that_is_quick_is_marked_not_guessed(table, workload: Path) -> None:
    """A process that execs and exits at once is often gone before it is read; identity, parent and end are known."""
    made = run_workload(workload, "storm", 0, 199)
    known = Counter()
    # The end of the last one comes after all others. Waiting for each would take a second on an idle host.
    eventually(lambda: resolve(table, made[-1][1]).exit_time_ns is not None)
    for _, pid, parent in made:
        entry = table.resolve(pid)
        assert entry is not None and entry.exit_time_ns is not None
        assert entry.ppid == parent and entry.is_exec
        known[entry.path is not None] += 1
        assert entry.path in {None, str(workload)}
        assert entry.argv is None or entry.argv[0] == "workload"
    assert sum(known.values()) == 199


# -- changes while a process lives -------------------------------------------------------------------------------------


@pytest.fixture
def actor() -> Iterator[Actor]:
    with Actor() as made:
        yield made


@pytest.mark.parametrize(
    "code",
    [
        "os.setresuid(4101, 4102, 4103)",
        "os.setreuid(4101, 0)",
        "os.seteuid(4104)",
        "os.setresgid(4105, 4106, 4107)",
        "os.setegid(4108)",
        "libc.setfsuid(4109)",
        "os.setuid(4110)",
        "os.setresuid(1, 0, 0); os.setresuid(0, 0, 0)",
    ],
)
def test_a_change_of_ids_is_in_the_table_at_once(running: Daemon, table, actor: Actor, code: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to change ids")
    resolve(table, actor.pid)
    actor.do(code)

    def agrees() -> None:
        entry, info = resolve(table, actor.pid), read_process(actor.pid)
        assert info is not None
        assert (entry.uid, entry.euid, entry.suid, entry.fsuid) == info.uids
        assert (entry.gid, entry.egid, entry.sgid, entry.fsgid) == info.gids
        assert (entry.cap_effective, entry.cap_permitted) == (info.cap_effective, info.cap_permitted)

    eventually(agrees, limit_s=0.8)


def test_session_and_name_are_in_the_table_at_once(table, actor: Actor) -> None:
    actor.do("libc.prctl(15, b'renamed', 0, 0, 0)")
    actor.do("os.setsid()")
    eventually(lambda: (resolve(table, actor.pid).comm, resolve(table, actor.pid).sid) == ("renamed", actor.pid))


def test_changed_capabilities_are_found(table, actor: Actor) -> None:
    """capset has no event; the second read finds the change, which happened between the two reads."""
    if os.geteuid() != 0:
        pytest.skip("needs root to drop capabilities")
    actor.do("import site; site.main(); from pipeline.host.privileges import drop_capabilities")
    before = now_boot_ns()
    actor.do("drop_capabilities((19,))")
    after = now_boot_ns()
    eventually(lambda: resolve(table, actor.pid).cap_permitted == 1 << 19, pause_s=0.1)
    entry = resolve(table, actor.pid)
    began_ns = entry.start_time_ns - entry.start_boot_ns  # on the clock of events
    change = entry.extra["sampled_change"]
    assert "change_sampled" in entry.marks
    assert change["changed_after_ns"] - began_ns < after and before < change["changed_before_ns"] - began_ns
    assert change["changed_after_ns"] >= entry.exec_time_ns


def test_events_of_changes_are_published(running: Daemon, actor: Actor) -> None:
    """Each change is reported once: the read of the process one second later does not report it again."""
    with Recorder(running, "proc.fork", "proc.cred", "proc.context").started() as recorder:
        actor.do("os.setsid()")
        actor.do("libc.prctl(15, b'renamed', 0, 0, 0)")
        actor.do("os.setresgid(4105, 4106, 4107)")
        # The values are read from /proc after the event, so wait before the next change.
        recorder.wait_for(lambda seen: any(e["event"] == "cred" and e["pid"] == actor.pid for e in seen))
        actor.do("os.setresuid(4108, 4109, 4110)")
        expected = ["sid", "comm", "cred", "cred"]
        recorder.wait_for(lambda seen: len([e for e in seen if e["pid"] == actor.pid]) >= len(expected))
        time.sleep(2.5)
        mine = [e for e in recorder.stop() if e["pid"] == actor.pid]
    assert [e["event"] for e in mine] == expected
    assert (mine[0]["sid"], mine[1]["comm"]) == (actor.pid, "renamed")
    assert [(e["uid"], e["euid"], e["gid"], e["egid"]) for e in mine[2:]] == [
        (0, 0, 4105, 4106), (4108, 4109, 4105, 4106),
    ]  # fmt: skip


def test_after_a_storm_of_changes_the_table_equals_proc(
    table, workload: Path, missing: Callable[[str], NoReturn]
) -> None:
    """Login uids, capabilities and cgroups have no event; the second read finds them."""
    with ExitStack() as stack:
        v1 = stack.enter_context(v1_hierarchy(missing))
        others = [str(v1), str(v1 / "docker" / CONTAINER), str(v1 / "docker" / CONTAINER[::-1])]
        for other in others[1:]:
            Path(other).mkdir(parents=True)
        actors = [stack.enter_context(Actor()) for _ in range(7)]
        for actor in actors:
            actor.do(STORM)
        for actor in actors:
            actor.start(f"storm(3, {others}, {others})")
        run_workload(workload, "storm", 997, 499)
        for actor in actors:
            actor.finish()
        assert_soon_agrees(table, 15, [actor.pid for actor in actors])


# -- contexts ----------------------------------------------------------------------------------------------------------


def test_names_of_users_and_the_namespaces_of_a_process(table) -> None:
    command = ["unshare", "--mount", "--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    code = (
        "import os, pty, sys; pid, fd = pty.fork(); pid or os.execvp(sys.argv[1], sys.argv[1:])\n"
        "print(pid, flush=True); os.read(fd, 1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *command, "sleep", "600"], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            pid = int(child.stdout.readline())
            eventually(lambda: (resolve(table, pid).comm, resolve(table, pid).user) == ("sleep", "nobody"))
            entry, info = resolve(table, pid), read_process(pid, WANT_ALL)
            assert info is not None
            assert (entry.user, entry.euser, entry.group) == ("nobody", "nobody", grp.getgrgid(65534).gr_name)
            spaces = (entry.pid_ns, entry.mnt_ns, entry.net_ns, entry.user_ns)
            assert spaces == (info.pid_ns, info.mnt_ns, info.net_ns, info.user_ns)
            assert entry.net_ns != namespace("self", "net")
            assert entry.tty == "pts" + Path(f"/proc/{pid}/fd/0").readlink().name and entry.sid == pid
        finally:
            child.kill()
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_by_its_cgroup(running: Daemon, table, missing: Callable[[str], NoReturn], version: int) -> None:
    """A runtime moves the process before its exec; the second read finds later moves."""
    with ExitStack() as stack:
        root = container_root(missing, stack, version)
        group = root / (f"docker-{CONTAINER}.scope" if version == 2 else "docker/" + CONTAINER)
        group.mkdir(parents=True)
        stack.callback(lambda: remove_cgroup(group))
        inside = subprocess.Popen(["sh", "-c", f"echo $$ > {group}/cgroup.procs; exec sleep 600"])
        moved = stack.enter_context(Actor())
        for process in (inside, moved):
            eventually(lambda pid=process.pid: resolve(table, pid).is_exec)
        stack.callback(inside.wait)
        stack.callback(inside.kill)
        eventually(lambda: resolve(table, inside.pid).container_id == CONTAINER)
        assert resolve(table, moved.pid).container_id is None
        (group / "cgroup.procs").write_text(str(moved.pid))
        eventually(lambda: resolve(table, moved.pid).container_id == CONTAINER, pause_s=0.1)
        entry = json.loads(running.cli("resolve", str(inside.pid), "--json").stdout)
        assert entry["container_id"] == CONTAINER
        assert (entry["cgroup"] == f"/{group.name}") is (version == 2)
        assert entry["cgroup_source"] == (None if entry["cgroup_id"] is None else "procfs")
        (root / "cgroup.procs").write_text(str(moved.pid))


def container_root(missing: Callable[[str], NoReturn], stack: ExitStack, version: int) -> Path:
    if version == 1:
        return stack.enter_context(v1_hierarchy(missing))
    root = cgroup_v2_root()
    if root is None:
        missing("no cgroup v2 hierarchy is mounted")
    return root


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_exec_from_a_thread_that_is_not_the_leader(table, workload: Path) -> None:
    with running_workload(workload, "threadexec", 30_000) as (pid, _):
        # If the first exec is read late, /proc may already show the second one.
        eventually(lambda: resolve(table, pid).image_number == 3)
        entry = resolve(table, pid)
        assert entry.argv == ["workload", "sleep", "30000"]
        assert entry.pid == pid and entry.exit_time_ns is None


def test_a_leader_that_ends_while_its_threads_live(table, workload: Path) -> None:
    with running_workload(workload, "leaderexit", 1500) as (pid, _):
        eventually(lambda: "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1])
        assert resolve(table, pid).exit_time_ns is None
        eventually(lambda: resolve(table, pid).exit_time_ns is not None)
        assert os.waitstatus_to_exitcode(resolve(table, pid).exit_code) == 7


def test_an_orphan_moves_to_its_adopter(table, workload: Path) -> None:
    with running_workload(workload, "doublefork", 30_000, lines=2) as (_, said):
        orphan = next(pid for kind, pid, _ in said if kind == "orphan")
        info = read_process(orphan)
        assert info is not None
        eventually(lambda: resolve(table, orphan).ppid == info.ppid)


def test_a_child_in_a_pid_namespace_has_both_numbers(table, workload: Path) -> None:
    with running_workload(workload, "pidns", 30_000) as (_, ((_, pid, _),)):
        entry = resolve(table, pid)
        assert entry.ns_pid == 1
        assert entry.pid_ns == namespace(pid, "pid")


def test_threads_are_not_processes(running: Daemon, workload: Path) -> None:
    def forks(seen: list[dict], parents: set[int]) -> set[int]:
        return {e["pid"] for e in seen if e["event"] == "fork" and e["ppid"] in parents}

    def exits(seen: list[dict]) -> int:
        ours = forks(seen, {os.getpid()})
        ours |= forks(seen, ours)
        # Compare only pids: /proc may have no name of a process that ended at once.
        return sum(e["event"] == "exit" and e["pid"] in ours for e in seen)

    with Recorder(running, "proc.fork", "proc.exit").started() as recorder:
        run_workload(workload, "threads", 211)
        run_workload(workload, "storm", 1, 0)
        recorder.wait_for(lambda seen: exits(seen) >= 3)
        seen = recorder.stop()
    assert len(forks(seen, forks(seen, {os.getpid()}))) == 1


def test_one_pid_many_times_is_as_many_identities(running: Daemon, workload: Path) -> None:
    """Start times in /proc have a resolution of 10 ms; two processes with the same start time remain distinct."""
    with Recorder(running, "proc.fork", "proc.exit").started() as recorder:
        made = run_workload(workload, "reuse", 20)
        pid = made[0][1]
        recorder.wait_for(lambda seen: sum(e["event"] == "exit" and e["pid"] == pid for e in seen) >= 20)
        seen = recorder.stop()
    ids = Counter(e["entity_id"] for e in seen if e["pid"] == pid)
    assert len(ids) == 20 and set(ids.values()) == {2}


# -- every command -----------------------------------------------------------------------------------------------------


def test_all_commands_work(running: Daemon) -> None:
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            pid = str(sleeper.pid)
            with running.attach() as attached:
                eventually(lambda: resolve(attached, sleeper.pid).is_exec)
            entry = json.loads(running.cli("resolve", pid, "--json").stdout)
            assert entry["comm"] == "sleep" and entry["argv"] == ["sleep", "600"] and entry["ppid"] == os.getpid()
            chain = json.loads(running.cli("ancestors", pid, "--json").stdout)
            assert os.getpid() in [one["pid"] for one in chain] and chain[-1]["pid"] == 1
            children = json.loads(running.cli("children", str(os.getpid()), "--json").stdout)
            assert sleeper.pid in [one["pid"] for one in children]
            assert "sleep 600" in running.cli("tree").stdout
            dump = json.loads(running.cli("dump", "--json").stdout)
            assert sleeper.pid in [one["pid"] for one in dump["entries"]]
            assert "digraph" in running.cli("dump", "--dot").stdout
            stat = running.stat()
            assert {"supervisor", "resolver", "shard-0"} == {one["role"] for one in stat["processes"]}
            assert stat["lost"]["unknown"] == 0
        finally:
            sleeper.kill()


# -- kills and losses --------------------------------------------------------------------------------------------------


def kill_in_a_storm(workload: Path, role: str, kills: int) -> tuple[Counter[str], Counter[str], dict[str, int]]:
    """Kill a process of the daemon repeatedly; returns the events made, those in the tables, and those lost."""
    rng = random.Random(20261)
    with connector_daemon() as daemon, subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            with daemon.attach() as table:
                eventually(lambda: resolve(table, sleeper.pid).comm == "sleep")
                watcher = Watcher(daemon.attach(), sleeper.pid)
                watcher.start()
                with Storm(workload) as storm:
                    for _ in range(kills):
                        time.sleep(rng.uniform(0.2, 0.6))
                        os.kill(eventually(lambda: daemon.pids(role)[0]), signal.SIGKILL)
                        time.sleep(0.5)
                        eventually(lambda: daemon.pids(role)[0])
                time.sleep(1.5)
                assert_soon_agrees(table, 10, [sleeper.pid])
                found = images_of(daemon.directory, storm.parents, comm=None)
                lost = table.stats()["lost"]
                watcher.stop = True
                watcher.join()
                assert not watcher.wrong, Counter(watcher.wrong)
                assert watcher.answers["right"] > 100
        finally:
            sleeper.kill()
        assert "Traceback" not in daemon.log.read_text()
        assert daemon.stop() == 0
    return storm.made, found, lost


def test_kills_of_the_resolver_lose_nothing(connector: None, workload: Path) -> None:
    made, found, lost = kill_in_a_storm(workload, "resolver", 4)
    assert sum(lost.values()) == 0
    assert found == Counter(fork=made["fork"] + made["exec"], exec=made["exec"], alive=0)


def test_kills_of_the_shard_lose_and_count_the_events_in_its_hands(connector: None, workload: Path) -> None:
    made, found, lost = kill_in_a_storm(workload, "shard", 4)
    assert 0 < lost.pop("unknown") <= 4
    assert sum(lost.values()) == 0
    assert found["alive"] == 0
    assert made["fork"] + made["exec"] - 4 <= found["fork"] <= made["fork"] + made["exec"]
    assert made["exec"] - 4 <= found["exec"] <= made["exec"]


def test_a_socket_that_overflows_is_counted_and_repaired(connector: None, workload: Path) -> None:
    """A ring with room for 40 events loses most of the storm, but the table is correct afterwards."""
    with connector_daemon(CONFIG + "[capture]\nring_bytes = 4096\n") as daemon, daemon.attach() as table:
        run_workload(workload, "storm", FORKS, EXECS)
        eventually(lambda: table.stats()["lost"]["unknown"] > 100)
        eventually(lambda: table.stats()["repairs"] > 0)
        assert_soon_agrees(table, 15)


def test_two_instances_at_once_each_see_all(running: Daemon, workload: Path) -> None:
    with connector_daemon() as other, other.attach() as table:
        made = run_workload(workload, "storm", 23, 7)
        # The fork of the last one comes after all others. Waiting for each would take a second on an idle host.
        resolve(table, made[-1][1])
        for _, pid, parent in made:
            entry = table.resolve(pid)
            assert entry is not None and entry.ppid == parent
