"""The code that a compiler makes of the row protocol for aarch64: the barriers that docs/row-protocol.md relies on.

x86-64 keeps stores in order and loads in order. A missing barrier changes nothing there, so no test and no emulator on
such a machine can show it. The instructions can be read without a machine that runs them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf import build

ROOT = Path(__file__).parents[3]
INCLUDED = [ROOT / "pipeline" / part for part in ("records", "shm/layout", "shm/reader", "bus/stream")]

SOURCE = """
#include "reader.h"
#include "crc32.h"
void begin(struct pl_hot *row) { pl_row_begin(row); }
void end(struct pl_hot *row) { pl_row_end(row); }
void note(struct pl_control *control, uint32_t *changes, uint32_t row) { pl_row_note(control, changes, row); }
int lookup(const struct pl_view *view, uint32_t tgid, struct pl_hot *to, uint32_t *row)
{
    return pl_lookup_once(view, tgid, to, row);
}
int key(const struct pl_keys *keys, uint32_t capacity, uint64_t key, uint32_t *slot)
{
    return pl_key_once(keys, capacity, key, slot);
}
void append(uint64_t *block) { block[1] = 1; pl_crc32_settle(); block[0] = 1; pl_crc32_settle(); }
"""

#: In place of a C library for aarch64.
HEADERS = {
    "string.h": "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\n",
    "time.h": "#pragma once\nstruct timespec { long tv_sec, tv_nsec; };\nint clock_gettime(int, struct timespec *);\n"
    "int nanosleep(const struct timespec *, struct timespec *);\n"
    "#define CLOCK_BOOTTIME 7\n#define CLOCK_MONOTONIC_COARSE 6\n",
}

#: The accesses to memory of each function, in the order of the program; `st` of any width in copies of a row.
EXPECTED = {
    "begin": r"ldr str dmb_ish",
    "end": r"ldr stlr",
    "note": r"ldr str stlr",
    "append": r"str dmb_ish str dmb_ish",
    # index[pid], rows_allocated and row_seq; the copy; row_seq and index[pid].
    "lookup": r"(ldr )+ldar (ldr )+ldar (ldr )+ldar ((ldr|str|stp|stur) )+dmb_ishld (ldr ){2,}.*",
    # rebuild_seq and a bucket; its key; rebuild_seq.
    "key": r"ldar ldar (ldr |str )+dmb_ishld ldr",
}


@pytest.fixture(scope="module")
def accesses(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], NoReturn]) -> dict[str, str]:
    """Return the accesses to memory and the barriers of each function in SOURCE, in the order of the program."""
    try:
        clang = build.tool("clang")
    except build.BuildError as error:
        missing(str(error))
    directory = tmp_path_factory.mktemp("aarch64")
    for name, text in {**HEADERS, "accesses.c": SOURCE}.items():
        (directory / name).write_text(text)
    command = [
        clang, "--target=aarch64-linux-gnu", "-ffreestanding", "-nostdlibinc", "-O2", "-S", "-o", "-",
        *(f"-I{path}" for path in (directory, *INCLUDED)), directory / "accesses.c",
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if function := re.match(r"([a-z]+):", line):
            found[function[1]] = now = []
        elif access := re.match(r"\t(ld\w+|st\w+|dmb)\t(.*)", line):
            now.append(f"dmb_{access[2]}" if access[1] == "dmb" else access[1])
    return {name: " ".join(each) for name, each in found.items()}


@pytest.mark.parametrize("function", EXPECTED)
def test_accesses_to_memory_have_their_barriers(function: str, accesses: dict[str, str]) -> None:
    assert re.fullmatch(EXPECTED[function], accesses[function]), accesses[function]
