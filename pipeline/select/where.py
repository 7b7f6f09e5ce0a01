"""A small language for conditions on processes, as in ``uid == 0 and age > 5m and command ~ 'curl|wget'``.

    condition   = and-part {"or" and-part}
    and-part    = part {"and" part}
    part        = "not" part | "(" condition ")" | comparison
    comparison  = value [("==" | "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~") value | ["not"] "in" values]
    values      = "(" value {"," value} ")" | field
    value       = field | number | period | text | "true" | "false" | "null"

A field is one of an entry, or computed from it; ``file.inode`` is a key of a field. A number may have a unit of time
(``5m``, ``1h30m``) and is ns then. Text is in single or double quotes and has no escapes. ``~`` searches a regular
expression, in a list in each of its items. A value alone is true if it is known and neither false, 0 nor empty.

A comparison with an unknown value is false, except ``== null`` and ``!= null``. A comparison of a number with text is
an error before anything is read. Conditions are parsed here, and never passed to `eval`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pipeline.select.patterns import Pattern
from pipeline.select.times import period_ns
from pipeline.shm.layout.entry_fields import FIELDS
from pipeline.spelling import did_you_mean

Entry = Mapping[str, Any]
Getter = Callable[[Entry], Any]

#: Characters of a number or period.
_NUMBER_MAX = 100
#: More parentheses and `not` within each other would exceed Python's stack.
DEPTH_MAX = 50
_KINDS = {
    "str": "text",
    "int": "a number",
    "uint": "a number",
    "bool": "true or false",
    "[str]": "a list",
    "map": "a map",
}
#: The kind of a key of a map: values differ in their type.
_ANY = "any"
_TOKEN = re.compile(
    r"\s*(?:(?P<number>0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:[a-zµ]+(?:\d+(?:\.\d+)?[a-zµ]+)*)?)"
    r"|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
    r"|(?P<sign>==|!=|<=|>=|!~|[=<>~(),]))",
    re.ASCII,
)
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_RESERVED = {"and", "or", "not", "in", *_WORDS}
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class WhereError(ValueError):
    """A condition has an error; the text says what and where."""


@dataclass(frozen=True)
class Fact:
    """A value that is computed from the fields of an entry.

    Attributes:
        type: of the value, as in docs/wire-schema.md.
        needs: the fields.
        value: returns it; None: unknown.
    """

    type: str
    needs: tuple[str, ...]
    value: Getter


@dataclass(frozen=True)
class Condition:
    """A condition that was parsed.

    Attributes:
        fields: the fields of an entry that it needs.
        matches: whether an entry fulfils it; may raise SlowPatternError.
    """

    fields: tuple[str, ...]
    matches: Callable[[Entry], bool]


def entry_facts() -> dict[str, Fact]:
    """Return the fields of an entry by name."""
    return {
        field.name: Fact(field.type, (field.name,), operator.methodcaller("get", field.name))
        for field in FIELDS
        if field.shown in {"both", "entry", "exit"}
    }


def parse(text: str, facts: Mapping[str, Fact]) -> Condition:
    """Return the condition that a text states.

    Args:
        text: the condition.
        facts: what names mean.

    Raises:
        WhereError: the text is not a condition.

    Example:
        >>> parse("pid in (1, 2) and comm ~ '^sys'", entry_facts()).matches({"pid": 1, "comm": "systemd"})
        True
    """
    parser = _Parser(text, facts)
    matches = parser.condition(0)
    if parser.token is not None:
        parser.fail(f"unexpected {parser.token.text!r}")
    return Condition(tuple(dict.fromkeys(parser.needs)), matches)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class _Value:
    """A value in a condition: what it is, how to get it, and the token that it began with."""

    kind: str | None  # None: null
    get: Getter
    token: _Token
    literal: Any = None

    @property
    def is_literal(self) -> bool:
        return self.token.kind != "name" or self.token.text in _WORDS


class _Parser:
    def __init__(self, text: str, facts: Mapping[str, Fact]) -> None:
        self._text = text
        self._facts = facts
        self.needs: list[str] = []
        self._tokens = list(self._scanned())
        self._next = 0
        if not self._tokens:
            self.fail("the condition is empty")

    def _scanned(self) -> Iterable[_Token]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            found = _TOKEN.match(self._text, at)
            if found is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                what = "a text without its closing quote" if self._text[at] in "'\"" else repr(self._text[at])
                self.fail(f"unexpected {what}", at)
            kind = str(found.lastgroup)
            yield _Token(kind, found[kind], found.start(kind))
            at = found.end()

    @property
    def token(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        """Raise the error, with the place: of a character, or of the next token."""
        if at is None:
            at = self.token.at if self._next < len(self._tokens) and self.token else len(self._text.rstrip())
        rest = self._text[at:].strip()
        where = f"before {rest[:20]!r}" if rest else "at the end"
        raise WhereError(f"{what} at character {at + 1}, {where}")

    def _accept(self, *texts: str) -> str | None:
        """Consume the next token if it is one of these, and return it."""
        token = self.token
        if token is not None and token.kind in {"name", "sign"} and token.text in texts:
            self._next += 1
            return token.text
        return None

    def condition(self, depth: int) -> Callable[[Entry], bool]:
        parts = [self._and_part(depth)]
        while self._accept("or"):
            parts.append(self._and_part(depth))
        return parts[0] if len(parts) == 1 else lambda entry: any(part(entry) for part in parts)

    def _and_part(self, depth: int) -> Callable[[Entry], bool]:
        parts = [self._part(depth)]
        while self._accept("and"):
            parts.append(self._part(depth))
        return parts[0] if len(parts) == 1 else lambda entry: all(part(entry) for part in parts)

    def _part(self, depth: int) -> Callable[[Entry], bool]:
        if depth > DEPTH_MAX:
            self.fail("too many parentheses")
        if self._accept("not"):
            inner = self._part(depth + 1)
            return lambda entry: not inner(entry)
        if self._accept("("):
            inner = self.condition(depth + 1)
            if not self._accept(")"):
                self.fail("a closing parenthesis is missing")
            return inner
        return self._comparison()

    def _comparison(self) -> Callable[[Entry], bool]:
        left = self._value()
        get = left.get
        is_negative = self._accept("not") is not None
        if self._accept("in"):
            inside = self._inside(left)
            return (lambda entry: get(entry) is not None and not inside(entry)) if is_negative else inside
        if is_negative:
            self.fail("'not' needs 'in' after it")
        sign = self._accept("==", "=", "!=", "<", "<=", ">", ">=", "~", "!~")
        if sign is None:
            return lambda entry: bool(get(entry))
        right = self._value()
        if sign in {"~", "!~"}:
            return self._search(left, right, is_negative=sign == "!~")
        return self._compared(left, sign, right)

    def _compared(self, left: _Value, sign: str, right: _Value) -> Callable[[Entry], bool]:
        get, other = left.get, right.get
        if None in {left.kind, right.kind}:
            if sign not in {"==", "=", "!="}:
                self.fail("null has no order: use == or !=", right.token.at)
            known = other if left.kind is None else get
            return (lambda entry: known(entry) is not None) if sign == "!=" else (lambda entry: known(entry) is None)
        self._check(left, right)
        if sign in _ORDER:
            if left.kind not in {"text", "a number", _ANY}:
                self.fail(f"{left.kind} has no order: use == or !=", right.token.at)
            compare = _ordered(_ORDER[sign])
        else:
            compare = operator.ne if sign == "!=" else operator.eq

        def compared(entry: Entry) -> bool:
            one, two = get(entry), other(entry)
            return one is not None and two is not None and compare(one, two)

        return compared

    def _check(self, left: _Value, right: _Value) -> None:
        """Fail if two values cannot be compared."""
        if left.kind != right.kind and _ANY not in {left.kind, right.kind}:
            hint = ""
            if left.kind == "a list":
                hint = f": write 'text' in {left.token.text}, or {left.token.text} ~ 'pattern'"
            self.fail(f"{left.token.text} is {left.kind} and {right.token.text} is {right.kind}{hint}", right.token.at)

    def _search(self, left: _Value, right: _Value, *, is_negative: bool) -> Callable[[Entry], bool]:
        if left.kind not in {"text", "a list", _ANY}:
            self.fail(f"{left.token.text} is {left.kind or 'null'}, and ~ searches text", left.token.at)
        if right.token.kind != "text":
            self.fail("the pattern after ~ must be in quotes", right.token.at)
        try:
            search = Pattern(right.literal).search_any
        except ValueError as error:
            self.fail(str(error), right.token.at)
        get = left.get

        def found(value: Any) -> bool:
            texts = value if isinstance(value, list) else (value,)
            return search(text for text in texts if isinstance(text, str))

        def searched(entry: Entry) -> bool:
            value = get(entry)
            return value is not None and found(value) is not is_negative

        return searched

    def _inside(self, left: _Value) -> Callable[[Entry], bool]:
        get = left.get
        if self._accept("("):
            values = [self._value()]
            while self._accept(","):
                values.append(self._value())
            if not self._accept(")"):
                self.fail("a comma or a closing parenthesis is missing")
            for value in values:
                if not value.is_literal:
                    self.fail("the values in parentheses must be numbers or text", value.token.at)
                if value.kind is not None:
                    self._check(left, value)
            literals = [value.literal for value in values]
            return lambda entry: get(entry) in literals
        whole = self._value()
        if whole.is_literal or whole.kind not in {"text", "a list"} or left.kind != "text":
            self.fail(
                "after 'in' write values in parentheses, or after a text a field that is text or a list", whole.token.at
            )
        other = whole.get

        def contained(entry: Entry) -> bool:
            item, items = get(entry), other(entry)
            return item is not None and items is not None and item in items

        return contained

    def _value(self) -> _Value:
        token = self.token
        if token is None:
            self.fail("a value is missing")
        if token.kind == "sign" or token.text in _RESERVED - set(_WORDS):
            self.fail(f"a value is missing before {token.text!r}")
        self._next += 1
        if token.kind == "name" and token.text not in _WORDS:
            return self._field(token)
        kind, literal = self._literal(token)
        return _Value(kind, lambda entry: literal, token, literal)

    def _literal(self, token: _Token) -> tuple[str | None, Any]:
        if token.kind == "text":
            return "text", token.text[1:-1]
        if token.kind == "name":
            value = _WORDS[token.text]
            return (None if value is None else "true or false"), value
        if len(token.text) > _NUMBER_MAX:
            self.fail("the number is too long", token.at)
        if _HEX.match(token.text):
            return "a number", int(token.text, 16)
        if token.text.replace(".", "").isdigit():
            return "a number", float(token.text) if "." in token.text else int(token.text)
        try:
            return "a number", period_ns(token.text)
        except ValueError as error:
            self.fail(str(error), token.at)

    def _field(self, token: _Token) -> _Value:
        name, *keys = token.text.split(".")
        fact = self._facts.get(name)
        if fact is None:
            hint = did_you_mean(name, self._facts, "text needs quotes")
            self.fail(f"there is no field {name!r} ({hint})", token.at)
        self.needs += fact.needs
        if not keys:
            return _Value(_KINDS[fact.type], fact.value, token)
        if fact.type != "map":
            self.fail(f"{name} has no keys", token.at)
        get = fact.value

        def inner(entry: Entry) -> Any:
            value = get(entry)
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            return value

        return _Value(_ANY, inner, token)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return a comparison that is false for values without a common order, as those of a map can be."""

    def compared(one: Any, two: Any) -> bool:
        try:
            return compare(one, two)
        except TypeError:
            return False

    return compared
