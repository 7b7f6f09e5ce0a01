"""One file or link of many processes in ``/proc``, and the strings of a survey, without Python code for each process.

A survey reads two of them for every process of the host. The kernel needs some 15 us for that, and Python's own
functions would need as much again. What is unusual (a long area, a process that was read again) is left to the callers'
code. After a take-over, thousands of processes of the tables may have ended; `absent` finds them.
"""

from libc.errno cimport EINTR, ENOENT, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memrchr
from posix.fcntl cimport O_CLOEXEC, O_RDONLY
from posix.unistd cimport close, read

from pipeline.records._limits cimport COMM_MAX
from pipeline.records._records cimport (
    PL_EXEC_ARGS_TRUNCATED, PL_EXEC_ARGS_UNREADABLE, PL_EXEC_ENVS_TRUNCATED, PL_EXEC_ENVS_UNREADABLE, PL_EXEC_SCRIPT,
    pl_exec_any, pl_task_any,
)


cdef extern from "<fcntl.h>" nogil:
    int openat(int directory, const char *path, int flags)

cdef extern from "<unistd.h>" nogil:
    int F_OK
    int faccessat(int directory, const char *path, int mode, int flags)
    Py_ssize_t readlinkat(int directory, const char *path, char *buffer, size_t size)

cdef enum:
    NAME_MAX_BYTES = 64  # of a file below /proc/PID, with its directory
    AREA_BYTES = 4096  # a longer area takes several reads; the text of a link is not longer
    LIFE_PROCESSES = 256  # a heartbeat after this many processes that `absent` has looked up


cdef Py_ssize_t read_file(int proc, uint32_t tgid, const char *name, char *buffer, Py_ssize_t size) noexcept nogil:
    """Read the beginning of a file of a process; return its length, -1: unreadable, or no such process."""
    cdef char path[NAME_MAX_BYTES]
    cdef Py_ssize_t n
    cdef int fd
    snprintf(path, NAME_MAX_BYTES, b"%u/%s", tgid, name)
    while True:
        fd = openat(proc, path, O_RDONLY | O_CLOEXEC)
        if fd >= 0 or errno != EINTR:
            break
    if fd < 0:
        return -1
    while True:
        n = read(fd, buffer, size)
        if n >= 0 or errno != EINTR:
            break
    close(fd)
    return n


cdef Py_ssize_t read_link(int proc, uint32_t tgid, const char *name, char *buffer, size_t size) noexcept nogil:
    """Read a link of a process; return its length, -1: unreadable, or no such process."""
    cdef char path[NAME_MAX_BYTES]
    snprintf(path, NAME_MAX_BYTES, b"%u/%s", tgid, name)
    return readlinkat(proc, path, buffer, size)


cdef inline bint is_absent(int proc, uint32_t tgid) noexcept nogil:
    cdef char path[NAME_MAX_BYTES]
    snprintf(path, NAME_MAX_BYTES, b"%u", tgid)
    return faccessat(proc, path, F_OK, 0) != 0 and errno == ENOENT


def absent(int proc, const uint32_t[::1] tgids, show_life) -> bytearray:
    """Return 1 for each process without a directory in ``/proc``, else 0.

    A directory does not prove that the process lives: it may be a zombie, or another process may have the pid. After
    any other error than ENOENT, the process does not count as absent.

    Args:
        proc: descriptor of the mount of procfs.
        tgids: the processes.
        show_life: is called every LIFE_PROCESSES processes.
    """
    cdef Py_ssize_t i, end, begin = 0, count = tgids.shape[0]
    cdef bytearray results = bytearray(count)
    cdef uint8_t *found = <uint8_t *>results
    while begin < count:
        show_life()
        end = min(begin + LIFE_PROCESSES, count)
        with nogil:
            for i in range(begin, end):
                found[i] = is_absent(proc, tgids[i])
        begin = end
    return results


def read_images(int proc, const uint32_t[::1] tgids, list areas, tuple links, path_of, show_life) -> tuple:
    """Read files and links of processes: all of one process before the next, while the kernel has it in its caches.

    Args:
        proc: descriptor of the mount of procfs.
        tgids: the processes.
        areas: for each file with strings: its name, the maximum bytes to read, and two functions. The first returns the
            Area of a complete text. The second reads the file of a process (tgid) again, if one read or the maximum
            was not enough.
        links: names of links.
        path_of: returns what is stored of the text of a link.
        show_life: is called for each process.

    Returns:
        For each file, a list with an Area for each process; None: unreadable, or no such process. Behind these, a list
        with a tuple for each process: what `path_of` returned for each link; None: the link cannot be read.
    """
    cdef char buffer[AREA_BYTES]
    cdef const char *name
    cdef Py_ssize_t i, n, size
    cdef uint32_t tgid
    cdef bytes file, link
    cdef list found = [[] for _ in areas], paths = [], each
    for i in range(tgids.shape[0]):
        show_life()
        tgid = tgids[i]
        for (file, limit, area_of, read_long), each in zip(areas, found):
            name, size = file, min(<Py_ssize_t>AREA_BYTES, <Py_ssize_t>limit + 1)
            with nogil:
                n = read_file(proc, tgid, name, buffer, size)
            each.append(None if n < 0 else read_long(tgid) if n == size else area_of(buffer[:n]))
        each = []
        for link in links:
            name = link
            with nogil:
                n = read_link(proc, tgid, name, buffer, AREA_BYTES)
            each.append(None if n < 0 else path_of(buffer[:n]))
        paths.append(tuple(each))
    return found, paths


def scripts_of(
    list paths, const uint8_t[::1] tasks, list areas, const uint8_t[::1] is_same, script_of, show_life
) -> tuple:
    """Find the scripts of images, and the processes that have to be read again.

    Args:
        paths: of the executables.
        tasks: TASK records.
        areas: Areas of the arguments, or None.
        is_same: whether the image was the same before and after the arguments were read.
        script_of: returns the script (path, name of the task, arguments), or None.
        show_life: is called for each process.

    Returns:
        The script of each process, b"" if it is none; and the numbers of the processes to read again. Their image
        changed, or they have no path or no arguments.
    """
    cdef const pl_task_any *task = <const pl_task_any *>&tasks[0] if tasks.shape[0] else NULL
    cdef Py_ssize_t i, n
    cdef bytes path, text
    cdef list scripts = [], again = []
    if tasks.shape[0] != len(paths) * <Py_ssize_t>sizeof(pl_task_any) or is_same.shape[0] != len(paths):
        raise ValueError("the columns have different lengths")
    for i in range(len(paths)):
        show_life()
        path = paths[i]
        text = b"" if areas[i] is None else areas[i][0]
        if not is_same[i] or not path or not text:
            again.append(i)
            scripts.append(b"")
            continue
        n = comm_bytes(&task[i])
        # A guess from the name of the task: it is that of the executable in nearly all processes.
        if has_name(path, len(path), task[i].comm, n):
            scripts.append(b"")
        else:
            scripts.append(script_of(path, <bytes>task[i].comm[:n], text) or b"")
    return scripts, again


cdef inline Py_ssize_t comm_bytes(const pl_task_any *task) noexcept nogil:
    """Length of a name as numpy has it: up to the last byte that is not NUL."""
    cdef Py_ssize_t n = sizeof(task.comm)
    while n and task.comm[n - 1] == 0:
        n -= 1
    return n


cdef inline bint has_name(const char *path, Py_ssize_t path_bytes, const char *comm, Py_ssize_t n) noexcept nogil:
    """Whether the last part of a path, cut as the name of a task is, is that name."""
    cdef const char *slash = <const char *>memrchr(path, 47, path_bytes)
    cdef const char *last = path if slash == NULL else slash + 1
    return min(<Py_ssize_t>COMM_MAX, path + path_bytes - last) == n and memcmp(last, comm, n) == 0


def join_strings(uint8_t[::1] execs, list paths, list scripts, list names, list args, list envs) -> list:
    """Complete EXEC records by their strings.

    Args:
        execs: the records, changed in place. The full length of an area is replaced, unless the area was cut or could
            not be read.
        paths: path of each.
        scripts: script of each, b"" if it is none.
        names: what follows the script in the name of the record.
        args, envs: Areas, or None.

    Returns:
        The strings of each record.
    """
    cdef pl_exec_any *body = <pl_exec_any *>&execs[0] if execs.shape[0] else NULL
    cdef Py_ssize_t i, n = len(paths)
    cdef bytes path, script, directories, arg_text, env_text
    cdef list strings = []
    if execs.shape[0] != n * <Py_ssize_t>sizeof(pl_exec_any):
        raise ValueError("the columns have different lengths")
    for i in range(n):
        path, script, directories = paths[i], scripts[i], names[i]
        arg_text, env_text = text_of(args[i]), text_of(envs[i])
        body[i].path_bytes = <uint32_t>len(path)
        body[i].name_bytes = <uint32_t>(len(script) + len(directories))
        body[i].args_bytes, body[i].argc = <uint32_t>len(arg_text), count_of(arg_text)
        body[i].envs_bytes, body[i].envc = <uint32_t>len(env_text), count_of(env_text)
        body[i].args_full_bytes = full_bytes(args[i], <uint32_t>len(arg_text), body[i].args_full_bytes)
        body[i].envs_full_bytes = full_bytes(envs[i], <uint32_t>len(env_text), body[i].envs_full_bytes)
        body[i].exec_flags |= <uint16_t>(
            (PL_EXEC_SCRIPT if script else 0)
            | flag_of(args[i], PL_EXEC_ARGS_TRUNCATED, PL_EXEC_ARGS_UNREADABLE)
            | flag_of(envs[i], PL_EXEC_ENVS_TRUNCATED, PL_EXEC_ENVS_UNREADABLE)
        )
        strings.append(path + script + directories + arg_text + env_text)
    return strings


cdef inline bytes text_of(area):
    return b"" if area is None else area[0]


cdef inline int flag_of(area, int truncated, int unreadable):
    return unreadable if area is None else truncated if area[1] else 0


cdef inline uint32_t full_bytes(area, uint32_t length, uint32_t reported):
    """The length of a whole area. The kernel's number is that of cut and unreadable areas; others may be padded."""
    if area is None:
        return reported
    return max(length + 1, reported) if area[1] else length


cdef inline uint32_t count_of(bytes text):
    """How many strings a text has: a NUL ends each."""
    cdef const char *at = text
    cdef const char *end = at + len(text)
    cdef uint32_t count = 0
    while at < end:
        at = <const char *>memchr(at, 0, end - at)
        if at == NULL:
            break
        count += 1
        at += 1
    return count
