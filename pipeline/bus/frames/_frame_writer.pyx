"""Encode frames as msgpack: `FrameEncoder`. `declared` has the keys, `encode` describes the format.

The msgpack bytes are written directly (_msgpack.pxd), because a shard encodes frames during storms of events, when its
caches are full of records. With a dictionary and the library's packer, encoding a frame took twice as long as reading
its records. A test compares the results of both.

Most fields of a TASK are inherited from the parent and stay the same from fork to exit. A frame therefore stores each
distinct TASK once and an index for each record. In a storm of forks that saves two thirds of the bytes, which the
kernel copies twice and which the resolver must load. The pid in the innermost pid namespace differs between processes,
so it has a column of its own.

Source: the MessagePack specification; records.h.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

import msgpack

from pipeline.bus.frames._msgpack cimport pl_bin, pl_bin_header, pl_key, pl_map, pl_name, pl_str_header, pl_uint
from pipeline.bus.frames._column cimport column
from pipeline.records._records cimport pl_task_any

cdef enum:
    # generated: FRAME_*
    FRAME_VERSION = 1  # a reader rejects any other
    # end of the generated part


cdef extern from *:
    """
    #include <stdint.h>
    /* ns_pid is the lower half of a 64-bit word of the TASK on both supported (little-endian) processors. */
    enum { PL_NS_PID = offsetof(struct pl_task, ns_pid), PL_TASK_WORDS = sizeof(struct pl_task) / 8 };
    _Static_assert(PL_NS_PID % 8 == 0 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ns_pid");

    static inline uint64_t pl_task_word(const unsigned char *task, unsigned i)
    {
        uint64_t word;

        __builtin_memcpy(&word, task + 8 * i, 8);
        return i == PL_NS_PID / 8 ? word >> 32 : word;
    }

    /* Hash of all words except ns_pid; each word has its own odd factor. */
    static inline uint8_t pl_task_hash(const unsigned char *task)
    {
        uint64_t h = 0;

    #pragma GCC unroll 20
        for (unsigned i = 0; i < PL_TASK_WORDS; i++) {
            uint64_t word = pl_task_word(task, i);
            h += (word ^ word >> 32) * (0x9E3779B97F4A7C15u * (2 * i + 1));
        }
        return (uint8_t)((h ^ h >> 32) * 0x9E3779B97F4A7C15u >> 56);
    }

    static inline int pl_same_task(const unsigned char *a, const unsigned char *b)
    {
        uint64_t differs = 0;

    #pragma GCC unroll 20
        for (unsigned i = 0; i < PL_TASK_WORDS; i++)
            differs |= pl_task_word(a, i) ^ pl_task_word(b, i);
        return differs == 0;
    }
    """
    enum:
        PL_NS_PID
    uint8_t pl_task_hash(const unsigned char *p) nogil
    bint pl_same_task(const unsigned char *a, const unsigned char *b) nogil


cdef enum:
    #: Upper limit for the keys, numbers and column headers of a frame, without `boot`, `src` and `lost`.
    FIXED_BYTES = 256
    #: Bytes for each record of a frame that stores only distinct TASKs: index of the TASK, pid in the namespace.
    SHARED_BYTES = 2 + 4
    NONE = 0xFFFF


cdef inline char *put(char *p, const char *data, uint64_t n) noexcept nogil:
    memcpy(p, data, n)
    return p + n


cpdef bytes packed_counts(dict lost):
    """Return the counts of a ring as msgpack.

    Cache the result: the call takes as long as a hundred small records, and the counts hardly change.
    """
    return msgpack.packb(lost)


cdef class FrameEncoder:
    """Encodes the frames of one sender. It reuses its buffer, so each frame costs one copy of its columns.

    A message can contain several frames: call `add` for each frame, then `take`. For a single frame call `encode`.

    Args:
        boot_id: the 16 raw bytes of the kernel boot id.
        source: name of the source, at most 255 bytes.
        capture_id: identifies the rings; 0: the frames do not say to which capture they belong.

    Raises:
        ValueError: `boot_id` or `source` has a wrong length.
    """

    def __init__(self, *, boot_id, source, uint64_t capture_id=0):
        if len(boot_id) != 16:
            raise ValueError(f"boot_id has {len(boot_id)} bytes: pass the 16 raw bytes of the boot id")
        self.boot_id, self.source, self.capture_id = bytes(boot_id), source.encode(), capture_id
        if len(self.source) > 255:
            raise ValueError("source is longer than 255 bytes: use a shorter name")
        self.lost = {}

    def __dealloc__(self):
        free(self.data)
        free(self.firsts)
        free(self.task_of)

    def encode(self, **frame) -> bytes:
        """Return a message with one frame; the arguments are those of `add`."""
        self.add(**frame)
        return self.take()

    def take(self) -> bytes:
        """Return a message with the frames that were added since the last call."""
        message = PyBytes_FromStringAndSize(self.data, <Py_ssize_t>self.used)
        self.used = 0
        return message

    def add(
        self, *, uint64_t ring, uint64_t seq, uint64_t from_pos, uint64_t to_pos, uint64_t count, lost,
        header=b"", task=b"", fork=b"", exec=b"", exit=b"", blob=b"", uint64_t malformed=0, watermark_boot_ns=None,
    ) -> None:
        """Encode a frame into the message. See `encode` for the fields of a frame.

        Only the reader checks that the columns are consistent.

        Args:
            ring: number of the ring.
            seq: frames that this sender sent before this one.
            from_pos: first byte of the covered range of the ring.
            to_pos: the byte after the last one of that range.
            count: number of records.
            lost: counts by kind name; the caller must replace this map to change it, because its encoding is cached.
            header: any contiguous buffer, like all columns.
            task: TASK of each record; the encoder removes duplicates.
            fork: bodies of the fork records.
            exec: bodies of the exec records.
            exit: bodies of the exit records.
            blob: strings of all records.
            malformed: malformed records left out so far.
            watermark_boot_ns: no older record of this ring follows; None: unknown.

        Raises:
            ValueError: a column is longer than msgpack allows (4 GiB).
        """
        cdef Py_buffer[6] buffers
        cdef column[6] columns
        cdef int held = 0, i
        known = self.lost.get(ring)
        if known is None or (<tuple>known)[0] is not lost:
            known = self.lost[ring] = (lost, packed_counts(lost))
        try:
            for part in (header, task, fork, exec, exit, blob):
                PyObject_GetBuffer(part, &buffers[held], PyBUF_SIMPLE)
                columns[held].at, columns[held].bytes = <const unsigned char *>buffers[held].buf, buffers[held].len
                held += 1
            self.put(
                ring, seq, from_pos, to_pos, count, (<tuple>known)[1], columns, malformed,
                watermark_boot_ns is not None, 0 if watermark_boot_ns is None else watermark_boot_ns,
            )
        finally:
            for i in range(held):
                PyBuffer_Release(&buffers[i])

    cdef int put(
        self, uint64_t ring, uint64_t seq, uint64_t from_pos, uint64_t to_pos, uint64_t count, bytes lost,
        const column *columns, uint64_t malformed, bint has_watermark, uint64_t watermark_boot_ns,
    ) except -1:
        """The same as `add` for compiled callers.

        `columns` has six items: header, task, fork, exec, exit, blob. `lost` is already packed (`packed_counts`).
        """
        cdef uint64_t need = FIXED_BYTES
        cdef uint32_t keys = 15 + (malformed != 0) + has_watermark + (self.capture_id != 0)
        cdef const char **names = ["head", "task", "fork", "exec", "exit", "blob"]
        cdef uint32_t distinct
        cdef char *p
        cdef int i
        for i in range(6):
            if columns[i].bytes > UINT32_MAX:
                raise ValueError("a column is longer than msgpack allows (4 GiB): send fewer records in one frame")
            need += columns[i].bytes
        self._make_room(need + len(self.boot_id) + len(self.source) + len(lost))
        distinct = self._distinct(&columns[1], count)
        if distinct:
            keys += 2
        p = pl_map(self.data + self.used, keys)
        p = pl_uint(pl_key(p, "v"), FRAME_VERSION)
        p = pl_bin(pl_key(p, "boot"), <const char *>self.boot_id, 16)
        p = pl_str_header(pl_key(p, "src"), <uint32_t>len(self.source))
        p = put(p, <const char *>self.source, len(self.source))
        p = pl_uint(pl_key(p, "ring"), ring)
        p = pl_uint(pl_key(p, "seq"), seq)
        p = pl_uint(pl_key(p, "from"), from_pos)
        p = pl_uint(pl_key(p, "to"), to_pos)
        p = pl_uint(pl_key(p, "n"), count)
        p = put(pl_key(p, "lost"), <const char *>lost, len(lost))
        if malformed:
            p = pl_uint(pl_key(p, "bad"), malformed)
        if has_watermark:
            p = pl_uint(pl_key(p, "wm"), watermark_boot_ns)
        if self.capture_id:
            p = pl_uint(pl_key(p, "cap"), self.capture_id)
        for i in range(6):
            if i == 1 and distinct:
                p = self._put_tasks(p, &columns[1], count, distinct)
            else:
                p = pl_bin(pl_name(p, names[i]), columns[i].at, <uint32_t>columns[i].bytes)
        self.used = p - self.data
        return 0

    cdef uint32_t _distinct(self, const column *tasks, uint64_t count) except? 0xFFFFFFFF:
        """Fill `task_of` and `firsts`; returns the number of distinct TASKs, or 0 if sharing them saves no bytes."""
        cdef uint16_t[256] places  # hash -> last TASK with that hash; a TASK that lost its place is stored again
        cdef uint32_t found = 0
        cdef uint64_t i, room
        cdef const unsigned char *task = tasks.at
        cdef uint8_t at
        cdef void *firsts
        cdef void *task_of
        if count < 2 or tasks.bytes != count * sizeof(pl_task_any):
            return 0
        if count > self.records_room:
            room = max(count, 2 * self.records_room)
            firsts = realloc(self.firsts, room * sizeof(uint32_t))
            if firsts == NULL:
                raise MemoryError
            self.firsts = <uint32_t *>firsts
            task_of = realloc(self.task_of, room * sizeof(uint16_t))
            if task_of == NULL:
                raise MemoryError
            self.task_of, self.records_room = <uint16_t *>task_of, room
        memset(places, 0xFF, sizeof(places))
        with nogil:
            for i in range(count):
                if i and pl_same_task(task - sizeof(pl_task_any), task):
                    self.task_of[i] = self.task_of[i - 1]  # common: the next record is about a child or a sibling
                    task += sizeof(pl_task_any)
                    continue
                at = pl_task_hash(task)
                if places[at] == NONE or not pl_same_task(
                    tasks.at + self.firsts[places[at]] * <uint64_t>sizeof(pl_task_any), task
                ):
                    if found == NONE:
                        found = 0
                        break
                    self.firsts[found] = <uint32_t>i
                    places[at] = <uint16_t>found
                    found += 1
                self.task_of[i] = places[at]
                task += sizeof(pl_task_any)
        return found if found * sizeof(pl_task_any) + count * SHARED_BYTES < tasks.bytes else 0

    cdef char *_put_tasks(self, char *p, const column *tasks, uint64_t count, uint32_t distinct) noexcept nogil:
        cdef const unsigned char *ns_pid = tasks.at + PL_NS_PID
        cdef uint64_t i
        p = pl_bin_header(pl_key(p, "task"), distinct * <uint32_t>sizeof(pl_task_any))
        for i in range(distinct):
            memcpy(p, tasks.at + self.firsts[i] * <uint64_t>sizeof(pl_task_any), sizeof(pl_task_any))
            memset(p + PL_NS_PID, 0, 4)
            p += sizeof(pl_task_any)
        p = pl_bin(pl_key(p, "task_of"), self.task_of, <uint32_t>count * 2)
        p = pl_bin_header(pl_key(p, "ns_pid"), <uint32_t>count * 4)
        for i in range(count):
            memcpy(p, ns_pid, 4)
            p += 4
            ns_pid += sizeof(pl_task_any)
        return p

    cdef int _make_room(self, uint64_t need) except -1:
        cdef uint64_t room = self.room
        cdef void *data
        if self.used + need <= room:
            return 0
        while room < self.used + need:
            room = room * 2 if room else 1 << 16
        data = realloc(self.data, room)
        if data == NULL:
            raise MemoryError
        self.data, self.room = <char *>data, room
        return 0
