"""Checksums, and the journal's blocks. Their layout is declared in `pipeline.bus.stream.declared`.

The resolver stores every event that it publishes in the journal. This is compiled, so that one call stores a block,
which copies the messages and computes their checksum in one pass.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pipeline.shm.layout._layout cimport PL_TOPIC_COUNT


cdef extern from "crc32.h":
    void pl_crc32_prepare() noexcept nogil
    int pl_crc32_folds() noexcept nogil
    uint32_t pl_crc32_copy(uint8_t *to, uint32_t value, const void *data, size_t n, int folds) noexcept nogil
    uint32_t pl_crc32(uint32_t value, const void *data, size_t n, int folds) noexcept nogil
    void pl_crc32_settle() noexcept nogil


cdef enum:
    # generated: BLOCK_*
    BLOCK_MAGIC = 0x424A4C50  # begins the header of a block
    BLOCK_ALIGNMENT = 64  # blocks and bodies begin at a multiple of this
    BLOCK_HEADER_BYTES = 144  # length of the header of a block
    BLOCK_MESSAGE_BYTES = 12  # length of what is before the header of a message
    # end of the generated part
    _TOPICS = PL_TOPIC_COUNT


# generated: struct-block_header
#: Header of a block.
cdef struct block_header:
    uint32_t magic  # `0x424A4C50`
    uint32_t header_crc  # CRC-32 of bytes 8 to 143
    uint64_t at  # position: the block is at `header_bytes` + `at` modulo R
    uint32_t bytes  # length with this header
    uint32_t body_crc  # CRC-32 of bytes 144 to `bytes`
    uint32_t messages  # number of messages
    uint32_t kept  # topics that are kept; 0 if events before this block could not be appended
    uint64_t stream  # as in the headers of its messages
    uint64_t group  # likewise
    uint64_t step  # likewise
    uint32_t writer  # likewise
    uint32_t epoch  # likewise
    int64_t time_ns  # when it was written
    uint64_t unused  # 0
    uint64_t next[8]  # by topic number: number of the topic's first event in this block or behind it
# end of the generated part


# generated: struct-message_begin
#: First part of a message in a block.
cdef struct message_begin:
    uint32_t topic  # number of the topic
    uint32_t header_bytes  # length of the header
    uint32_t body_bytes  # length of the body
# end of the generated part


cdef uint8_t _ZEROS[BLOCK_ALIGNMENT]
memset(_ZEROS, 0, BLOCK_ALIGNMENT)

pl_crc32_prepare()
FOLDS = pl_crc32_folds()


cdef inline uint64_t _aligned(uint64_t size) noexcept nogil:
    return (size + BLOCK_ALIGNMENT - 1) & ~<uint64_t>(BLOCK_ALIGNMENT - 1)


def crc32(data, uint32_t value=0) -> int:
    """Return the CRC-32 of a bytes-like object, as `zlib.crc32` does, several times as fast where the CPU helps.

    Args:
        data: a bytes-like object.
        value: checksum of what comes before it.
    """
    cdef Py_buffer buffer
    cdef uint32_t found
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    with nogil:
        found = pl_crc32(value, buffer.buf, <size_t>buffer.len, FOLDS)
    PyBuffer_Release(&buffer)
    return found


def pack_header(block) -> bytes:
    """Return the header of a block, given as a `journal.Block`."""
    cdef block_header header
    cdef int topic
    header.at, header.bytes, header.body_crc = block[0], block[1], block[2]
    header.messages, header.kept = block[3], block[4]
    header.stream, header.group, header.step = block[5], block[6], block[7]
    header.writer, header.epoch, header.time_ns = block[8], block[9], block[10]
    for topic in range(_TOPICS):
        header.next[topic] = block[11][topic]
    _seal(&header)
    return (<char *>&header)[:BLOCK_HEADER_BYTES]


def parse_header(data):
    """Return the fields of a `journal.Block`; None: there is no header, or it is damaged."""
    cdef block_header header
    cdef Py_buffer buffer
    cdef bint is_long
    cdef int topic
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    is_long = buffer.len >= BLOCK_HEADER_BYTES
    if is_long:
        memcpy(&header, buffer.buf, BLOCK_HEADER_BYTES)
    PyBuffer_Release(&buffer)
    if not is_long or header.magic != BLOCK_MAGIC or header.header_crc != _header_crc(&header):
        return None
    return (
        header.at, header.bytes, header.body_crc, header.messages, header.kept, header.stream, header.group,
        header.step, header.writer, header.epoch, header.time_ns,
        tuple([header.next[topic] for topic in range(_TOPICS)]),
    )


cdef uint32_t _header_crc(const block_header *header) noexcept nogil:
    """Return the checksum of what is behind `header_crc`."""
    cdef const uint8_t *at = <const uint8_t *>&header.at
    return pl_crc32(0, at, BLOCK_HEADER_BYTES - (at - <const uint8_t *>header), FOLDS)


cdef void _seal(block_header *header) noexcept nogil:
    header.magic, header.unused = BLOCK_MAGIC, 0
    header.header_crc = _header_crc(header)


def block_bytes(messages) -> int:
    """Return the length of a block with these messages, its header included.

    Args:
        messages: sequence of tuples that begin with the number of a topic, a header and a body.
    """
    cdef uint64_t size = BLOCK_HEADER_BYTES
    for message in messages:
        size = _aligned(size + BLOCK_MESSAGE_BYTES + len(message[1]))
        size = _aligned(size + len(message[2]))
    return size


cdef uint32_t _put_messages(target, Py_ssize_t place, messages, uint64_t *size) except? 0:
    """Store the messages of a block, set `size` to the length of the block, and return the checksum of what was stored.

    What is stored is visible to every other process before what is stored afterwards.
    """
    cdef Py_buffer room, header, body
    cdef uint64_t at = BLOCK_HEADER_BYTES, end
    cdef uint32_t crc = 0
    cdef uint32_t topic
    PyObject_GetBuffer(target, &room, PyBUF_WRITABLE)
    try:
        for message in messages:
            topic = message[0]
            PyObject_GetBuffer(message[1], &header, PyBUF_SIMPLE)
            try:
                PyObject_GetBuffer(message[2], &body, PyBUF_SIMPLE)
                try:
                    end = _aligned(_aligned(at + BLOCK_MESSAGE_BYTES + <uint64_t>header.len) + <uint64_t>body.len)
                    if place < 0 or place > room.len or end > <uint64_t>(room.len - place):
                        raise ValueError("no room for the messages")
                    with nogil:
                        crc = _put(<uint8_t *>room.buf + place, at, topic, &header, &body, crc)
                    at = end
                finally:
                    PyBuffer_Release(&body)
            finally:
                PyBuffer_Release(&header)
        pl_crc32_settle()
    finally:
        PyBuffer_Release(&room)
    size[0] = at
    return crc


def put_block(
    target, Py_ssize_t place, messages, list following, uint64_t at, uint32_t kept, uint64_t stream, uint64_t group,
    uint64_t step, uint32_t writer, uint32_t epoch, int64_t time_ns,
) -> int:
    """Store a block, its header last, and return the number of its events.

    Args:
        target: a writable bytes-like object with room for `block_bytes(messages)`.
        place: offset of the block.
        messages: sequence of (topic, header, body, number of the first event, number of events).
        following: by topic, number of the next event; those of the messages' topics are changed.
        at, kept, stream, group, step, writer, epoch, time_ns: as in the header.

    Raises:
        ValueError: there is no room.
        TypeError: a header or a body is not bytes-like.
    """
    cdef block_header header
    cdef Py_buffer room
    cdef int topic
    cdef uint64_t events = 0, first, count, size = 0
    header.body_crc = _put_messages(target, place, messages, &size)
    header.bytes = <uint32_t>size
    header.messages = len(messages)
    header.at, header.kept, header.stream, header.group, header.step = at, kept, stream, group, step
    header.writer, header.epoch, header.time_ns = writer, epoch, time_ns
    for topic in range(_TOPICS):
        header.next[topic] = following[topic]
    for message in messages:
        topic, first, count = message[0], message[3], message[4]
        if not 0 <= topic < _TOPICS:
            raise ValueError(f"no topic {topic}")
        header.next[topic] = first
        following[topic] = first + count
        events += count
    _seal(&header)
    PyObject_GetBuffer(target, &room, PyBUF_WRITABLE)
    # Last, so that a block has a header only if it is whole.
    memcpy(<uint8_t *>room.buf + place, &header, BLOCK_HEADER_BYTES)
    PyBuffer_Release(&room)
    pl_crc32_settle()
    return events


cdef uint32_t _put(
    uint8_t *block, uint64_t at, uint32_t topic, const Py_buffer *header, const Py_buffer *body, uint32_t crc
) noexcept nogil:
    """Store one message at `at`, and return the checksum up to its end. Nothing is read from the block.

    Its memory is in no cache, and waiting for it would cost more than the copy.
    """
    cdef uint8_t begin[512]
    cdef message_begin lengths
    cdef uint64_t used = BLOCK_MESSAGE_BYTES, in_begin = <uint64_t>header.len, gap
    if in_begin > sizeof(begin) - BLOCK_MESSAGE_BYTES - BLOCK_ALIGNMENT:
        in_begin = sizeof(begin) - BLOCK_MESSAGE_BYTES - BLOCK_ALIGNMENT
    lengths.topic, lengths.header_bytes, lengths.body_bytes = topic, <uint32_t>header.len, <uint32_t>body.len
    memcpy(begin, &lengths, BLOCK_MESSAGE_BYTES)
    memcpy(begin + used, header.buf, in_begin)
    used += in_begin
    if in_begin == <uint64_t>header.len:
        gap = _aligned(at + used) - at - used
        memset(begin + used, 0, gap)
        used += gap
    crc = pl_crc32_copy(block + at, crc, begin, used, FOLDS)
    at += used
    if in_begin < <uint64_t>header.len:
        crc = pl_crc32_copy(
            block + at, crc, <const uint8_t *>header.buf + in_begin, <uint64_t>header.len - in_begin, FOLDS
        )
        at += <uint64_t>header.len - in_begin
        gap = _aligned(at) - at
        crc = pl_crc32_copy(block + at, crc, _ZEROS, gap, FOLDS)
        at += gap
    crc = pl_crc32_copy(block + at, crc, body.buf, <size_t>body.len, FOLDS)
    at += <uint64_t>body.len
    return pl_crc32_copy(block + at, crc, _ZEROS, _aligned(at) - at, FOLDS)
