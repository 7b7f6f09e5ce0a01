"""Find the exec records of a frame that may contain secrets. conceal.py and scrub.py hide the secrets.

If two images have equal strings after hiding, a digest of their original strings distinguishes them.

Few command lines contain a secret. All of them are therefore searched here, without Python objects, for the literals of
the scrubber's rules: every match of a rule contains one. Case is ignored. Strings without a literal need no scrubbing.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from pipeline.records._records cimport (
    PL_EXEC_ARGS_TRUNCATED, PL_EXEC_ARGS_UNREADABLE, PL_EXEC_ENVS_TRUNCATED, PL_EXEC_ENVS_UNREADABLE, PL_FLAG_HEAD_ONLY,
    PL_KIND_EXEC, pl_exec_any, pl_header_any,
)
from pipeline.bus.frames._frame cimport Frame
from pipeline.shm.layout._hash cimport pl_hash64

import os

#: This process's key. Digests of different processes cannot be compared; they exist only in private memory.
cdef uint64_t _KEY = int.from_bytes(os.urandom(8), "little")


cdef inline bint in_word(uint8_t c) noexcept nogil:
    return 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122 or c == 95


cdef class Literals:
    """A set of byte strings that are searched in one pass; ASCII case is ignored.

    A bit table contains, for each pair of bytes, whether a literal begins with it. Literals are compared only at such a
    pair, and only those with that pair.

    Args:
        literals: found anywhere. Each has at least two bytes; a shorter one matches every text.
        words: found only if no letter, digit or underscore comes directly before or after.
    """

    def __cinit__(self, literals, words=()):
        cdef uint32_t i, at = 0, pair
        cdef bytes one
        anywhere = {bytes(one).lower() for one in literals}
        for i in range(256):
            self.lower[i] = <uint8_t>(i + 32 if 65 <= i <= 90 else i)
        # Sorted, so that literals with the same first pair are adjacent.
        self.groups = sorted(anywhere | {bytes(one).lower() for one in words})
        self.count = <uint32_t>len(self.groups)
        self.pairs = <uint8_t *>calloc(8192, 1)
        self.firsts = <uint16_t *>calloc(65536, sizeof(uint16_t))
        self.text = <char *>malloc(max(1, sum(len(one) for one in self.groups)))
        self.begins = <uint32_t *>malloc(max(1, self.count) * sizeof(uint32_t))
        self.lengths = <uint32_t *>malloc(max(1, self.count) * sizeof(uint32_t))
        self.is_word = <uint8_t *>calloc(max(1, self.count), 1)
        if (
            self.pairs == NULL or self.firsts == NULL or self.text == NULL or self.begins == NULL
            or self.lengths == NULL or self.is_word == NULL
        ):
            raise MemoryError
        for i, one in enumerate(self.groups):
            if len(one) < 2:
                self.always = True
                continue
            memcpy(self.text + at, <char *>one, len(one))
            self.begins[i], self.lengths[i] = at, <uint32_t>len(one)
            self.is_word[i] = one not in anywhere
            at += <uint32_t>len(one)
            pair = <uint8_t>one[0] | <uint32_t>(<uint8_t>one[1]) << 8
            if not self.pairs[pair >> 3] >> (pair & 7) & 1:
                self.pairs[pair >> 3] |= 1 << (pair & 7)
                self.firsts[pair] = <uint16_t>i

    def __dealloc__(self):
        free(self.pairs)
        free(self.firsts)
        free(self.text)
        free(self.begins)
        free(self.lengths)
        free(self.is_word)

    cdef bint in_text(self, const uint8_t *text, uint64_t n) noexcept nogil:
        """Whether one of the literals is in `text`."""
        cdef uint64_t at
        cdef uint32_t pair, i
        if self.always:
            return n > 0
        if n < 2:
            return False
        pair = <uint32_t>self.lower[text[0]] << 8
        for at in range(n - 1):
            pair = pair >> 8 | <uint32_t>self.lower[text[at + 1]] << 8
            if self.pairs[pair >> 3] >> (pair & 7) & 1:
                for i in range(self.firsts[pair], self.count):
                    if <uint8_t>self.text[self.begins[i]] != (pair & 255) or (
                        <uint8_t>self.text[self.begins[i] + 1] != pair >> 8
                    ):
                        break
                    if self._begins(text + at, n - at, i) and (
                        not self.is_word[i]
                        or ((at == 0 or not in_word(text[at - 1]))
                            and (at + self.lengths[i] == n or not in_word(text[at + self.lengths[i]])))
                    ):
                        return True
        return False

    cdef inline bint _begins(self, const uint8_t *text, uint64_t n, uint32_t i) noexcept nogil:
        cdef uint32_t j
        cdef const uint8_t *literal = <const uint8_t *>self.text + self.begins[i]
        if self.lengths[i] > n:
            return False
        for j in range(self.lengths[i]):
            if self.lower[text[j]] != literal[j]:
                return False
        return True


cdef uint64_t pl_digest(const char *args, uint32_t args_bytes, const char *envs, uint32_t envs_bytes) noexcept nogil:
    cdef uint64_t result = _KEY
    result = pl_hash64(args, args_bytes, result) if args != NULL else ~result
    result = pl_hash64(envs, envs_bytes, result) if envs != NULL else ~result
    return result if result else 1


def digest(bytes args, bytes envs) -> int:
    """Return a keyed digest of arguments and environment before secrets are hidden; it is never 0.

    Args:
        args, envs: strings, each with a NUL at its end; None for absent strings, which differ from empty ones.
    """
    return pl_digest(
        <const char *>args if args is not None else NULL, 0 if args is None else <uint32_t>len(args),
        <const char *>envs if envs is not None else NULL, 0 if envs is None else <uint32_t>len(envs),
    )


def digests_of(const uint8_t[::1] execs, list strings, Literals literals, bint hides_envs) -> tuple:
    """Return the digest of each process of a survey, and the numbers of those that may have something to hide.

    Strings that a record does not contain count as absent: strings that are not captured, of which it has only the
    length, and strings that could not be read from ``/proc``. (If an event marks its strings as unreadable, they are
    unknown: it gets no digest and differs from every other.)

    Args:
        execs: EXEC records.
        strings: of each record: path, name, arguments and environment, as long as the record says.
        literals: arguments without one of these have nothing to hide; None: no arguments have.
        hides_envs: whether environments have something to hide.
    """
    cdef const pl_exec_any *body = <const pl_exec_any *>&execs[0] if execs.shape[0] else NULL
    cdef const char *args
    cdef const char *envs
    cdef Py_ssize_t i
    cdef bytes text
    cdef list digests = [], suspected = []
    if execs.shape[0] != len(strings) * <Py_ssize_t>sizeof(pl_exec_any):
        raise ValueError("the columns have different lengths")
    for i in range(len(strings)):
        text = strings[i]
        if (
            <uint64_t>body[i].path_bytes + body[i].name_bytes + body[i].args_bytes + body[i].envs_bytes
            > <uint64_t>len(text)
        ):
            raise ValueError("the strings are shorter than the record says")
        args = <const char *>text + body[i].path_bytes + body[i].name_bytes
        envs = args + body[i].args_bytes
        if (body[i].envs_bytes and hides_envs) or (
            literals is not None and literals.in_text(<const uint8_t *>args, body[i].args_bytes)
        ):
            suspected.append(i)
        if body[i].args_bytes == 0 and body[i].exec_flags & (PL_EXEC_ARGS_UNREADABLE | PL_EXEC_ARGS_TRUNCATED):
            args = NULL
        if body[i].envs_bytes == 0 and body[i].exec_flags & (PL_EXEC_ENVS_UNREADABLE | PL_EXEC_ENVS_TRUNCATED):
            envs = NULL
        digests.append(pl_digest(args, body[i].args_bytes, envs, body[i].envs_bytes))
    return digests, suspected


cdef class Sieve:
    """Passes on frames without secrets unchanged, and has the secrets in other frames hidden.

    Args:
        literals: an exec record without an environment and without one of these in its arguments has no secrets.
        hide: called with a frame and the result of `_suspects`; returns the frame to keep.
    """

    def __init__(self, Literals literals, hide):
        self.literals, self.hide = literals, hide

    cpdef Frame frame(self, Frame frame):
        """Return the frame to keep."""
        cdef list found
        if frame.execs.bytes == 0:
            return frame
        found = _suspects(frame, self.literals)
        return frame if found is None else self.hide(frame, found)


cdef list _suspects(Frame frame, Literals literals):
    """Find the exec records of `frame` with one of `literals` in their arguments, or with an environment.

    Without `literals`, only records with an environment are found.

    Returns:
        (number of the exec body, number of its record, offset of its strings in the blob); None: there is no such
        record.
    """
    cdef const pl_header_any *headers = <const pl_header_any *>frame.headers.at
    cdef const pl_exec_any *bodies = <const pl_exec_any *>frame.execs.at
    cdef const pl_exec_any *body
    cdef uint32_t i, number = 0
    cdef uint64_t at = 0
    cdef list found = None
    for i in range(frame.count):
        if headers[i].kind == PL_KIND_EXEC and not headers[i].flags & PL_FLAG_HEAD_ONLY:
            body = &bodies[number]
            if body.envs_bytes or (
                literals is not None
                and literals.in_text(frame.strings.at + at + body.path_bytes + body.name_bytes, body.args_bytes)
            ):
                if found is None:
                    found = []
                found.append((number, i, at))
            number += 1
        at += headers[i].var_bytes
    return found
