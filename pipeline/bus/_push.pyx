"""Send messages to the resolver without blocking. Compiled because a shard sends in each cycle (`sources.shard`)."""

from pipeline.bus._libzmq cimport NativeSocket


cdef class FramePush:
    """Sends messages on a PUSH socket.

    Call it with a message. It returns True if the socket accepted the message, and False if the message must be sent
    again later.

    Args:
        socket: a socket from `pushing.connect` or `Bus.push`.
    """

    def __init__(self, socket):
        self._socket = NativeSocket(socket)

    def __call__(self, bytes message not None) -> bool:
        return bool(self.offer(message, len(message)))

    cdef bint offer(self, const char *message, size_t size) except -1:
        """The same for compiled callers; the bytes are copied."""
        return self._socket.send(message, size)
