"""Each layout is stated three times: table, dtype, C struct. The three agree."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pytest

from pipeline.bpf import build, maps
from pipeline.records import kinds as events
from tests.records.layout_tables import rows_of, tables

LAYOUTS = {**events.RECORD_LAYOUTS, **maps.MAP_LAYOUTS}
TABLES = {
    **{name.upper(): (tables(events.__doc__), dtype) for name, dtype in events.RECORD_LAYOUTS.items()},
    "CPU_STATE": (tables(maps.__doc__), maps.CPU_STATE),
    "SETTINGS": (tables(maps.__doc__), maps.SETTINGS),
    "PID_ENTRY": (tables(maps.__doc__), maps.PID_ENTRY),
    "IMAGE_ENTRY": (tables(maps.__doc__), maps.IMAGE_ENTRY),
}


@pytest.mark.parametrize("name", TABLES)
def test_table_says_what_the_dtype_is(name: str) -> None:
    found, dtype = TABLES[name]
    size, rows = found[name]
    assert size == dtype.itemsize
    assert rows == rows_of(dtype)


@pytest.fixture(scope="module")
def c_answers(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], NoReturn]) -> dict[str, int]:
    """Compile the two headers and let the program print what this compiler makes of them."""
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None:
        missing("no C compiler (gcc)")
    lines = []
    for name, dtype in LAYOUTS.items():
        lines.append(f'P("{name}", sizeof(struct pl_{name}));')
        assert dtype.names is not None
        for field in dtype.names:
            lines.append(f'P("{name}.{field}", offsetof(struct pl_{name}, {field}));')
            lines.append(f'P("{name}.{field} size", sizeof(((struct pl_{name} *)0)->{field}));')
    for constant in _constants():
        lines.append(f'P("PL_{constant}", PL_{constant});')
    for constant in ("PL_PID_SETS", "PL_PID_WAYS", "PL_PLACE_BUSY"):
        lines.append(f'P("{constant}", {constant});')
    for constant in ("PL_MAX_CPUS", "PL_CAPTURE_ON", "PL_STRING_MAX", "PL_IMAGE_PATH_BYTES"):
        lines.append(f'P("{constant}", {constant});')
    source = tmp_path_factory.mktemp("layouts") / "layouts.c"
    source.write_text(
        "#include <linux/types.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        '#include "records.h"\n#include "shared.h"\n'
        '#define P(name, value) printf("%s=%lld\\n", name, (long long)(value))\n'
        "int main(void)\n{\n\t" + "\n\t".join(lines) + "\n\treturn 0;\n}\n"
    )
    program = source.with_suffix("")
    subprocess.run(
        [gcc, "-Wall", "-Werror", "-I", build.PROGRAMS, "-I", build.RECORDS, source, "-o", program], check=True
    )
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in (line.split("=") for line in output.splitlines())}


def _constants() -> list[str]:
    """Names in events.py that records.h repeats."""
    prefixes = ("KIND_", "FLAG_", "EXEC_", "EXIT_")
    return [name for name in dir(events) if name.startswith(prefixes) and isinstance(getattr(events, name), int)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_c_struct_has_the_same_offsets(name: str, c_answers: dict[str, int]) -> None:
    dtype: np.dtype[np.void] = LAYOUTS[name]
    assert c_answers[name] == dtype.itemsize
    for offset, size, field, _ in rows_of(dtype):
        assert (c_answers[f"{name}.{field}"], c_answers[f"{name}.{field} size"]) == (offset, size), field


def test_c_constants_have_the_same_values(c_answers: dict[str, int]) -> None:
    for name in _constants():
        assert c_answers[f"PL_{name}"] == getattr(events, name), name
    assert c_answers["PL_MAX_CPUS"] == maps.MAX_CPUS
    assert (c_answers["PL_PID_SETS"], c_answers["PL_PID_WAYS"]) == (maps.PID_SETS, maps.PID_WAYS)
    assert c_answers["PL_PLACE_BUSY"] == maps.PLACE_BUSY
    assert c_answers["PL_CAPTURE_ON"] == maps.CAPTURE_ON
    assert c_answers["PL_IMAGE_PATH_BYTES"] == maps.IMAGE_ENTRY["path"].itemsize
