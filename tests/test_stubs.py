"""Constructors in stubs have the parameters of the compiled classes, which Cython hides from stubtest."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import pipeline

PACKAGE = Path(pipeline.__file__).parent
STUBS = sorted(path for path in PACKAGE.rglob("*.pyi") if path.with_suffix(".pyx").exists())
_CLASS = re.compile(r"^(?:cdef )?class (\w+)(?:\((\w+)\))?.*?:\n((?:[ \t].*\n|\n|[)#].*\n)*)", re.MULTILINE)
_CONSTRUCTOR = re.compile(r"^    def (__c?init__)\(", re.MULTILINE)


class Parameter(NamedTuple):
    """The facts about a parameter that a caller has to know."""

    name: str
    is_keyword: bool
    has_default: bool


def in_stub(text: str) -> dict[str, list[Parameter]]:
    """Return the parameters of each constructor that a stub declares."""
    found = {}
    for each in ast.parse(text).body:
        for method in each.body if isinstance(each, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                args = method.args
                plain = [*args.posonlyargs, *args.args][1:]
                without = len(plain) - len(args.defaults)
                parameters = [Parameter(arg.arg, False, place >= without) for place, arg in enumerate(plain)]
                keywords = zip(args.kwonlyargs, args.kw_defaults, strict=True)
                found[each.name] = [*parameters, *(Parameter(arg.arg, True, of is not None) for arg, of in keywords)]
    return found


def in_cython(text: str) -> dict[str, list[Parameter]]:
    """Return the parameters of each class or its base; of `__cinit__` only if the class has no `__init__`."""
    found = {}
    bases = {}
    for name, base, body in _CLASS.findall(text):
        bases[name] = base
        methods = {match[1]: _parameters(body[match.end() :]) for match in _CONSTRUCTOR.finditer(body)}
        if methods:
            found[name] = methods.get("__init__", methods.get("__cinit__", []))
    for name, base in bases.items():
        while name not in found and base:
            if base in found:
                found[name] = found[base]
            base = bases.get(base, "")
    return found


def _parameters(text: str) -> list[Parameter]:
    depth, parts = 0, [""]
    for character in re.sub(r"#.*", "", text):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parameters, is_keyword = [], False
    for part in (part.strip() for part in parts[1:] if part.strip()):
        if part.startswith("*"):
            is_keyword = True
            if part != "*" and not part.startswith("**"):  # `**options` is for derived classes
                parameters.append(Parameter(part, False, False))
            continue
        declared, equals, _ = part.partition("=")
        name = declared.partition(":")[0].replace(" not None", "").replace(" or None", "").split()[-1]
        parameters.append(Parameter(name, is_keyword, bool(equals)))
    return parameters


def _with_bases(stub: Path) -> str:
    """Return the code of a module, behind that of the modules beside it, which may have the bases of its classes."""
    own = stub.with_suffix(".pyx")
    others = [path for path in sorted(stub.parent.glob("*.pyx")) if path != own]
    return "".join(path.read_text() + "\n" for path in (*others, own))


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.stem)
def test_a_constructor_has_the_parameters_of_its_stub(stub: Path) -> None:
    declared, compiled = in_stub(stub.read_text()), in_cython(_with_bases(stub))
    for name, parameters in declared.items():
        assert compiled[name] == parameters, name


def test_each_difference_is_found() -> None:
    code = "cdef class A:\n    cdef int x\n\n    def __init__(self, B b not None, *, int c=f(1, 2)):\n        pass\n"
    compiled = in_cython(code)
    assert in_stub("class A:\n    def __init__(self, b: B, *, c: int = ...) -> None: ...\n") == compiled
    assert in_cython(f"cdef class C(A):\n    cdef int y\n\n{code}")["C"] == compiled["A"]
    for wrong in (
        "self, b", "self, d, *, c=1", "self, b, *, c", "self, b, c=1", "self, b=1, *, c=1", "self, a, b, *, c=1",
    ):  # fmt: skip
        assert in_stub(f"class A:\n    def __init__({wrong}) -> None: ...\n") != compiled, wrong
