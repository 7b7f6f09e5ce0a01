"""A reader's view of one image of one process.

An Entry holds a private copy of the row's hot part, made in one read section. The cold part, paths, arguments and other
strings are read on first use, again in one section. If the row has changed in between (a new uid, an exit), the whole
entry is updated to the time of that read, so its fields always belong together. If the row is no longer retained,
TooOldError is raised. `load()` reads everything at once; a loaded entry does not need the table any more. _reader.pyx
decides which rows to read; export/json.py produces JSON.

Units and names are those of `procline resolve --json`: times are ns since the Unix epoch (boot-clock time plus one
offset), pids are of the daemon's pid namespace, text that is not UTF-8 has surrogate escapes, None means unknown.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

cimport cython

from types import GetSetDescriptorType

from pipeline.errors import BusyError, StaleError, TooOldError
from pipeline.records._records cimport PL_EXEC_DELETED, PL_EXEC_MEMFD, PL_EXEC_UPPER_LAYER
from pipeline.shm.names._files cimport pl_base_at, pl_extension_at
from pipeline.shm.names._filesystems cimport pl_filesystem
from pipeline.shm.layout.declared import SOURCE_NAMES
from pipeline.shm.layout.entry_fields import ENTRY_FIELDS
from pipeline.shm.layout._hash cimport pl_row_check
from pipeline.shm.layout._layout cimport *
from pipeline.shm.names._mounts cimport pl_mount_origin, pl_mount_path, pl_mount_source
from pipeline.shm.reader._view cimport (
    PL_READ_ABSENT, PL_READ_FOUND, View, pl_arena_span, pl_copy_bytes, pl_number_of, pl_read_valid,
)

cdef extern from "string.h" nogil:
    size_t strnlen(const char *text, size_t limit)


cdef extern from *:
    """
    /* Most names are short and ASCII. For those this saves 2 to 3 ns over PyUnicode_DecodeUTF8, and an entry of eight
     * fields contains six of them. */
    static PyObject *pl_text(const char *data, Py_ssize_t n)
    {
        uint64_t word, high = 0;
        Py_ssize_t i = 0;
        PyObject *text;

        for (; i + 8 <= n; i += 8) {
            memcpy(&word, data + i, 8);
            high |= word;
        }
        for (; i < n; i++)
            high |= (unsigned char)data[i];
        if (high & 0x8080808080808080u)
            return PyUnicode_DecodeUTF8(data, n, "surrogateescape");
        text = PyUnicode_New(n, 127);
        if (text != NULL)
            memcpy(PyUnicode_1BYTE_DATA(text), data, n);
        return text;
    }

    /* Decode the next of several NUL-terminated strings; the last one may lack its NUL. */
    static PyObject *pl_next_text(const char **at, const char *end)
    {
        size_t n = strnlen(*at, end - *at);
        PyObject *text = pl_text(*at, n);

        *at += n + 1;
        return text;
    }

    /* Decode several strings into a tuple. Counts them first, because a growing list would cost as much as one more
     * argument. */
    static PyObject *pl_texts(const char *at, const char *end)
    {
        Py_ssize_t count = end > at && end[-1] != 0;
        PyObject *texts, *text;

        for (const char *p = at; p < end; p++)
            count += *p == 0;
        texts = PyTuple_New(count);
        for (Py_ssize_t i = 0; texts != NULL && i < count; i++) {
            text = pl_next_text(&at, end);
            if (text == NULL)
                Py_CLEAR(texts);
            else
                PyTuple_SET_ITEM(texts, i, text);
        }
        return texts;
    }

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
    #define PL_PROPERTIES 512
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

    static PyObject *pl_attribute(PyObject *self, PyObject *name)
    {
        size_t place = pl_property_place(name);

        if (pl_properties[place].name != NULL)
            return pl_properties[place].property->get(self, pl_properties[place].property->closure);
        return PyObject_GenericGetAttr(self, name);
    }

    /* Return whether `n` shared bytes, which may change meanwhile, are equal to the given ones. */
    static int pl_same_bytes(const char *shared, const char *data, size_t n)
    {
        uint64_t other = 0, differs = 0;
        size_t i = 0;

        for (; i + 8 <= n; i += 8) {
            memcpy(&other, data + i, 8);
            differs |= other ^ __atomic_load_n((const uint64_t *)(const void *)(shared + i), __ATOMIC_RELAXED);
        }
        for (; i < n; i++)
            differs |= (unsigned char)data[i] ^ (unsigned char)__atomic_load_n(shared + i, __ATOMIC_RELAXED);
        return differs == 0;
    }
    """
    object _decode "pl_text"(const char *data, Py_ssize_t n)
    object _next_text "pl_next_text"(const char **at, const char *end)
    tuple _decode_few "pl_texts"(const char *at, const char *end)
    list _list_of "pl_list_of"(tuple texts)
    object _attribute "pl_attribute"(object self, object name)
    void _add_property "pl_property_add"(object descriptor)
    bint _same_bytes "pl_same_bytes"(const char *shared, const char *data, size_t n) noexcept nogil

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

cdef uint32_t _UNSET = 4294967295

_CGROUP_SOURCES = (None, "event", "procfs", "inherited")

#: Keys of `Entry.to_dict()`, in this order; each is also an attribute of Entry.
FIELDS = ENTRY_FIELDS

# generated: entry-values
_SECCOMP_MODE = ("disabled", "strict", "filter", "filter")
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
)
# end of the generated part


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
    if not entry.hot.known & needs or not entry.hot.known & PL_KNOWN_NS:
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


cdef object _file_of(Entry entry, bytes data):
    """Return the facts of `data`, a FILE record with its path."""
    cdef const pl_file *file = _facts(data)
    cdef const char *path = PyBytes_AS_STRING(data) + sizeof(pl_file)
    cdef const char *mount
    cdef uint32_t n = <uint32_t>(PyBytes_GET_SIZE(data) - <Py_ssize_t>sizeof(pl_file)), mount_n = 0, at = 0
    cdef bint is_resolved = (file.mount_flags & PL_MOUNT_RESOLVED) != 0
    cdef bint is_memfd = (file.file_flags & PL_EXEC_MEMFD) != 0
    mount = pl_mount_path(file, path, n, &mount_n)
    whole = base = extension = user = group = None
    if n and is_memfd:
        # A file in memory has a name but no path (specification 1.4).
        at = 1 if path[0] == b"/" else 0
        whole, base = "", _decode(path + at, n - at)
        if not base.startswith("memfd:"):
            base = "memfd:" + base
        extension = base[base.rfind("."):] if "." in base else ""
    elif n:
        whole, at = _decode(path, n), pl_base_at(path, n)
        base = _decode(path + at, n - at)
        at += pl_extension_at(path + at, n - at)
        extension = _decode(path + at, n - at)
    if file.file_inode:  # otherwise the file could not be read, and 0 does not mean root
        user = _name_of(entry, "user", file.file_uid, PL_KNOWN_FILE)
        group = _name_of(entry, "group", file.file_gid, PL_KNOWN_FILE)
    return {
        "path": whole, "basename": base, "extension": extension,
        "inode": file.file_inode, "device": file.device, "mount_id": file.mount_id, "mode": file.mode,
        "uid": file.file_uid, "gid": file.file_gid, "user": user, "group": group, "nlink": file.nlink,
        "mtime_ns": file.mtime_ns or None, "ctime_ns": file.ctime_ns or None, "fs_magic": file.fs_magic,
        "filesystem": _name(pl_filesystem(file.fs_magic)), "flags": file.file_flags,
        "in_upper_layer": (file.file_flags & PL_EXEC_UPPER_LAYER) != 0,
        "is_fileless": bool(is_memfd) if is_memfd or file.mount_id else None,
        "mount_path": None if mount == NULL else _decode(mount, mount_n),
        "mount_source": _name(pl_mount_source(file)), "mount_origin": _name(pl_mount_origin(file)),
        "mount_visible": bool(file.mount_flags & PL_MOUNT_VISIBLE) if is_resolved else None,
        "mount_detached": bool(file.mount_flags & PL_MOUNT_DETACHED) if is_resolved else None,
    }


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
    """

    def __init__(self):
        if self.view is None:
            raise TypeError("entries come from a ProcessTable")

    def __dealloc__(self):
        if self.has_strings:
            self._forget()
        if self.cold != NULL:
            free(self.cold)

    def __getattribute__(self, name):
        return _attribute(self, name)

    def __repr__(self):
        end = "" if self.hot.exit_boot_ns == 0 else (" replaced" if self.hot.flags & PL_ROW_REPLACED else " exited")
        return f"<Entry {self.pid} {self.comm!r}{end}>"

    def __eq__(self, other):
        """Return whether both are the same image of the same process, regardless of the time of reading."""
        cdef Entry that
        if not isinstance(other, Entry):
            return NotImplemented
        that = <Entry>other
        return (self.row_number == that.row_number and self.hot.generation == that.hot.generation
                and self.view.epoch == that.view.epoch and self.view.boot_id == that.view.boot_id)

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

    # -- reading on first use ----------------------------------------------------------------------------------------

    cdef int _reload(self) except -1:
        """Read both parts of the row again in one section; the whole entry then has the state of this read."""
        cdef pl_hot hot
        cdef pl_cold cold
        cdef int result
        with nogil:
            result = self.view.copy_row(self.row_number, self.hot.generation, &hot, &cold)
        if result == PL_READ_ABSENT:
            self.view.check_whole()
            raise TooOldError(
                f"this entry of pid {self.hot.tgid} is not retained any more: read what you need sooner, or load()",
                horizon_unix_ns=self.view.view.control.horizon_boot_ns + self.view.view.control.boot_unix_ns,
            )
        if result != PL_READ_FOUND:
            raise_busy(self.view, f"pid {self.hot.tgid}")
        if self.cold == NULL:
            self.cold = <pl_cold *>malloc(sizeof(pl_cold))
            if self.cold == NULL:
                raise MemoryError
        if hot.row_seq != self.hot.row_seq:
            self._forget()
        self.hot = hot
        self.cold[0] = cold
        if hot.flags & PL_ROW_FOREIGN:
            # A slot keeps its key while a retained row names it.
            self.parent_number = pl_number_of(&self.view.view, hot.ppid)
            self.creator_number = pl_number_of(&self.view.view, cold.creator_tgid)
            self.view.check_whole()
        return 0

    cdef pl_cold *_cold(self) except NULL:
        if self.cold == NULL:
            self._reload()
        return self.cold

    cdef bytes _fetch(self, const char *base, const uint64_t *allocated, uint32_t ref, bint *moved):
        """Copy the string of `ref`. Returns None and sets `moved` if the row has changed since it was copied."""
        cdef const pl_hot *row = &self.view.view.hot[self.row_number]
        cdef kept_string *kept = _kept_at(ref, base == self.view.view.names)
        cdef const char *data
        cdef uint32_t n = 0
        cdef bytes result
        # The row holds the reference, and the writer reuses the bytes only after it has changed the row. While the row
        # is unchanged, so are header and bytes. Check the length before allocating memory for it.
        moved[0] = not pl_arena_span(base, allocated, ref, &data, &n) or not pl_read_valid(row, self.hot.row_seq)
        if moved[0]:
            return None
        if (
            kept.data != NULL and PyBytes_GET_SIZE(<object>kept.data) == n
            and _same_bytes(data, PyBytes_AS_STRING(<object>kept.data), n)
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
        self._cold()
        if kind == EXTRA_STRING:
            return self.cold.extra_ref
        if kind == ENVS_STRING:
            return self.cold.envs_ref
        if kind == NAME_STRING:
            return self.cold.name_ref
        return self.cold.cgroup_ref if kind == CGROUP_STRING else self.cold.container_ref

    cdef bytes _string(self, int kind):
        """Return the bytes of one arena reference of the row; None without a reference or without access."""
        cdef const char *base
        cdef const uint64_t *allocated
        cdef uint32_t ref
        cdef bint moved = False
        cdef bytes result
        cdef PyObject *former
        cdef int tries
        if self.strings[kind] != NULL:
            return <bytes>self.strings[kind]
        for tries in range(1000):
            base = self.view.view.names
            allocated = &self.view.view.control.names_allocated_bytes
            if kind == ARGS_STRING or kind == EXTRA_STRING:
                base = self.view.view.args
                allocated = &self.view.view.control.args_allocated_bytes
            elif kind == ENVS_STRING:
                base = self.view.view.envs
                allocated = &self.view.view.control.envs_allocated_bytes
            ref = self._ref(kind)
            if ref == 0 or base == NULL:
                return None
            result = self._fetch(base, allocated, ref, &moved)
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

    def to_dict(self):
        """Return all fields under their JSON names (FIELDS), all of one moment."""
        self.load()
        return {field: getattr(self, field) for field in FIELDS}

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
        cdef pl_cold cold
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
                result = self.view.copy_row(<uint32_t>link, <uint32_t>(link >> 32), &hot, &cold)
            return _foreign_id(self.view, &cold, hot.start_boot_ns) if result == PL_READ_FOUND else None
        return _entity_id(self.view, hot.tgid, hot.start_boot_ns)

    # -- identity ----------------------------------------------------------------------------------------------------

    @property
    def pid(self):
        """Process id (tgid); for a foreign process, the pid in its pid namespace."""
        return self.hot.tgid if not self.hot.flags & PL_ROW_FOREIGN else self._cold().ns_pid

    @property
    def tid(self):
        """Thread of the last event."""
        cdef uint32_t tid = self._cold().tid
        return tid if tid else self.pid

    @property
    def ppid(self):
        """The current parent's pid (`real_parent`); 0 for none or unknown."""
        if self.hot.flags & PL_ROW_FOREIGN:
            self._cold()
            return self.parent_number
        return self.hot.ppid

    @property
    def entity_id(self):
        """Identity of the process as text; None while its start time is unknown."""
        if self.hot.flags & PL_ROW_FOREIGN:
            return _foreign_id(self.view, self._cold(), self.hot.start_boot_ns)
        return _entity_id(self.view, self.hot.tgid, self.hot.start_boot_ns)

    @property
    def cpid(self):
        """OCSF's Common Process Identifier; coarse (clock ticks), so do not use it as a key."""
        from pipeline.host.boot import cpid, ticks_of
        cdef pl_cold *cold = self._cold()
        if not self.hot.start_boot_ns or not self.hot.known & PL_KNOWN_NS:
            return None
        return cpid(self.view.boot_id, cold.pid_ns, ticks_of(self.hot.start_boot_ns), cold.ns_pid)

    @property
    def parent_entity_id(self):
        """Identity of the current parent; None if it is unknown or not retained."""
        return self._linked_entity_id(self.hot.parent)

    @property
    def creator_entity_id(self):
        """Identity of the process that forked this one; None if it is unknown or not retained."""
        return self._linked_entity_id(self.hot.creator)

    @property
    def creator_pid(self):
        """Pid of the process that forked this one, even if the parent is another process now."""
        cdef uint32_t tgid = self._cold().creator_tgid
        if self.hot.flags & PL_ROW_FOREIGN:
            tgid = self.creator_number
        return tgid if tgid else None

    @property
    def row(self):
        """Row of the table; together with `generation` it is the address of the image."""
        return self.row_number

    @property
    def source(self):
        """Origin of the entry: event, map, procfs_fallback, procfs_snapshot, placeholder or unknown."""
        return SOURCE_NAMES[self.hot.source] if self.hot.source < len(SOURCE_NAMES) else "unknown"

    # -- times -------------------------------------------------------------------------------------------------------

    @property
    def start_time_ns(self):
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
        """Time when the image was created: the later of its exec and the fork."""
        cdef uint64_t fork = self._cold().fork_boot_ns
        return self._unix(max(self.hot.exec_boot_ns, fork if fork else self.hot.start_boot_ns))

    @property
    def exit_code(self):
        """Wait status, as waitpid(2) returns it; None while the process runs, or if its end was not seen."""
        cdef int32_t status = self._cold().exit_code
        return status if self.hot.flags & PL_ROW_EXIT_KNOWN else None

    @property
    def exit_cause(self):
        """How the process ended: exited, signaled or coredumped."""
        status = self.exit_code
        if status is None:
            return None
        return "exited" if status & 0x7F == 0 else ("coredumped" if status & 0x80 else "signaled")

    @property
    def exit_cause_code(self):
        """Exit status, or the number of the signal that ended the process."""
        status = self.exit_code
        if status is None:
            return None
        return status >> 8 & 0xFF if status & 0x7F == 0 else status & 0x7F

    # -- what runs ---------------------------------------------------------------------------------------------------

    @property
    def comm(self):
        if not self.hot.known & PL_KNOWN_COMM:
            return None
        cdef kept_row *kept = _keep_row(self)
        if kept.comm == NULL:
            kept.comm = _owned(_decode(self.hot.comm, strnlen(self.hot.comm, sizeof(self.hot.comm))))
        return <object>kept.comm

    @property
    def path(self):
        """The executable, below the global root of its mount tree; for a script, its interpreter."""
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
        """The executable as the process sees it, below its own root directory."""
        cdef bytes data = self._file()
        cdef Py_ssize_t skip
        if data is None:
            return None
        skip = <Py_ssize_t>sizeof(pl_file) + _facts(data).root_offset
        return _decode(PyBytes_AS_STRING(data) + skip, PyBytes_GET_SIZE(data) - skip) if skip < len(data) else None

    @property
    def file(self):
        """Facts about the executable; None if unknown.

        About the file: path, basename and extension (with its dot; "" for none) as in specification 1.4, so that a
        memfd has the path "" and the basename "memfd:NAME"; inode, device, mount_id, mode, uid, gid; user and group
        (their names, among the users of the container that the process is in); nlink, mtime_ns, ctime_ns, fs_magic,
        filesystem (the name of fs_magic; None if _filesystems.pxd does not have it); flags (EXEC_* of
        pipeline.records.events); in_upper_layer (one of these flags: the file is in the writable layer of an overlay);
        is_fileless (a memfd; None if its mount was not reported).

        About its mount, as of the time when the file was executed or read: mount_path (its place, a part of `path`),
        mount_source (how it was found: mount_id, device, snapshot), mount_origin (what reported it: event, procfs,
        unshare), mount_visible (the file was reachable below the root directory of the process), mount_detached (the
        mount was in no mount namespace).
        """
        cdef bytes data = self._file()
        return None if data is None else _file_of(self, data)

    @property
    def interpreter(self):
        """The interpreter of a script, with the same keys as `file`; None if the process does not run a script.

        The values are those of `file`, because the kernel executes the interpreter. If a caller of the resolver's
        methods reported a separate file, they are the values of that file.
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
    def is_exe_deleted(self):
        """Whether the executable had no name any more when it was executed or read."""
        cdef bytes data = self._file()
        return data is not None and (_facts(data).file_flags & PL_EXEC_DELETED) != 0

    @property
    def is_memfd(self):
        """Whether the executable is a memfd; then `path` is "/memfd:NAME"."""
        cdef bytes data = self._file()
        return data is not None and (_facts(data).file_flags & PL_EXEC_MEMFD) != 0

    @property
    def name(self):
        """The invoked name, as the caller of exec passed it."""
        return self._name()

    @property
    def symlink_paths(self):
        """The two usual paths of the invoked name, for busybox or through a symbolic link; None if `path` suffices."""
        names = _symlink_names(self)
        return None if names is None else list(names.paths)

    @property
    def symlink_basename(self):
        """The last part of `symlink_paths`."""
        names = _symlink_names(self)
        return None if names is None else names.basename

    @property
    def script_path(self):
        """The invoked file if it is a script (or binfmt_misc); `path` is then its interpreter."""
        return self._name() if self.hot.flags & PL_ROW_SCRIPT else None

    @property
    def argv(self):
        """Arguments including argv[0]; None if unknown, or if this reader may not read them."""
        if not self.hot.known & PL_KNOWN_ARGS or self.view.view.args == NULL:
            return None
        cdef kept_row *kept = _kept_row(self)
        if kept != NULL and kept.argv != NULL:
            return _list_of(<tuple>kept.argv)
        return [] if self.hot.args_ref == 0 else self._list(ARGS_STRING)

    @property
    def args_full_bytes(self):
        """Length of the whole argument area, even if argv was truncated; None if unknown or not readable."""
        if not self.hot.known & PL_KNOWN_ARGS or self.view.view.args == NULL:
            return None
        data = self._string(ARGS_STRING)
        return int.from_bytes(data[:4], "little") if data else 0

    @property
    def envs(self):
        """KEY=VALUE strings; None if unknown, or if this reader may not read them."""
        if not self.hot.known & PL_KNOWN_ENVS or self.view.view.envs == NULL:
            return None
        return [] if self._cold().envs_ref == 0 else self._list(ENVS_STRING)

    # -- credentials -------------------------------------------------------------------------------------------------

    @property
    def user(self):
        """Name of `uid`, among the users of the container that the process is in; None if it has none or is unknown."""
        return _name_of(self, "user", self.hot.uid)

    @property
    def group(self):
        return _name_of(self, "group", self.hot.gid)

    @property
    def euser(self):
        return _name_of(self, "user", self._cold().euid)

    @property
    def egroup(self):
        return _name_of(self, "group", self._cold().egid)

    @property
    def fsuser(self):
        return _name_of(self, "user", self._cold().fsuid)

    @property
    def fsgroup(self):
        return _name_of(self, "group", self._cold().fsgid)

    # -- where it runs -----------------------------------------------------------------------------------------------

    @property
    def tty(self):
        """Controlling terminal, e.g. pts0; None for none or unknown."""
        cdef pl_cold *cold = self._cold()
        if not self.hot.known & PL_KNOWN_TTY or cold.tty[0] == 0:
            return None
        return _decode(cold.tty, strnlen(cold.tty, sizeof(cold.tty)))

    @property
    def cgroup(self):
        """Path of the cgroup."""
        cdef bytes data = self._cgroup()
        if data is None:
            return None
        return _value(data, self.cold.cgroup_ref, True, CGROUP)

    @property
    def cgroup_created_at_ns(self):
        """Creation time of that cgroup, if the kernel reported it; None if before the capture or unknown."""
        cdef bytes data = self._cgroup()
        return None if data is None else self._unix((<const pl_cgroup *>PyBytes_AS_STRING(data)).cgroup_made_boot_ns)

    @property
    def container_created_at_ns(self):
        """Creation time of the container's own cgroup (version 2); None as for the cgroup."""
        cdef bytes data = self._cgroup()
        if data is None or self._string(CONTAINER_STRING) is None:
            return None
        return self._unix((<const pl_cgroup *>PyBytes_AS_STRING(data)).container_made_boot_ns)

    @property
    def cgroup_version(self):
        """Version of `cgroup` and `cgroup_id`: 2; None if these are None.

        A row stores no cgroups of version 1; from those it has only the container.
        """
        return 2 if self.hot.known & PL_KNOWN_CGROUP and self.hot.cgroup_id else None

    @property
    def cgroup_source(self):
        """What reported the cgroup first: event, procfs or inherited; None if unknown.

        procfs: the live process was read, as at the start, in a repair, or by a source without BPF. inherited: the
        cgroup and `container_id` are those of the parent. None is the value for a cgroup from the kernel's process
        maps.
        """
        if not self.hot.known & PL_KNOWN_CGROUP or (
            not self.hot.cgroup_id and self.hot.cgroup_source != PL_CGROUP_SOURCE_INHERITED
        ):
            return None
        return _CGROUP_SOURCES[self.hot.cgroup_source] if self.hot.cgroup_source < len(_CGROUP_SOURCES) else None

    @property
    def container_id(self):
        return self._text(CONTAINER_STRING)

    @property
    def ssh_session(self):
        """The session of `user_session`: id, username, client_ip, client_port, auth_method, public_key.

        Each value is None if it is unknown.
        """
        from pipeline.shm.names.ssh import session
        return session(self.view.directory, self._cold().user_session)

    @property
    def extra(self):
        """Fields that few processes have, by name; None if there are none, or if this reader may not read them."""
        cdef bytes data = self._string(EXTRA_STRING)
        if data is None:
            return None
        import msgpack
        return _plain(msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False))

    # -- statements --------------------------------------------------------------------------------------------------

    @property
    def is_exited(self):
        """Whether the process has ended."""
        return self.hot.exit_boot_ns != 0 and not self.hot.flags & PL_ROW_REPLACED

    @property
    def is_elided(self):
        """Whether earlier images or ancestors existed that are not retained."""
        return bool(self.elided or self.hot.flags & PL_ROW_ELIDED)

    @property
    def marks(self):
        """Uncertain facts about this entry, as a list of names that is usually empty.

        adopted (the parent is not the creator), adoption_predicted (not confirmed yet), exit_unseen (the exit time is
        an upper bound), before_capture (began before the capture: creator and earlier images unknown), gap (events were
        lost around here), ns_init (init of its pid namespace), start_ticks (start time from /proc, up to 10 ms early),
        head_only (only the identity is known), elided (earlier images or ancestors existed and are not retained),
        foreign (see is_foreign).
        """
        cdef uint32_t flags = self.hot.flags | (PL_ROW_ELIDED if self.elided else 0)
        return [name for name, flag in _MARKS if flags & <uint32_t>flag]

    # generated: entry-properties
    @property
    def fork_time_ns(self):
        """When the fork was seen."""
        return self._unix(self._cold().fork_boot_ns)

    @property
    def exec_time_ns(self):
        """When this image was loaded, the last time if it was loaded several times; for a fork, when the image of
        its parent was."""
        return self._unix(self.hot.exec_boot_ns)

    @property
    def exit_time_ns(self):
        """End of the image: the end of the process, or the exec that replaced it; null: it runs."""
        return self._unix(self.hot.exit_boot_ns)

    @property
    def cwd(self):
        """Working directory at the exec, below the daemon's root directory; of a process that was found in /proc,
        at that moment; null: unknown, deleted, not reachable from there, or longer than 4096 bytes."""
        return self._directory(0)

    @property
    def argc(self):
        """How many arguments there were, also if `argv` was cut; 65535: that many, or more."""
        return self._cold().argc if self.hot.known & PL_KNOWN_ARGS else None

    @property
    def args_truncated(self):
        """`argv` is not complete."""
        return bool(self.hot.flags & PL_ROW_ARGS_TRUNCATED)

    @property
    def envc(self):
        """How many variables there were; null where environments are not captured, as by default
        (`capture.envs_bytes`)."""
        return self._cold().envc if self.hot.known & PL_KNOWN_ENVS else None

    @property
    def envs_truncated(self):
        """`envs` is not complete; false where environments are not captured."""
        return bool(self.hot.flags & PL_ROW_ENVS_TRUNCATED)

    @property
    def uid(self):
        """Ids are those of the initial user namespace."""
        return self.hot.uid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def gid(self):
        return self.hot.gid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def euid(self):
        return self._cold().euid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def egid(self):
        return self._cold().egid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def suid(self):
        return self._cold().suid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def sgid(self):
        return self._cold().sgid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def fsuid(self):
        return self._cold().fsuid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def fsgid(self):
        return self._cold().fsgid if self.hot.known & PL_KNOWN_CREDS else None

    @property
    def auid(self):
        """Login uid; null: never set, or unknown."""
        cdef uint32_t value = self._cold().auid
        return value if self.hot.known & PL_KNOWN_AUID and value != _UNSET else None

    @property
    def audit_session(self):
        """Null: never set, or unknown."""
        cdef uint32_t value = self._cold().audit_session
        return value if self.hot.known & PL_KNOWN_AUID and value != _UNSET else None

    @property
    def cap_effective(self):
        """Mask: bit n is capability n."""
        return self._cold().cap_effective if self.hot.known & PL_KNOWN_CAPS else None

    @property
    def cap_permitted(self):
        """Mask."""
        return self._cold().cap_permitted if self.hot.known & PL_KNOWN_CAPS else None

    @property
    def caps_attempted(self):
        """Mask of capabilities that were checked for the image; 0 unless `capture.capabilities_usage` is on or an
        agent reports them."""
        return self._cold().cap_attempted

    @property
    def caps_used(self):
        """Those of them that it had."""
        return self._cold().cap_used

    @property
    def no_new_privs(self):
        """PR_SET_NO_NEW_PRIVS is set: an exec cannot add privileges. As of the last event of the process; null:
        unknown."""
        return bool((self.hot.flags & 0x800000) >> 23) if self.hot.known & PL_KNOWN_NO_NEW_PRIVS else None

    @property
    def seccomp_mode(self):
        """`disabled`, `strict` or `filter`, as of the last event of the process; null: unknown."""
        return _SECCOMP_MODE[(self.hot.flags & 0x3000000) >> 24] if self.hot.known & PL_KNOWN_SECCOMP else None

    @property
    def sid(self):
        """Pid of the session leader."""
        return self._cold().sid if self.hot.known & PL_KNOWN_SID else None

    @property
    def pgid(self):
        """Pid of the process group leader."""
        return self._cold().pgid if self.hot.known & PL_KNOWN_SID else None

    @property
    def inode(self):
        """Of the executable."""
        return self.hot.inode or None if self.hot.known & PL_KNOWN_FILE else None

    @property
    def exec_inode(self):
        """Executable that the kernel reported with the event: of a fork that of the forking process, of an exec
        that of the image before, otherwise (a snapshot, a change) its own."""
        return self._cold().exec_inode or None

    @property
    def ns_pid(self):
        """Pid in the innermost pid namespace."""
        return self._cold().ns_pid or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def pid_ns(self):
        """Inodes of namespaces, as `readlink /proc/PID/ns/*` numbers them."""
        return self._cold().pid_ns or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def mnt_ns(self):
        return self._cold().mnt_ns or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def net_ns(self):
        return self._cold().net_ns or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def user_ns(self):
        return self._cold().user_ns or None if self.hot.known & PL_KNOWN_NS else None

    @property
    def cgroup_id(self):
        """Of the cgroup v2 directory."""
        return self.hot.cgroup_id or None if self.hot.known & PL_KNOWN_CGROUP else None

    @property
    def fork_flags(self):
        """Clone flags without the exit signal; null: none, or unknown."""
        return self._cold().fork_flags or None

    @property
    def cookie(self):
        """Identifies the image in the BPF maps."""
        return self._cold().cookie or None

    @property
    def user_session(self):
        """Number of the ssh session. An event `user_session` reports its facts once (`ssh_session_id` in its
        `context` is the number); an entry has them in `ssh_session`, as long as they are known. The authentication
        is known only where sshd has `ExposeAuthInfo yes`. Which of these facts a user can change: security.md."""
        return self._cold().user_session or None

    @property
    def images(self):
        """Images of this process up to this one, from 1; an exec of what runs already (same file, arguments,
        environment and credentials) makes none."""
        return self.hot.images

    @property
    def is_thread(self):
        """No exec made this image: it is a fork (threads are no entries)."""
        return not self.hot.flags & PL_ROW_IS_EXEC

    @property
    def is_exec(self):
        """An exec made this image."""
        return bool(self.hot.flags & PL_ROW_IS_EXEC)

    @property
    def is_exec_exec(self):
        """An exec made this image, and the one before."""
        return bool(self.hot.flags & PL_ROW_IS_EXEC_EXEC)

    @property
    def is_parent_missing(self):
        """The parent or the previous image was not the expected one."""
        return bool(self.hot.flags & PL_ROW_PARENT_MISSING)

    @property
    def is_adopted(self):
        """The current parent is not the creator."""
        return bool(self.hot.flags & PL_ROW_ADOPTED)

    @property
    def is_kworker(self):
        """A kernel thread."""
        return bool(self.hot.flags & PL_ROW_KTHREAD)

    @property
    def is_through_symlink(self):
        """A symbolic link was followed on the way to the executable."""
        return bool(self.hot.flags & PL_ROW_THROUGH_SYMLINK)

    @property
    def is_head(self):
        """Newest image of its process."""
        return bool(self.hot.flags & PL_ROW_HEAD)

    @property
    def flags(self):
        """ROW_* (memory-layout.md)."""
        return self.hot.flags

    @property
    def generation(self):
        """Changes when the row is freed."""
        return self.hot.generation

    @property
    def start_boot_ns(self):
        """Start time on the boot clock; with pid and boot id the identity. 0: unknown."""
        return self.hot.start_boot_ns

    @property
    def known(self):
        """KNOWN_* of declared.py: groups of fields that hold a value."""
        return self.hot.known

    @property
    def is_before_capture(self):
        """The process began before the capture: creator and earlier images are unknown."""
        return bool(self.hot.flags & PL_ROW_BEFORE_CAPTURE)

    @property
    def is_adoption_predicted(self):
        """The current parent is the one that the kernel was expected to choose; not confirmed yet."""
        return bool(self.hot.flags & PL_ROW_ADOPTION_PREDICTED)

    @property
    def is_foreign(self):
        """Known by its number in a pid namespace, as a tracer there reported it: `pid`, `ppid` and `creator_pid`
        are numbers of the namespace `pid_ns`."""
        return bool(self.hot.flags & PL_ROW_FOREIGN)

    @property
    def is_ns_init(self):
        """Init of its pid namespace."""
        return bool(self.hot.flags & PL_ROW_NS_INIT)

    @property
    def is_start_coarse(self):
        """The start time comes from /proc: the beginning of a clock tick (10 ms)."""
        return bool(self.hot.flags & PL_ROW_START_TICKS)

    @property
    def is_replaced(self):
        """An exec has replaced this image; exit_time_ns says when."""
        return bool(self.hot.flags & PL_ROW_REPLACED)

    @property
    def is_exit_unseen(self):
        """The end was inferred; its time is an upper bound."""
        return bool(self.hot.flags & PL_ROW_EXIT_UNSEEN)
    # end of the generated part

    def row_bytes(self):
        """Return the row's 128 hot and 192 cold bytes, of one moment (dtypes HOT and COLD of tables.py)."""
        self._cold()
        return (PyBytes_FromStringAndSize(<char *>&self.hot, sizeof(pl_hot))
                + PyBytes_FromStringAndSize(<char *>self.cold, sizeof(pl_cold)))

    def verify(self):
        """Return whether this copy is consistent, by the checksum that the writer stored in the row.

        For tests: it needs an instance that was started with checks. If the cold part is not here yet, the row is read
        again; if the row was not written in between, this also checks that both reads of the hot part are equal.
        """
        cdef pl_hot before = self.hot
        if self.cold == NULL:
            self._reload()
            if before.row_seq == self.hot.row_seq and memcmp(&before, &self.hot, sizeof(pl_hot)) != 0:
                return False
        return pl_row_check(&self.hot, self.cold) == self.hot.check


for _descriptor in vars(Entry).values():
    if type(_descriptor) is GetSetDescriptorType:
        _add_property(_descriptor)
