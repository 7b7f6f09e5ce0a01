"""Faults of resources: something that the instance needs becomes scarce, vanishes or is damaged.

Each has an instance of its own. A new one is a function and a line in `RESOURCES`.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import ProcessTable
from pipeline.errors import BusyError, FrameError, NotRunningError, StaleError, TooOldError
from pipeline.host.boot import pid_max
from pipeline.shm.check.validate import violations
from pipeline.shm.layout import layout
from pipeline.shm.writer.segments import SEGMENTS
from pipeline.sources.recording.file import Recording
from tests.faults import cgroups, crowd, faults
from tests.faults.rounds import RECOVERS_S, Tally, patience, recovery
from tests.hierarchy import cgroup_v2_root
from tests.linux import IS_GUEST
from tests.live.agreement import assert_agrees, differences
from tests.live.harness import Daemon
from tests.live.namespaced_daemon import inside
from tests.live.recordings import record
from tests.live.storms import SHARED, Storm, images_of
from tests.nobody import NOBODY
from tests.waiting import eventually, until

RAW = "[args]\nshow = 'raw'\n"
SMALL = RAW + "[tables]\nchunk_rows = 64\nretention_s = 3600\n"
STORM_S = 2.0
CROWD_MAX = 32_768
#: `row_seq` and `generation`, with which each row begins. No checksum covers them.
PROTOCOL_BYTES = 8


@dataclass
class Scene:
    """The arguments of a fault of a resource.

    Attributes:
        workload: the program of storms.
        rng: of the round.
        tally: of all rounds.
        directory: for files, on the disk; removed at the end.
        crowd_max: how many processes may live at the same time.
        patience_s: how long the tables may take at least to agree with /proc after a fault.
        storm_s: how long a storm lasts that is the fault, or makes it.
        stack: what is undone at the end of the fault.
    """

    workload: Path
    rng: random.Random
    tally: Tally
    directory: Path
    crowd_max: int
    patience_s: float = 0.0
    storm_s: float = STORM_S
    stack: ExitStack = field(default_factory=ExitStack)

    def start(self, config: str = SMALL, *options: str, wrapper: Sequence[str] = ()) -> tuple[Daemon, ProcessTable]:
        """Start an instance; its log is on the disk."""
        daemon = Daemon(config, *options)
        daemon.log = self.directory / "log"
        daemon.wrapper = tuple(wrapper)
        self.stack.enter_context(daemon)
        return daemon, self.stack.enter_context(daemon.attach())

    def storm(self, seconds: float | None = None) -> Storm:
        """Run a storm for some time, or for `storm_s`, and return what it has made."""
        with Storm(self.workload, pause_s=0.05, **SHARED) as storm:
            time.sleep(self.storm_s if seconds is None else seconds)
        return storm

    def check(
        self, name: str, daemon: Daemon, table: ProcessTable, *, arguments: bool = True, own_mounts: bool = False
    ) -> None:
        """A new process is found, the tables agree with /proc and are sound, and the instance ends in order.

        Args:
            name: of the fault.
            daemon, table: the instance.
            arguments: whether arguments are compared.
            own_mounts: the daemon has a mount namespace of its own, in which some hosts hide the namespaces of pid 1.
        """
        begin = time.monotonic()
        self.tally.recovered_s[name].append(recovery(daemon, table, self.workload))

        def agrees() -> None:
            found, _ = differences(table, complete=False, arguments=arguments)
            wrong = [one.text for one in found if not (own_mounts and one.pid == 1 and one.fact == "ns")]
            assert not wrong, "\n".join(wrong)

        self.tally.agreement(name, begin, agrees, self.patience_s)
        found = violations(daemon.directory)
        assert not found, found[:5]
        assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()[-4000:]
        assert daemon.stop() == 0, daemon.log.read_text()[-2000:]


@dataclass(frozen=True)
class Resource:
    """One kind of fault.

    Attributes:
        name: as the table shows it.
        make: makes the fault, and checks what must be true after it.
        missing: returns what this machine lacks for it, "" if nothing.
    """

    name: str
    make: Callable[[str, Scene], None]
    missing: Callable[[], str] = str


# -- rings, files and limits ------------------------------------------------------------------------------------------


def tiny_rings(name: str, scene: Scene) -> None:
    """Rings of one page lose most of a storm: each loss is counted, and a repair corrects the tables."""
    daemon, table = scene.start(SMALL + "[capture]\nring_bytes = 4096\n")
    storm = scene.storm()
    assert eventually(lambda: sum(table.stats()["lost"].values()), 20 * patience()) > 0
    # Repairs end the processes whose exits were lost.
    eventually(lambda: assert_agrees(table, complete=False), limit_s=RECOVERS_S * patience())
    # If the exec of a workload was lost, its children have the name of the program that started it.
    found = images_of(daemon.directory, storm.parents, None)
    made, lost = storm.made["fork"] + storm.made["exec"], table.stats()["lost"]
    assert found["fork"] + sum(lost.values()) >= made, (found, lost, made)
    scene.tally.made.update(fork=made, exec=storm.made["exec"])
    scene.tally.lost.update({kind: count for kind, count in lost.items() if count})
    scene.check(name, daemon, table)


def full_tmpfs(name: str, scene: Scene) -> None:
    """The tables cannot grow for a while."""
    # The first rows have room for the live processes of other tests too: those are never evicted.
    tables = "[tables]\nchunk_rows = 2048\nretention_s = 3600\npid_capacity = 65536\nnames_bytes = 1048576\n"
    daemon = Daemon(RAW + tables)
    config = daemon.config.read_text()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0755", "none", daemon.root], check=True)
    try:
        daemon.log = scene.directory / "log"
        daemon.config.write_text(config)
        with daemon, daemon.attach() as table:
            filler = daemon.root / "filler"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            for _ in range(20):
                scene.storm(0.5)
                if table.stats()["counters"].get("growth_refused", 0):
                    break
            assert table.stats()["counters"]["growth_refused"] > 0
            recovery(daemon, table, scene.workload)  # live processes are found in tables that cannot grow
            filler.unlink()
            scene.storm(0.5)
            scene.check(name, daemon, table)
    finally:
        subprocess.run(["umount", "-l", daemon.root], check=True)
        daemon.close()


@contextmanager
def small_disk(scene: Scene, size: str) -> Iterator[Path]:
    """A file system of its own, which is soon full."""
    disk = scene.directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        disk.rmdir()


def full_disk_of_the_log(name: str, scene: Scene) -> None:
    """The log cannot be written, while the instance has much to report."""
    with small_disk(scene, "64k") as disk:
        daemon = Daemon(SMALL)
        daemon.log = disk / "log"
        with daemon, daemon.attach() as table:
            with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(512))
            with Storm(scene.workload, pause_s=0.05, **SHARED):
                for role in scene.rng.sample(["shard", "resolver"], 2):
                    faults.send(daemon, [role], signal.SIGKILL)
                    recovery(daemon, table, scene.workload)
            (disk / "filler").unlink()
            scene.check(name, daemon, table)


def full_disk_of_a_recording(name: str, scene: Scene) -> None:
    """A recording ends with an error, and can be replayed up to there; the instance beside it does not notice."""
    daemon, table = scene.start()
    with small_disk(scene, "2m") as disk:
        file = disk / "storm.rec"
        process = record(file)
        try:
            while process.poll() is None:
                scene.storm(0.3)
            assert process.stderr is not None
            said = process.stderr.read()
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 2 and "No space left on device" in said, said
        assert len(list(Recording(file))) > 1
    scene.check(name, daemon, table)


def killed_recorder(name: str, scene: Scene) -> None:
    """The events that a recorder had written when it was killed can be replayed; its BPF programs are gone."""
    daemon, table = scene.start()
    file = scene.directory / "killed.rec"
    process = record(file)
    try:
        with Storm(scene.workload, pause_s=0.05, **SHARED):
            eventually(lambda: file.exists() and file.stat().st_size > 100_000, 60 * patience())
            time.sleep(scene.rng.uniform(0, 0.3))
            process.kill()
    finally:
        process.kill()
        process.communicate()
    frames = 0
    with suppress(FrameError):  # the last frame is incomplete
        for _ in Recording(file):
            frames += 1
    assert frames > 1
    scene.check(name, daemon, table)


def limits_of_a_process(name: str, scene: Scene) -> None:
    """A process of the instance can open no file and make no file longer for a while, in which another is replaced."""
    daemon, table = scene.start()
    role = scene.rng.choice(["supervisor", "resolver", "shard"])
    (pid,) = faults.pids(daemon, role)[:1]
    before = {number: resource.prlimit(pid, number) for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)}
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[resource.RLIMIT_NOFILE][1]))
    longest = max(path.stat().st_size for path in daemon.directory.iterdir() if path.is_file())
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (longest, before[resource.RLIMIT_FSIZE][1]))
    with Storm(scene.workload, pause_s=0.05, **SHARED):
        others = [each for each in ("resolver", "shard") if each != role]
        faults.send(daemon, [scene.rng.choice(others)], signal.SIGKILL)
        time.sleep(STORM_S)
    for number, values in before.items():
        with suppress(ProcessLookupError):
            resource.prlimit(pid, number, values)
    scene.check(name, daemon, table)


def memory_ceiling(name: str, scene: Scene) -> None:
    """The resolver may use little more memory than it has; the kernel kills it when it needs more."""
    daemon, table = scene.start()
    (resolver,) = faults.pids(daemon, "resolver")
    end = time.monotonic() + 2 * STORM_S
    limit = cgroups.limited("memory", [resolver], cgroups.memory_max(1 << 20))
    with limit, Storm(scene.workload, pause_s=0.05, **SHARED):
        while Path(f"/proc/{resolver}").exists() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(scene.storm_s)
    scene.check(name, daemon, table)


def pids_limit(name: str, scene: Scene) -> None:
    """The instance may start no process for a while, in which one of its processes is killed."""
    daemon, table = scene.start()
    everything = faults.pids(daemon, "")
    with cgroups.limited("pids", everything, cgroups.pids_max(1)):
        faults.send(daemon, [scene.rng.choice(["shard", "resolver"])], signal.SIGKILL)
        scene.storm(scene.rng.uniform(0.3, 1.5))
    scene.check(name, daemon, table)


# -- pids and processes -----------------------------------------------------------------------------------------------


def own_pids() -> str:
    """Return why a pid namespace cannot have few pids here, "" if it can."""
    if IS_GUEST or crowd.is_of_namespace():
        return ""
    return "this kernel has one pid_max for all pid namespaces (before Linux 6.14): only in a guest (tests/vm)"


def wrapped_pids(name: str, scene: Scene) -> None:
    """In a pid namespace with 300 pids, pids are used again and again within one storm."""
    init = ("bash", "-c", 'echo 600 > /proc/sys/kernel/pid_max && "$@"; exit $?', "init")
    with crowd.highest_pid(), inside(scene.workload, 1, init=init) as there:
        made = there.ask("storm", 700, 170, scene.storm_s)  # checks that each event is counted once
        assert made["fork"] > 800
        begin = time.monotonic()
        assert there.ask("agree") >= 5
        scene.tally.recovered_s[name].append(time.monotonic() - begin)
        scene.tally.made.update({kind: made[kind] for kind in ("fork", "exec")})
        assert there.ask("last_pid") <= 600


def fork_bomb(name: str, scene: Scene) -> None:
    """A program that forks itself without end, below a limit of its cgroup."""
    daemon, table = scene.start()
    with cgroups.group("pids") as group:
        cgroups.set_limit(group, cgroups.pids_max(scene.rng.randrange(100, 400)))
        script = 'echo $$ > "$0/cgroup.procs"; bomb() { bomb | bomb & }; bomb; wait'
        bomb = subprocess.Popen(["bash", "-c", script, group], stderr=subprocess.DEVNULL)
        try:
            until(lambda: int((group / "pids.current").read_text()) > 50, "more than 50 processes of the bomb")
            time.sleep(scene.storm_s)
        finally:
            cgroups.set_limit(group, cgroups.pids_max(0))
            while pids := (group / "cgroup.procs").read_text().split():
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            bomb.wait()
    scene.check(name, daemon, table)


def many_processes(name: str, scene: Scene) -> None:
    """As many live processes as the host has pids for, up to 32,768; they end all at once."""
    count = min(scene.crowd_max, crowd.room())
    assert count > 100, f"the host has {pid_max()} pids, and room for {count} more processes"
    daemon, table = scene.start()
    with crowd.crowd(scene.workload, count) as parent:
        eventually(lambda: len(table.children(parent)) == count, 60 * patience(), 0.2)
        children = [entry.pid for entry in table.children(parent)]
        for pid in scene.rng.sample(children, 50):
            assert table.resolve(pid).ppid == parent
    scene.tally.made["fork"] += count
    scene.check(name, daemon, table)


def removed_cgroups(name: str, scene: Scene) -> None:
    """Cgroups of the same name are made and removed around one process after another."""
    daemon, table = scene.start()
    root = cgroup_v2_root()
    assert root is not None
    home = root / "procline-faults-removed"
    ended: list[tuple[int, str]] = []
    for number in range(scene.rng.randrange(10, 30)):
        directory = Path(f"{home}-{number % 3}")
        directory.mkdir()
        script = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
        process = subprocess.Popen(["sh", "-c", script, directory, scene.workload, "sleep", "60000"])
        path = "/" + directory.name
        try:
            eventually(
                lambda process=process, path=path: (_now(table, process.pid) or {}).get("cgroup") == path,
                20 * patience(),
            )
        finally:
            process.kill()
            process.wait()
            directory.rmdir()
        ended.append((process.pid, path))
    for pid, path in ended:
        entry = table.resolve(pid, wait_ms=2000)
        assert entry is None or entry.cgroup == path, (pid, path, entry)
    scene.check(name, daemon, table)


def _now(table: ProcessTable, pid: int) -> dict[str, object] | None:
    try:
        entry = table.resolve(pid)
        return None if entry is None else entry.to_dict()
    except (StaleError, BusyError, TooOldError):
        return None


def hidden_pids(name: str, scene: Scene) -> None:
    """The daemon has a /proc that hides the processes of others, and so has a reader without privileges."""
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=invisible proc /proc && exec "$@"', "sh")
    daemon, table = scene.start(wrapper=hide)
    nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    with Storm(scene.workload, pause_s=0.05, **SHARED), subprocess.Popen(["sleep", "86400"]) as sleeper:
        try:
            eventually(lambda: (_now(table, sleeper.pid) or {}).get("comm") == "sleep", 20 * patience())
            done = subprocess.run(
                [*hide, *nobody, sys.executable, "-P", "-m", "pipeline.cli.main", "resolve", "--name", daemon.name,
                 str(sleeper.pid), "--json"],
                env=daemon.environment, capture_output=True, text=True, timeout=120 * patience(), check=False, cwd="/",
            )  # fmt: skip
            assert done.returncode == 0 and '"comm":"sleep"' in done.stdout.replace(" ", ""), done
        finally:
            sleeper.kill()
    scene.check(name, daemon, table, own_mounts=True)


# -- readers and tables -----------------------------------------------------------------------------------------------


def held_rows(name: str, scene: Scene) -> None:
    """Readers hold entries over the eviction of their rows, which are used again at once."""
    daemon, table = scene.start(RAW + "[tables]\nchunk_rows = 64\nretention_s = 0\n")
    answers: Counter[str] = Counter()
    end = time.monotonic() + 2 * scene.storm_s
    with Storm(scene.workload):
        while time.monotonic() < end or not answers["evicted"]:
            assert time.monotonic() < end + RECOVERS_S * patience(), answers
            held = []
            for entry in table.walk():
                with suppress(TooOldError, StaleError, BusyError):
                    held.append((entry, (entry.pid, entry.start_time_ns), entry.ppid))
            time.sleep(scene.rng.uniform(0, 0.05))
            for entry, identity, ppid in held:
                try:
                    found = entry.to_dict()
                except TooOldError:
                    answers["evicted"] += 1
                    continue
                except (StaleError, BusyError):
                    answers["busy"] += 1
                    continue
                assert (found["pid"], found["start_time_ns"]) == identity, (found, identity)
                argv = found["argv"]
                if found["is_exec"] and found["comm"] == "workload":
                    assert argv is None or argv[0].rpartition("/")[2] == "workload", found
                answers["right"] += 1
                assert ppid is not None
    assert answers["right"] > 0
    scene.check(name, daemon, table)


def leftovers(name: str, scene: Scene) -> None:
    """The supervisor is killed, and its tables are damaged, cut, or of another layout when the next one starts."""
    daemon, table = scene.start()
    scene.storm(0.5)
    daemon.kill()
    control = np.memmap(daemon.directory / "control", np.uint8, "r+")
    header = control[: layout.CONTROL.itemsize].view(layout.CONTROL)
    kind = scene.rng.choice(["older layout", "later layout", "cut", "missing", "damaged", "other files"])
    if kind in {"older layout", "later layout"}:
        header["layout_version"] = int(header["layout_version"][0]) + (-1 if kind == "older layout" else 1)
    elif kind == "cut":
        path = daemon.directory / scene.rng.choice(SEGMENTS)
        os.truncate(path, scene.rng.randrange(path.stat().st_size))
    elif kind == "missing":
        (daemon.directory / scene.rng.choice(SEGMENTS)).unlink()
    elif kind == "damaged":
        for _ in range(60):
            damage(daemon.directory, scene.rng)
    else:
        (daemon.directory / "old-segment").write_bytes(b"older")
        (daemon.directory / "stream.sock.tmp").touch()
    control.flush()
    daemon.start()
    with suppress(NotRunningError, StaleError, BusyError, TooOldError):
        entry = table.resolve(os.getpid())  # a reader from before: it follows, or says that it cannot
        assert entry is not None and entry.pid == os.getpid()
    with daemon.attach() as new:
        scene.check(name, daemon, new, arguments=False)


def damage(directory: Path, rng: random.Random) -> tuple[str, int]:
    """Change one byte of a row or of the index; return where.

    `row_seq` and `generation` are left alone: they state nothing about a process. A wrong generation makes the links to
    the row invalid, as its eviction would.
    """
    header = np.fromfile(directory / "control", np.uint8, layout.CONTROL.itemsize).view(layout.CONTROL)[0]
    hot = np.fromfile(directory / "hot", layout.HOT)
    rows = np.flatnonzero((hot["flags"] != 0) & (hot["row_seq"] % 2 == 0))
    live = rows[hot["tgid"][rows] < int(header["pid_capacity"])]
    segment = rng.choice(["hot", "cold", "index"])
    if segment == "index":
        at = int(hot["tgid"][rng.choice(live.tolist())]) * 4 + rng.randrange(4)
    else:
        size, first = (layout.HOT.itemsize, PROTOCOL_BYTES) if segment == "hot" else (layout.COLD.itemsize, 0)
        at = rng.choice(rows.tolist()) * size + rng.randrange(first, size)
    memory = np.memmap(directory / segment, np.uint8, "r+")
    memory[at] ^= rng.randrange(1, 256)
    memory.flush()
    return segment, at


def damaged_tables(name: str, scene: Scene) -> None:
    """Single bytes of the rows and of the index are changed in a copy of the tables; `validate` notices each."""
    daemon, table = scene.start(SMALL + "checked = true\n")
    scene.storm(0.3)
    copies = Path(scene.stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
    stopped = faults.send(daemon, ["supervisor", "resolver"], signal.SIGSTOP)
    sound = copies / "sound"
    shutil.copytree(daemon.directory, sound, ignore=lambda _, names: [each for each in names if each not in SEGMENTS])
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert not violations(sound)
    unnoticed = []
    for number in range(12):
        copy = copies / str(number)
        shutil.copytree(sound, copy)
        where = damage(copy, scene.rng)
        if not violations(copy):
            unnoticed.append(where)
        shutil.rmtree(copy)
    assert not unnoticed, unnoticed
    scene.check(name, daemon, table)


RESOURCES = (
    Resource("rings of one page", tiny_rings),
    Resource("a full tmpfs", full_tmpfs),
    Resource("a full disk under the log", full_disk_of_the_log),
    Resource("a full disk under a recording", full_disk_of_a_recording),
    Resource("kill a recorder", killed_recorder),
    Resource("limits of open files and of the size of files", limits_of_a_process),
    *((Resource("a memory ceiling for the resolver", memory_ceiling),) if cgroups.is_possible("memory") else ()),
    *((Resource("no new process for the instance", pids_limit),) if cgroups.is_possible("pids") else ()),
    Resource("wrapped pids", wrapped_pids, own_pids),
    *((Resource("a fork bomb below a limit", fork_bomb),) if cgroups.is_possible("pids") else ()),
    Resource("a crowd of live processes", many_processes),
    *((Resource("cgroups that are removed", removed_cgroups),) if cgroup_v2_root() is not None else ()),
    Resource("hidden pids", hidden_pids),
    Resource("readers that hold evicted rows", held_rows),
    Resource("leftovers of a dead instance", leftovers),
    Resource("damaged tables", damaged_tables),
)


def resource_round(
    workload: Path,
    tally: Tally,
    kinds: Sequence[Resource],
    rng: random.Random,
    *,
    crowd_max: int = CROWD_MAX,
    patience_s: float = 0.0,
    storm_s: float = STORM_S,
) -> None:
    """Make these faults, each with an instance of its own. The last arguments are those of `Scene`.

    Raises:
        AssertionError: something that must be true is not.
    """
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="procline-faults-") as directory, ExitStack() as stack:
            scene = Scene(workload, rng, tally, Path(directory), crowd_max, patience_s, storm_s, stack)
            kind.make(kind.name, scene)
