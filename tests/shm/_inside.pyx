"""Single steps of the writer's compiled methods, which only tests and benches call, from Python.

setup.py compiles this module in place, as the core, but no package contains it.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp
from posix.wait cimport WIFSTOPPED, WSTOPSIG, waitpid

cimport pipeline.shm.reader._view as _view
from pipeline.shm.layout._hash cimport pl_hash64
from pipeline.shm.layout._layout cimport *
from pipeline.shm.writer._arena cimport Arena
from pipeline.shm.writer._writer cimport TableWriter

cdef extern from "<signal.h>" nogil:
    int SIGSTOP

cdef extern from "<sys/ptrace.h>" nogil:
    int PTRACE_SINGLESTEP
    long ptrace(int request, int pid, void *address, void *data)


cdef struct Watched:
    const void *memory
    const char *before
    size_t size


def new_row(TableWriter tables not None) -> int:
    """Return a row that is being written (odd row_seq, other fields 0); 0 at the ceiling."""
    tables._require_open()
    return tables.new_row()


def copy_row(TableWriter tables not None, uint32_t row) -> int:
    """Return a new row, still odd, with every field copied from `row`; 0 at the ceiling."""
    tables._require_row(row)
    return tables.copy_row(row)


def discard(TableWriter tables not None, uint32_t row) -> None:
    """Free a row that was never inserted."""
    tables._require_row(row)
    tables.discard(row)


def set_head(TableWriter tables not None, uint32_t tgid, uint32_t row) -> None:
    """Store an ended row as the index entry of `tgid`; 0 clears the entry."""
    tables._require_open()
    if row != 0:
        tables._require_row(row)
    tables.set_head(tgid, row)


def set_costs(TableWriter tables not None, uint32_t row, data) -> None:
    """Store what the process of an open row has used (a record of dtype COSTS), and that all of it is known."""
    cdef bytes costs = bytes(data)
    tables._require_row(row)
    if len(costs) != sizeof(pl_costs):
        raise ValueError("costs have 64 bytes")
    tables.set_costs(row, <char *>costs, PL_KNOWN_COST | PL_KNOWN_IO)


def lineage(TableWriter tables not None, uint32_t row) -> int:
    """Return whether the chain of a row leads to pid 1 without a gap: 1 yes, 0 no, -1 unknown."""
    tables._require_row(row)
    return tables.lineage(row)


def forget_lineages(TableWriter tables not None, uint32_t times) -> None:
    """Begin new epochs of lineages."""
    cdef uint32_t n
    tables._require_open()
    for n in range(times):
        tables._forget_lineages()


def intern2(Arena arena not None, bytes header not None, bytes data not None) -> int:
    """Intern `header + data`; return a reference with one more holder, 0 when empty or the arena is full."""
    return arena.intern2(<const char *>header, <uint32_t>len(header), <const char *>data, <uint32_t>len(data))


def hold(Arena arena not None, uint32_t ref) -> None:
    """Add a holder to a reference."""
    arena._require(ref)
    arena.hold(ref)


def release(Arena arena not None, uint32_t ref) -> None:
    """Remove a holder; the last one frees the bytes."""
    arena._require(ref)
    arena.release(ref)


def refcount(Arena arena not None, uint32_t ref) -> int:
    """Return the number of holders; 0 for reference 0."""
    arena._require(ref)
    return (<pl_arena *>(arena.base + <size_t>ref * PL_ARENA_UNIT_BYTES)).refcount if ref else 0


def find(Arena arena not None, bytes data not None) -> int:
    """Return the reference of `data` without adding a holder; 0 when it is not stored."""
    return arena._find(
        <uint32_t>pl_hash64(<const char *>data, len(data), arena.seed), <const char *>data, <uint32_t>len(data)
    )


def set_patience(uint32_t spins, uint32_t yields, uint64_t patience_ns) -> tuple:
    """Change how long readers of this process read a busy row again; return what it was, for another call."""
    before = _view.SPINS, _view.YIELDS, _view.PATIENCE_NS
    _view.SPINS, _view.YIELDS, _view.PATIENCE_NS = spins, yields, patience_ns
    return before


def step(int pid, dict watched, uint32_t limit) -> tuple:
    """Let a traced process go one instruction at a time, until it has changed memory or has stopped or ended otherwise.

    Args:
        watched: contents by address, which must be mapped; at most 16.
        limit: how many instructions at most.

    Returns:
        How many instructions it did, and its last status (waitpid(2)).
    """
    cdef Watched parts[16]
    cdef uint32_t done = 0
    cdef int at, count = 0, status = 0, error = 0
    cdef bint has_changed = False
    if len(watched) > 16:
        raise ValueError("more than 16 parts of memory")
    for address, data in watched.items():
        parts[count] = Watched(<const void *><uintptr_t>address, data, len(data))
        count += 1
    with nogil:
        while done < limit and not has_changed:
            if ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0:
                error = errno
                break
            while waitpid(pid, &status, 0) < 0:
                error = errno
                if error != EINTR:
                    break
                error = 0
            done += 1
            if error != 0 or not WIFSTOPPED(status) or WSTOPSIG(status) == SIGSTOP:
                break
            for at in range(count):
                if memcmp(parts[at].memory, parts[at].before, parts[at].size) != 0:
                    has_changed = True
                    break
    if error != 0:
        raise OSError(error, "cannot step")
    return done, status


def c_struct(str name, bytes data) -> tuple:
    """Decode `data` as ``struct pl_NAME``; return the struct's size and its fields by name."""
    cdef const char *p = data
    cdef size_t size
    size = {
        "control": sizeof(pl_control), "ring_ack": sizeof(pl_ring_ack), "commit": sizeof(pl_commit),
        "commit_ring": sizeof(pl_commit_ring), "hot": sizeof(pl_hot), "cold": sizeof(pl_cold),
        "costs": sizeof(pl_costs), "file": sizeof(pl_file), "cgroup": sizeof(pl_cgroup), "arena": sizeof(pl_arena),
        "keys": sizeof(pl_keys),
    }[name]
    if <size_t>len(data) < size:
        raise ValueError(f"struct pl_{name} has {size} bytes")
    if name == "control":
        return size, (<pl_control *>p)[0]
    if name == "ring_ack":
        return size, (<pl_ring_ack *>p)[0]
    if name == "commit":
        return size, (<pl_commit *>p)[0]
    if name == "commit_ring":
        return size, (<pl_commit_ring *>p)[0]
    if name == "hot":
        return size, (<pl_hot *>p)[0]
    if name == "cold":
        return size, (<pl_cold *>p)[0]
    if name == "costs":
        return size, (<pl_costs *>p)[0]
    if name == "file":
        return size, (<pl_file *>p)[0]
    if name == "cgroup":
        return size, (<pl_cgroup *>p)[0]
    if name == "keys":
        return size, (<pl_keys *>p)[0]
    return size, (<pl_arena *>p)[0]
