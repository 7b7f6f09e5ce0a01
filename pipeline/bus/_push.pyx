"""Hand messages to the resolver without waiting. Compiled because a shard does it in each cycle (sources/_shard.pyx)."""

import zmq

from pipeline.bus.sockets import lower_half

cdef enum:
    _DONTWAIT = 1  # ZMQ_DONTWAIT

assert _DONTWAIT == zmq.DONTWAIT


cdef class FramePush:
    """Offers messages to a PUSH socket: called with one, says whether it was taken; if not, offer it again later.

    Args:
        socket: of `Bus.push`.
    """

    cdef object _send

    def __init__(self, socket):
        self._send = lower_half(socket, "send")

    def __call__(self, bytes message not None) -> bool:
        try:
            self._send(message, _DONTWAIT)
        except zmq.Again:
            return False
        return True
