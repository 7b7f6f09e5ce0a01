"""Which functions have which mutants, and that an instrumented module compiles and can be switched."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout_copy import ROOT
from tests.mutants.bodies import functions, instrumented
from tests.mutants.schemata import PACKAGES, body_places
from tests.mutants.switch import VARIABLE, Switch

PYTHON = '''"""A module."""

from __future__ import annotations


class A:
    """A class."""

    def __init__(self) -> None:
        self.values = [1]

    def is_empty(
        self, deep: bool = False
    ) -> bool:
        """Whether it is empty."""
        return not self.values

    def first(self) -> int | None:
        return self.values[0]

    def each(self) -> Iterator[int]:
        yield from self.values

    def nothing(self) -> None:
        """Do nothing."""

    def no(self) -> bool:
        return False  # never

    @overload
    def given(self) -> int: ...


def packed(values: list[int]) -> tuple[int, ...]:
    def of(value: int) -> int:
        return value + 1

    return tuple(map(of, values))
'''
CYTHON = '''"""A module."""

cdef extern from *:
    """
    static inline int two(const int *value)
    {
        return *value == 2;
    }
    """
    bint two(const int *value)

cdef struct span:
    int n

cdef class A:
    cdef int value

    cdef inline bint is_two(self) except -1:
        """Whether it is two."""
        cdef int value = self.value
        return two(&value)

    cdef span whole(self) noexcept nogil:
        cdef span made
        made.n = 3
        return made

    cdef void declared(self) noexcept nogil

    def count(self):
        return 4

cdef const char *name(int n) except NULL:
    return "a"
'''
C = """#define PROCLINE_A_H

static inline struct pair pair_of(int a,
    int b)
{
    return (struct pair){a, b};
}

static inline void set(int *a) { *a = 3; }
"""


def mutants(source: str, suffix: str, stub: str = "") -> list[tuple[str, tuple[str, ...]]]:
    return [(each.name, each.values) for each in functions(source, suffix, stub) if not each.skipped]


def test_values_of_python() -> None:
    assert mutants(PYTHON, ".py") == [
        ("A.is_empty", ("False", "True")), ("A.first", ("None",)), ("A.each", ("",)), ("A.no", ("True",)),
        ("packed", ("()",)), ("of", ("0",)),
    ]  # fmt: skip
    reasons = {each.name: each.skipped for each in functions(PYTHON, ".py") if each.skipped}
    assert reasons == {"A.__init__": "constructor", "A.nothing": "returns that already"}


def test_values_of_cython_and_c() -> None:
    stub = "class A:\n    def count(self) -> int: ..."
    assert mutants(CYTHON, ".pyx", stub) == [
        ("two", ("0", "1")), ("A.is_two", ("0", "1")), ("A.whole", ("struct span",)), ("A.count", ("0",)),
        ("name", ("NULL",)),
    ]  # fmt: skip
    assert mutants(C, ".h") == [("pair_of", ("(struct pair){0}",)), ("set", ("",))]
    assert [each.line for each in functions(C, ".h")] == [3, 9]


def test_questions_in_cython_and_c() -> None:
    text = instrumented(CYTHON, ".pyx", "", 7)
    assert "    { if (pl_mutant(7)) return 0; if (pl_mutant(8)) return 1;\n        return *value" in text
    assert "    cdef inline bint is_two(self) except -1:\n" in text
    assert "        if pl_mutant(9): return 0\n        if pl_mutant(10): return 1\n        cdef int value" in text
    assert "        if pl_mutant(11): return pl_mutant_11\n        cdef span made" in text
    text = instrumented(C, ".h", "", 1)
    assert text.startswith('#define PROCLINE_A_H\n#include "switch.h"\n')
    assert "{ if (pl_mutant(2)) return; *a = 3; }" in text


def test_a_module_runs_as_before_or_with_one_mutant(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/__init__.py").touch()
    (tmp_path / "pipeline/_mutant.py").write_text(Path(__file__).with_name("switch.py").read_text())
    source = PYTHON.replace("    @overload\n    def given(self) -> int: ...\n", "")
    (tmp_path / "example.py").write_text(instrumented(source, ".py", "", 1))
    switch = Switch(tmp_path / "switch")
    code = "from example import *; a = A(); print(a.is_empty(), a.first(), list(a.each()), a.no(), packed([1]))"

    def printed() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={VARIABLE: str(switch.path)},
            capture_output=True,
            check=True,
        )
        return done.stdout.decode().strip()

    assert printed() == "False 1 [1] False (2,)"
    assert switch.reached() == {1, 2, 3, 4, 5, 6, 7}
    for number, expected in (
        (2, "True 1 [1] False (2,)"), (3, "False None [1] False (2,)"), (4, "False 1 [] False (2,)"),
        (5, "False 1 [1] True (2,)"), (6, "False 1 [1] False ()"), (7, "False 1 [1] False (0,)"),
    ):  # fmt: skip
        switch.choose(number)
        assert printed() == expected


@pytest.mark.expensive
def test_every_function_of_python_is_found() -> None:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text()
            lines = source.splitlines()
            found = {each.line for each in functions(source, ".py")}
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.lineno not in found:
                    is_stub = "..." in lines[node.lineno - 1] or ast.unparse(node.body[-1]) == "..."
                    assert is_stub, (path, node.name)
            ast.parse(instrumented(source, ".py", "", 1))


@pytest.mark.expensive
def test_mutants_have_keys_of_their_own() -> None:
    keys = [place.key for place in body_places()]
    assert len(set(keys)) == len(keys) > 2000
