"""How checksums are computed."""

#: Bytes that this CPU folds with one instruction; 0: the checksum is computed by tables. _blocks.pyx sets it once, from
#: the CPU; it is declared here so that tests can also set it to the ways of other CPUs.
cdef int FOLDS
