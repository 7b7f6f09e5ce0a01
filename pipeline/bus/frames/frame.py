"""Read frames: `decode_frame` and `decode_frames` turn a message into `Frame`s, whose columns are views of the message.

What a frame holds stands in `encode`, which writes it and needs no numpy. Nothing here works per record: compiled code
(`_frame`) reads the map and checks the columns, once, so that what applies them may trust every length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.bus.frames._frame import Frame, decode, decode_all
from pipeline.bus.frames.encode import (
    FRAME_MAX_BYTES,
    FRAME_VERSION,
    RECORD_HEADER_BYTES,
    FrameEncoder,
    record_span,
)
from pipeline.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Buffer

    import numpy.typing as npt

__all__ = [
    "FRAME_MAX_BYTES",
    "FRAME_VERSION",
    "RECORD_HEADER_BYTES",
    "Frame",
    "FrameEncoder",
    "decode_frame",
    "decode_frames",
    "record_ends",
    "record_span",
]


def record_ends(head: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """Return, for each record, the position in its ring of the byte after it, padding included; shape (n,)."""
    padded = (head["record_bytes"].astype(np.uint64) + np.uint64(7)) & ~np.uint64(7)
    ends: npt.NDArray[np.uint64] = head["ring_pos"] + padded + np.uint64(RECORD_HEADER_BYTES)
    return ends


def decode_frame(message: Buffer, *, peer: str = "") -> Frame:
    """Read a message that holds one frame.

    Args:
        message: the bytes of the frame. The frame's views keep it alive.
        peer: who sent it, for the error.

    Returns:
        A frame whose columns agree with each other as `_frame` checks.

    Raises:
        FrameError: wrong version or shape, or columns that do not agree. Nothing of the message may be used.
    """
    try:
        return decode(message)
    except FrameError as error:
        raise _named(error, peer) from None


def decode_frames(message: Buffer, *, peer: str = "") -> list[Frame]:
    """Read a message that holds frames, at least one, each behind the other: what a sender had at one time.

    Args, errors: as `decode_frame`; one bad frame makes the whole message unusable.
    """
    try:
        return decode_all(message)
    except FrameError as error:
        raise _named(error, peer) from None


def _named(error: FrameError, peer: str) -> FrameError:
    whom = f" from {peer}" if peer else ""
    return FrameError(f"frame{whom} refused: {error.reason}", peer=peer, reason=error.reason)
