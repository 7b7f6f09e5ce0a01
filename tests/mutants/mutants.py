"""Make mutants of a module: copies with one small fault.

Python and Cython modules are treated alike, as lines of text. Tools that parse Python do not read Cython, in which most
of the resolver and of the tables are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Text in a line, and what replaces it.
_SWAPS: tuple[tuple[str, str], ...] = (
    (r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > "), (r" == ", " != "), (r" != ", " == "),
    (r" is not ", " is "), (r" is (?!not )", " is not "), (r" not in ", " in "), (r"(?<!not) in (?=\w)", " not in "),
    (r" and ", " or "), (r" or ", " and "), (r"\bnot (?!in )", ""), (r"\bTrue\b", "False"), (r"\bFalse\b", "True"),
    (r" \+ ", " - "), (r" - ", " + "), (r" \+= ", " -= "), (r" -= ", " += "), (r" & ", " | "), (r" \| ", " & "),
    (r" &= ", " |= "), (r" \|= ", " &= "), (r" << ", " >> "), (r" >> ", " << "), (r" \* ", " // "), (r" // ", " * "),
    (r"\bmin\(", "max("), (r"\bmax\(", "min("), (r"\bbreak$", "continue"), (r"\bcontinue$", "break"),
)  # fmt: skip
_NUMBER = re.compile(r"(?<![\w.\[])\d+(?![\w.\]])")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#.*')
#: Lines that are no behaviour: declarations, decorators, messages of errors and what is checked by the type checker.
_NOT_CODE = re.compile(
    r"\s*(?:@|#|$|(?:from|import|cimport|include|def|cdef|cpdef|class|ctypedef|raise|assert|global|nonlocal|async)\b"
    r"|(?:self\._?)?log(?:ger)?\b|if TYPE_CHECKING|__\w+__ =|\.\.\.)"
)
_ANNOTATED = re.compile(r"\s*[\w.*]+\s*:\s|.*->")
#: A statement of its own that can be left out: a call, or an assignment to something that outlives the function.
_STATEMENT = re.compile(
    r"(\s+)(?!(?:if|elif|else|for|while|return|yield|with|try|except|finally|pass|break|continue|del)\b)"
    r"(?:[\w.]+\(.*\)|[\w.]+(?:\.\w+|\[.*?\])(?:\.\w+)* (?:[-+|&]?=) [^=].*[^\\(\[{,])$"
)
_CONDITION = re.compile(r"(\s*(?:if|elif|while)) (.+):$")


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        line: number of the changed line, from 1.
        before, after: that line.
    """

    line: int
    before: str
    after: str

    def apply(self, source: str) -> str:
        """Return the source with this fault."""
        lines = source.split("\n")
        assert lines[self.line - 1] == self.before
        lines[self.line - 1] = self.after
        return "\n".join(lines)


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module, in the order of its lines."""
    found: list[Mutant] = []
    for number, line in _code(source):
        for after in dict.fromkeys(_changed(line)):
            if after != line:
                found.append(Mutant(number, line, after))
    return found


def _code(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines inside functions that are statements, without those of docstrings and long expressions."""
    is_text = is_declared = False
    depth = 0  # of brackets that are open at the begin of a line
    for number, line in enumerate(source.split("\n"), 1):
        quotes = line.count('"""')
        was_text, is_text = is_text, is_text ^ (quotes % 2 == 1)
        if was_text or quotes:
            continue
        masked = _STRING.sub(lambda match: "_" * len(match[0]), line)
        if depth == 0:
            is_declared = _NOT_CODE.match(line) is not None
        if not is_declared and line[:1] == " ":
            yield number, line
        depth = max(0, depth + sum(masked.count(each) for each in "([{") - sum(masked.count(each) for each in ")]}"))


def _changed(line: str) -> Iterator[str]:
    masked = _STRING.sub(lambda match: "_" * len(match[0]), line)
    for pattern, new in _SWAPS:
        if pattern in (r" \| ", r" \* ") and _ANNOTATED.match(masked):
            continue
        if pattern.startswith("(?<!not) in") and re.match(r"\s*for |.* for ", masked):
            continue
        for match in re.finditer(pattern, masked):
            yield line[: match.start()] + new + line[match.end() :]
    for match in _NUMBER.finditer(masked):
        yield f"{line[: match.start()]}{int(match[0]) + 1}{line[match.end() :]}"
    if statement := _STATEMENT.match(masked):
        yield statement[1] + "pass"
    if condition := _CONDITION.match(masked):
        yield f"{condition[1]} not ({line[condition.start(2) : condition.end(2)]}):"
