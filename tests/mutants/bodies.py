"""Mutants that replace the body of one function by the simplest `return`: "extreme" mutants.

A copy of the sources contains all of them at once. Each function begins with a question for its number (`switch.h`),
so everything is compiled only once.

Python, Cython and C are read as lines of text, as in `mutants.py`: a function is a line with its name, the lines up to
the end of its parameters, and a body.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_HEAD = re.compile(r"(\s*)(?:async )?(def|c(?:p?def)\b(?!\s+(?:class|struct|enum|extern|union|packed)\b))\s")
_CLASS = re.compile(r"(\s*)(?:cdef )?class (\w+)")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#.*')
_C_HEAD = re.compile(
    r"^[ \t]*static (?:inline |__attribute__\(\(\w+\)\) )*"
    r"(?P<type>(?!__attr)[\w ]+?[ *\n]+)(?P<name>\w+)\([^;{}]*\)\s*\{",
    re.MULTILINE,
)
_C_TEXT = re.compile(r'(cdef extern from \*(?: nogil)?:\n\s*""")(.*?)(""")', re.DOTALL)

#: Results of special methods, by which Python finds them.
_SPECIAL = {
    "__len__": ("0",), "__hash__": ("0",), "__index__": ("0",), "__int__": ("0",), "__bool__": ("False", "True"),
    "__eq__": ("False", "True"), "__ne__": ("False", "True"), "__contains__": ("False", "True"),
    "__repr__": ('""',), "__str__": ('""',), "__iter__": ("iter(())",), "__lt__": ("False", "True"),
    "__setattr__": ("",), "__setitem__": ("",), "__delitem__": ("",), "__dealloc__": ("",), "__releasebuffer__": ("",),
    "__getbuffer__": ("",), "__del__": ("",),
}  # fmt: skip
#: By the begin of an annotation.
_ANNOTATED = {
    "None": ("",), "NoReturn": ("",), "bool": ("False", "True"), "TypeIs": ("False", "True"), "int": ("0",),
    "float": ("0.0",), "str": ('""',), "bytes": ('b""',), "list": ("[]",), "Sequence": ("[]",), "dict": ("{}",),
    "Mapping": ("{}",), "tuple": ("()",), "set": ("set()",), "frozenset": ("frozenset()",), "Iterator": ("iter(())",),
    "Iterable": ("()",), "Collection": ("()",), "Generator": ("iter(())",), "bytearray": ("bytearray()",),
}  # fmt: skip
_NUMBERS = re.compile(r"(?:u?int\d*_t|int|long|double|float|size_t|Py_ssize_t|unsigned \w+|uintptr_t|char|void)$")


@dataclass(frozen=True)
class Function:
    """A function, and what may replace its body.

    Attributes:
        line: of its name, from 1.
        head: that line.
        name: with its class.
        values: what the mutants return; empty: nothing.
        skipped: why it has no mutants; empty: it has.
    """

    line: int
    head: str
    name: str
    values: tuple[str, ...]
    skipped: str = ""


def functions(source: str, suffix: str, stub: str = "") -> list[Function]:
    """Return the functions of a module.

    Args:
        source: the module.
        suffix: of its file: ".py", ".pyx", ".pxd", ".pxi" or ".h".
        stub: the `.pyi` file of a Cython module, which has types that the module lacks.
    """
    return [function for function, _ in _found(source, suffix, stub)]


def instrumented(source: str, suffix: str, stub: str, first: int) -> str:
    """Return a module in which each function asks for its mutants.

    Args:
        source, suffix, stub: see `functions`.
        first: number of the first mutant; the others follow in the order of `functions`.
    """
    lines = source.split("\n")
    inserted: defaultdict[_Place, list[str]] = defaultdict(list)
    number = first
    for function, place in _found(source, suffix, stub):
        for value in () if function.skipped else function.values:
            inserted[place].append(place.question(number, value))
            number += 1
    for place, questions in sorted(inserted.items(), key=lambda each: (each[0].line, each[0].column), reverse=True):
        at = place.line - 1
        if place.column < 0:
            lines[at:at] = questions
        else:
            lines[at] = lines[at][: place.column] + "".join(questions) + lines[at][place.column :]
    return _with_import("\n".join(lines), suffix) if inserted else source


@dataclass(frozen=True)
class _Place:
    """Where a function asks for its mutants.

    Attributes:
        line: before which the question is inserted; of C: in which.
        indent: of the body.
        column: of C: behind the bracket.
        type: of C and Cython: what it returns.
        yields: it is a generator that is a context manager.
    """

    line: int
    indent: str = ""
    column: int = -1
    type: str = ""
    yields: bool = False

    def question(self, number: int, value: str) -> str:
        """Return the code that asks for a mutant."""
        done = f"return {value}".rstrip()
        if self.column >= 0:
            return f" if (pl_mutant({number})) {done};"
        if value.startswith("struct "):
            made = f"pl_mutant_{number}"
            lines = (
                f"cdef {value.removeprefix('struct ')} {made}", f"pl_mutant_clear(&{made}, sizeof({made}))",
                f"if pl_mutant({number}): return {made}",
            )  # fmt: skip
            return "\n".join(self.indent + line for line in lines)
        return f"{self.indent}if pl_mutant({number}): {'yield; return' if self.yields else done}"


def _found(source: str, suffix: str, stub: str) -> Iterator[tuple[Function, _Place]]:
    if suffix == ".h":
        yield from _c_functions(source, 0)
        return
    found = list(_python_functions(source, suffix, _stub_types(stub)))
    for match in _C_TEXT.finditer(source) if suffix != ".py" else ():
        found += _c_functions(match[2], source.count("\n", 0, match.start(2)))
    yield from sorted(found, key=lambda each: each[0].line)


def _c_functions(text: str, before: int) -> Iterator[tuple[Function, _Place]]:
    """Yield the functions of C code that has `before` lines before it."""
    for match in _C_HEAD.finditer(text):
        start = match.start() + len(match[0]) - len(match[0].lstrip())
        line, end = (before + text.count("\n", 0, at) + 1 for at in (start, match.end()))
        begin = text.rfind("\n", 0, match.end()) + 1
        kind = match["type"].strip()
        values: tuple[str, ...] = ("",) if kind == "void" else ("NULL",) if "*" in kind else ("0",)
        if kind == "int":
            values = ("0", "1")
        elif kind.startswith("struct ") and "*" not in kind:
            values = (f"({kind}){{0}}",)
        body = text[match.end() : _end_of_c(text, match.end())].strip()
        head = text[start : text.find("\n", start)].strip()
        yield (
            _function(line, head, match["name"], values, [re.sub(r"\s+", " ", body)]),
            _Place(end, column=match.end() - begin, type=kind),
        )


def _end_of_c(text: str, at: int) -> int:
    depth = 1
    while depth and at < len(text):
        depth += (text[at] == "{") - (text[at] == "}")
        at += 1
    return at - 1


def _python_functions(source: str, suffix: str, types: dict[str, str]) -> Iterator[tuple[Function, _Place]]:
    lines = source.split("\n")
    classes: list[tuple[int, str]] = []
    is_text = False
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        was_text, is_text = is_text, is_text ^ (line.count('"""') % 2 == 1)
        if was_text or not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        classes = [each for each in classes if each[0] < indent or line.lstrip()[0] in "#)"]
        if match := _CLASS.match(line):
            classes.append((indent, match[2]))
        match = _HEAD.match(line)
        if match is None:
            continue
        end = _end_of_head(lines, number - 1)
        if end is None:
            continue
        signature = " ".join(each.strip() for each in lines[number - 1 : end])
        named = re.match(r"\s*(?:async )?(?:def|cdef|cpdef)\b\s*(.*?)(\w+)\s*\(", signature)
        if named is None:
            continue
        name = ".".join([*(each for _, each in classes), named[2]])
        first, inner = _begin_of_body(lines, end, indent)
        if first is None:
            continue
        body = _body(lines, first, indent)
        decorators = _decorators(lines, number - 1)
        kind = named[1].replace("inline ", "").strip() if match[2] != "def" else ""
        annotation = signature.rpartition("->")[2].rstrip(": ") if "->" in signature else types.get(name, "")
        is_generator = any(re.search(r"\byield\b", _STRING.sub("", each)) for each in body)
        values = _values(named[2], kind, annotation, signature, is_generator)
        skipped = "declared for the type checker" if "@overload" in decorators else ""
        yield (
            _function(number, line.strip(), name, values, [each.strip() for each in body], skipped),
            _Place(
                first + 1,
                inner,
                type=kind,
                yields=is_generator and any("contextmanager" in each for each in decorators),
            ),
        )


def _end_of_head(lines: Sequence[str], start: int) -> int | None:
    """Return the number of lines up to the end of a signature; None: it is a declaration without a body."""
    depth = 0
    for number in range(start, min(start + 40, len(lines))):
        masked = _STRING.sub("", lines[number]).rstrip()
        depth += sum(masked.count(each) for each in "([{") - sum(masked.count(each) for each in ")]}")
        if depth == 0:
            return number + 1 if masked.endswith(":") else None
    return None


def _begin_of_body(lines: Sequence[str], at: int, indent: int) -> tuple[int | None, str]:
    """Return the index of the first line behind the docstring, and its indentation."""
    while at < len(lines) and not lines[at].strip():
        at += 1
    inner = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    if len(inner) <= indent:
        return None, ""
    if re.match(r'\s*[rf]?"""', lines[at]):
        is_open = lines[at].count('"""') == 1
        at += 1
        while is_open:
            is_open = '"""' not in lines[at]
            at += 1
    return at, inner


def _body(lines: Sequence[str], first: int, indent: int) -> list[str]:
    body: list[str] = []
    for line in lines[first:]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent and line.strip()[0] not in ")]}#":
            break
        if line.strip() and not line.strip().startswith("#"):
            body.append(line)
    return body


def _decorators(lines: Sequence[str], at: int) -> list[str]:
    found: list[str] = []
    while at > 0 and lines[at - 1].lstrip().startswith("@"):
        at -= 1
        found.append(lines[at].strip())
    return found


def _stub_types(stub: str) -> dict[str, str]:
    """Return what functions return, by their names with their classes."""
    types: dict[str, str] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef) and child.returns is not None:
                types[prefix + child.name] = ast.unparse(child.returns)

    visit(ast.parse(stub), "")
    return types


def _values(name: str, kind: str, annotation: str, signature: str, is_generator: bool) -> tuple[str, ...]:
    if is_generator:
        return ("",)
    if name in _SPECIAL:
        return _SPECIAL[name]
    if kind:
        return _c_values(kind, signature)
    annotation = annotation.strip("'\" ")
    if re.search(r"\|\s*None$|^Optional", annotation):
        return ("None",)
    return _ANNOTATED.get(re.split(r"\W", annotation.rpartition("typing.")[2])[0], ("None",))


def _c_values(kind: str, signature: str) -> tuple[str, ...]:
    kind = kind.replace("const ", "")
    if "*" in kind:
        return ("NULL",)
    if kind == "void":
        return ("",)
    if kind == "bint":
        return ("1",) if re.search(r"except 0\b", signature) else ("0", "1")
    if _NUMBERS.match(kind):
        return ("1",) if re.search(r"except 0\b", signature) else ("0",)
    if kind in _ANNOTATED:
        return _ANNOTATED[kind]
    if re.fullmatch(r"[a-z]\w*", kind) and kind != "object":
        return (f"struct {kind}",)
    return ("None",)


def _function(
    line: int, head: str, name: str, values: tuple[str, ...], body: Sequence[str], skipped: str = ""
) -> Function:
    only = re.sub(r"\s+#.*$", "", body[0]).removesuffix(";") if len(body) == 1 else ""
    if name.rpartition(".")[2] in {"__init__", "__cinit__", "__new__", "__init_subclass__"}:
        skipped = "constructor"
    elif not skipped and (only == "..." or only.startswith("raise NotImplementedError")):
        skipped = "has no body"
    elif not skipped:
        equal = {"pass", "return", "return None"} if values in {("",), ("None",)} else set()
        left = tuple(value for value in values if only not in {*equal, f"return {value}"})
        if not left or not body:
            skipped = "returns that already"
        values = left
    return Function(line, head, name, values, skipped)


def _with_import(text: str, suffix: str) -> str:
    if suffix == ".h":
        return re.sub(r"(#define PROCLINE_\w+_H\n)", r'\1#include "switch.h"\n', text, count=1)
    text = _C_TEXT.sub(lambda match: f'{match[1]}\n    #include "switch.h"\n{match[2]}{match[3]}', text)
    if suffix == ".pxi":
        return text  # where it is included, the names are imported
    imported = "from pipeline._mutant import pl_mutant"
    if suffix != ".py":
        imported = "from pipeline._mutant cimport pl_mutant, pl_mutant_clear"
    tree = re.match(r'(?:#.*\n)*(?:r?"""(?:.|\n)*?"""\n)?\s*(?:from __future__ import .*\n)?', text)
    assert tree is not None
    return f"{text[: tree.end()]}{imported}\n{text[tree.end() :]}"
