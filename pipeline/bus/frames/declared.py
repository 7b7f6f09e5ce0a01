"""The keys of a frame, declared once.

``script/generate`` writes the table of docs/wire-schema.md and the decoder's list of keys in ``_frame.pyx`` from this
module. `encode` says how frames are used.
"""

from __future__ import annotations

from pipeline.records.declared import EXEC_LAYOUT, EXIT_LAYOUT, FORK_LAYOUT, HEADER_LAYOUT, TASK_LAYOUT
from pipeline.records.declaring import Key

FRAME_VERSION = 1  #: a reader rejects any other

#: In the order in which the decoder reports what is missing or has the wrong type.
FRAME_KEYS = (
    Key("v", "uint", f"{FRAME_VERSION}, the version"),
    Key("boot", "bin 16", "the kernel's boot id, raw"),
    Key("src", "str", "`ebpf`, `proc-connector`, `replay`, or a tracer's name"),
    Key("ring", "uint", "number of the ring; for `ebpf` the CPU"),
    Key("seq", "uint", "frames that this sender has sent so far, from 0"),
    Key("from", "uint", "first byte of the range in the ring that the frame covers; positions only grow"),
    Key("to", "uint", "the byte after the last of this range"),
    Key("n", "uint", "records in the frame; 0 where the range holds none"),
    Key("lost", "map", "records that the kernel could not write on the CPUs of this ring so far, by kind"),
    Key("bad", "uint", "malformed records that the sender left out so far", "optional"),
    Key("wm", "uint", "nothing older than this boot time (ns) follows", "optional, for sources without a kernel ring"),
    Key(
        "cap", "uint",
        "identifies the rings. Positions in a ring mean nothing in another capture. If a supervisor was killed, its "
        "shard can send frames to the next instance",
        "optional",
    ),
    Key("head", f"bin n·{HEADER_LAYOUT.size}", "HEADER of each record, in ring order"),
    Key(
        "task", f"bin n·{TASK_LAYOUT.size}",
        "TASK of each record; zeros where HEADER has FLAG_HEAD_ONLY. A shorter form, which a sender may use and a "
        "reader must understand: each different TASK once, with 0 as its `ns_pid`, and the columns `task_of` and "
        "`ns_pid`",
    ),
    Key("fork", f"bin k·{FORK_LAYOUT.size}", "bodies of the fork records that have one, in order of occurrence"),
    Key("exec", f"bin k·{EXEC_LAYOUT.size}", "the same for exec"),
    Key("exit", f"bin k·{EXIT_LAYOUT.size}", "the same for exit"),
    Key("blob", "bin", "the strings of all records, one after the other"),
    Key("task_of", "bin n·2", "for each record the number of its TASK in `task` (u16)", "optional, with `ns_pid`"),
    Key("ns_pid", "bin n·4", "for each record the `ns_pid` of its TASK (u32)", "optional, with `task_of`"),
)  # fmt: skip
