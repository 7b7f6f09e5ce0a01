"""Texts of a row as Python objects; see texts.h."""


cdef extern from "texts.h":
    object _decode "pl_text"(const char *data, Py_ssize_t n)
    object _next_text "pl_next_text"(const char **at, const char *end)
    tuple _decode_few "pl_texts"(const char *at, const char *end)
