"""Decide by a row whether a subscriber with a filter wants the event, before the event is encoded.

`pipeline.bus.stream.narrowing` describes the filters. They decide by the same fields that the event would have, and by
parts of texts, so they can only pass too many events. The subscriber compares those that arrive.

A user can choose both the values and the texts, and could try to slow the resolver down with them. So the work for one
event is bounded. The search for a value takes linear time. If the texts of an event exceed `PL_SEARCH_BYTES`, they are
not searched, and the event passes.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from pipeline.bus.frames._msgpack cimport pl_text
from pipeline.records._limits cimport COMM_BYTES
from pipeline.resolver.stream._name_cache cimport PL_NAME_BYTES, PL_USER, NameCache, name_table
from pipeline.shm.layout._layout cimport *
from pipeline.shm.writer._arena cimport Arena
from pipeline.shm.writer._writer cimport TableWriter

from pipeline.bus.stream.narrowing import KINDS

cdef extern from "string.h" nogil:
    const void *memchr(const void *, int, size_t)
    size_t strnlen(const char *, size_t)

cdef enum:
    # Bytes of texts that are searched for one event, counted once for each value, in all filters together.
    PL_SEARCH_BYTES = 4096
    # Places in a text that are compared with the whole value.
    PL_COMPARED_PLACES = 8

cdef enum:
    # Positions in KINDS.
    OF_CONTAINER
    OF_CGROUP
    OF_PATH
    OF_ARG
    OF_NAME
    OF_USER

assert KINDS == (b"container", b"cgroup", b"path", b"arg", b"name", b"user")


cdef inline bint may_contain(const char *text, uint32_t n, const char *value, uint32_t size) noexcept nogil:
    """Whether a value is in a text; also True if its end is there at too many places: memmem(3) can take longer."""
    cdef uint32_t i, compared = 0
    if size > n:
        return False
    for i in range(n - size + 1):
        # A comparison of a fixed size is one instruction.
        if size >= 8:
            if memcmp(text + i + size - 8, value + size - 8, 8) != 0:
                continue
        elif size >= 4:
            if memcmp(text + i + size - 4, value + size - 4, 4) != 0:
                continue
        elif text[i + size - 1] != value[size - 1]:
            continue
        compared += 1
        if compared > PL_COMPARED_PLACES and size >= 4 or memcmp(text + i, value, size) == 0:
            return True
    return False


cdef inline bint has_part(const row_filter *asked, const char *text, uint32_t n, uint32_t *room) noexcept nogil:
    """Whether one of the values is in a text; True without a search if there is no `room` for it."""
    cdef uint32_t i
    if <uint64_t>asked.count * n > room[0]:
        return True
    room[0] -= asked.count * n
    for i in range(asked.count):
        if may_contain(text, n, asked.values[i].text, asked.values[i].n):
            return True
    return False


cdef inline bint is_part_of(
    const row_filter *asked, Arena arena, uint32_t ref, uint32_t skip, uint32_t *room
) noexcept nogil:
    """Whether one of the values is in a string of an arena, behind its first `skip` bytes."""
    cdef uint32_t n = 0
    cdef const char *text = arena.bytes(ref, &n) if ref != 0 else NULL
    return text != NULL and n > skip and has_part(asked, text + skip, n - skip, room)


cdef inline bint is_in_path(
    const row_filter *asked, TableWriter tables, uint32_t row, uint32_t *room
) noexcept nogil:
    # The name is that of a script, if it is one.
    return is_part_of(asked, tables.names, tables.hot[row].file_ref, sizeof(pl_file), room) or is_part_of(
        asked, tables.names, tables.cold[row].name_ref, 0, room
    )


cdef inline bint is_in_cgroup(
    const row_filter *asked, TableWriter tables, uint32_t row, uint32_t *room
) noexcept nogil:
    cdef uint32_t n = 0, ref = tables.cold[row].cgroup_ref
    cdef const char *text = tables.names.bytes(ref, &n) if ref != 0 else NULL
    if text == NULL or n <= sizeof(pl_cgroup):
        return False
    text += sizeof(pl_cgroup)
    n -= <uint32_t>sizeof(pl_cgroup)
    # Subscribers ask for a unit by its name without systemd's escapes.
    return has_part(asked, text, n, room) or memchr(text, ord("\\"), n) != NULL


cdef inline bint begins_container(const row_filter *asked, TableWriter tables, uint32_t row) noexcept nogil:
    cdef uint32_t n = 0, i, ref = tables.cold[row].container_ref
    cdef const char *text = tables.names.bytes(ref, &n) if ref != 0 else NULL
    if text == NULL:
        return False
    for i in range(asked.count):
        if asked.values[i].n <= n and memcmp(text, asked.values[i].text, asked.values[i].n) == 0:
            return True
    return False


cdef class RowFilters:
    """The filters in use, by number. Only the resolver's thread uses them."""

    def set(self, number: int, kind: bytes = b"", values=(), topics: int = 0) -> None:
        """Replace a filter; with topics 0 it is removed."""
        cdef uint32_t i, used = 0
        cdef bytes value
        cdef row_filter *asked
        if not 0 <= number < FILTERS_MAX:
            raise ValueError(f"there are {FILTERS_MAX} filters, not {number + 1}")
        if len(values) > FILTER_VALUES_MAX or sum(map(len, values)) > SUBSCRIPTION_MAX_BYTES:
            raise ValueError("the values of a filter have at most 64 bytes")
        asked = &self.filters[number]
        asked.topics = topics
        if topics:
            asked.kind = KINDS.index(kind)
        asked.count = 0
        for value in values:
            memcpy(asked.text + used, <char *>value, len(value))
            asked.values[asked.count].text = asked.text + used
            asked.values[asked.count].n = <uint32_t>len(value)
            asked.values[asked.count].is_number = value.isdigit() and int(value) < 1 << 32
            asked.values[asked.count].number = int(value) if asked.values[asked.count].is_number else 0
            used += <uint32_t>len(value)
            asked.count += 1
        self.topics_mask = 0
        for i in range(<uint32_t>FILTERS_MAX):
            self.topics_mask |= self.filters[i].topics

    cdef uint32_t matching(self, TableWriter tables, NameCache names, uint32_t topic, uint32_t row) noexcept nogil:
        cdef uint32_t i, found = 0, room = PL_SEARCH_BYTES
        cdef const row_filter *asked
        cdef bint is_wanted
        for i in range(<uint32_t>FILTERS_MAX):
            asked = &self.filters[i]
            if not asked.topics >> topic & 1:
                continue
            if asked.kind == OF_USER:
                is_wanted = self._matches_user(asked, tables, names, row)
            elif asked.kind == OF_CONTAINER:
                is_wanted = begins_container(asked, tables, row)
            elif asked.kind == OF_CGROUP:
                is_wanted = is_in_cgroup(asked, tables, row, &room)
            elif asked.kind == OF_PATH:
                is_wanted = is_in_path(asked, tables, row, &room)
            elif asked.kind == OF_ARG:
                is_wanted = is_part_of(asked, tables.args, tables.hot[row].args_ref, 4, &room)
            else:
                is_wanted = (
                    has_part(asked, tables.hot[row].comm, <uint32_t>strnlen(tables.hot[row].comm, COMM_BYTES), &room)
                    or is_in_path(asked, tables, row, &room)
                    or is_part_of(asked, tables.args, tables.hot[row].args_ref, 4, &room)
                )
            found |= <uint32_t>is_wanted << i
        return found

    cdef bint _matches_user(
        self, const row_filter *asked, TableWriter tables, NameCache names, uint32_t row
    ) noexcept nogil:
        cdef const pl_hot *hot = &tables.hot[row]
        cdef const pl_cold *cold = &tables.cold[row]
        cdef const name_table *table = NULL
        cdef const char *container = NULL
        cdef char found[2][PL_NAME_BYTES + 8]
        cdef char wanted[SUBSCRIPTION_MAX_BYTES + 8]
        cdef uint32_t i, j, n = 0
        cdef uint32_t lengths[2]
        if not hot.known & PL_KNOWN_CREDS:
            return False
        for i in range(asked.count):
            if asked.values[i].is_number and (
                asked.values[i].number == hot.uid or asked.values[i].number == cold.euid
            ):
                return True
        if names is None:
            return False
        # A container has names of its own, so the number that this name has on the host is not enough.
        if cold.container_ref != 0:
            container = tables.names.bytes(cold.container_ref, &n)
        table = names.of(hot, cold, container, n)
        if table == NULL:
            return False
        lengths[0] = <uint32_t>(names.put(found[0], table, PL_USER, hot.uid) - found[0])
        lengths[1] = <uint32_t>(names.put(found[1], table, PL_USER, cold.euid) - found[1])
        for i in range(asked.count):
            n = <uint32_t>(pl_text(wanted, asked.values[i].text, asked.values[i].n) - wanted)
            for j in range(2):
                if n == lengths[j] and memcmp(wanted, found[j], n) == 0:
                    return True
        return False
