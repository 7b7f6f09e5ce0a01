"""The dtypes and the C structs agree with the declaration."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pytest

from pipeline.bpf import build, maps
from pipeline.bpf import declared as map_declaration
from pipeline.records import declared, limits
from pipeline.shm.layout import declared as segments
from tests.records.layout_rows import rows_of

DECLARED = {**declared.LAYOUTS, **map_declaration.LAYOUTS}
#: Every integer of the two declarations, by name.
CONSTANTS = {
    name: value
    for module in (declared, map_declaration)
    for name, value in vars(module).items()
    if name.isupper() and type(value) is int
}
LAYOUTS = {name: np.dtype(layout.dtype()) for name, layout in DECLARED.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_dtype_has_the_fields_of_the_declaration(name: str) -> None:
    rows = [(field.offset, field.size, field.name, field.type) for field in DECLARED[name].fields.values()]
    assert (DECLARED[name].size, rows) == (LAYOUTS[name].itemsize, rows_of(LAYOUTS[name]))


@pytest.mark.parametrize("name", ["comm", "sender_comm", "tty"])
def test_names_and_terminals_have_the_lengths_that_code_assumes(name: str) -> None:
    sizes = {
        layout.fields[name].size for layout in (*DECLARED.values(), *segments.LAYOUTS.values()) if name in layout.fields
    }
    assert sizes == {limits.TTY_BYTES if name == "tty" else limits.COMM_BYTES}


@pytest.fixture(scope="module")
def c_answers(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], NoReturn]) -> dict[str, int]:
    """Compile the two headers, and let a program print the compiler's numbers."""
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
    for constant in CONSTANTS:
        lines.append(f'P("{constant}", PL_{constant});')
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


@pytest.mark.parametrize("name", LAYOUTS)
def test_c_struct_has_the_same_offsets(name: str, c_answers: dict[str, int]) -> None:
    dtype: np.dtype[np.void] = LAYOUTS[name]
    assert c_answers[name] == dtype.itemsize
    for offset, size, field, _ in rows_of(dtype):
        assert (c_answers[f"{name}.{field}"], c_answers[f"{name}.{field} size"]) == (offset, size), field


def test_c_constants_have_the_same_values(c_answers: dict[str, int]) -> None:
    assert {name: c_answers[name] for name in CONSTANTS} == CONSTANTS
    assert maps.IMAGE_ENTRY["path"].itemsize == map_declaration.IMAGE_PATH_BYTES


def test_the_layouts_agree_with_the_constants() -> None:
    states = map_declaration.CPU_STATE_LAYOUT.fields
    assert states["lost_samples"].count == states["head_only"].count == declared.KIND_COUNT
    assert map_declaration.IMAGE_ENTRY_LAYOUT.fields["path"].size == map_declaration.IMAGE_PATH_BYTES
