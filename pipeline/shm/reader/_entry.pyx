"""A reader's view of one image of one process.

An Entry holds a private copy of the row's hot part, made in one read section. The cold part, paths, arguments and other
strings are read on first use, again in one section. If the row has changed in between (a new uid, an exit), the whole
entry is updated to the time of that read, so its fields always belong together. If the row is no longer retained,
TooOldError is raised. `load()` reads everything at once; a loaded entry does not need the table any more. _reader.pyx
decides which rows to read; export/json.py produces JSON. An entry finds other processes through the table that its
view belongs to. A pickled entry has a view without segments (`detached_view`), and finds none.

Units and names are those of `procline resolve --json`. Times are ns since the Unix epoch (boot-clock time plus one
offset). Pids are of the daemon's pid namespace. Text that is not UTF-8 has surrogate escapes. None means unknown.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

cimport cython


from pipeline.durations import duration
from pipeline.errors import (
    BusyError, ClosedError, DetachedError, LayoutError, ProclineError, StaleError, TooOldError,
)
from pipeline.software._container_paths cimport pl_container_trust, pl_is_roots_container, pl_trust_word
from pipeline.records._limits cimport CHAIN_MAX as _CHAIN_MAX, ID_UNSET, WAIT_CORE, WAIT_SIGNAL
from pipeline.records._records cimport PL_EXEC_DELETED, PL_EXEC_MEMFD, PL_EXEC_UPPER_LAYER
from pipeline.shm.names._path_parts cimport pl_base_at, pl_extension_at
from pipeline.shm.names._filesystems cimport pl_filesystem
from pipeline.shm.layout._hash cimport pl_row_check
from pipeline.shm.layout._layout cimport *
from pipeline.shm.names._mounts cimport pl_mount_origin, pl_mount_path, pl_mount_source
from pipeline.shm.reader._texts cimport _decode, _decode_few, _next_text
from pipeline.shm.reader._view cimport (
    PL_READ_ABSENT, PL_READ_FOUND, View, detached_view, pl_arena_span, pl_copy_bytes, pl_follow_once, pl_number_of,
    pl_read_valid, pl_rest, pl_same_bytes, pl_strings,
)

cdef extern from "string.h" nogil:
    size_t strnlen(const char *text, size_t limit)


cdef extern from *:
    """
    /* Make a new list of a tuple's items; for a few items it costs about half of PySequence_List. */
    static PyObject *pl_list_of(PyObject *texts)
    {
        Py_ssize_t count = PyTuple_GET_SIZE(texts);
        PyObject *list = PyList_New(count);

        for (Py_ssize_t i = 0; list != NULL && i < count; i++)
            PyList_SET_ITEM(list, i, Py_NewRef(PyTuple_GET_ITEM(texts, i)));
        return list;
    }

    /* Entry's properties by their interned names. A comparison of pointers replaces the type's look-up, which costs
     * more than most properties. Every property here is the one that the type has under that name, and the type cannot
     * be changed, so the result is the same as that of the type's look-up. At most a quarter of the slots is used. */
    #define PL_PROPERTIES 1024
    static struct {
        PyObject *name;
        PyGetSetDef *property;
    } pl_properties[PL_PROPERTIES];

    static inline size_t pl_property_place(PyObject *name)
    {
        size_t place = ((uintptr_t)name >> 4 ^ (uintptr_t)name >> 13) % PL_PROPERTIES;

        while (pl_properties[place].name != name && pl_properties[place].name != NULL)
            place = (place + 1) % PL_PROPERTIES;
        return place;
    }

    static void pl_property_add(PyObject *descriptor)
    {
        PyObject *name = PyDescr_NAME(descriptor);
        size_t place = pl_property_place(name);

        pl_properties[place].name = Py_NewRef(name); /* never freed: another string must not get its address */
        pl_properties[place].property = ((PyGetSetDescrObject *)descriptor)->d_getset;
    }

    static inline PyGetSetDef *pl_property(PyObject *name)
    {
        return pl_properties[pl_property_place(name)].property;
    }

    static PyObject *pl_attribute(PyObject *self, PyObject *name)
    {
        PyGetSetDef *property = pl_property(name);

        return property != NULL ? property->get(self, property->closure) : PyObject_GenericGetAttr(self, name);
    }

    /* Entry's tp_getattro. It ends in a jump to the property, while Cython's own keeps its arguments for `__getattr__`,
     * which the type's other attributes need. */
    static getattrofunc pl_other_attribute;

    static PyObject *pl_entry_attribute(PyObject *self, PyObject *name)
    {
        PyGetSetDef *property = pl_property(name);

        return property != NULL ? property->get(self, property->closure) : pl_other_attribute(self, name);
    }

    static void pl_use_properties(PyObject *type)
    {
        pl_other_attribute = ((PyTypeObject *)type)->tp_getattro;
        ((PyTypeObject *)type)->tp_getattro = pl_entry_attribute;
        PyType_Modified((PyTypeObject *)type);
    }

    /* Not inlined, so that a comm that was decoded before is returned without saving the registers that this needs. */
    static PyObject *__attribute__((noinline)) pl_comm(const struct pl_hot *hot)
    {
        return pl_text(hot->comm, strnlen(hot->comm, sizeof(hot->comm)));
    }
    """
    list _list_of "pl_list_of"(tuple texts)
    object _attribute "pl_attribute"(object self, object name)
    void _add_property "pl_property_add"(object descriptor)
    void _use_properties "pl_use_properties"(object type)
    object _decode_comm "pl_comm"(const pl_hot *hot)

# Recently read strings of the arenas, shared by all entries of this process. Reading the same processes again, or many
# processes of one program, creates no new objects. A cached string is found by its address and is used only if the same
# bytes are still there, so later writes, or equal references of two tables, do no harm.
cdef enum:
    KEPT = 2048
    KEPT_MAX_BYTES = 512

cdef struct kept_string:
    PyObject *data  # bytes, owned; NULL while the slot is empty
    PyObject *value  # the decoded value: str, or tuple of str; owned, NULL until first used

cdef kept_string[KEPT] _kept


cdef enum:
    TEXT  # a str
    TEXTS  # a tuple of str, after a u32
    NAME  # a str that ends at a NUL
    PATH  # a str, after a FILE record
    CGROUP  # a str, after a CGROUP record


cdef object _value(bytes data, uint32_t ref, bint in_names, int form):
    """Return the decoded value of `data`, the string of reference `ref`."""
    cdef kept_string *kept = _kept_at(ref, in_names)
    cdef const char *at = PyBytes_AS_STRING(data)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
    cdef bint is_kept = kept.data == <PyObject *>data
    cdef object value
    if is_kept and kept.value != NULL:
        return <object>kept.value
    if form == TEXTS:
        value = _decode_few(at + 4, at + n)
    elif form == NAME:
        value = _decode(at, <Py_ssize_t>strnlen(at, n))
    elif form == PATH:
        value = _decode(at + sizeof(pl_file), n - <Py_ssize_t>sizeof(pl_file))
    elif form == CGROUP:
        value = _decode(at + sizeof(pl_cgroup), n - <Py_ssize_t>sizeof(pl_cgroup))
    else:
        value = _decode(at, n)
    if is_kept:
        Py_INCREF(value)
        kept.value = <PyObject *>value
    return value


cdef inline kept_string *_kept_at(uint32_t ref, bint in_names) noexcept:
    return &_kept[(ref + (0 if in_names else KEPT // 2)) % KEPT]


# Decoded values of recently read rows, shared by all entries of this process. A row's sequence word differs after every
# change, so an entry with the same word has the same fields, including strings. These need not be read or compared
# again, even after the row has changed (docs/row-protocol.md). The cache of strings above serves everything else.
cdef enum:
    KEPT_ROWS = 2048

cdef struct kept_row:
    uint64_t view  # View.serial; 0 while the slot is empty
    uint32_t row, generation, row_seq
    PyObject *comm  # str, owned like all of these; NULL until first used
    PyObject *path  # str
    PyObject *argv  # tuple of str
    PyObject *start  # int ...
    int64_t start_unix_ns  # ... of this value: the Unix time of boot-clock zero is not part of the row

cdef kept_row[KEPT_ROWS] _kept_rows


cdef inline kept_row *_kept_row(Entry entry) noexcept:
    """Return the cached values of the entry's row in the entry's state; NULL if there are none."""
    cdef kept_row *kept = &_kept_rows[entry.row_number % KEPT_ROWS]
    if (
        kept.row_seq == entry.hot.row_seq and kept.row == entry.row_number
        and kept.generation == entry.hot.generation and kept.view == entry.view.serial
    ):
        return kept
    return NULL


cdef kept_row *_keep_row(Entry entry) noexcept:
    """Return the same, created if needed. Its values must be of the entry's current state."""
    cdef kept_row *kept = _kept_row(entry)
    if kept != NULL:
        return kept
    kept = &_kept_rows[entry.row_number % KEPT_ROWS]
    Py_XDECREF(kept.comm)
    Py_XDECREF(kept.path)
    Py_XDECREF(kept.argv)
    Py_XDECREF(kept.start)
    kept.comm = kept.path = kept.argv = kept.start = NULL
    kept.view, kept.row = entry.view.serial, entry.row_number
    kept.generation, kept.row_seq = entry.hot.generation, entry.hot.row_seq
    return kept


cdef inline PyObject *_owned(object value) noexcept:
    Py_INCREF(value)
    return <PyObject *>value

cdef uint32_t _UNSET = ID_UNSET

# generated: entry-values
#: Keys of `Entry.to_dict()`, in this order; each is an attribute of Entry, but `images` (`image_number`).
FIELDS = (
    "pid", "tid", "ppid", "start_time_ns", "fork_time_ns", "exec_time_ns", "exit_time_ns", "created_at_ns",
    "exit_code", "exit_cause", "exit_cause_code", "comm", "path", "script_path", "name", "cwd", "symlink_paths",
    "symlink_basename", "argv", "argc", "args_truncated", "envs", "envc", "envs_truncated", "uid", "gid", "euid",
    "egid", "suid", "sgid", "fsuid", "fsgid", "user", "group", "euser", "egroup", "fsuser", "fsgroup", "auid",
    "audit_session", "cap_effective", "cap_permitted", "caps_attempted", "caps_used", "no_new_privs",
    "seccomp_mode", "tty", "sid", "pgid", "inode", "file", "interpreter", "file_package", "file_sha256",
    "exec_inode", "ns_pid", "pid_ns", "mnt_ns", "net_ns", "user_ns", "cgroup", "cgroup_id", "cgroup_version",
    "cgroup_source", "cgroup_created_at_ns", "container_id", "container_trust", "container_created_at_ns",
    "container_details", "entity_id", "cpid", "parent_entity_id", "creator_pid", "creator_entity_id", "fork_flags",
    "cookie", "user_session", "ssh_session", "source", "images", "is_thread", "is_exec", "is_exec_exec",
    "is_parent_missing", "is_adopted", "is_kworker", "is_through_symlink", "is_head", "is_exited", "marks", "flags",
    "row", "generation", "extra", "cpu_user_ns", "cpu_system_ns", "children_cpu_ns", "max_rss_bytes",
    "minor_faults", "major_faults", "voluntary_switches", "involuntary_switches", "read_bytes", "write_bytes",
)
_SOURCE = ("unknown", "placeholder", "event", "map", "procfs_fallback", "procfs_snapshot")
_SECCOMP_MODE = ("disabled", "strict", "filter", "filter")
_CGROUP_SOURCE = (None, "event", "procfs", "inherited")
_EXIT_CAUSES = ("exited", "signaled", "coredumped")
_MARKS = (
    ("adopted", PL_ROW_ADOPTED),
    ("adoption_predicted", PL_ROW_ADOPTION_PREDICTED),
    ("exit_unseen", PL_ROW_EXIT_UNSEEN),
    ("before_capture", PL_ROW_BEFORE_CAPTURE),
    ("gap", PL_ROW_GAP),
    ("ns_init", PL_ROW_NS_INIT),
    ("start_ticks", PL_ROW_START_TICKS),
    ("head_only", PL_ROW_HEAD_ONLY),
    ("elided", PL_ROW_ELIDED),
    ("foreign", PL_ROW_FOREIGN),
    ("change_sampled", PL_ROW_CHANGE_SAMPLED),
)
# end of the generated part

cdef frozenset _FIELD_SET = frozenset(FIELDS)
cdef frozenset _ATTRIBUTES = None  # names that `as_dict` takes: fields and properties


cdef inline const pl_file *_facts(bytes record) noexcept:
    return <const pl_file *>PyBytes_AS_STRING(record)


cdef object _name(const char *text):
    return None if text == NULL else (<bytes>text).decode()


cdef object _entity_id(View view, uint32_t tgid, uint64_t start_boot_ns):
    """Like pipeline.host.boot.entity_id, which a reader does not import."""
    return f"{view.boot_id.hex()}-{tgid:x}-{start_boot_ns:x}" if start_boot_ns else None


cdef object _foreign_id(View view, const pl_cold *cold, uint64_t start_boot_ns):
    """Return the entity id of a process that is known by its number in a pid namespace."""
    if not start_boot_ns:
        return None
    return f"{view.boot_id.hex()}-{cold.pid_ns:x}.{cold.ns_pid:x}-{start_boot_ns:x}"


cdef object raise_busy(View view, object what):
    """Raise the error for a row that stayed busy; it says whether waiting for its writer makes sense."""
    view.check_whole()
    if not view.writer_is_fresh():
        raise StaleError(
            f"{what} was left half-written: the writer of instance {view.instance!r} is gone; "
            f"try again when it has been restarted"
        )
    raise BusyError(f"{what} is being written for longer than a reader waits; try again")


cdef object _symlink_names(Entry entry):
    from pipeline.shm.names.symlinks import symlink_names
    argv = entry.argv
    if not argv:
        return None
    return symlink_names(entry.path_in_root or "", argv[0], bool(entry.hot.flags & PL_ROW_THROUGH_SYMLINK))


cdef object _name_of(Entry entry, str kind, uint32_t number, uint32_t needs=PL_KNOWN_CREDS):
    """Return the name of an id, from the files that the resolver wrote (pipeline.shm.names.usernames)."""
    from pipeline.shm.names.usernames import names_of
    cdef pl_cold *cold = entry._cold()
    if not entry.hot.known & needs:
        return None
    if entry.view.facts is not None:
        return entry.view.facts["names"].get((kind, number))
    if not entry.hot.known & PL_KNOWN_NS:
        if entry.hot.tgid == 1 and not entry.hot.flags & PL_ROW_FOREIGN:
            # Some kernels hide the namespaces of pid 1. The host's names are those of its namespaces.
            return names_of(entry.view.directory).host_name(kind, number)
        return None
    has_host_ids = not cold.user_ns and not entry.hot.flags & PL_ROW_FOREIGN
    return names_of(entry.view.directory).name(
        kind, number, entry.container_id, cold.mnt_ns, cold.user_ns, has_host_ids
    )


cdef object _plain(object value):
    """Return a value of `extra` with its byte strings decoded; those that are not UTF-8 have surrogate escapes."""
    if isinstance(value, bytes):
        return _decode(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


cdef tuple _file_names(const char *text, uint32_t n, bint is_memfd):
    """Return path, basename and extension of a file."""
    cdef uint32_t at
    if n == 0:
        return None, None, None
    if is_memfd:
        # A file in memory has a name but no path (specification 1.4).
        at = 1 if text[0] == b"/" else 0
        basename = _decode(text + at, n - at)
        if not basename.startswith("memfd:"):
            basename = "memfd:" + basename
        return "", basename, basename[basename.rfind("."):] if "." in basename else ""
    path, at = _decode(text, n), pl_base_at(text, n)
    basename = _decode(text + at, n - at)
    at += pl_extension_at(text + at, n - at)
    return path, basename, _decode(text + at, n - at)


cdef object _owner_of(Entry entry, const pl_file *file, str kind, uint32_t number):
    """Return the name of a file's user or group; None if the file could not be read, because 0 is not root then."""
    return _name_of(entry, kind, number, PL_KNOWN_FILE) if file.file_inode else None


cdef object _is_fileless(const pl_file *file, bint is_memfd):
    return is_memfd if is_memfd or file.mount_id else None


cdef object _mount_path(const pl_file *file, const char *text, uint32_t n):
    cdef uint32_t mount_n = 0
    cdef const char *mount = pl_mount_path(file, text, n, &mount_n)
    return None if mount == NULL else _decode(mount, mount_n)


cdef object _file_of(Entry entry, bytes data):
    """Return the facts of `data`, a FILE record with its path."""
    cdef const pl_file *file = _facts(data)
    cdef const char *text = PyBytes_AS_STRING(data) + sizeof(pl_file)
    cdef uint32_t n = <uint32_t>(PyBytes_GET_SIZE(data) - <Py_ssize_t>sizeof(pl_file))
    cdef bint is_memfd = (file.file_flags & PL_EXEC_MEMFD) != 0
    path, basename, extension = _file_names(text, n, is_memfd)
    is_fileless = _is_fileless(file, is_memfd)
    mount_path = _mount_path(file, text, n)
    # generated: file-dict
    return {
        "path": path,
        "basename": basename,
        "extension": extension,
        "inode": file.file_inode,
        "device": file.device,
        "mount_id": file.mount_id,
        "mode": file.mode,
        "uid": file.file_uid,
        "gid": file.file_gid,
        "user": _owner_of(entry, file, "user", file.file_uid),
        "group": _owner_of(entry, file, "group", file.file_gid),
        "nlink": file.nlink,
        "mtime_ns": file.mtime_ns or None,
        "ctime_ns": file.ctime_ns or None,
        "fs_magic": file.fs_magic,
        "filesystem": _name(pl_filesystem(file.fs_magic)),
        "flags": file.file_flags,
        "in_upper_layer": bool(file.file_flags & PL_EXEC_UPPER_LAYER),
        "is_fileless": is_fileless,
        "mount_path": mount_path,
        "mount_source": _name(pl_mount_source(file)),
        "mount_origin": _name(pl_mount_origin(file)),
        "mount_visible": bool(file.mount_flags & PL_MOUNT_VISIBLE) if file.mount_flags & PL_MOUNT_RESOLVED else None,
        "mount_detached": bool(file.mount_flags & PL_MOUNT_DETACHED) if file.mount_flags & PL_MOUNT_RESOLVED else None,
    }
    # end of the generated part


cdef int _check_names(str argument, object names, frozenset known) except -1:
    """Raise an error unless an argument is a list of known names."""
    if isinstance(names, (str, bytes)):
        raise TypeError(f"{argument} is a list of names: write [{names!r}]")
    try:
        iter(names)
    except TypeError:
        raise TypeError(f"{argument} must be a list of names, not {type(names).__name__}") from None
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument} has {name!r}, which is not a name")
        if name not in known:
            from pipeline.shm.layout.near_names import suggestion

            raise ValueError(f"entries have no field {name!r}{suggestion(name, known)}")
    return 0


cdef object _timedelta = None
cdef object _epoch = None


cdef int _import_datetime() except -1:
    """Import what few readers need, and keep it: a property must not look it up each time."""
    global _timedelta, _epoch
    if _epoch is None:
        from datetime import UTC, datetime, timedelta
        _timedelta, _epoch = timedelta, datetime(1970, 1, 1, tzinfo=UTC)
    return 0


cdef object _period(object ns):
    """Return a number of ns as a timedelta, rounded down to microseconds."""
    _import_datetime()
    return None if ns is None else _timedelta(0, 0, ns // 1000)


cdef object _moment(object unix_ns):
    """Return a Unix time in ns as a datetime in UTC, rounded down to microseconds."""
    _import_datetime()
    return None if unix_ns is None else _epoch + _timedelta(0, 0, unix_ns // 1000)


cdef str _shown(object name):
    """Return a name as part of a sentence: as it is if it is one plain word, otherwise quoted, with escapes."""
    if name is None:
        return "?"
    for letter in name:
        if not (letter.isalnum() or letter in "-_.:/+@"):
            return repr(name)
    return name if name else "''"


cdef bint is_same_process(View view, const pl_hot *one, const pl_hot *other) noexcept nogil:
    """Return whether two rows are images of one process.

    A start that is only known to a tick of /proc may have become exact between the reads of the two rows. The opposite
    is possible too: in a new epoch, the start of a process that runs on comes from /proc.
    """
    cdef const pl_hot *early = one if one.start_boot_ns < other.start_boot_ns else other
    cdef const pl_hot *late = other if early == one else one
    cdef uint64_t apart = late.start_boot_ns - early.start_boot_ns
    if one.tgid != other.tgid:
        return False
    if apart == 0:
        return True
    # A tick begins before the exact time.
    if not early.flags & PL_ROW_START_TICKS:
        return False
    return apart < 1_000_000_000 // <uint64_t>max(1, view.view.control.user_hz)


def _restore(dict state):
    """Return the entry that `Entry.__reduce__` described. It stands alone: it has no table."""
    cdef Entry entry
    cdef bytes hot, rest, string
    cdef int kind
    cdef tuple strings
    cdef dict facts
    if state.get("layout") != PL_LAYOUT_VERSION:
        raise LayoutError(
            f"this entry was pickled by a version of Procline with table layout {state.get('layout')}, and this one has"
            f" layout {PL_LAYOUT_VERSION}: pickle entry.to_dict() to keep it for longer",
            expected=PL_LAYOUT_VERSION, found=state.get("layout"),
        )
    facts = state["facts"]
    hot, rest, strings = state["hot"], state["rest"], state["strings"]
    if facts is None or len(hot) != sizeof(pl_hot) or len(rest) != sizeof(pl_rest) or len(strings) != ENTRY_STRINGS:
        raise ValueError("this is not the state of an entry")
    entry = make_entry(
        detached_view(
            state["boot_id"], state["epoch"], state["control"], state["boot_unix_ns"], state["has_args"],
            state["has_envs"], facts,
        ),
        state["row"],
    )
    entry.rest = <pl_rest *>malloc(sizeof(pl_rest))
    if entry.rest == NULL:
        raise MemoryError
    memcpy(&entry.hot, PyBytes_AS_STRING(hot), sizeof(pl_hot))
    memcpy(entry.rest, PyBytes_AS_STRING(rest), sizeof(pl_rest))
    entry.parent_number, entry.creator_number, entry.elided = state["numbers"]
    for kind in range(ENTRY_STRINGS):
        string = strings[kind]
        if string is not None:
            Py_INCREF(string)
            entry.strings[kind] = <PyObject *>string
            entry.has_strings = True
    entry.is_loaded = True
    return entry


cdef Entry make_entry(View view, uint32_t row):
    """Return an entry; the caller fills in `hot` before or after."""
    cdef Entry entry = Entry.__new__(Entry)
    entry.view = view
    entry.row_number = row
    return entry


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Entry:
    """One image of one process, created by a fork or an exec. ProcessTable creates it.

    Any attribute that must be read from the table may raise TooOldError (the row is not retained any more), StaleError
    or BusyError. Attributes of a loaded entry never raise them.

    Times have two forms. A name that ends with ``_ns`` is an int: ns since the Unix epoch (``start_time_ns``), or a
    number of ns (``duration_ns``). The same name without ``_ns`` is a datetime in UTC (``start_time``), or a timedelta
    (``duration``), both rounded down to microseconds. None means unknown, or not yet. (``pid_ns`` and the like are
    numbers of namespaces.)

    `parent`, `creator`, `images`, `ancestors`, `children`, `descendants` and `is_running` look for other images and
    processes, in the table that the entry comes from. They raise ClosedError if that table was closed. A pickled entry
    keeps all its fields, but has no table: there they raise DetachedError. ``table.newest(entry)`` finds its process
    again. Entries that were copied keep their table.

    Two entries are equal if they are the same image of the same process, read from the same instance.

    Example:
        >>> entry
        <Entry 8675 date, exited 0 after 779 µs, of sh(8674) of sshd(901)>
        >>> entry.parent.argv
        ['sh', '-c', 'date +%s']
        >>> print(entry.start_time, entry.duration)
        2023-11-14 22:14:52.022001+00:00 0:00:00.000779
    """

    def __init__(self):
        if self.view is None:
            raise TypeError("entries come from a ProcessTable")

    def __dealloc__(self):
        if self.has_strings:
            self._forget()
        if self.rest != NULL:
            free(self.rest)

    def __getattribute__(self, name):
        return _attribute(self, name)

    def __getattr__(self, name):
        """Raise the error for an attribute that does not exist, with a suggestion."""
        hint = ""
        if not name.startswith("_"):
            from pipeline.shm.layout.near_names import ENTRY, suggestion

            hint = suggestion(name, [each for each in dir(type(self)) if not each.startswith("_")], of=ENTRY)
        raise AttributeError(f"an Entry has no attribute {name!r}{hint}")

    def __repr__(self):
        """Describe the entry in one bounded line. Reads what it can, and never raises."""
        cdef object number = self.hot.tgid
        ending = origin = None
        try:
            ending = self._ending()
            number = self.pid
            origin = self._origin()
        except ProclineError:
            pass
        parts = [f"{number} {_shown(self.comm)}", ending, origin]
        return f"<Entry {', '.join([part for part in parts if part])}>"

    cdef str _ending(self):
        """Say since when it runs, or how and after what time it ended."""
        cdef uint64_t begin = self.hot.start_boot_ns
        if self.hot.exit_boot_ns == 0:
            age = self.age_ns
            return "running" if age is None else f"started {duration(age)} ago"
        if self.hot.flags & PL_ROW_REPLACED:
            begin, text = max(begin, self.hot.exec_boot_ns), "replaced by an exec"
        else:
            status = self.exit_cause_code
            if status is None:
                text = "ended"
            elif self.exit_signal is None:
                text = f"exited {status}"
            else:
                from pipeline.shm.names.signals import signal_name  # deferred: few readers need it

                text = f"killed by {signal_name(status)}"
        if begin == 0 or self.hot.exit_boot_ns < begin:
            return text
        most = "at most " if self.hot.flags & PL_ROW_EXIT_UNSEEN else ""
        return f"{text} after {most}{duration(self.hot.exit_boot_ns - begin)}"

    cdef str _origin(self):
        """Name the parent and its parent."""
        cdef pl_hot hot
        cdef uint64_t link = self.hot.parent
        cdef uint32_t number
        cdef list names = []
        while link != 0 and len(names) < 2 and pl_follow_once(&self.view.view, link, &hot) == PL_READ_FOUND:
            name = _decode(hot.comm, strnlen(hot.comm, sizeof(hot.comm))) if hot.known & PL_KNOWN_COMM else None
            number = pl_number_of(&self.view.view, hot.tgid) if hot.flags & PL_ROW_FOREIGN else hot.tgid
            names.append(f"of {_shown(name)}({number})")
            link = hot.parent
        self.view.check_whole()
        if not names and self.ppid:
            names.append(f"of {self.ppid}")
        return " ".join(names)

    def __eq__(self, other):
        """Return whether both are the same image of the same process, regardless of the time of reading.

        Row and generation number an image within an epoch of an instance, which has a control file of its own.
        """
        cdef Entry that
        if not isinstance(other, Entry):
            return NotImplemented
        that = <Entry>other
        return (self.row_number == that.row_number and self.hot.generation == that.hot.generation
                and self.view.epoch == that.view.epoch and self.view.control_inode == that.view.control_inode
                and self.view.control_device == that.view.control_device and self.view.boot_id == that.view.boot_id)

    def __hash__(self):
        return hash((self.row_number, self.hot.generation, self.view.epoch))

    cdef void _forget(self) noexcept:
        """Drop the strings, because they are older than the row's new contents."""
        cdef PyObject *string
        cdef int kind
        for kind in range(ENTRY_STRINGS):
            string = self.strings[kind]
            self.strings[kind] = NULL
            Py_XDECREF(string)
        self.is_loaded = self.has_strings = False

    # -- copies ------------------------------------------------------------------------------------------------------

    def __copy__(self):
        """Return another entry of the same image and moment, with the same table."""
        cdef Entry entry = make_entry(self.view, self.row_number)
        cdef PyObject *string
        cdef int kind
        entry.hot = self.hot
        entry.parent_number, entry.creator_number = self.parent_number, self.creator_number
        entry.elided = self.elided
        if self.rest != NULL:
            entry.rest = <pl_rest *>malloc(sizeof(pl_rest))
            if entry.rest == NULL:
                raise MemoryError
            entry.rest[0] = self.rest[0]
        for kind in range(ENTRY_STRINGS):
            string = self.strings[kind]
            if string != NULL:
                Py_INCREF(<object>string)
                entry.strings[kind] = string
        entry.has_strings, entry.is_loaded = self.has_strings, self.is_loaded
        return entry

    def __deepcopy__(self, memo):
        """Return the same as a copy: an entry refers to nothing that can be changed."""
        return self.__copy__()

    def __reduce__(self):
        """Load the entry, and describe it for pickle.

        What a property reads from other rows or files is computed now.
        """
        cdef View view = self.view
        cdef PyObject *string
        cdef int kind
        self.load()
        strings = []
        for kind in range(ENTRY_STRINGS):
            string = self.strings[kind]
            strings.append(None if string == NULL else <object>string)
        return _restore, ({
            "layout": PL_LAYOUT_VERSION, "hot": PyBytes_FromStringAndSize(<char *>&self.hot, sizeof(pl_hot)),
            "rest": PyBytes_FromStringAndSize(<char *>self.rest, sizeof(pl_rest)), "strings": tuple(strings),
            "row": self.row_number, "numbers": (self.parent_number, self.creator_number, self.elided),
            "boot_id": view.boot_id, "epoch": view.epoch, "control": (view.control_device, view.control_inode),
            "boot_unix_ns": view.view.control.boot_unix_ns,
            "has_args": view.view.args.bytes != NULL, "has_envs": view.view.envs.bytes != NULL,
            "facts": self._facts_outside(),
        },)

    cdef dict _facts_outside(self):
        """Return what properties read from other places than the row and its strings."""
        cdef dict names = {}
        cdef bytes data
        if self.view.facts is not None:
            return self.view.facts
        ids = [
            (kind, number, PL_KNOWN_CREDS)
            for kind, numbers in (
                ("user", (self.hot.uid, self.rest.cold.euid, self.rest.cold.fsuid)),
                ("group", (self.hot.gid, self.rest.cold.egid, self.rest.cold.fsgid)),
            )
            for number in numbers
        ]
        data = self._file()
        if data is not None:
            ids.append(("user", _facts(data).file_uid, PL_KNOWN_FILE))
            ids.append(("group", _facts(data).file_gid, PL_KNOWN_FILE))
        for kind, number, needs in ids:
            name = _name_of(self, kind, number, needs)
            if name is not None:
                names[kind, number] = name
        return {
            "names": names, "ssh_session": self.ssh_session, "container_details": self.container_details,
            "file_package": self.file_package, "file_sha256": self.file_sha256,
            "parent_entity_id": self.parent_entity_id, "creator_entity_id": self.creator_entity_id,
        }

    # -- relatives ---------------------------------------------------------------------------------------------------

    cdef int check_attached(self) except -1:
        """Raise an error if this entry has no table in which it could find others."""
        if self.view.facts is not None:
            raise DetachedError(
                f"this entry of pid {self.pid} was pickled, so it has no table: find its process with"
                f" table.newest(entry), and continue from there"
            )
        table = self.view.table()
        if table is not None and table.closed:
            raise ClosedError(
                f"the ProcessTable of this entry of pid {self.pid} is closed: read what you need before, or keep it"
                f" open"
            )
        return 0

    cdef object _table(self):
        """Return the table of this entry; another one of the same instance if it was dropped without being closed."""
        self.check_attached()
        table = self.view.table()
        if table is None:
            table = self.view.next_table
        if table is None:
            table = self.view.table_type(
                self.view.directory, self.view.instance, max_age_ms=self.view.max_age_ms
            )
            self.view.next_table = table  # for the next question; it ends with the entries of the old one
        return table

    cdef Entry _relative(self, uint64_t link):
        """Return the image that a link of this entry's row names; None if there is none, or it is not retained."""
        cdef Entry entry
        cdef int result
        self.check_attached()
        if link == 0:
            return None
        entry = make_entry(self.view, <uint32_t>link)
        with nogil:
            result = self.view.follow(link, &entry.hot)
        if result == PL_READ_ABSENT:
            self.view.check_whole()
            return None
        if result != PL_READ_FOUND:
            raise_busy(self.view, f"a relative of pid {self.hot.tgid}")
        return entry

    @property
    def parent(self):
        """The current parent, as an entry of its newest image; None if there is none, it is unknown or not retained.

        For an ended process, it is the parent that the process had at its end.

        Example:
            >>> entry.parent.comm, entry.parent.pid
            ('sh', 8674)
            >>> table.resolve(1).parent is None
            True
        """
        return self._relative(self.hot.parent)

    @property
    def creator(self):
        """The process that forked this one, as an entry of the image that it had then; None if it is not retained.

        It differs from the parent if the creator has ended: then the parent is the process that adopted this one.

        Example:
            >>> backup = table.resolve(3000)
            >>> backup.parent.comm, backup.creator.comm, backup.creator.is_running
            ('systemd', 'sh', False)
        """
        return self._relative(self.hot.creator)

    def images(self):
        """Return all retained images of this process, oldest first: one for its fork, one for each exec.

        Earlier images that are not retained are missing; `is_elided` of the first one is then true. The field `images`
        of JSON is `image_number`.

        Returns:
            Entries, which are loaded: their attributes can be read also when the process is not retained any more. The
            last one is the newest image. If the process is not retained, [self] if this entry is loaded, otherwise [].

        Raises:
            ClosedError, DetachedError: the entry has no open table.
            StaleError, BusyError: as in `ProcessTable.resolve`.

        Example:
            >>> [image.comm for image in entry.images()]
            ['sh', 'date']
        """
        cdef Entry image = self._table().newest(self)
        cdef Entry last = None
        cdef list found = []
        if image is None:
            image = self
        while image is not None:
            try:
                image.load()
            except TooOldError:
                image = None  # evicted since it was found
                break
            found.append(image)
            last = image
            if last.hot.ancestor == 0 or len(found) == _CHAIN_MAX:
                break
            image = last._relative(last.hot.ancestor)
            if image is not None and not is_same_process(last.view, &image.hot, &last.hot):
                break
        if image is None and last is not None:
            last.elided = last.hot.images > 1
        return found[::-1]

    def ancestors(self, *, by="ancestor", limit=_CHAIN_MAX):
        """Return the chain that led to this image, nearest first; see `ProcessTable.ancestors`.

        Args:
            by: "ancestor" (with earlier images of the process), "parent", "creator" or "origin".
            limit: maximum number of entries.

        Returns:
            Entries. If the chain could not be followed to its end, `is_elided` is set in the last one, or in this entry
            if there are none.

        Raises:
            ValueError, TypeError: an argument is wrong.
            ClosedError, DetachedError: the entry has no open table.
            BusyError: a row stayed half-written.

        Example:
            >>> [ancestor.comm for ancestor in entry.ancestors(by="parent")]
            ['sh', 'sshd', 'systemd']
        """
        return self._table().ancestors(self, by=by, limit=limit)

    def children(self):
        """Return the live processes that have this process as their current parent, by pid.

        Returns:
            Entries. Empty if this process has ended: its children have another parent by then.

        Raises:
            ClosedError, DetachedError: the entry has no open table.
            StaleError, BusyError: as in `ProcessTable.resolve`.

        Example:
            >>> [child.comm for child in table.resolve(1).children()]
            ['sshd', 'nginx', 'backup']
        """
        return self._table().children(self)

    def descendants(self, *, by="parent", exited=False):
        """Return the processes below this one, each once: by pid, then by start.

        Args:
            by: "parent": children, their children, and so on, as the kernel has them now. "creator": processes that
                this one forked, that those forked, and so on: also a process that was left behind by a parent that has
                ended. "origin": the same, and the parent counts for a process whose creator is not known, so use it to
                find all that a job has started.
            exited: also return processes that have ended and are retained, also if their pid was used again. A process
                is not found if what links it to this one is not retained any more.

        Returns:
            Entries of newest images. The rows of the table are read once for each call, which takes some ms.

        Raises:
            ValueError: `by` is unknown.
            ClosedError, DetachedError: the entry has no open table.
            StaleError, BusyError: as in `ProcessTable.resolve`.

        Example:
            >>> [each.pid for each in table.resolve(2000).descendants()]
            [2001]
            >>> [each.pid for each in table.resolve(2000).descendants(exited=True)]
            [2001, 2002]
            >>> [each.comm for each in table.resolve(3000).creator.descendants(by="creator")]
            ['backup']
        """
        return self._table()._descendants(self, by, exited)

    @property
    def is_running(self):
        """Whether the process runs now, also if an exec has replaced this image. This reads the table each time.

        If the process has ended and is retained, this entry is updated, so that its fields say how. If it is not
        retained any more, the end is unknown, and `exit_code` stays None. `is_exited` is what was true when the entry
        was read.

        Example:
            >>> entry.is_running, table.resolve(901).is_running
            (False, True)
        """
        cdef Entry newest
        table = self._table()
        if self.hot.exit_boot_ns != 0 and not self.hot.flags & PL_ROW_REPLACED:
            return False
        newest = table.newest(self)
        if newest is None:
            return False
        if newest.hot.exit_boot_ns == 0:
            return True
        if newest.view is self.view and newest.row_number == self.row_number:
            was_loaded = self.is_loaded
            try:
                self._reload()
                if was_loaded:
                    self.load()
            except TooOldError:
                pass  # evicted since
        return False

    # -- reading on first use ----------------------------------------------------------------------------------------

    cdef int _reload(self) except -1:
        """Read all parts of the row again in one section; the whole entry then has the state of this read."""
        cdef pl_hot hot
        cdef pl_rest rest
        cdef int result
        with nogil:
            result = self.view.copy_row(self.row_number, self.hot.generation, &hot, &rest)
        if result == PL_READ_ABSENT:
            self.view.check_whole()
            raise TooOldError(
                f"this entry of pid {self.hot.tgid} is not retained any more: read what you need sooner, or load()",
                horizon_unix_ns=self.view.view.control.horizon_boot_ns + self.view.view.control.boot_unix_ns,
            )
        if result != PL_READ_FOUND:
            raise_busy(self.view, f"pid {self.hot.tgid}")
        if self.rest == NULL:
            self.rest = <pl_rest *>malloc(sizeof(pl_rest))
            if self.rest == NULL:
                raise MemoryError
        if hot.row_seq != self.hot.row_seq:
            self._forget()
        self.hot = hot
        self.rest[0] = rest
        if hot.flags & PL_ROW_FOREIGN:
            # A slot keeps its key while a retained row names it.
            self.parent_number = pl_number_of(&self.view.view, hot.ppid)
            self.creator_number = pl_number_of(&self.view.view, rest.cold.creator_tgid)
            self.view.check_whole()
        return 0

    cdef pl_cold *_cold(self) except NULL:
        if self.rest == NULL:
            self._reload()
        return &self.rest.cold

    cdef pl_costs *_costs(self) except NULL:
        if self.rest == NULL:
            self._reload()
        return &self.rest.costs

    cdef bytes _fetch(self, const pl_strings *arena, uint32_t ref, bint *moved):
        """Copy the string of `ref`. Returns None and sets `moved` if the row has changed since it was copied."""
        cdef const pl_hot *row = &self.view.view.hot[self.row_number]
        cdef kept_string *kept = _kept_at(ref, arena == &self.view.view.names)
        cdef const char *data
        cdef uint32_t n = 0
        cdef bytes result
        # The row holds the reference, and the writer reuses the bytes only after it has changed the row. While the row
        # is unchanged, so are header and bytes. Check the length before allocating memory for it.
        moved[0] = not pl_arena_span(arena, ref, &data, &n) or not pl_read_valid(row, self.hot.row_seq)
        if moved[0]:
            return None
        if (
            kept.data != NULL and PyBytes_GET_SIZE(<object>kept.data) == n
            and pl_same_bytes(data, PyBytes_AS_STRING(<object>kept.data), n)
        ):
            moved[0] = not pl_read_valid(row, self.hot.row_seq)
            return <bytes>kept.data
        result = PyBytes_FromStringAndSize(NULL, n)
        pl_copy_bytes(PyBytes_AS_STRING(result), data, n)
        moved[0] = not pl_read_valid(row, self.hot.row_seq)
        if not moved[0] and n <= KEPT_MAX_BYTES:
            Py_XDECREF(kept.data)
            Py_XDECREF(kept.value)
            Py_INCREF(result)
            kept.data, kept.value = <PyObject *>result, NULL
        return result

    cdef uint32_t _ref(self, int kind) except? 0:
        """Return the row's reference to one of its strings; 0 if it has none."""
        if kind == FILE_STRING:
            return self.hot.file_ref
        if kind == ARGS_STRING:
            return self.hot.args_ref
        cdef const pl_cold *cold = self._cold()
        if kind == EXTRA_STRING:
            return cold.extra_ref
        if kind == ENVS_STRING:
            return cold.envs_ref
        if kind == NAME_STRING:
            return cold.name_ref
        return cold.cgroup_ref if kind == CGROUP_STRING else cold.container_ref

    cdef bytes _string(self, int kind):
        """Return the bytes of one arena reference of the row; None without a reference or without access."""
        cdef const pl_strings *arena = strings_of(&self.view.view, kind)
        cdef uint32_t ref
        cdef bint moved = False
        cdef bytes result
        cdef PyObject *former
        cdef int tries
        if self.strings[kind] != NULL:
            return <bytes>self.strings[kind]
        if self.view.facts is not None:
            return None
        for tries in range(1000):
            ref = self._ref(kind)
            if ref == 0 or arena.bytes == NULL:
                return None
            result = self._fetch(arena, ref, &moved)
            if not moved:
                # Another thread may have set the string while _reload had released the interpreter lock.
                former = self.strings[kind]
                Py_INCREF(result)
                self.strings[kind] = <PyObject *>result
                self.has_strings = True
                Py_XDECREF(former)
                return result
            self._reload()
        raise_busy(self.view, f"pid {self.hot.tgid}")

    def load(self):
        """Read everything that is missing, all of one moment, and return self. Afterwards no table is needed.

        Raises:
            TooOldError: the row is not retained any more.
            StaleError, BusyError: the row is half-written.

        Example:
            >>> entry.load().path
            '/usr/bin/date'
        """
        cdef int kind, tries
        cdef uint32_t seq
        if self.is_loaded:
            return self
        for tries in range(1000):
            self._cold()
            seq = self.hot.row_seq
            for kind in range(ENTRY_STRINGS):
                self._string(kind)
            # Strings that were already here are of this moment too: an update of the row drops them.
            if self.hot.row_seq == seq:
                self.is_loaded = True
                return self
        raise_busy(self.view, f"pid {self.hot.tgid}")

    def to_dict(self, fields=None):
        """Return fields under their JSON names, all of one moment.

        Args:
            fields: names of FIELDS, in the order of the result; None: all. Only what they need is read, so a list of
                many processes costs a small part of the time.

        Raises:
            TypeError: `fields` is not a list of names.
            ValueError: a name is not in FIELDS; the message suggests the right one.
            TooOldError, StaleError, BusyError: as in `load`.

        Example:
            >>> entry.to_dict(["pid", "ppid", "argv"])
            {'pid': 8675, 'ppid': 8674, 'argv': ['date', '+%s']}
        """
        if fields is None:
            self.load()
            return self._values(FIELDS)
        _check_names("fields", fields, _FIELD_SET)
        return self._values(fields)

    def as_dict(self, attrs=None):
        """Return attributes by their names, all of one moment.

        `to_dict` has the fields that JSON has; this method can return every attribute, such as `start_time` and
        `duration`. The name and the argument are those of psutil.

        Args:
            attrs: names of attributes, in the order of the result; None: all fields, as `to_dict` returns them.

        Raises:
            TypeError: `attrs` is not a list of names.
            ValueError: a name is not that of an attribute; the message suggests the right one.
            TooOldError, StaleError, BusyError: as in `load`.

        Example:
            >>> entry.as_dict(["pid", "comm", "exit_status", "duration"])
            {'pid': 8675, 'comm': 'date', 'exit_status': 0, 'duration': datetime.timedelta(microseconds=779)}
        """
        if attrs is None:
            return self.to_dict()
        _check_names("attrs", attrs, _ATTRIBUTES)
        return self._values(attrs)

    cdef dict _values(self, object names):
        """Return attributes by name, all of one moment."""
        cdef uint32_t seq
        cdef int tries
        cdef dict values
        for tries in range(1000):
            seq = self.hot.row_seq
            values = {name: _attribute(self, name) for name in names}
            if self.hot.row_seq == seq:  # otherwise the row changed between two reads
                if "images" in values:
                    values["images"] = self.hot.images  # the attribute is a method
                return values
        raise_busy(self.view, f"pid {self.hot.tgid}")

    cdef object _text(self, int kind):
        cdef bytes data = self._string(kind)
        return None if data is None else _value(data, self._ref(kind), True, TEXT)

    cdef object _name(self):
        """Return the invoked name; in the row's string directories may follow it."""
        cdef bytes data = self._string(NAME_STRING)
        return None if data is None else _value(data, self._ref(NAME_STRING), True, NAME) or None

    cdef object _directory(self, int number):
        """Return a directory behind the invoked name, by its position in DIRECTORIES; None if unknown."""
        cdef bytes data = self._string(NAME_STRING)
        cdef const char *at
        cdef Py_ssize_t left, n
        cdef int skipped
        if data is None:
            return None
        at, left = PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
        for skipped in range(number + 1):
            n = <Py_ssize_t>strnlen(at, left) + 1
            if n >= left:
                return None
            at += n
            left -= n
        n = <Py_ssize_t>strnlen(at, left)
        return _decode(at, n) if n else None

    cdef bytes _file(self):
        """Return the FILE record, which `_facts` reads, and the path after it; None if unknown."""
        cdef bytes data
        if not self.hot.known & PL_KNOWN_FILE:
            return None
        data = self._string(FILE_STRING)
        return None if data is None or PyBytes_GET_SIZE(data) < <Py_ssize_t>sizeof(pl_file) else data

    cdef bytes _cgroup(self):
        """Return the CGROUP record and the path after it; None if unknown."""
        cdef bytes data = self._string(CGROUP_STRING)
        return None if data is None or PyBytes_GET_SIZE(data) < <Py_ssize_t>sizeof(pl_cgroup) else data

    cdef object _unix(self, uint64_t boot_ns):
        return None if boot_ns == 0 else <object>(<long long>boot_ns + self.view.view.control.boot_unix_ns)

    cdef object _list(self, int kind):
        """Split NUL-terminated strings that follow a u32 with their full length; a truncated one has no NUL."""
        cdef bytes data = self._string(kind)
        cdef const char *at
        cdef const char *end
        cdef tuple texts
        cdef kept_row *kept
        if data is None or PyBytes_GET_SIZE(data) < 4:
            return None
        if PyBytes_GET_SIZE(data) <= KEPT_MAX_BYTES:
            texts = <tuple>_value(data, self._ref(kind), False, TEXTS)
            if kind == ARGS_STRING:
                kept = _keep_row(self)
                if kept.argv == NULL:
                    kept.argv = _owned(texts)
            return _list_of(texts)
        at = PyBytes_AS_STRING(data) + 4
        end = PyBytes_AS_STRING(data) + PyBytes_GET_SIZE(data)
        result = []
        while at < end:
            result.append(_next_text(&at, end))
        return result

    cdef object _linked_entity_id(self, uint64_t link):
        cdef pl_hot hot
        cdef pl_rest rest
        cdef int result
        if link == 0:
            return None
        with nogil:
            result = self.view.follow(link, &hot)
        if result == PL_READ_ABSENT:
            self.view.check_whole()
            return None
        if result != PL_READ_FOUND:
            raise_busy(self.view, f"a relative of pid {self.hot.tgid}")
        if hot.flags & PL_ROW_FOREIGN:
            with nogil:
                result = self.view.copy_row(<uint32_t>link, <uint32_t>(link >> 32), &hot, &rest)
            return _foreign_id(self.view, &rest.cold, hot.start_boot_ns) if result == PL_READ_FOUND else None
        return _entity_id(self.view, hot.tgid, hot.start_boot_ns)

    # -- identity ----------------------------------------------------------------------------------------------------

    @property
    def pid(self):
        """Process id (tgid); for a foreign process, the pid in its pid namespace.

        Example:
            >>> entry.pid
            8675
        """
        return self.hot.tgid if not self.hot.flags & PL_ROW_FOREIGN else self._cold().ns_pid

    @property
    def tid(self):
        """Thread of the last event.

        Example:
            >>> entry.tid
            8675
        """
        cdef uint32_t tid = self._cold().tid
        return tid if tid else self.pid

    @property
    def ppid(self):
        """The current parent's pid (`real_parent`); 0 for none or unknown.

        Example:
            >>> entry.ppid
            8674
        """
        if self.hot.flags & PL_ROW_FOREIGN:
            self._cold()
            return self.parent_number
        return self.hot.ppid

    @property
    def entity_id(self):
        """Identity of the process as text; None while its start time is unknown.

        Example:
            >>> entry.entity_id
            '000102030405060708090a0b0c0d0e0f-21e3-156cf04d68'
        """
        if self.hot.flags & PL_ROW_FOREIGN:
            return _foreign_id(self.view, self._cold(), self.hot.start_boot_ns)
        return _entity_id(self.view, self.hot.tgid, self.hot.start_boot_ns)

    @property
    def cpid(self):
        """OCSF's Common Process Identifier; coarse (clock ticks), so do not use it as a key.

        Example:
            >>> entry.cpid
            '386929fe-d1b4-8508-8a7f-efdf44a4fe1d'
        """
        from pipeline.host.boot import cpid, ticks_of
        cdef pl_cold *cold = self._cold()
        if not self.hot.start_boot_ns or not self.hot.known & PL_KNOWN_NS:
            return None
        return cpid(self.view.boot_id, cold.pid_ns, ticks_of(self.hot.start_boot_ns), cold.ns_pid)

    @property
    def parent_entity_id(self):
        """Identity of the current parent; None if it is unknown or not retained.

        Example:
            >>> entry.parent_entity_id
            '000102030405060708090a0b0c0d0e0f-21e2-156cd1c500'
        """
        if self.view.facts is not None:
            return self.view.facts["parent_entity_id"]
        return self._linked_entity_id(self.hot.parent)

    @property
    def creator_entity_id(self):
        """Identity of the process that forked this one; None if it is unknown or not retained.

        Example:
            >>> entry.creator_entity_id
            '000102030405060708090a0b0c0d0e0f-21e2-156cd1c500'
        """
        if self.view.facts is not None:
            return self.view.facts["creator_entity_id"]
        return self._linked_entity_id(self.hot.creator)

    @property
    def creator_pid(self):
        """Pid of the process that forked this one, even if the parent is another process now.

        Example:
            >>> entry.creator_pid
            8674
        """
        cdef uint32_t tgid = self._cold().creator_tgid
        if self.hot.flags & PL_ROW_FOREIGN:
            tgid = self.creator_number
        return tgid if tgid else None

    @property
    def row(self):
        """Row of the table; together with `generation` it is the address of the image.

        Example:
            >>> entry.row
            16
        """
        return self.row_number

    @property
    def source(self):
        """Origin of the entry: event, map, procfs_fallback, procfs_snapshot, placeholder or unknown.

        Example:
            >>> entry.source
            'event'
        """
        return _SOURCE[self.hot.source] if self.hot.source < len(_SOURCE) else "unknown"

    # -- times -------------------------------------------------------------------------------------------------------

    @property
    def start_time_ns(self):
        """Start of the process: when it was forked. With the pid it is its identity.

        Example:
            >>> entry.start_time_ns
            1700000092022001000
        """
        cdef int64_t unix_ns = <int64_t>self.hot.start_boot_ns + self.view.view.control.boot_unix_ns
        cdef kept_row *kept = _kept_row(self)
        if self.hot.start_boot_ns == 0:
            return None
        if kept != NULL and kept.start != NULL and kept.start_unix_ns == unix_ns:
            return <object>kept.start
        value = <object>unix_ns
        if kept != NULL:
            Py_XDECREF(kept.start)
            kept.start, kept.start_unix_ns = _owned(value), unix_ns
        return value

    @property
    def created_at_ns(self):
        """Time when the image was created: the later of its exec and the fork. The process started at `start_time_ns`.

        Example:
            >>> entry.created_at_ns
            1700000092022003000
        """
        cdef uint64_t fork = self._cold().fork_boot_ns
        return self._unix(max(self.hot.exec_boot_ns, fork if fork else self.hot.start_boot_ns))

    @property
    def start_time(self):
        """`start_time_ns` as a datetime in UTC.

        Example:
            >>> print(entry.start_time)
            2023-11-14 22:14:52.022001+00:00
        """
        return _moment(self.start_time_ns)

    @property
    def fork_time(self):
        """`fork_time_ns` as a datetime in UTC.

        Example:
            >>> print(entry.fork_time)
            2023-11-14 22:14:52.022002+00:00
        """
        return _moment(self.fork_time_ns)

    @property
    def exec_time(self):
        """`exec_time_ns` as a datetime in UTC.

        Example:
            >>> print(entry.exec_time)
            2023-11-14 22:14:52.022003+00:00
        """
        return _moment(self.exec_time_ns)

    @property
    def exit_time(self):
        """`exit_time_ns` as a datetime in UTC.

        Example:
            >>> print(entry.exit_time)
            2023-11-14 22:14:52.022780+00:00
        """
        return _moment(self.exit_time_ns)

    @property
    def created_at(self):
        """`created_at_ns` as a datetime in UTC.

        Example:
            >>> print(entry.created_at)
            2023-11-14 22:14:52.022003+00:00
        """
        return _moment(self.created_at_ns)

    @property
    def cgroup_created_at(self):
        """`cgroup_created_at_ns` as a datetime in UTC.

        Example:
            >>> print(entry.cgroup_created_at)
            2023-11-14 22:14:49+00:00
        """
        return _moment(self.cgroup_created_at_ns)

    @property
    def container_created_at(self):
        """`container_created_at_ns` as a datetime in UTC.

        Example:
            >>> print(table.resolve(2001).container_created_at)
            2023-11-14 22:14:49+00:00
        """
        return _moment(self.container_created_at_ns)

    @property
    def age_ns(self):
        """How long ago the process started, whether it still runs or not; None if its start is unknown.

        Example:
            >>> entry.age_ns > entry.duration_ns
            True
        """
        start = self.start_time_ns
        return None if start is None else max(0, self.view.now_unix_ns() - start)

    @property
    def age(self):
        """`age_ns` as a timedelta.

        Example:
            >>> entry.age > entry.duration
            True
        """
        return _period(self.age_ns)

    @property
    def duration_ns(self):
        """How long the process ran, from its start to its end; None if it had not ended, or if one of both is unknown.

        An image that an exec has replaced has none; the newest of `images()` has it. See also `is_exit_unseen`.

        Example:
            >>> entry.duration_ns
            779000
        """
        cdef uint64_t start = self.hot.start_boot_ns, end = self.hot.exit_boot_ns
        if start == 0 or end == 0 or self.hot.flags & PL_ROW_REPLACED:
            return None
        return end - start if end > start else 0

    @property
    def duration(self):
        """`duration_ns` as a timedelta.

        Example:
            >>> entry.duration
            datetime.timedelta(microseconds=779)
        """
        return _period(self.duration_ns)

    @property
    def exit_code(self):
        """Wait status, as waitpid(2) returns it; None while the process runs, or if its end was not seen.

        `exit_status` and `exit_signal` are its parts. ``os.waitstatus_to_exitcode`` makes the number that `subprocess`
        has.

        Example:
            >>> entry.exit_code
            0
        """
        cdef int32_t status = self._cold().exit_code
        return status if self.hot.flags & PL_ROW_EXIT_KNOWN else None

    @property
    def exit_cause(self):
        """How the process ended: exited, signaled or coredumped.

        Example:
            >>> entry.exit_cause
            'exited'
        """
        status = self.exit_code
        if status is None:
            return None
        return _EXIT_CAUSES[0 if status & WAIT_SIGNAL == 0 else 2 if status & WAIT_CORE else 1]

    @property
    def exit_status(self):
        """The number that the process passed to exit(3), 0 to 255; None if it did not exit that way.

        Example:
            >>> entry.exit_status
            0
        """
        status = self.exit_code
        return None if status is None or status & WAIT_SIGNAL else status >> 8 & 0xFF

    @property
    def exit_signal(self):
        """The number of the signal that ended the process; None if no signal did.

        Example:
            >>> table.resolve(2002).exit_signal
            9
        """
        status = self.exit_code
        return None if status is None or not status & WAIT_SIGNAL else status & WAIT_SIGNAL

    @property
    def exit_cause_code(self):
        """Exit status, or the number of the signal that ended the process.

        Example:
            >>> entry.exit_cause_code
            0
        """
        status = self.exit_code
        if status is None:
            return None
        return status >> 8 & 0xFF if status & WAIT_SIGNAL == 0 else status & WAIT_SIGNAL

    # -- what runs ---------------------------------------------------------------------------------------------------

    @property
    def comm(self):
        """Name of the task, at most 15 bytes; a process can change it.

        Example:
            >>> entry.comm
            'date'
        """
        if not self.hot.known & PL_KNOWN_COMM:
            return None
        cdef kept_row *kept = _keep_row(self)
        if kept.comm == NULL:
            kept.comm = _owned(_decode_comm(&self.hot))
        return <object>kept.comm

    @property
    def path(self):
        """The executable, below the global root of its mount tree; for a script, its interpreter.

        Example:
            >>> entry.path
            '/usr/bin/date'
        """
        cdef kept_row *kept = _kept_row(self)
        cdef bytes data
        if kept != NULL and kept.path != NULL:
            return <object>kept.path
        data = self._file()
        if data is None:
            return None
        value = _value(data, self.hot.file_ref, True, PATH)
        if PyBytes_GET_SIZE(data) <= KEPT_MAX_BYTES:
            kept = _keep_row(self)  # searched again: the entry may have been updated
            if kept.path == NULL:
                kept.path = _owned(value)
        return value

    @property
    def path_in_root(self):
        """The executable as the process sees it, below its own root directory.

        Example:
            >>> entry.path_in_root
            '/usr/bin/date'
        """
        cdef bytes data = self._file()
        cdef Py_ssize_t skip
        if data is None:
            return None
        skip = <Py_ssize_t>sizeof(pl_file) + _facts(data).root_offset
        return _decode(PyBytes_AS_STRING(data) + skip, PyBytes_GET_SIZE(data) - skip) if skip < len(data) else None

    @property
    def file(self):
        """Facts about the executable; None if unknown.

        About the file: path, basename and extension (with its dot; "" for none), where a memfd has the path "" and the
        basename "memfd:NAME"; inode, device, mount_id, mode, uid, gid; user and group (their names, among the users of
        the container that the process is in); nlink, mtime_ns, ctime_ns, fs_magic, filesystem (the name of fs_magic;
        None if the number is not known); flags (bits, among them 2: it was deleted, 4: it is a memfd, 2048:
        in_upper_layer); in_upper_layer (the file is in the writable layer of an overlay); is_fileless (a memfd; None if
        its mount was not reported).

        About its mount, as of the time when the file was executed or read: mount_path (its place, a part of `path`),
        mount_source (how it was found: mount_id, device, snapshot), mount_origin (what reported it: event, procfs,
        unshare), mount_visible (the file was reachable below the root directory of the process), mount_detached (the
        mount was in no mount namespace).

        Example:
            >>> entry.file["basename"], entry.file["inode"]
            ('date', 13379)
        """
        cdef bytes data = self._file()
        return None if data is None else _file_of(self, data)

    @property
    def interpreter(self):
        """The interpreter of a script, with the same keys as `file`; None if the process does not run a script.

        The values are those of `file`, because the kernel executes the interpreter. If a caller of the resolver's
        methods reported a separate file, they are the values of that file.

        Example:
            >>> entry.interpreter is None  # no script
            True
        """
        cdef bytes data
        if self._string(EXTRA_STRING) is not None:
            interpreter = self.extra.get("interpreter")
            if interpreter is not None:
                return interpreter
        if not self.hot.flags & PL_ROW_SCRIPT or not self.hot.inode:
            return None
        data = self._file()
        return None if data is None else _file_of(self, data)

    @property
    def file_package(self):
        """The Debian package that installed the executable: name, version and architecture; or None.

        All three are None for a file of this host that belongs to no package. None: it is not known, or not known yet;
        the executable is not a file of this host; or the instance does not read it (``contexts.file_packages``).

        Example:
            >>> entry.file_package is None  # that is off, unless it is set
            True
        """
        return self._found_of_file("file_package")

    @property
    def file_sha256(self):
        """SHA-256 of the content of the executable, as 64 hexadecimal digits; or None.

        None: it is not known, or not known yet; the file is too large or cannot be read safely; or the instance does
        not read it (``contexts.file_hashes``).

        Example:
            >>> entry.file_sha256 is None  # that is off, unless it is set
            True
        """
        return self._found_of_file("file_sha256")

    cdef object _found_of_file(self, str what):
        """Return what the resolver found out about the executable; None: nothing."""
        cdef bytes data
        cdef const pl_file *file
        if self.view.facts is not None:
            return self.view.facts.get(what)
        data = self._file()
        if data is None:
            return None
        file = _facts(data)
        if file.file_inode == 0 or file.ctime_ns == 0:
            return None
        from pipeline.shm.names.executable_facts import found
        return found(self.view.directory, what, (file.file_inode, file.mtime_ns, file.ctime_ns, file.device))

    @property
    def is_exe_deleted(self):
        """Whether the name of the executable had been deleted when it was executed or read.

        The file can have another name: `nlink` of the file counts them.

        Example:
            >>> entry.is_exe_deleted
            False
        """
        cdef bytes data = self._file()
        return data is not None and (_facts(data).file_flags & PL_EXEC_DELETED) != 0

    @property
    def is_memfd(self):
        """Whether the executable is a memfd; then `path` is "/memfd:NAME".

        Example:
            >>> entry.is_memfd
            False
        """
        cdef bytes data = self._file()
        return data is not None and (_facts(data).file_flags & PL_EXEC_MEMFD) != 0

    @property
    def name(self):
        """The invoked name, as the caller of exec passed it.

        Example:
            >>> entry.name
            'date'
        """
        return self._name()

    @property
    def symlink_paths(self):
        """The two usual paths of the invoked name, for busybox or through a symbolic link; None if `path` suffices.

        Example:
            >>> entry.symlink_paths is None  # its path suffices
            True
        """
        names = _symlink_names(self)
        return None if names is None else list(names.paths)

    @property
    def symlink_basename(self):
        """The last part of `symlink_paths`.

        Example:
            >>> entry.symlink_basename is None
            True
        """
        names = _symlink_names(self)
        return None if names is None else names.basename

    @property
    def script_path(self):
        """The invoked file if it is a script (or binfmt_misc); `path` is then its interpreter.

        Example:
            >>> entry.script_path is None  # no script
            True
        """
        return self._name() if self.hot.flags & PL_ROW_SCRIPT else None

    @property
    def argv(self):
        """Arguments including argv[0]; None if unknown, or if this reader may not read them.

        Example:
            >>> entry.argv
            ['date', '+%s']
        """
        if not self.hot.known & PL_KNOWN_ARGS or self.view.view.args.bytes == NULL:
            return None
        cdef kept_row *kept = _kept_row(self)
        if kept != NULL and kept.argv != NULL:
            return _list_of(<tuple>kept.argv)
        return [] if self.hot.args_ref == 0 else self._list(ARGS_STRING)

    @property
    def args_full_bytes(self):
        """Length of the whole argument area, even if argv was truncated; None if unknown or not readable.

        Example:
            >>> entry.args_full_bytes
            9
        """
        if not self.hot.known & PL_KNOWN_ARGS or self.view.view.args.bytes == NULL:
            return None
        data = self._string(ARGS_STRING)
        return int.from_bytes(data[:4], "little") if data else 0

    @property
    def envs(self):
        """KEY=VALUE strings; None if unknown, or if this reader may not read them.

        Example:
            >>> entry.envs
            []
        """
        if not self.hot.known & PL_KNOWN_ENVS or self.view.view.envs.bytes == NULL:
            return None
        return [] if self._cold().envs_ref == 0 else self._list(ENVS_STRING)

    # -- credentials -------------------------------------------------------------------------------------------------

    @property
    def user(self):
        """Name of `uid`, among the users of the container that the process is in; None if it has none or is unknown.

        Example:
            >>> entry.user
            'alice'
        """
        return _name_of(self, "user", self.hot.uid)

    @property
    def group(self):
        """Name of `gid`.

        Example:
            >>> entry.group
            'staff'
        """
        return _name_of(self, "group", self.hot.gid)

    @property
    def euser(self):
        """Name of `euid`.

        Example:
            >>> entry.euser
            'alice'
        """
        return _name_of(self, "user", self._cold().euid)

    @property
    def egroup(self):
        """Name of `egid`.

        Example:
            >>> entry.egroup
            'staff'
        """
        return _name_of(self, "group", self._cold().egid)

    @property
    def fsuser(self):
        """Name of `fsuid`.

        Example:
            >>> entry.fsuser
            'alice'
        """
        return _name_of(self, "user", self._cold().fsuid)

    @property
    def fsgroup(self):
        """Name of `fsgid`.

        Example:
            >>> entry.fsgroup
            'staff'
        """
        return _name_of(self, "group", self._cold().fsgid)

    # -- where it runs -----------------------------------------------------------------------------------------------

    @property
    def tty(self):
        """Controlling terminal, e.g. pts0; None for none or unknown.

        Example:
            >>> entry.tty
            'pts0'
        """
        cdef pl_cold *cold = self._cold()
        if not self.hot.known & PL_KNOWN_TTY or cold.tty[0] == 0:
            return None
        return _decode(cold.tty, strnlen(cold.tty, sizeof(cold.tty)))

    @property
    def cgroup(self):
        """Path of the cgroup.

        Example:
            >>> entry.cgroup
            '/user.slice/user-1000.slice/session-3.scope'
        """
        cdef bytes data = self._cgroup()
        if data is None:
            return None
        return _value(data, self.rest.cold.cgroup_ref, True, CGROUP)

    @property
    def cgroup_created_at_ns(self):
        """Creation time of that cgroup, if the kernel reported it; None if before the capture or unknown.

        Example:
            >>> entry.cgroup_created_at_ns
            1700000089000000000
        """
        cdef bytes data = self._cgroup()
        return None if data is None else self._unix((<const pl_cgroup *>PyBytes_AS_STRING(data)).cgroup_made_boot_ns)

    @property
    def container_created_at_ns(self):
        """Creation time of the container's own cgroup (version 2); None as for the cgroup.

        Example:
            >>> table.resolve(2001).container_created_at_ns
            1700000089000000000
        """
        cdef bytes data = self._cgroup()
        if data is None or self._string(CONTAINER_STRING) is None:
            return None
        return self._unix((<const pl_cgroup *>PyBytes_AS_STRING(data)).container_made_boot_ns)

    @property
    def cgroup_version(self):
        """Version of `cgroup` and `cgroup_id`: 2; None if these are None.

        A row stores no cgroups of version 1; from those it has only the container.

        Example:
            >>> entry.cgroup_version
            2
        """
        return 2 if self.hot.known & PL_KNOWN_CGROUP and self.hot.cgroup_id else None

    @property
    def cgroup_source(self):
        """What reported the cgroup first: event, procfs or inherited; None if unknown.

        procfs: the live process was read, as at the start, in a repair, or by a source without BPF. inherited: the
        cgroup and `container_id` are those of the parent. None is the value for a cgroup from the kernel's process
        maps.

        Example:
            >>> entry.cgroup_source
            'event'
        """
        if not self.hot.known & PL_KNOWN_CGROUP or (
            not self.hot.cgroup_id and self.hot.cgroup_source != PL_CGROUP_SOURCE_INHERITED
        ):
            return None
        return _CGROUP_SOURCE[self.hot.cgroup_source] if self.hot.cgroup_source < len(_CGROUP_SOURCE) else None

    @property
    def container_id(self):
        """Id of the container that the process is in; None: it is in none, or unknown.

        Example:
            >>> table.resolve(2001).container_id[:12]
            'c0ffeec0ffee'
        """
        return self._text(CONTAINER_STRING)

    @property
    def container_trust(self):
        """Who could have named the cgroup that `container_id` is a part of: root, or user for somebody else too.

        Users name the cgroups below their service manager, services those below their unit, and containers those below
        their own. All of these can be named like a container of root's. None: there is no container, or its cgroup of
        version 2 is not known.

        Example:
            >>> table.resolve(2001).container_trust
            'root'
        """
        cdef bytes cgroup = self._cgroup()
        cdef bytes container = self._string(CONTAINER_STRING)
        if cgroup is None or container is None:
            return None
        return _name(pl_trust_word(pl_container_trust(
            PyBytes_AS_STRING(cgroup) + sizeof(pl_cgroup), <uint32_t>(PyBytes_GET_SIZE(cgroup) - sizeof(pl_cgroup)),
            PyBytes_AS_STRING(container), <uint32_t>PyBytes_GET_SIZE(container),
        )))

    @property
    def container_details(self):
        """What the files of its runtime say about the container: name, image, pod, namespace and labels; or None.

        None: the files say nothing, or have not been read yet; the instance does not read them
        (``contexts.container_details``); or somebody other than root could have named the cgroup like a container.

        Example:
            >>> table.resolve(2001).container_details["image"]
            'nginx:1.27'
        """
        cdef bytes cgroup
        cdef bytes container
        if self.view.facts is not None:
            return self.view.facts.get("container_details")
        cgroup, container = self._cgroup(), self._string(CONTAINER_STRING)
        if cgroup is None or container is None or not pl_is_roots_container(
            PyBytes_AS_STRING(cgroup) + sizeof(pl_cgroup), <uint32_t>(PyBytes_GET_SIZE(cgroup) - sizeof(pl_cgroup)),
            PyBytes_AS_STRING(container), <uint32_t>PyBytes_GET_SIZE(container),
        ):
            return None
        from pipeline.shm.names.containers import details
        return details(self.view.directory, container.decode("ascii"))

    @property
    def ssh_session(self):
        """The session of `user_session`: id, username, client_ip, client_port, auth_method, public_key.

        Each value is None if it is unknown.

        Example:
            >>> entry.ssh_session["username"], entry.ssh_session["client_ip"]
            ('alice', '192.0.2.7')
        """
        from pipeline.shm.names.ssh import session
        if self.view.facts is not None:
            return self.view.facts["ssh_session"]
        return session(self.view.directory, self._cold().user_session)

    @property
    def extra(self):
        """Fields that few processes have, by name; None if there are none, or if this reader may not read them.

        Example:
            >>> entry.extra is None
            True
        """
        cdef bytes data = self._string(EXTRA_STRING)
        if data is None:
            return None
        import msgpack
        try:
            fields = msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)
        except (ValueError, TypeError):
            fields = None
        if not isinstance(fields, dict):
            raise LayoutError("the fields of an entry that few have are damaged", expected="a map", found="other bytes")
        return _plain(fields)

    # -- statements --------------------------------------------------------------------------------------------------

    @property
    def is_exited(self):
        """Whether the process has ended.

        Example:
            >>> entry.is_exited
            True
        """
        return self.hot.exit_boot_ns != 0 and not self.hot.flags & PL_ROW_REPLACED

    @property
    def is_elided(self):
        """Whether earlier images or ancestors existed that are not retained.

        Example:
            >>> entry.is_elided
            False
        """
        return bool(self.elided or self.hot.flags & PL_ROW_ELIDED)

    @property
    def marks(self):
        """Uncertain facts about this entry, as a list of names that is usually empty.

        adopted (the parent is not the creator), adoption_predicted (not confirmed yet), exit_unseen (the exit time is
        an upper bound), before_capture (began before the capture: creator and earlier images unknown), gap (events were
        lost around here), ns_init (init of its pid namespace), start_ticks (start time from /proc, up to 10 ms early),
        head_only (only the identity is known), elided (earlier images or ancestors existed and are not retained),
        foreign (see is_foreign), change_sampled (the last change of credentials, session, terminal or namespaces was
        found later than it happened, by a comparison: `extra["sampled_change"]` has the limits, if they are known).

        Example:
            >>> table.resolve(3000).marks
            ['adopted']
        """
        cdef uint32_t flags = self.hot.flags | (PL_ROW_ELIDED if self.elided else 0)
        return [name for name, flag in _MARKS if flags & <uint32_t>flag]

    # generated: entry-properties
    @property
    def fork_time_ns(self):
        """When the fork was seen.

        Example:
            >>> entry.fork_time_ns
            1700000092022002000
        """
        return self._unix(self._cold().fork_boot_ns)

    @property
    def exec_time_ns(self):
        """When this image was loaded, the last time if it was loaded several times; for a fork, when the image of
        its parent was.

        Example:
            >>> entry.exec_time_ns
            1700000092022003000
        """
        return self._unix(self.hot.exec_boot_ns)

    @property
    def exit_time_ns(self):
        """End of the image: the end of the process, or the exec that replaced it; null: it runs.

        Example:
            >>> entry.exit_time_ns
            1700000092022780000
        """
        return self._unix(self.hot.exit_boot_ns)

    @property
    def cwd(self):
        """Working directory at the exec, below the daemon's root directory; of a process that was found in /proc,
        at that moment; null: unknown, deleted, not reachable from there, or longer than 4096 bytes.

        Example:
            >>> entry.cwd
            '/home/alice'
        """
        return self._directory(0)

    @property
    def argc(self):
        """How many arguments there were, also if `argv` was cut; 65535: that many, or more.

        Example:
            >>> entry.argc
            2
        """
        return self._cold().argc if self.hot.known & PL_KNOWN_ARGS else None

    @property
    def args_truncated(self):
        """`argv` is not complete.

        Example:
            >>> entry.args_truncated
            False
        """
        return bool(self.hot.flags & PL_ROW_ARGS_TRUNCATED)

    @property
    def envc(self):
        """How many variables there were; null where environments are not captured, as by default
        (`capture.envs_bytes`).

        Example:
            >>> entry.envc
            0
        """
        return self._cold().envc if self.hot.known & PL_KNOWN_ENVS else None

    @property
    def envs_truncated(self):
        """`envs` is not complete; false where environments are not captured.

        Example:
            >>> entry.envs_truncated
            False
        """
        return bool(self.hot.flags & PL_ROW_ENVS_TRUNCATED)

    @property
    def uid(self):
        """Real user id, as the initial user namespace numbers it; so are the other ids.

        Example:
            >>> entry.uid
            1000
        """
        return self.hot.uid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def gid(self):
        """Real group id, as the initial user namespace numbers it.

        Example:
            >>> entry.gid
            1000
        """
        return self.hot.gid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def euid(self):
        """Effective user id, as the initial user namespace numbers it.

        Example:
            >>> entry.euid
            1000
        """
        return self._cold().euid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def egid(self):
        """Effective group id, as the initial user namespace numbers it.

        Example:
            >>> entry.egid
            1000
        """
        return self._cold().egid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def suid(self):
        """Saved user id, as the initial user namespace numbers it.

        Example:
            >>> entry.suid
            1000
        """
        return self._cold().suid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def sgid(self):
        """Saved group id, as the initial user namespace numbers it.

        Example:
            >>> entry.sgid
            1000
        """
        return self._cold().sgid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def fsuid(self):
        """User id for access to files, as the initial user namespace numbers it.

        Example:
            >>> entry.fsuid
            1000
        """
        return self._cold().fsuid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def fsgid(self):
        """Group id for access to files, as the initial user namespace numbers it.

        Example:
            >>> entry.fsgid
            1000
        """
        return self._cold().fsgid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def auid(self):
        """Login uid; null: never set, or unknown.

        Example:
            >>> entry.auid
            1000
        """
        cdef uint32_t value = self._cold().auid
        return value if self.hot.known & PL_KNOWN_AUID and value != _UNSET else None

    @property
    def audit_session(self):
        """Number of the audit session; null: never set, or unknown.

        Example:
            >>> entry.audit_session
            3
        """
        cdef uint32_t value = self._cold().audit_session
        return value if self.hot.known & PL_KNOWN_AUID and value != _UNSET else None

    @property
    def cap_effective(self):
        """Mask of the effective capabilities: bit n is capability n.

        Example:
            >>> entry.cap_effective
            0
        """
        return self._cold().cap_effective if self.hot.known & PL_KNOWN_CAPS else None

    @property
    def cap_permitted(self):
        """Mask of the permitted capabilities: bit n is capability n.

        Example:
            >>> entry.cap_permitted
            0
        """
        return self._cold().cap_permitted if self.hot.known & PL_KNOWN_CAPS else None

    @property
    def caps_attempted(self):
        """Mask of capabilities that were checked for the image; 0 unless `capture.capabilities_usage` is on or an
        agent reports them.

        Example:
            >>> entry.caps_attempted
            0
        """
        return self._cold().cap_attempted

    @property
    def caps_used(self):
        """Mask of those capabilities of `caps_attempted` that it had.

        Example:
            >>> entry.caps_used
            0
        """
        return self._cold().cap_used

    @property
    def no_new_privs(self):
        """PR_SET_NO_NEW_PRIVS is set: an exec cannot add privileges. As of the last event of the process; null:
        unknown.

        Example:
            >>> entry.no_new_privs
            False
        """
        return bool((self.hot.flags & PL_ROW_NO_NEW_PRIVS) >> 23) if self.hot.known & PL_KNOWN_NO_NEW_PRIVS else None

    @property
    def seccomp_mode(self):
        """`disabled`, `strict` or `filter`, as of the last event of the process; null: unknown.

        Example:
            >>> entry.seccomp_mode
            'disabled'
        """
        return (
            _SECCOMP_MODE[(self.hot.flags & (PL_ROW_SECCOMP_STRICT | PL_ROW_SECCOMP_FILTER)) >> 24]
            if self.hot.known & PL_KNOWN_SECCOMP
            else None
        )

    @property
    def sid(self):
        """Pid of the session leader.

        Example:
            >>> entry.sid
            1
        """
        return self._cold().sid if self.hot.known & PL_KNOWN_SID else None

    @property
    def pgid(self):
        """Pid of the process group leader.

        Example:
            >>> entry.pgid
            1
        """
        return self._cold().pgid if self.hot.known & PL_KNOWN_SID else None

    @property
    def inode(self):
        """Inode of the executable.

        Example:
            >>> entry.inode
            13379
        """
        return self.hot.inode or None if self.hot.known & PL_KNOWN_FILE else None

    @property
    def exec_inode(self):
        """Executable that the kernel reported with the event: of a fork that of the forking process, of an exec
        that of the image before, otherwise (a snapshot, a change) its own.

        Example:
            >>> entry.exec_inode
            69222
        """
        return self._cold().exec_inode or None

    @property
    def ns_pid(self):
        """Pid in the innermost pid namespace.

        Example:
            >>> entry.ns_pid
            8675
        """
        return self._cold().ns_pid or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def pid_ns(self):
        """Pid namespace: its inode, as `readlink /proc/PID/ns/pid` shows it.

        Example:
            >>> entry.pid_ns
            4026531836
        """
        return self._cold().pid_ns or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def mnt_ns(self):
        """Mount namespace: its inode.

        Example:
            >>> entry.mnt_ns
            4026531832
        """
        return self._cold().mnt_ns or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def net_ns(self):
        """Network namespace: its inode.

        Example:
            >>> entry.net_ns
            4026531840
        """
        return self._cold().net_ns or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def user_ns(self):
        """User namespace: its inode.

        Example:
            >>> entry.user_ns
            4026531837
        """
        return self._cold().user_ns or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def cgroup_id(self):
        """Number of the directory of the cgroup (version 2).

        Example:
            >>> entry.cgroup_id
            100
        """
        return self.hot.cgroup_id or None if self.hot.known & PL_KNOWN_CGROUP else None

    @property
    def fork_flags(self):
        """Clone flags without the exit signal; null: none, or unknown.

        Example:
            >>> entry.fork_flags is None
            True
        """
        return self._cold().fork_flags or None

    @property
    def cookie(self):
        """Identifies the image in the BPF maps.

        Example:
            >>> entry.cookie
            1006
        """
        return self._cold().cookie or None

    @property
    def user_session(self):
        """Number of the ssh session. An event `user_session` reports its facts once (`ssh_session_id` in its
        `context` is the number); an entry has them in `ssh_session`, as long as they are known. The authentication
        is known only where sshd has `ExposeAuthInfo yes`. Which of these facts a user can change: security.md.

        Example:
            >>> entry.user_session
            3
        """
        return self._cold().user_session or None

    @property
    def image_number(self):
        """Images of this process up to this one, from 1, which a fork makes; an exec of what runs already (same
        file, arguments, environment and credentials) makes none.

        Example:
            >>> entry.image_number
            2
        """
        return self.hot.images

    @property
    def is_thread(self):
        """A fork made this image, not an exec. It is no thread: threads have no entries.

        Example:
            >>> entry.is_thread
            False
        """
        return not self.hot.flags & PL_ROW_IS_EXEC

    @property
    def is_exec(self):
        """An exec made this image.

        Example:
            >>> entry.is_exec
            True
        """
        return bool(self.hot.flags & PL_ROW_IS_EXEC)

    @property
    def is_exec_exec(self):
        """An exec made this image, and the one before.

        Example:
            >>> entry.is_exec_exec
            False
        """
        return bool(self.hot.flags & PL_ROW_IS_EXEC_EXEC)

    @property
    def is_parent_missing(self):
        """The parent or the previous image was not the expected one.

        Example:
            >>> entry.is_parent_missing
            False
        """
        return bool(self.hot.flags & PL_ROW_PARENT_MISSING)

    @property
    def is_adopted(self):
        """The current parent is not the creator.

        Example:
            >>> entry.is_adopted
            False
        """
        return bool(self.hot.flags & PL_ROW_ADOPTED)

    @property
    def is_kworker(self):
        """A kernel thread.

        Example:
            >>> entry.is_kworker
            False
        """
        return bool(self.hot.flags & PL_ROW_KTHREAD)

    @property
    def is_through_symlink(self):
        """A symbolic link was followed on the way to the executable.

        Example:
            >>> entry.is_through_symlink
            False
        """
        return bool(self.hot.flags & PL_ROW_THROUGH_SYMLINK)

    @property
    def is_head(self):
        """Newest image of its process.

        Example:
            >>> entry.is_head
            True
        """
        return bool(self.hot.flags & PL_ROW_HEAD)

    @property
    def flags(self):
        """Bits of the row, of which `marks` and the fields that begin with `is_` are made (memory-layout.md).

        Example:
            >>> entry.flags
            1048709
        """
        return self.hot.flags

    @property
    def generation(self):
        """Changes when the row is freed.

        Example:
            >>> entry.generation
            1
        """
        return self.hot.generation

    @property
    def cpu_user_ns(self):
        """CPU time that the process used in user mode, all threads included, from its fork to its end. Events other
        than `exit` lack this and the following fields. null: it runs, the end was not seen, or the source has no
        eBPF. See cost.md.

        Example:
            >>> entry.cpu_user_ns
            412000
        """
        return self._costs().cpu_user_ns if self.hot.known & PL_KNOWN_COST else None

    @property
    def cpu_system_ns(self):
        """CPU time that the process used in the kernel, all threads included; with `cpu_user_ns` it is the time
        that it ran.

        Example:
            >>> entry.cpu_system_ns
            301000
        """
        return self._costs().cpu_system_ns if self.hot.known & PL_KNOWN_COST else None

    @property
    def children_cpu_ns(self):
        """CPU time of the descendants that were waited for, by this process or by a descendant between them.

        Example:
            >>> entry.children_cpu_ns
            0
        """
        return self._costs().children_cpu_ns if self.hot.known & PL_KNOWN_COST else None

    @property
    def max_rss_bytes(self):
        """Largest resident memory (ru_maxrss), including that of the program that the process was forked from.

        Example:
            >>> entry.max_rss_bytes
            3145728
        """
        return self._costs().max_rss_bytes if self.hot.known & PL_KNOWN_COST else None

    @property
    def minor_faults(self):
        """Page faults without a read from storage; of this and the next three 4294967295 means that many, or more.

        Example:
            >>> entry.minor_faults
            0
        """
        return self._costs().minor_faults if self.hot.known & PL_KNOWN_COST else None

    @property
    def major_faults(self):
        """Page faults that read from storage.

        Example:
            >>> entry.major_faults
            0
        """
        return self._costs().major_faults if self.hot.known & PL_KNOWN_COST else None

    @property
    def voluntary_switches(self):
        """How often a thread waited for something and left its CPU.

        Example:
            >>> entry.voluntary_switches
            0
        """
        return self._costs().voluntary_switches if self.hot.known & PL_KNOWN_COST else None

    @property
    def involuntary_switches(self):
        """How often a thread lost its CPU to another.

        Example:
            >>> entry.involuntary_switches
            0
        """
        return self._costs().involuntary_switches if self.hot.known & PL_KNOWN_COST else None

    @property
    def read_bytes(self):
        """Bytes read from storage; what the page cache had does not count. null: also if the kernel does not count
        this.

        Example:
            >>> entry.read_bytes
            0
        """
        return self._costs().read_bytes if self.hot.known & PL_KNOWN_IO else None

    @property
    def write_bytes(self):
        """Bytes written to files on storage, also if they are still in the page cache.

        Example:
            >>> entry.write_bytes
            0
        """
        return self._costs().write_bytes if self.hot.known & PL_KNOWN_IO else None

    @property
    def start_boot_ns(self):
        """Start time on the boot clock; with pid and boot id the identity. 0: unknown.

        Example:
            >>> entry.start_boot_ns
            92022001000
        """
        return self.hot.start_boot_ns

    @property
    def known(self):
        """Groups of fields that hold a value, as bits; a field of another group is null.

        Example:
            >>> entry.known
            524287
        """
        return self.hot.known

    @property
    def is_before_capture(self):
        """The process began before the capture: creator and earlier images are unknown.

        Example:
            >>> entry.is_before_capture
            False
        """
        return bool(self.hot.flags & PL_ROW_BEFORE_CAPTURE)

    @property
    def is_adoption_predicted(self):
        """The current parent is the one that the kernel was expected to choose; not confirmed yet.

        Example:
            >>> entry.is_adoption_predicted
            False
        """
        return bool(self.hot.flags & PL_ROW_ADOPTION_PREDICTED)

    @property
    def is_foreign(self):
        """Known by its number in a pid namespace, as a tracer there reported it: `pid`, `ppid` and `creator_pid`
        are numbers of the namespace `pid_ns`.

        Example:
            >>> entry.is_foreign
            False
        """
        return bool(self.hot.flags & PL_ROW_FOREIGN)

    @property
    def is_ns_init(self):
        """Init of its pid namespace.

        Example:
            >>> entry.is_ns_init
            False
        """
        return bool(self.hot.flags & PL_ROW_NS_INIT)

    @property
    def is_start_coarse(self):
        """The start time comes from /proc: the beginning of a clock tick (10 ms).

        Example:
            >>> entry.is_start_coarse
            False
        """
        return bool(self.hot.flags & PL_ROW_START_TICKS)

    @property
    def is_replaced(self):
        """An exec has replaced this image; exit_time_ns says when.

        Example:
            >>> entry.is_replaced
            False
        """
        return bool(self.hot.flags & PL_ROW_REPLACED)

    @property
    def is_exit_unseen(self):
        """The end was inferred; its time is an upper bound.

        Example:
            >>> entry.is_exit_unseen
            False
        """
        return bool(self.hot.flags & PL_ROW_EXIT_UNSEEN)
    # end of the generated part

    def row_bytes(self):
        """Return the row's 128 hot, 192 cold and 64 bytes of costs, of one moment (fields: docs/memory-layout.md).

        Example:
            >>> len(entry.row_bytes())
            384
        """
        self._cold()
        return (PyBytes_FromStringAndSize(<char *>&self.hot, sizeof(pl_hot))
                + PyBytes_FromStringAndSize(<char *>self.rest, sizeof(pl_rest)))

    def verify(self):
        """Return whether this copy is consistent, by the checksum that the writer stored in the row.

        For tests: it needs an instance that was started with checks. If the cold part is not here yet, the row is read
        again; if the row was not written in between, this also checks that both reads of the hot part are equal.

        Example:
            >>> entry.verify()
            True
        """
        cdef pl_hot before = self.hot
        if self.rest == NULL:
            self._reload()
            if before.row_seq == self.hot.row_seq and memcmp(&before, &self.hot, sizeof(pl_hot)) != 0:
                return False
        return pl_row_check(&self.hot, &self.rest.cold, &self.rest.costs) == self.hot.check


_property = type(vars(Entry)["pid"])
for _descriptor in vars(Entry).values():
    if type(_descriptor) is _property:
        _add_property(_descriptor)
_use_properties(Entry)

_ATTRIBUTES = _FIELD_SET | {
    name for name, value in vars(Entry).items() if type(value) is _property and not name.startswith("_")
}
