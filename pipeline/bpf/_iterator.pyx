"""Split the output of the task iterator; see iterator.py."""

from libc.string cimport memcpy

from pipeline.records._records cimport pl_exec_any, pl_header_any, pl_task_any


def split(bytes data) -> tuple:
    """Return the HEADERs, TASKs and EXECs of a pass of the iterator, each concatenated, and the list of paths.

    Raises:
        ValueError: a record is not as long as it says.
    """
    cdef const char *begin = data
    cdef const char *at = begin
    cdef const char *end = begin + len(data)
    cdef Py_ssize_t fixed = sizeof(pl_header_any) + sizeof(pl_task_any) + sizeof(pl_exec_any), length, count = 0, i = 0
    cdef list paths = []
    while at < end:
        length = (<const pl_header_any *>at).record_bytes if end - at >= <Py_ssize_t>sizeof(pl_header_any) else 0
        if not fixed <= length <= end - at:
            raise ValueError(f"task iterator: a record of {length} bytes at {at - begin} of {len(data)}")
        paths.append(at[fixed:length])
        at += length
        count += 1
    cdef bytearray headers = bytearray(count * sizeof(pl_header_any))
    cdef bytearray tasks = bytearray(count * sizeof(pl_task_any))
    cdef bytearray execs = bytearray(count * sizeof(pl_exec_any))
    cdef char *header = headers
    cdef char *task = tasks
    cdef char *body = execs
    at = begin
    for i in range(count):
        length = (<const pl_header_any *>at).record_bytes
        memcpy(header + i * sizeof(pl_header_any), at, sizeof(pl_header_any))
        memcpy(task + i * sizeof(pl_task_any), at + sizeof(pl_header_any), sizeof(pl_task_any))
        memcpy(body + i * sizeof(pl_exec_any), at + sizeof(pl_header_any) + sizeof(pl_task_any), sizeof(pl_exec_any))
        at += length
    return headers, tasks, execs, paths
