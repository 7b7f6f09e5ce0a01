"""A writer that is stopped after each of its instructions, and the contents of its files each time.

Run as a script, it prepares a table, stops itself, does one operation and stops again; `states_of` traces it and
collects every distinct content of the files on the way. A successor of a killed writer finds only the files, and a
kill falls between two instructions: so these are all the states that a kill -9 within the operation can leave.

Scripts with other operations use `be_stepped`, and their tests `traced` and `states`.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]

from pipeline.shm.writer.segments import SEGMENTS
from tests.shm import _inside
from tests.shm.table_host import Host, Process, make_writer

PTRACE_TRACEME, PTRACE_SETOPTIONS = 0, 0x4200
PTRACE_O_EXITKILL = 0x100000
STEPS_MAX = 2_000_000
#: Exit code of a program that its parent may not trace.
NOT_TRACED = 77
OPTIONS = {"row_capacity": 16, "chunk_rows": 4, "pid_capacity": 64, "names_bytes": 8192, "args_bytes": 8192,
           "envs_bytes": 4096, "retention_ns": 10, "chain_max": 4}  # fmt: skip

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def _family(host: Host) -> None:
    host.fork(0, 1)
    host.exec(1, b"init", b"init\0")
    host.fork(1, 5)
    host.exec(5, b"sh", b"sh\0-c\0")
    host.fork(5, 6)
    host.fork(5, 7)


def _fill(host: Host) -> None:
    pid = 20
    while host.writer.rows_used < OPTIONS["row_capacity"] - 1:
        host.fork(1, pid)
        pid += 1


def _full(host: Host) -> None:
    """At the ceiling, with an exited ancestor of a live process and nothing else that can be evicted."""
    _family(host)
    host.exit(5)
    _fill(host)


def _full_exited(host: Host) -> None:
    """At the ceiling, with one exited process that no row refers to."""
    _family(host)
    _fill(host)
    host.exit(21)


def _long_chain(host: Host) -> None:
    _family(host)
    for number in range(2):
        host.exec(5, b"i%d" % number, b"%d\0" % number)


def _ended(host: Host) -> None:
    _family(host)
    host.exit(7)
    host.exit(6)
    host.exit(5)
    host.now += 1000


def _splittable(host: Host) -> None:
    """A free block that a shorter string will split, and free neighbours that only a sweep merges."""
    _family(host)
    for number in range(6):
        host.exec(6 + number % 2, b"x", b"%d" % number * 1100)
        host.writer.evict_exited(1 << 62, 1)
    host.exit(6)
    host.exit(7)
    host.writer.evict_exited(1 << 62, 100)


def _commit(host: Host) -> None:
    host.now += 1
    host.writer.set_counter("frames", host.now)
    host.writer.commit(
        host.now, np.array([host.now, host.now + 1], np.uint64), np.array([host.now] * 2, np.uint64),
        np.array([host.now] * 3, np.uint64),
    )  # fmt: skip
    host.writer.acknowledge()


def _did_nothing_special(host: Host) -> bool:
    return True


def _counted(name: str) -> Callable[[Host], bool]:
    return lambda host: host.writer.counter(name) > 0


#: name: (the preparation, the operation, a check that the operation met the scenario's subject)
SCENARIOS: dict[str, tuple[Callable[[Host], object], Callable[[Host], object], Callable[[Host], bool]]] = {
    "fork": (_family, lambda host: host.fork(5, 8), _did_nothing_special),
    "fork-grows": (
        lambda host: [host.fork(0, pid) for pid in (1, 2, 3)],
        lambda host: host.fork(1, 4),
        lambda host: host.writer.control_view()[0]["rows_allocated"] == 8,
    ),
    "fork-reuses-pid": (_family, lambda host: (host.exit(6), host.fork(1, 6)), _did_nothing_special),
    "fork-unseen-exit": (_family, lambda host: host.fork(1, 5), _did_nothing_special),
    "fork-evicts": (_full_exited, lambda host: host.fork(1, 40), _counted("evictions")),
    "fork-evicts-ancestor": (_full, lambda host: host.fork(1, 41), _counted("elided")),
    "exec": (_family, lambda host: host.exec(5, b"ls", b"ls\0-l\0"), _did_nothing_special),
    "exec-head-first": (
        _family, lambda host: host.exec(5, b"ls", b"ls\0-l\0", head_first=True), _did_nothing_special,
    ),
    "exec-elides": (_long_chain, lambda host: host.exec(5, b"last", b"last\0"), _counted("elided")),
    "exec-splits": (
        _splittable,
        lambda host: host.exec(5, b"short", b"s" * 400),
        lambda host: 768 in host.writer.args.free_blocks(),
    ),
    "exec-sweeps": (
        _splittable,
        lambda host: host.exec(5, b"long", b"l" * 4000),
        lambda host: len(host.args_of(host.writer.py_head(5))) == 4000,
    ),
    "exit": (_family, lambda host: host.exit(5), _did_nothing_special),
    "rename": (_family, lambda host: host.rename(5, b"another name 16"), _did_nothing_special),
    "evict": (_ended, lambda host: host.writer.evict_exited(host.now, 10), _counted("evictions")),
    "commit": (lambda host: (_family(host), _commit(host)), _commit, _did_nothing_special),
}  # fmt: skip


@dataclass(slots=True)
class Trace:
    """The states that one operation left after each store: `states` are {segment: contents}, with first and last."""

    before: dict[int, Process]
    after: dict[int, Process]
    states: list[dict[str, bytes]]


def states_of(name: str, directory: Path) -> Trace:
    """Run a scenario in `directory` (with two tables in it), one instruction at a time.

    Raises:
        PermissionError: this process may not trace its child.
    """
    with traced([sys.executable, __file__, name, str(directory)]) as pid:
        before, after = pickle.loads((directory / "models").read_bytes())
        return Trace(before, after, list(states(pid, directory / "table")))


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Keep this thread, and what it starts, on its CPU: two that wait for each other need not wake another CPU."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {libc.sched_getcpu()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


@contextmanager
def traced(command: list[str]) -> Iterator[int]:
    """Run a program that calls `be_stepped`, up to its operation; yield its pid.

    Raises:
        PermissionError: this process may not trace its child.
    """
    with on_one_cpu(), subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3]) as child:
        try:
            _, status = os.waitpid(child.pid, 0)
            if os.WIFEXITED(status):
                child.returncode = os.waitstatus_to_exitcode(status)
                error = child.stderr.read().decode() if child.stderr else ""
                raise PermissionError(error) if child.returncode == NOT_TRACED else RuntimeError(error)
            libc.ptrace(PTRACE_SETOPTIONS, child.pid, None, PTRACE_O_EXITKILL)
            yield child.pid
        finally:
            child.kill()


def be_stepped(operation: Callable[[], object]) -> None:
    """In the program of `traced`: do the operation of which its tracer wants to see each step."""
    gc.disable()
    if libc.ptrace(PTRACE_TRACEME, 0, None, None) != 0:
        print(f"ptrace is refused: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(NOT_TRACED)
    os.kill(os.getpid(), signal.SIGSTOP)
    operation()
    os.kill(os.getpid(), signal.SIGSTOP)


def trace_of(name: str, directory: Path, kept: Path) -> Trace:
    """Return `states_of(name, directory)`, which one worker of a test run makes for all: most of the time is the steps.

    Args:
        kept: a directory of the test run.
    """
    file = kept / f"{name}.trace"
    with (kept / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            trace = states_of(name, directory)
            # Most bytes are 0, or those of the state before.
            file.write_bytes(zlib.compress(pickle.dumps(trace), level=1))
            return trace
    trace = pickle.loads(zlib.decompress(file.read_bytes()))
    assert isinstance(trace, Trace)
    return trace


def states(pid: int, table: Path) -> Iterator[dict[str, bytes]]:
    """Step through the operation of a traced program; yield every distinct content of its files: {segment: contents}.

    The first one is that before the operation, the last one that after it.
    """
    files = _mapped(table)
    seen = {name: bytes(memory) for name, memory in files.items()}
    yield dict(seen)
    watched = {memory.ctypes.data: seen[name] for name, memory in files.items()}
    instructions = 0
    while instructions < STEPS_MAX:
        done, status = _inside.step(pid, watched, 256 - instructions % 256)
        instructions += done
        assert os.WIFSTOPPED(status), f"the writer ended with {status}"
        if os.WSTOPSIG(status) == signal.SIGSTOP:
            return
        grown = any((table / name).stat().st_size != len(seen[name]) for name in SEGMENTS)
        if grown:
            files = _mapped(table)
        changed = [name for name, memory in files.items() if grown or memory.tobytes() != seen[name]]
        for name in changed:
            seen[name] = files[name].tobytes()
        if changed:
            watched = {memory.ctypes.data: seen[name] for name, memory in files.items()}
            yield dict(seen)
    raise AssertionError("the operation does not end")


def put_state(directory: Path, state: dict[str, bytes]) -> None:
    """Make a directory with the files that a killed writer has left."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755)
    for name in SEGMENTS:
        (directory / name).write_bytes(state[name])


def _mapped(table: Path) -> dict[str, np.memmap]:
    return {name: np.memmap(table / name, np.uint8, "r") for name in SEGMENTS}


def main(name: str, directory: Path) -> None:
    prepare, operation, met = SCENARIOS[name]
    models = []
    # Once for the models, which are the same each time, once for the tracer.
    for table in ("model", "table"):
        host = Host(make_writer(directory / table, **OPTIONS))
        prepare(host)
        if table == "model":
            assert met is _did_nothing_special or not met(host), "the scenario's preparation goes too far"
            models.append({pid: Process(**_fields(process)) for pid, process in host.processes.items()})
            operation(host)
            assert met(host), "the scenario is not what its name says"
            models.append(host.processes)
    (directory / "models").write_bytes(pickle.dumps(tuple(models)))
    be_stepped(lambda: operation(host))


def _fields(process: Process) -> dict[str, object]:
    return {field: getattr(process, field) for field in Process.__slots__}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
