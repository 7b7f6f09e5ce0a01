"""Kernels with another shape of a type: libbpf gets their type information instead of that of this kernel.

libbpf finds each field by name when it loads an object. The kernel rejects an object that reads a field which is not
there. The changed fields are at wrong offsets for the running kernel, so objects are loaded and not attached.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.bpf import features, host, libbpf

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.usefixtures("live_kernel")]

# include/uapi/linux/btf.h
_HEADER = struct.Struct("<HBBIIIII")
_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _TYPEDEF = 1, 3, 4, 5, 6, 8
_FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = 13, 14, 15, 17, 19
#: Bytes behind a type: fixed, and for each of its parts.
_FIXED = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}


class Types:
    """The type information of this kernel, which can be changed."""

    def __init__(self) -> None:
        data = host.BTF.read_bytes()
        _, _, _, length, type_at, type_bytes, text_at, text_bytes = _HEADER.unpack_from(data)
        self._types = bytearray(data[length + type_at :][:type_bytes])
        self._text = bytearray(data[length + text_at :][:text_bytes])
        self._at: dict[tuple[int, str], int] = {}
        self._ids: dict[int, int] = {}
        at, number = 0, 1
        while at < type_bytes:
            name, info, _ = struct.unpack_from("<III", self._types, at)
            kind, parts = info >> 24 & 31, info & 0xFFFF
            if kind in {_INT, _STRUCT, _TYPEDEF}:
                self._at.setdefault((kind, self._name(name)), at)
            self._ids[at] = number
            at += 12 + _FIXED.get(kind, 0) + _EACH.get(kind, 0) * parts
            number += 1
        self._by_id = {number: at for at, number in self._ids.items()}
        self._next = number

    def _name(self, at: int) -> str:
        return self._text[at : self._text.index(0, at)].decode()

    def _add_name(self, name: str) -> int:
        self._text += name.encode() + b"\0"
        return len(self._text) - len(name) - 1

    def number(self, name: str, kind: int = _STRUCT) -> int:
        """Return the number of a type."""
        return self._ids[self._at[kind, name]]

    def array(self, element: int, count: int) -> int:
        """Add an array type, and return its number."""
        self._types += struct.pack("<IIIIII", 0, _ARRAY << 24, 0, element, element, count)
        self._next += 1
        return self._next - 1

    def rename(self, owner: str | int, member: str, name: str, kind: int) -> None:
        """Change name and type of a member of a struct, which is given by its name or number."""
        at = self._at[_STRUCT, owner] if isinstance(owner, str) else self._by_id[owner]
        count = struct.unpack_from("<I", self._types, at + 4)[0] & 0xFFFF
        for place in range(at + 12, at + 12 + 12 * count, 12):
            if self._name(struct.unpack_from("<I", self._types, place)[0]) == member:
                struct.pack_into("<II", self._types, place, self._add_name(name), kind)
                return
        pytest.skip(f"the type has no {member} here")

    def behind(self, typedef: str) -> int:
        """Return the number of the type that a typedef names."""
        return int(struct.unpack_from("<I", self._types, self._at[_TYPEDEF, typedef] + 8)[0])

    def bytes(self) -> bytes:
        """Return all of it, as the kernel has it in a file."""
        header = _HEADER.pack(0xEB9F, 1, 0, _HEADER.size, 0, len(self._types), len(self._types), len(self._text))
        return header + self._types + self._text


def _times(ctime: str, mtime: str) -> Callable[[Types], None]:
    def change(types: Types) -> None:
        whole = types.number("timespec64")
        # Two numbers of 64 bits follow each of these, so the verifier accepts the loads.
        types.rename("inode", "i_ctime_sec", "i_absent", whole)
        types.rename("inode", "i_atime_sec", ctime, whole)
        types.rename("inode", "i_mtime_sec", mtime, whole)

    return change


def _capabilities(types: Types) -> None:
    """Before Linux 6.3: two words."""
    types.rename(types.behind("kernel_cap_t"), "val", "cap", types.array(types.number("unsigned int", _INT), 2))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Callable[[Types], None]], None]]:
    """Make libbpf see this kernel as another one."""
    opened = libbpf.library().bpf_object__open_file
    file = tmp_path / "types"

    class Options(ctypes.Structure):
        """struct bpf_object_open_opts, up to what is used."""

        _fields_ = (
            ("sz", ctypes.c_size_t),
            ("unused", ctypes.c_uint64 * 5),
            ("btf_custom_path", ctypes.c_char_p),
        )

    def become(change: Callable[[Types], None]) -> None:
        types = Types()
        change(types)
        file.write_bytes(types.bytes())
        options = Options(ctypes.sizeof(Options), btf_custom_path=os.fsencode(file))
        monkeypatch.setattr(
            libbpf.library(), "bpf_object__open_file", lambda path, _: opened(path, ctypes.byref(options))
        )

    yield become


@pytest.mark.parametrize(
    ("ctime", "mtime"),
    [
        pytest.param("i_ctime", "i_mtime", id="6.5"),
        pytest.param("__i_ctime", "i_mtime", id="6.6"),
        pytest.param("__i_ctime", "__i_mtime", id="6.7"),
    ],
)
@pytest.mark.parametrize("name", ["procline", "iter"])
def test_times_of_a_file(kernel: Callable[[Callable[[Types], None]], None], name: str, ctime: str, mtime: str) -> None:
    kernel(_times(ctime, mtime))
    is_old = bool(features.is_forced() or features.needs().lacking)
    libbpf.TierObject(features.object_path(name, is_old), {}).close()


@pytest.mark.newer_programs("kernels with capabilities in two words, none of which needs that set")
@pytest.mark.parametrize("name", ["procline", "context", "cred_sampled"])
def test_capabilities_in_two_words(kernel: Callable[[Callable[[Types], None]], None], name: str) -> None:
    kernel(_capabilities)
    libbpf.TierObject(features.object_path(name, False), {}).close()


def _measured_times(types: Types) -> None:
    """CONFIG_VIRT_CPU_ACCOUNTING_NATIVE leaves the struct empty."""
    number = types.number("u64", _TYPEDEF)
    for name in ("utime", "stime"):
        types.rename("prev_cputime", name, f"no_{name}", number)


def test_kernel_that_measures_user_and_system_time(kernel: Callable[[Callable[[Types], None]], None]) -> None:
    kernel(_measured_times)
    is_old = bool(features.is_forced() or features.needs().lacking)
    libbpf.TierObject(features.object_path("procline", is_old), {}).close()
