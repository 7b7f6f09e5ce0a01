"""How checksums are computed. Only tests change it."""

#: Bytes that this CPU folds with one instruction; 0: the checksum is computed by tables.
cdef int FOLDS
