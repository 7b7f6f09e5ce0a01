"""Decode frames: `decode_frame` and `decode_frames` turn a message into `Frame` objects with views of its columns.

`encode` describes the format, writes frames and does not need numpy. Compiled code (`_frame`) reads the map and checks
the columns once, so that the code that applies them can trust every length.
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
    import numpy.typing as npt
    from typing_extensions import Buffer

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


def record_ends(header: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """Return the ring position after each record, including its padding; shape (n,)."""
    padded = (header["record_bytes"].astype(np.uint64) + np.uint64(7)) & ~np.uint64(7)
    ends: npt.NDArray[np.uint64] = header["ring_pos"] + padded + np.uint64(RECORD_HEADER_BYTES)
    return ends


def decode_frame(message: Buffer, *, peer: str = "") -> Frame:
    """Decode a message that contains one frame.

    Args:
        message: the bytes of the frame. The frame's views keep it alive.
        peer: name of the sender, for the error.

    Returns:
        A frame whose columns are consistent, as `_frame` checks.

    Raises:
        FrameError: wrong version or shape, or inconsistent columns. No part of the message may be used.
    """
    try:
        return decode(message)
    except FrameError as error:
        raise _named(error, peer) from None


def decode_frames(message: Buffer, *, peer: str = "") -> list[Frame]:
    """Decode a message that contains one or more frames, which a sender sent together.

    Args:
        message: the bytes of the frames. Their views keep it alive.
        peer: name of the sender, for the error.

    Returns:
        At least one frame.

    Raises:
        FrameError: as `decode_frame`. One bad frame makes the whole message unusable.
    """
    try:
        return decode_all(message)
    except FrameError as error:
        raise _named(error, peer) from None


def _named(error: FrameError, peer: str) -> FrameError:
    sender = f" from {peer}" if peer else ""
    return FrameError(f"frame{sender} rejected: {error.reason}", peer=peer, reason=error.reason)
