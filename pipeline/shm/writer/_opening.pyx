"""Open an instance's tables for writing: take over a predecessor's tables, or create new ones in a new epoch.

_takeover.pyx rebuilds the private memory after a take-over; _writer.pyx writes the tables.
"""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.records._clock cimport pl_now_boot_ns
from pipeline.shm.layout._layout cimport (
    PL_STATE_FILLING, PL_STATE_SUPERSEDED, pl_control, pl_store_release32, pl_store_release64,
)
from pipeline.shm.writer._arena cimport Arena
from pipeline.shm.writer._keys cimport NamespaceKeys
from pipeline.shm.writer._segment cimport Segment
from pipeline.shm.writer._writer cimport COSTS_ROWS, TableWriter, family, row_state

import os
from pathlib import Path

import numpy as np

from pipeline import proc_text
from pipeline.errors import InvariantError
from pipeline.records.limits import CHAIN_MAX
from pipeline.shm.layout import layout
from pipeline.shm.writer import segments
from pipeline.shm.writer._takeover import rebuild

#: The least `chain_max` with which images can be elided (TableWriter._elide). The setting `tables.chain_max` begins at
#: 16, because a shorter chain says little about a process; tests use less, so that chains are cut soon.
_CHAIN_MIN = 4


def _header(plan, epoch: int, capture_id: int, boot_unix_ns: int, horizon_boot_ns: int) -> bytes:
    """Return the contents of a new control file: the header, rings at 0, commit slot 0 valid and empty."""
    now = pl_now_boot_ns()
    ring_offset, commit_offset, commit_bytes, size = layout.control_bytes(plan.ring_count)
    header = np.zeros(1, layout.CONTROL)
    header["magic"] = layout.MAGIC
    header["layout_version"] = layout.LAYOUT_VERSION
    header["header_bytes"] = layout.CONTROL.itemsize
    header["boot_id"] = np.void(plan.boot_id)
    header["epoch"] = epoch
    header["heartbeat_boot_ns"] = now
    header["row_capacity"] = plan.row_capacity
    header["rows_allocated"] = plan.first_bytes("hot") // layout.HOT.itemsize
    header["pid_capacity"] = plan.pid_capacity
    header["key_capacity"] = plan.key_capacity
    header["state"] = layout.STATE_FILLING
    for name in ("names", "args", "envs"):
        header[f"{name}_capacity_bytes"] = plan.ceiling_bytes(name)
        header[f"{name}_allocated_bytes"] = plan.first_bytes(name)
    header["boot_unix_ns"] = boot_unix_ns
    header["ring_count"] = plan.ring_count
    header["ring_offset"] = ring_offset
    header["commit_offset"] = commit_offset
    header["commit_bytes"] = commit_bytes
    header["changes_offset"] = layout.changes_offset(plan.ring_count)
    header["capture_id"] = capture_id
    header["chunk_rows"] = plan.chunk_rows
    # Processes that ended before now are not in the tables, so "no such process" would be wrong for earlier times.
    header["horizon_boot_ns"] = horizon_boot_ns or now
    header["checked"] = int(plan.checked)
    first = np.zeros(1, layout.COMMIT)
    first["number"] = 1
    _stamp_writer(header)
    data = bytearray(size)
    data[: header.nbytes] = header.tobytes()
    data[commit_offset : commit_offset + first.nbytes] = first.tobytes()
    return bytes(data)


def _stamp_writer(header) -> None:
    """Record this process as the writer: its pid, start time, pid namespace and the clock ticks of its /proc."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    start_ticks = int(proc_text.stat_fields(Path("/proc/self/stat").read_bytes())[proc_text.START_TICKS])
    header["writer_tgid"] = os.getpid()
    header["writer_start_boot_ns"] = start_ticks * (1_000_000_000 // ticks_per_s)
    header["pid_ns"] = proc_text.own_pid_ns()
    header["user_hz"] = ticks_per_s


def _supersede(directory) -> None:
    """Mark the existing control file as superseded, so that its readers open the new one."""
    cdef Segment old
    try:
        descriptor = os.open(directory / "control", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    size = os.fstat(descriptor).st_size
    if size < sizeof(pl_control):
        os.close(descriptor)
        return
    old = Segment("control", descriptor, size, size)
    header = np.frombuffer(old, layout.CONTROL, 1)[0]
    # Another layout may store something else at the place of `state`: do not write. Its readers see no heartbeat.
    if bytes(header["magic"]) == layout.MAGIC and header["layout_version"] == layout.LAYOUT_VERSION:
        # Release, before any file is replaced: a reader that opened the old control and then a new segment reads state
        # again and detects that the two do not belong together.
        pl_store_release32(&(<pl_control *>old.base).state, PL_STATE_SUPERSEDED)


def open_tables(
    directory,
    *,
    boot_id: bytes,
    capture_id: int,
    ring_count: int,
    row_capacity: int,
    chunk_rows: int,
    pid_capacity: int,
    key_capacity: int,
    names_bytes: int,
    args_bytes: int,
    envs_bytes: int,
    boot_unix_ns: int,
    retention_ns: int,
    horizon_boot_ns: int = 0,
    chain_max: int = CHAIN_MAX,
    checked: bool = False,
    modes=None,
    group=None,
    has_successor: bool = False,
) -> TableWriter:
    """Take over the instance's tables, or create them in a new epoch; the state becomes FILLING.

    Args:
        directory: the instance's directory, on tmpfs; created if missing.
        boot_id: 16 bytes.
        capture_id: identifies the rings that positions refer to.
        ring_count, row_capacity, chunk_rows, pid_capacity, key_capacity, names_bytes, args_bytes, envs_bytes,
            checked: see segments.TablePlan; a predecessor's tables are taken over if all of them are equal.
        boot_unix_ns: Unix time of boot-clock zero, ns.
        retention_ns, chain_max: see TableWriter.
        horizon_boot_ns: all processes that ended later will be in new tables; 0: those that end from now on.
        modes, group: see segments.make.
        has_successor: see TableWriter.

    Raises:
        WriterExistsError: another process writes these tables.
        UnsupportedError: the directory is not on tmpfs, or has no room.
        ConfigError: a capacity is out of range.
    """
    cdef TableWriter writer
    plan = segments.TablePlan(
        boot_id=bytes(boot_id), ring_count=ring_count, row_capacity=row_capacity, chunk_rows=chunk_rows,
        pid_capacity=pid_capacity, key_capacity=key_capacity, names_bytes=names_bytes, args_bytes=args_bytes,
        envs_bytes=envs_bytes, checked=checked,
    )
    if not _CHAIN_MIN <= chain_max <= CHAIN_MAX:
        raise ValueError(f"chain_max: expected {_CHAIN_MIN} to {CHAIN_MAX}, got {chain_max}")
    directory = Path(directory)
    lock = segments.lock_writer(directory)
    descriptors = None
    try:
        descriptors, epoch, reason = segments.find(directory, plan)
        if descriptors is not None:
            try:
                segments.set_access(descriptors, modes, group)
                writer = _take_over(descriptors, plan, retention_ns, chain_max, capture_id, boot_unix_ns)
            except InvariantError as error:
                segments.close(descriptors)
                descriptors, reason = None, str(error)
        if descriptors is None:
            _supersede(directory)
            header = _header(plan, epoch + 1, capture_id, boot_unix_ns, horizon_boot_ns)
            descriptors = segments.make(
                directory, plan, modes=modes, group=group,
                fill_control=lambda descriptor: os.pwrite(descriptor, header, 0),
            )
            writer = _map_segments(descriptors, plan, retention_ns, chain_max)
    except BaseException:
        segments.close(descriptors)
        os.close(lock)
        raise
    writer.lock_fd = lock
    writer.directory_path = directory
    writer.fresh_reason = reason
    writer.has_successor = has_successor
    return writer


cdef TableWriter _map_segments(dict descriptors, plan, uint64_t retention_ns, uint32_t chain_max):
    """Map the segments, which takes their descriptors out of the dict; all private memory is empty."""
    cdef TableWriter writer = TableWriter.__new__(TableWriter)
    cdef uint64_t rows = plan.row_capacity
    cdef dict mapped = {}
    size = plan.ceiling_bytes("control")
    writer.map_control(Segment("control", descriptors.pop("control"), size, size))
    header = writer.control_view()[0]
    for name in list(descriptors):
        # Use the size in control, not the file's length: a predecessor may have been killed between changing them.
        size = segments.allocated(name, header, plan)
        mapped[name] = Segment(name, descriptors.pop(name), plan.ceiling_bytes(name), size)
    writer.hot_segment = mapped["hot"]
    writer.cold_segment = mapped["cold"]
    writer.costs_segment = mapped["costs"]
    writer.index_segment = mapped["index"]
    writer.pid_capacity = plan.slots
    writer.root_pids = plan.pid_capacity
    writer.keys = NamespaceKeys(mapped["keys"], plan.pid_capacity, plan.key_capacity)
    writer.row_capacity = plan.row_capacity
    writer.checked = plan.checked
    writer.retention_ns = retention_ns
    writer.chain_max = chain_max
    writer.names = Arena(mapped["names"])
    writer.args = Arena(mapped["args"])
    writer.envs = Arena(mapped["envs"])
    # Private memory by row and by pid: pages that are never touched use no memory.
    writer.private_segments = [Segment("private", -1, n, 0) for n in (
        rows * sizeof(row_state), plan.slots * sizeof(family), rows * sizeof(uint64_t), rows * sizeof(uint32_t),
        rows // COSTS_ROWS + 1,
    )]
    writer.torn_rows = []
    writer.attach()
    return writer


cdef TableWriter _take_over(
    dict descriptors, plan, uint64_t retention_ns, uint32_t chain_max, capture_id, boot_unix_ns
):
    """Continue a predecessor's tables. Raises InvariantError if they are inconsistent."""
    cdef TableWriter writer = _map_segments(descriptors, plan, retention_ns, chain_max)
    cdef pl_control *control = writer.control
    # Set FILLING first: from now on readers must not report "absent", and the heartbeat may start again.
    pl_store_release32(&control.state, PL_STATE_FILLING)
    header = writer.control_view()[0]
    _stamp_writer(header)
    control.takeovers += 1
    if control.capture_id != capture_id:
        # Within one capture keep the predecessor's value. A new reading differs by some ns, and then every time that
        # readers have seen already would change.
        control.boot_unix_ns = boot_unix_ns
    pl_store_release64(&control.heartbeat_boot_ns, pl_now_boot_ns())
    committed = writer.committed()
    for i, value in enumerate(committed.counters):
        writer.own_counters[<uint32_t>i] = value
    rebuild(writer)
    if control.capture_id != capture_id:
        _begin_capture(writer, committed, capture_id)
    writer.acknowledge()
    writer.is_takeover = True
    writer.was_complete = control.ready_boot_ns != 0
    return writer


cdef void _begin_capture(TableWriter writer, committed, uint64_t capture_id) except *:
    """Reset the ring positions for a new capture.

    Positions of the predecessor's rings have no meaning in the new ones. Nothing observed the time between the two
    captures, so the horizon moves up, and the tables are not complete until the live processes have been compared: a
    successor must know that, too.

    The new id is stored last (release): a shard of the new capture that reads the id also reads positions of 0.
    """
    zeros = np.zeros(writer.control.ring_count, np.uint64)
    writer.commit(committed.watermark, zeros, zeros, committed.topic_seq)
    for i in range(writer.control.ring_count):
        writer.acks[<uint32_t>i].wanted_pos = 0
        writer.acks[<uint32_t>i].received_pos = 0
    writer.acknowledge()
    pl_store_release64(&writer.control.horizon_boot_ns, pl_now_boot_ns())
    writer.control.ready_boot_ns = 0
    pl_store_release64(&writer.control.capture_id, capture_id)
