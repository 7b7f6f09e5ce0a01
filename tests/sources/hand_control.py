"""A control file made by hand, so that a test can play the resolver."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.shm.layout import layout

CAPTURE_ID = 0x1234_5678_9ABC_DEF0
RINGS = 3


class HandControl:
    """A control file as a resolver writes it, with the fields that a shard reads."""

    def __init__(self, path: Path, *, capture_id: int = CAPTURE_ID, ready: bool = True) -> None:
        self.path = path
        ring_offset, _, _, length = layout.control_bytes(RINGS)
        new = path.with_suffix(".new")
        new.write_bytes(bytes(length))
        memory = np.memmap(new, np.uint8, "r+")
        self.header = memory[: layout.CONTROL.itemsize].view(layout.CONTROL)
        self.acks = memory[ring_offset:][: RINGS * layout.RING_ACK.itemsize].view(layout.RING_ACK)
        self.header["magic"] = layout.MAGIC
        self.header["ring_count"] = RINGS
        self.header["ring_offset"] = ring_offset
        self.header["capture_id"] = capture_id
        self.header["state"] = layout.STATE_READY
        self.header["audience"] = layout.AUDIENCE_SUBSCRIBERS  # the test
        if ready:
            self.make_ready()
        new.rename(path)

    def make_ready(self) -> None:
        self.header["layout_version"] = layout.LAYOUT_VERSION

    def answer(self, ring: int, *, applied: int, wanted: int, rewind: int) -> None:
        self.acks["applied_pos"][ring] = applied
        self.acks["wanted_pos"][ring] = wanted
        self.acks["rewind_seq"][ring] = rewind
