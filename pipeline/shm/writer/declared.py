"""The writer's own memory of each row and each pid, declared once: its state, and words about its chain.

``script/generate`` writes the constants and structs into ``_writer.pxd`` from this module; `pipeline.shm.check` checks
the writer's memory with them. They are in no file of an instance: a successor makes them anew.
"""

from __future__ import annotations

from pipeline.records.declaring import Layout

# row_state.status
STATUS_USED = 1 << 0  #: handed out by new_row and not freed
STATUS_LIVE = 1 << 1  #: newest image of a live process, and in the index: counted in heads_live
STATUS_EXITED = 1 << 2  #: newest image of a process that has ended: counted in heads_exited
STATUS_QUEUED = 1 << 3  #: in the retention queue
STATUS_PARKED = 1 << 4  #: past the queue but referred to: in the ancestor list
STATUS_DIGEST = 1 << 5  #: `digests` has an entry for it
STATUS_TTY_GIVEN = 1 << 6  #: the terminal is from a descriptor, not from the kernel (contexts.tty_fallback)
STATUS_LINEAGE = 1 << 7  #: `lineages` has a word for it, which may be of an earlier epoch

# A word of `lineages`: what is known of the chain of a row
LINEAGE_IMAGES = (1 << 9) - 1  #: images that decide it, with the row itself; at most LINEAGE_CHECKED + 1
LINEAGE_DECIDED = 1 << 9  #: exactly LINEAGE_IMAGES images decide it; otherwise at least these
LINEAGE_COMPLETE = 1 << 10  #: the chain leads to pid 1 without a gap
LINEAGE_INIT = 1 << 11  #: the row itself is an image of pid 1
LINEAGE_FACTS = (1 << 12) - 1  #: all of these
LINEAGE_EPOCH = 1 << 12  #: unit of the bits above, which contain the epoch of the word

ROW_STATE_LAYOUT = Layout(
    "ROW_STATE", "row_state", 16,
    """
    The writer's private state of a row. It is on one cache line, because an event uses all of it.
    """,
    """
    refs    u4  -     ancestor, parent and creator links to the row
    next    u4  -     in the free list, the retention queue or the ancestor list; a row is in at most one
    prev    u4  -     in the same
    chain   u2  -     images of this process up to this one that are still linked
    status  u1  mask  STATUS_*
    pad     u1  -     0
    """,
)  # fmt: skip
FAMILY_LAYOUT = Layout(
    "FAMILY", "family", 16,
    """
    The writer's private state of a pid.
    """,
    """
    first_child  u4  -  index entry of a child
    next_child   u4  -  index entries of its siblings
    prev_child   u4  -  likewise
    parent       u4  -  index entry of the parent
    """,
)  # fmt: skip

#: Layouts by their names.
LAYOUTS = {layout.name: layout for layout in (ROW_STATE_LAYOUT, FAMILY_LAYOUT)}
