"""The only module that calls libbpf: its C functions, through ctypes.

The system's libbpf.so.1 is used if it is recent. Otherwise the library inside the package pylibbpf is used. It contains
libelf, so the host needs nothing else. But it is compiled without optimisation, and a daemon's start takes a quarter
more CPU time with it. Where pylibbpf has no wheel, an older libbpf of the system is used. pylibbpf's classes are not
used: they have no iterators, no shared maps and no access to libbpf's messages, and their import needs llvmlite.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.machinery
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.bpf import tracefs
from pipeline.bpf._libbpf_log import print_function
from pipeline.errors import LoadError, UnsupportedError

MAP_TYPE_RINGBUF = 27

#: Lines of libbpf's messages that an error keeps; the verifier's verdict is at their end.
_LOG_TAIL_LINES = 40

#: The system's library: every libbpf 1.x has this name.
SYSTEM_LIBRARY = "libbpf.so.1"
#: Version (major, minor) of Debian 13, with which the tests run. pylibbpf's library is preferred to older ones.
_RECENT = (1, 5)
_PACKAGES = "libbpf1 (Debian, Ubuntu) or libbpf (Fedora, Arch)"


def bundled() -> str | None:
    """Return the path of the extension module in pylibbpf, which contains libbpf; None if it is not installed."""
    package = importlib.util.find_spec("pylibbpf")
    for directory in (package.submodule_search_locations or ()) if package else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            if (path := Path(directory, f"pylibbpf{suffix}")).exists():
                return str(path)
    return None


def _open() -> tuple[str, ctypes.CDLL]:
    """Return the library's path or name, and the library."""
    failures = []
    older: tuple[str, ctypes.CDLL] | None = None
    for path in filter(None, (SYSTEM_LIBRARY, bundled())):
        try:
            dll = ctypes.CDLL(path, use_errno=True)
        except OSError as error:
            failures.append(str(error))
            continue
        if path != SYSTEM_LIBRARY or _version(dll) >= _RECENT:
            return path, dll
        older = path, dll
    if older is not None:
        return older
    raise UnsupportedError(
        f"libbpf cannot be loaded ({'; '.join(failures)})",
        feature="libbpf",
        needs="the system's libbpf 1.x, or the package pylibbpf for this version of Python",
        hint=f"install the system package {_PACKAGES}",
    )


def _version(dll: ctypes.CDLL) -> tuple[int, int]:
    """Return the major and the minor version; (0, 0) if the library has no function for that."""
    try:
        return dll.libbpf_major_version(), dll.libbpf_minor_version()
    except AttributeError:
        return 0, 0


class _Library:
    """libbpf's functions, declared when the library is loaded."""

    def __init__(self) -> None:
        self.path, self._dll = _open()
        pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        for name, result, arguments in (
            ("libbpf_version_string", text, ()),
            ("libbpf_set_print", pointer, (pointer,)),
            ("bpf_map_create", number, (number, text, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, pointer)),
            ("bpf_object__open_file", pointer, (text, pointer)),
            ("bpf_object__load", number, (pointer,)),
            ("bpf_object__close", None, (pointer,)),
            ("bpf_object__find_map_by_name", pointer, (pointer, text)),
            ("bpf_object__next_program", pointer, (pointer, pointer)),
            ("bpf_map__fd", number, (pointer,)),
            ("bpf_map__reuse_fd", number, (pointer, number)),
            ("bpf_map__max_entries", ctypes.c_uint32, (pointer,)),
            ("bpf_map__set_max_entries", number, (pointer, ctypes.c_uint32)),
            ("bpf_map__set_initial_value", number, (pointer, pointer, ctypes.c_size_t)),
            ("bpf_map_update_elem", number, (number, pointer, pointer, ctypes.c_uint64)),
            ("bpf_program__name", text, (pointer,)),
            ("bpf_program__fd", number, (pointer,)),
            ("bpf_program__section_name", text, (pointer,)),
            ("bpf_program__set_autoload", number, (pointer, ctypes.c_bool)),
            ("bpf_program__autoload", ctypes.c_bool, (pointer,)),
            ("bpf_program__attach", pointer, (pointer,)),
            ("bpf_program__attach_perf_event", pointer, (pointer, number)),
            ("bpf_link__fd", number, (pointer,)),
            ("bpf_link__destroy", number, (pointer,)),
        ):
            function = getattr(self._dll, name, None)
            if function is None:
                raise UnsupportedError(
                    f"{self.path} has no function {name}",
                    feature="libbpf",
                    needs="libbpf 1.0 or newer",
                    hint=f"upgrade the system package {_PACKAGES}",
                )
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        # For the whole process: libbpf has one for all threads.
        self.libbpf_set_print(print_function(_receive))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"libbpf function {name} is not declared in {__name__}")


_library: _Library | None = None


def library() -> Any:
    """Return libbpf, loading it on first use.

    Raises:
        UnsupportedError: this host has no libbpf.
    """
    global _library
    if _library is None:
        _library = _Library()
    return _library


class _Collected(threading.local):
    """Where a thread collects libbpf's messages; None: they are written to stderr."""

    lines: list[str] | None = None


_collected = _Collected()


def _receive(text: str) -> None:
    if _collected.lines is None:
        sys.stderr.write(text)
    else:
        _collected.lines.extend(text.rstrip("\n").split("\n"))


@contextmanager
def messages() -> Iterator[list[str]]:
    """Collect this thread's warnings of libbpf, with the verifier's log. Outside of this they are written to stderr."""
    library()
    lines: list[str] = []
    before, _collected.lines = _collected.lines, lines
    try:
        yield lines
    finally:
        _collected.lines = before


class TierObject:
    """A loaded BPF object, which shares the maps of a CoreObject."""

    def __init__(
        self,
        path: Path,
        shared: Mapping[str, int],
        *,
        only: str | None = None,
        without: Collection[str] = (),
        constants: bytes = b"",
        sizes: Mapping[str, int] | None = None,
        least: Mapping[str, int] | None = None,
    ) -> None:
        """Load the object.

        Args:
            path: the object file.
            shared: descriptors by map name; these maps are used instead of new ones.
            only: name of the one program to load; None: all.
            without: names of programs that are not loaded.
            constants: the variables that programs only read (section .rodata); empty: as compiled.
            sizes: number of elements by map name; those that the object lacks are passed over.
            least: the same, for maps that keep the number that they are compiled with if it is higher.

        Raises:
            LoadError: the kernel rejected a map or a program.
        """
        lib = library()
        self._links: dict[str, int] = {}
        with messages() as lines:
            self._object = lib.bpf_object__open_file(os.fsencode(path), None)
            if not self._object:
                raise load_error(path, "cannot be opened", lines, ctypes.get_errno())
            for program in self._programs():
                name = lib.bpf_program__name(program).decode()
                if name in without or (only is not None and name != only):
                    lib.bpf_program__set_autoload(program, False)
            for name, fd in shared.items():
                one = lib.bpf_object__find_map_by_name(self._object, name.encode())
                if one and (code := lib.bpf_map__reuse_fd(one, fd)):
                    self.close()
                    raise load_error(path, f"map {name} cannot be shared", lines, -code)
            for name, count in (sizes or {}).items():
                if one := lib.bpf_object__find_map_by_name(self._object, name.encode()):
                    lib.bpf_map__set_max_entries(one, count)
            for name, count in (least or {}).items():
                one = lib.bpf_object__find_map_by_name(self._object, name.encode())
                if one and lib.bpf_map__max_entries(one) < count:
                    lib.bpf_map__set_max_entries(one, count)
            if constants:
                one = lib.bpf_object__find_map_by_name(self._object, b".rodata")
                code = lib.bpf_map__set_initial_value(one, constants, len(constants)) if one else -errno.ENOENT
                if code:
                    self.close()
                    raise load_error(path, "its constants cannot be set", lines, -code)
            if code := lib.bpf_object__load(self._object):
                self.close()
                raise load_error(path, "cannot be loaded", lines, -code)

    def attach(self) -> None:
        """Attach every program that has an attach point; user space runs the others.

        Raises:
            LoadError: one could not be attached; the others are detached by `close`.
        """
        lib = library()
        with messages() as lines, ExitStack() as opened:
            events: tracefs.Tracefs | None = None
            for program in filter(lib.bpf_program__autoload, self._programs()):
                name = lib.bpf_program__name(program).decode()
                kind, _, target = lib.bpf_program__section_name(program).decode().partition("/")
                if not target:
                    continue
                try:
                    if kind == "tp":
                        # libbpf itself finds tracefs only if it is mounted.
                        events = events or opened.enter_context(tracefs.Tracefs())
                        link, code = _attach_tracepoint(program, events.event_id(*target.split("/")))
                    else:
                        link = lib.bpf_program__attach(program)
                        code = ctypes.get_errno()
                except OSError as error:
                    link, code = None, error.errno or 0
                    lines.append(f"{target}: {error.strerror}")
                if not link:
                    raise load_error(Path("attach"), f"{name} cannot be attached", lines, code, name)
                self._links[name] = link

    def is_attached(self, name: str) -> bool:
        """Return whether this object has the program, and it is attached."""
        return name in self._links

    def detach(self, name: str) -> None:
        """Detach one program, if this object has it; it stays loaded."""
        link = self._links.pop(name, None)
        if link is not None:
            library().bpf_link__destroy(link)

    def program_fd(self, name: str) -> int:
        """Return the descriptor of a loaded program; valid as long as the object."""
        for program in self._programs():
            if library().bpf_program__name(program).decode() == name:
                return int(library().bpf_program__fd(program))
        raise KeyError(name)

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a map; valid as long as the object."""
        one = library().bpf_object__find_map_by_name(self._object, name.encode())
        if not one:
            raise KeyError(name)
        return int(library().bpf_map__fd(one))

    @property
    def link_fds(self) -> list[int]:
        """Descriptors of the links in the order of the programs; valid as long as the object."""
        return [library().bpf_link__fd(link) for link in self._links.values()]

    def close(self) -> None:
        """Detach and unload; idempotent."""
        for link in self._links.values():
            library().bpf_link__destroy(link)
        self._links = {}
        if self._object:
            library().bpf_object__close(self._object)
        self._object = None

    def _programs(self) -> Iterator[int]:
        program = library().bpf_object__next_program(self._object, None)
        while program:
            yield program
            program = library().bpf_object__next_program(self._object, program)


class CoreObject(TierObject):
    """The BPF object that owns the shared maps."""

    def __init__(
        self,
        path: Path,
        constants: bytes = b"",
        sizes: Mapping[str, int] | None = None,
        least: Mapping[str, int] | None = None,
    ) -> None:
        """Load the object; arguments and errors as in TierObject."""
        super().__init__(path, {}, constants=constants, sizes=sizes, least=least)

    def map_update(self, name: str, key: int, value: int) -> None:
        """Store a 32-bit value (a map's descriptor, for a map of maps) under a 32-bit key.

        Raises:
            OSError: the kernel rejected it.
        """
        words = ctypes.c_uint32(key), ctypes.c_uint32(value)
        code = library().bpf_map_update_elem(self.map_fd(name), *map(ctypes.byref, words), 0)
        if code < 0:
            raise OSError(-code, f"map {name}: {os.strerror(-code)}")


def _attach_tracepoint(program: int, number: int) -> tuple[int | None, int]:
    """Attach to the tracepoint of that number; return the link, which owns the event, or None, and the errno.

    Raises:
        OSError: the perf event cannot be opened.
    """
    event = tracefs.open_event(number)
    link = library().bpf_program__attach_perf_event(program, event)
    code = ctypes.get_errno()
    if not link:
        os.close(event)
    return link, code


def create_ring(name: str, ring_bytes: int) -> int:
    """Create a BPF ring buffer of `ring_bytes` (a power of two, whole pages); return its descriptor.

    Raises:
        OSError: no memory, or a size that the kernel rejects.
    """
    fd = int(library().bpf_map_create(MAP_TYPE_RINGBUF, name.encode(), 0, 0, ring_bytes, None))
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd))
    return fd


def load_error(path: Path, reason: str, lines: list[str], code: int = 0, program: str = "") -> LoadError:
    """Return a LoadError that carries the tail of libbpf's messages; its `__cause__` is an OSError with the errno.

    Args:
        path: object file, for its name.
        reason: what failed.
        lines: libbpf's messages.
        code: errno; 0 if unknown.
        program: name of the program; empty: the last one that the messages name.
    """
    text = "\n".join(lines)
    # Without a descriptor for the types of a module, libbpf says only that it has not found what it looked for there.
    if short := re.search(r"failed to get BTF object #\d+ FD: -(\d+)", text):
        code = int(short[1])
    found = re.findall(r"prog '([^']+)'", text)
    program = program or (found[-1] if found else "")
    message = f"{path.name}: {reason}"
    if code:
        message += f": {os.strerror(code)}"
    if program:
        message += f" (program {program})"
    error = LoadError(message, program=program, log_tail="\n".join(lines[-_LOG_TAIL_LINES:]))
    if code:
        error.__cause__ = OSError(code, os.strerror(code))
    return error
