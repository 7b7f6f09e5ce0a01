"""The contents of files after each store into their mappings, as a kill between two stores would leave them.

setup.py compiles this module in place, as the core, but no package contains it.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <ucontext.h>

    /* The mappings are read-only. An instruction that stores into one faults; the handler makes all of them writable,
     * lets this one instruction run with the trap flag, and makes them read-only again. A string instruction (rep movs)
     * faults at each of its iterations. tests/faults/stores.c does the same to kill a daemon.
     */
    #define FILES_MAX 16
    #define TRAP_FLAG 0x100

    static struct file {
        char *begin;
        size_t bytes;
        int fd;
    } files[FILES_MAX];
    static int file_count;
    static char *last, *next, *end; /* of the states that were noted: the sizes of all files, then their contents */
    static struct sigaction handlers_before[2];

    static void protect(int protection)
    {
        for (int i = 0; i < file_count; i++)
            mprotect(files[i].begin, files[i].bytes, protection);
    }

    /* Returns 0 if there is no room. */
    static int note_state(void)
    {
        size_t bytes = file_count * sizeof(uint64_t);
        uint64_t *sizes = (uint64_t *)next;
        if (bytes > (size_t)(end - next))
            return 0;
        for (int i = 0; i < file_count; i++) {
            struct stat status;
            fstat(files[i].fd, &status);
            sizes[i] = (uint64_t)status.st_size;
            if (sizes[i] > (size_t)(end - next) - bytes)
                return 0;
            memcpy(next + bytes, files[i].begin, sizes[i]);
            bytes += sizes[i];
        }
        if (last != NULL && bytes == (size_t)(next - last) && memcmp(last, next, bytes) == 0)
            return 1;
        last = next;
        next += bytes;
        return 1;
    }

    static void let_one_instruction_store(int is_over, void *context)
    {
        int saved = errno;
        note_state();
        protect(is_over ? PROT_READ : PROT_READ | PROT_WRITE);
    #ifdef __x86_64__
        greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
        *flags = is_over ? *flags & ~TRAP_FLAG : *flags | TRAP_FLAG;
    #endif
        errno = saved;
    }

    static void on_fault(int number, siginfo_t *info, void *context)
    {
        for (int i = 0; i < file_count; i++) {
            if ((size_t)((char *)info->si_addr - files[i].begin) < files[i].bytes) {
                let_one_instruction_store(0, context);
                return;
            }
        }
        signal(number, SIG_DFL); /* another fault, which happens again */
    }

    static void on_trap(int number, siginfo_t *info, void *context)
    {
        let_one_instruction_store(1, context);
    }

    static void begin_to_note(char *room, size_t bytes)
    {
        struct sigaction action = {.sa_flags = SA_SIGINFO};
        last = NULL;
        next = room;
        end = room + bytes;
        note_state();
        action.sa_sigaction = on_fault;
        sigaction(SIGSEGV, &action, &handlers_before[0]);
        action.sa_sigaction = on_trap;
        sigaction(SIGTRAP, &action, &handlers_before[1]);
        protect(PROT_READ);
    }

    /* Returns how many bytes of states there are, 0 if there was no room for one. */
    static size_t end_notes(char *room)
    {
        protect(PROT_READ | PROT_WRITE);
        sigaction(SIGSEGV, &handlers_before[0], NULL);
        sigaction(SIGTRAP, &handlers_before[1], NULL);
        return note_state() ? (size_t)(next - room) : 0;
    }

    #ifdef __x86_64__
    #define IS_SUPPORTED 1
    #else
    #define IS_SUPPORTED 0
    #endif
    """
    const int FILES_MAX
    const int IS_SUPPORTED
    ctypedef struct file "struct file":
        char *begin
        size_t bytes
        int fd
    file files[16]
    int file_count
    void begin_to_note(char *room, size_t bytes) noexcept
    size_t end_notes(char *room) noexcept

#: Whether this machine has a flag that lets one instruction run.
SUPPORTED = bool(IS_SUPPORTED)


def states_of(operation, mappings, size_t room_bytes):
    """Do an operation; return each content of the files on the way, with first and last: a list of bytes for each file.

    Args:
        mappings: (address, bytes, descriptor) of each file's only mapping. It may be longer than the file.
        room_bytes: for all states. Too little is a MemoryError.
    """
    global file_count
    cdef char *begin
    cdef size_t bytes_noted
    cdef int number
    if len(mappings) > FILES_MAX:
        raise ValueError("too many files")
    file_count = len(mappings)
    for number, (address, length, fd) in enumerate(mappings):
        files[number].begin = <char *><size_t>address
        files[number].bytes, files[number].fd = length, fd
    begin = <char *>malloc(room_bytes)
    if begin == NULL:
        raise MemoryError
    try:
        begin_to_note(begin, room_bytes)
        try:
            operation()
        finally:
            bytes_noted = end_notes(begin)
        if bytes_noted == 0:
            raise MemoryError("more states than room for them")
        return _split(begin, bytes_noted)
    finally:
        free(begin)


cdef list _split(char *begin, size_t bytes_noted):
    cdef size_t position = 0
    cdef uint64_t size
    cdef int number
    cdef char *sizes
    states = []
    while position < bytes_noted:
        state = []
        sizes = begin + position
        position += file_count * sizeof(uint64_t)
        for number in range(file_count):
            memcpy(&size, sizes + number * sizeof(uint64_t), sizeof(size))
            state.append(begin[position:position + size])
            position += size
        states.append(state)
    return states
