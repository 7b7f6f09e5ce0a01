"""Files that are generated from the declarations are up to date, and script/generate finds those that are not."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.records import declared, limits
from pipeline.shm.layout import declared as segments
from pipeline.shm.layout import entry_fields
from pipeline.shm.layout.field_table import EntryField
from pipeline.shm.writer import declared as writer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate", ROOT / "script" / "generate.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["generate"] = module
    specification.loader.exec_module(module)
    return module


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run([ROOT / "script" / "generate", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stale_file_is_named_and_written(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "generated", lambda: {"a.h": "new\n", "b.h": "same\n"})
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    (tmp_path / "a.h").write_text("old\n")
    (tmp_path / "b.h").write_text("same\n")
    assert generate.main(["--check"]) == 1
    assert "a.h" in (error := capsys.readouterr().err) and "b.h" not in error and "script/generate" in error
    assert generate.main([]) == 0
    assert (tmp_path / "a.h").read_text() == "new\n"
    assert generate.main(["--check"]) == 0


def test_one_run_also_writes_what_is_made_from_other_generated_files(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.md").write_text("old\n")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(
        generate, "generated", lambda: {"page.md": "new\n", "schema": (tmp_path / "page.md").read_text()}
    )
    assert generate.main([]) == 0
    assert (tmp_path / "schema").read_text() == "new\n"


def test_only_text_between_markers_is_replaced(generate: ModuleType) -> None:
    page = "before\n<!-- generated: HOT -->\nold\n<!-- end -->\nafter\n"
    assert generate.filled(page, {"HOT": "new\n"}) == page.replace("old", "new")


def test_directories_are_walked_from_the_last_and_read_from_the_first(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = (declared.Directory("cwd", "fs->pwd", "cwd"), declared.Directory("root_dir", "fs->root", "root"))
    monkeypatch.setattr(declared, "DIRECTORIES", two)
    monkeypatch.setattr(generate, "_DIRECTORIES", ["cwd", "root_dir"])
    header = generate.c_directories()
    assert "#define PL_DIRECTORY_COUNT 2\n" in header and "X(1, fs->root) X(0, fs->pwd)\n" in header
    assert [line.strip() for line in generate.event_directories() if "next_string" in line] == [
        "name[0] = next_string(&rest)", "found.cwd = next_string(&rest)", "found.root_dir = next_string(&rest)",
    ]  # fmt: skip
    field = EntryField("root_dir", "both", "str", ["directory", "root_dir"], "", "directories", True)
    assert "return self._directory(1)\n" in generate.entry_property(field)
    assert generate.event_field(field) == 'put_text(pl_key(p, "root_dir"), directories.root_dir, 0)'


def test_the_list_of_directories_may_be_empty(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "DIRECTORIES", ())
    monkeypatch.setattr(generate, "_DIRECTORIES", [])
    shown = tuple(field for field in entry_fields.FIELDS if field.group != "directories")
    monkeypatch.setattr(entry_fields, "FIELDS", shown)
    assert "#define PL_DIRECTORY_COUNT 0\n" in generate.c_directories()
    text = generate.event_fields_pxi()
    # Cython rejects an empty struct, and the encoder calls the function.
    assert "cdef struct directory_spans:\n    char" in text
    assert "cdef inline char *put_directories(" in text and "put_text" not in text.partition("put_directories(")[2]


@pytest.mark.parametrize(
    ("module", "prefix"),
    [
        (declared, "FLAG_"),
        (declared, "EXEC_"),
        (declared, "EXIT_"),
        (segments, "ROW_"),
        (segments, "KNOWN_"),
        (writer, "STATUS_"),
    ],
)
def test_flags_are_single_bits_in_the_order_of_their_values(module: ModuleType, prefix: str) -> None:
    values = [value for name, value in vars(module).items() if name.startswith(prefix) and type(value) is int]
    assert values == [1 << position for position in range(len(values))]


@pytest.mark.parametrize("module", [declared, segments, writer, limits])
def test_every_constant_is_found_in_the_source(generate: ModuleType, module: ModuleType) -> None:
    found = {constant.name for _, group in generate.constants(module) for constant in group}
    assert found == {name for name, value in vars(module).items() if name.isupper() and type(value) is int}


def test_cython_has_the_values_of_python(generate: ModuleType) -> None:
    written = re.findall(r"^    ([A-Z_]+) = (.+)$", generate.limits_pxd(), re.MULTILINE)
    values = {name: eval(value) for name, value in written}
    assert values == {name: getattr(limits, name) for name in values} and "CHAIN_LIMIT" in values
