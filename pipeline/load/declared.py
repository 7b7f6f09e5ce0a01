"""Declarations that the processes of a load share: limits, the log of the program, what the subscriber has seen.

``script/generate`` writes the C header `programs/log.h` from this module; `truth` reads the log with it. Only the
processes of one run use the layouts, so they may change at any time.
"""

from __future__ import annotations

from pipeline.records.declared import KIND_CRED, KIND_EXEC, KIND_EXIT, KIND_FORK
from pipeline.records.declaring import Layout

WORKERS_MAX = 64  #: processes that make a load side by side
LOG_HEADER_BYTES = 4096  #: where the records begin; the room before them is reserved for the header

# LOG_RECORD.kind is KIND_FORK, KIND_EXEC, KIND_EXIT or KIND_CRED, or:
KIND_THREAD = 255  #: threads, which are no events of the stream
#: Kinds that are events of the stream.
KINDS = {"fork": KIND_FORK, "exec": KIND_EXEC, "exit": KIND_EXIT, "cred": KIND_CRED}

LOG_HEADER_LAYOUT = Layout(
    "LOG_HEADER", "pl_log_header", 80,
    """
    The header of the log: what is known of the whole run.
    """,
    """
    capacity  u8  -          records that the log has room for; the caller sets it
    used      u8  -          records that were written; more than `capacity` if some found no room
    begin_ns  u8  ns (boot)  of the run
    end_ns    u8  ns (boot)  0 until the last worker has ended
    cpu_ns    u8  ns         of all processes of the run
    units     u8  -          units that were made
    failed    u8  -          system calls that failed
    stop      u4  -          1: the workers end
    is_full   u4  -          1: the run ended early, because the log was full
    error     u4  -          errno of the last failure
    daemons   u4  -          daemons that live now
    late_ns   u8  ns         longest time by which a unit began too late
    """,
)  # fmt: skip
LOG_RECORD_LAYOUT = Layout(
    "LOG_RECORD", "pl_log_record", 32,
    """
    One process and one kind of event.
    """,
    """
    begin_ns  u8  ns (boot)  before the system call that caused the event; 0: unknown
    end_ns    u8  ns (boot)  after the effect was seen
    pid       u4  -          of the process
    about     u4  -          parent of a fork or an exec, wait status of an exit, user of a change of credentials
    count     u4  -          how many events of this kind the process had in this time
    kind      u4  -          KIND_*
    """,
)  # fmt: skip

SEEN_LAYOUT = Layout(
    "SEEN", "", 32,
    """
    One event as the subscriber kept it. No C code reads it.
    """,
    """
    time_ns   u8  ns (boot)  of the event
    delay_ns  i8  ns         from then until it came
    pid       u4  -          of the process
    about     u4  -          as in LOG_RECORD; 0xffffffff: unknown
    kind      u4  -          KIND_*
    is_other  u4  bool       the process executed another program than that of the load
    """,
)  # fmt: skip

#: Layouts of the C code by the name of their C struct, without ``pl_``.
LAYOUTS = {layout.c_name[3:]: layout for layout in (LOG_HEADER_LAYOUT, LOG_RECORD_LAYOUT)}
