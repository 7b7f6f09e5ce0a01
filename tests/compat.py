"""32-bit x86 system calls as machine code that is generated here: neither a compiler nor a library is needed.

The bytes of `call` have the same meaning in 32-bit and 64-bit programs, so both can make the calls.
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

#: Address of the program in its memory, and of the data for its calls.
_BASE = 0x08048000
_DATA_OFFSET = 2048
DATA = _BASE + _DATA_OFFSET
_HEADERS_BYTES = 52 + 32
#: Instructions that load a number into the registers for arguments: ebx, ecx, edx, esi.
_ARGUMENTS = (b"\xbb", b"\xb9", b"\xba", b"\xbe")

INT_80 = b"\xcd\x80"
#: Through the kernel's own code, as the C library does; `FIND_VDSO` puts its address in edi.
VDSO = b"\xff\xd7"
#: Find AT_SYSINFO (32) on the stack, after arguments and environment.
_FIND_VDSO = bytes.fromhex("89e6 ad 8d748604 ad 85c0 75fb ad 83f820 ad 75f9 89c7")

#: Numbers of arch/x86/entry/syscalls/syscall_32.tbl.
EXIT, READ, WRITE = 1, 3, 4


def call(number: int, *arguments: int, way: bytes = INT_80) -> bytes:
    """Return the machine code of a system call."""
    code = b"\xb8" + struct.pack("<I", number)
    for load, value in zip(_ARGUMENTS, arguments, strict=False):
        code += load + struct.pack("<I", value & 0xFFFFFFFF)
    return code + way


def program(path: Path, *calls: tuple[int, ...], way: bytes = INT_80, data: bytes = b"") -> Path:
    """Write a static 32-bit program that makes these calls, each a number and its arguments, and exits with 0.

    Before the first and after the last call it writes a byte to its stdout and reads one from its stdin. `data` is at
    DATA.
    """
    wait = call(WRITE, 1, _BASE, 1) + call(READ, 0, _BASE + 4096 - 1, 1)
    code = _FIND_VDSO + wait + b"".join(call(*one, way=way) for one in calls) + wait + call(EXIT, 0)
    room = _DATA_OFFSET - _HEADERS_BYTES
    assert len(code) < room and len(data) < 1024
    bytes_ = _DATA_OFFSET + len(data)
    # Elf32_Ehdr and Elf32_Phdr of elf(5): EM_386, with one readable, writable and executable segment (PT_LOAD).
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, 3, 1, _BASE + _HEADERS_BYTES, 52, 0, 0, 52, 32, 1, 0, 0, 0
    )
    segment = struct.pack("<IIIIIIII", 1, 0, _BASE, _BASE, bytes_, 4096, 7, 4096)
    path.write_bytes(header + segment + code.ljust(room, b"\0") + data)
    path.chmod(0o755)
    return path


class Compat32:
    """Such a program, running; a context manager that ends it."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        self._await()

    def make_calls(self) -> None:
        """Let the program make its calls; return when all are made."""
        self._step()
        self._await()

    def end(self) -> int:
        """Let the program end; return its exit code."""
        self._step()
        return self._process.wait(60)

    def _await(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.read(1), f"ended with {self._process.wait(60)}"

    def _step(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\0")
        self._process.stdin.flush()

    def __enter__(self) -> Compat32:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


#: For an Actor, which is a 64-bit program: `int80(number, arguments...)`. Bytes are placed where 32 bits can address
#: them.
INT80 = f"""
import mmap, struct
page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, 7)  # MAP_32BIT
def int80(number, *arguments):
    code, place = b'\\x53\\x55\\xb8' + struct.pack('<I', number), 2048
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))
    for load, value in zip({(*_ARGUMENTS, bytes([0xBF]), bytes([0xBD]))!r}, arguments):
        if isinstance(value, bytes):
            page[place:place + len(value)] = value
            value, place = at + place, place + len(value)
        code += load + struct.pack('<I', value & 0xFFFFFFFF)
    page[:len(code) + 5] = code + b'\\xcd\\x80\\x5d\\x5b\\xc3'
    result = ctypes.CFUNCTYPE(ctypes.c_int)(at)()
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
"""


def require(directory: Path, missing: Callable[[str], NoReturn]) -> None:
    """Call `missing` if this kernel does not run 32-bit programs."""
    if os.uname().machine != "x86_64":
        missing(f"32-bit calls of {os.uname().machine}")
    try:
        with Compat32(program(directory / "none")) as one:
            assert one.pid
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        missing("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
