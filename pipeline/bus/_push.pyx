"""Hand messages to the resolver without waiting. Compiled because a shard does it in each cycle (sources/shard/_shard.pyx)."""

from pipeline.bus._libzmq cimport NativeSocket


cdef class FramePush:
    """Offers messages to a PUSH socket: called with one, says whether it was taken; if not, offer it again later.

    Args:
        socket: of `Bus.push`.
    """

    def __init__(self, socket):
        self._socket = NativeSocket(socket)

    def __call__(self, bytes message not None) -> bool:
        return bool(self.offer(message, len(message)))

    cdef bint offer(self, const char *message, size_t size) except -1:
        """As a call; the bytes are copied."""
        return self._socket.send(message, size)
