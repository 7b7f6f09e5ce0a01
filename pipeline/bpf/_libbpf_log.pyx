"""libbpf's messages as text: the C function that `libbpf_set_print` is called with.

A message arrives as a format and a `va_list`, which only C can read.
"""

from libc.stdint cimport uintptr_t

cdef extern from *:
    """
    #include <stdarg.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>

    typedef void (*pl_receiver)(const char *text, size_t length);
    static pl_receiver pl_receive;

    static void pl_set_receiver(pl_receiver receiver)
    {
        pl_receive = receiver;
    }

    /* The verifier's log is one argument, it can have megabytes, and its end matters: so measure first. */
    static int pl_print(int level, const char *format, va_list arguments)
    {
        va_list again;
        char *text;
        int length;

        if (level > 0) /* LIBBPF_INFO, LIBBPF_DEBUG */
            return 0;
        va_copy(again, arguments);
        length = vsnprintf(NULL, 0, format, again);
        va_end(again);
        if (length < 0 || !(text = malloc((size_t)length + 1)))
            return 0;
        vsnprintf(text, (size_t)length + 1, format, arguments);
        pl_receive(text, (size_t)length);
        free(text);
        return length;
    }

    static uintptr_t pl_print_address(void)
    {
        return (uintptr_t)&pl_print;
    }
    """
    ctypedef void (*pl_receiver)(const char *text, size_t length) noexcept with gil
    void pl_set_receiver(pl_receiver receiver)
    uintptr_t pl_print_address()

cdef object _receive = None


cdef void _pass_on(const char *text, size_t length) noexcept with gil:
    _receive(text[:length].decode(errors="replace"))


def print_function(receive) -> int:
    """Return the address of a function for `libbpf_set_print`.

    Args:
        receive: called with the text of each warning, in the thread that called libbpf. There is one for the process.
    """
    global _receive
    _receive = receive
    pl_set_receiver(_pass_on)
    return pl_print_address()
