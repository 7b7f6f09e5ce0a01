"""Rules of the argument scrubber: words, patterns and programs, read from ``scrub_rules.toml`` and compiled for RE2.

RE2 is used because any user chooses the text of a command: RE2's time grows with the length of the text, not with
its content. `values`, `commands` and `scrub` apply the rules.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import re2  # type: ignore[import-untyped]  # the wheel ships no stubs

from pipeline.errors import ConfigError

#: What counts as space inside an argument. Patterns are Latin-1, so any byte is a character.
SPACE = rb"[ \t\n\r\f\v]"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that matches a secret by its form."""

    regexp: Any
    groups: tuple[int, ...]  #: the first that took part in the match is the secret; the last is the whole match
    unless: frozenset[bytes] = frozenset()  #: it is not tried on command lines of these programs


@dataclass(frozen=True, slots=True)
class Program:
    """Options of a program that have secret values; the fields are explained in ``scrub_rules.toml``."""

    attached: tuple[bytes, ...]
    separate: frozenset[bytes]
    flags: bytes
    positional: bool
    shown: int
    settings: bool
    after: bytes
    form: bytes

    def begins(self, bare: bytes) -> bool:
        """Return whether the rule applies from this token on."""
        if bare == self.after:
            return True
        if len(self.after) != 2 or self.after[:1] != b"-" or bare[:1] != b"-":
            return False
        return self.after[1:] in bare and not bare[1:].strip(self.flags)


@dataclass(frozen=True, slots=True)
class Harmless:
    """Names, values and programs that have no secrets although a word occurs; see ``scrub_rules.toml``."""

    endings: tuple[bytes, ...]
    beginnings: tuple[bytes, ...]
    values: frozenset[bytes]
    programs: frozenset[bytes]
    cores: frozenset[bytes]  #: the words without their `*`


@dataclass(frozen=True, slots=True)
class Rules:
    """The content of ``scrub_rules.toml``."""

    words: list[str]
    patterns: list[tuple[list[bytes], Pattern]]  #: anchors of a pattern, and the pattern
    programs: dict[bytes, list[Program]]  #: by the program's name
    harmless: Harmless


def options() -> re2.Options:
    """Return RE2's options for the built-in rules: bytes, case ignored."""
    chosen = re2.Options()
    chosen.encoding = re2.Options.Encoding.LATIN1
    chosen.case_sensitive = False
    chosen.log_errors = False
    return chosen


@functools.cache
def load_rules() -> Rules:
    """Return the rules of ``scrub_rules.toml``, which are read and compiled once; nothing may change them."""
    # Not with importlib.resources, which imports as much as the rest of a small process together.
    rules = tomllib.loads(Path(__file__).with_name("scrub_rules.toml").read_text(encoding="utf-8"))
    programs: dict[bytes, list[Program]] = {}
    for entry in rules["program"]:
        program = Program(
            tuple(map(str.encode, entry.get("attached", ()))),
            frozenset(map(str.encode, entry.get("separate", ()))),
            entry.get("flags", "").encode(),
            entry.get("positional", False),
            entry.get("shown", 0),
            entry.get("settings", False),
            entry.get("after", "").encode(),
            entry.get("form", "").encode(),
        )
        for name in entry["names"]:
            programs.setdefault(name.encode(), []).append(program)
    patterns = []
    for entry in rules["pattern"]:
        regexp = re2.compile(entry["pattern"].encode(), options())
        anchors = [anchor.encode() for anchor in entry["anchors"]]
        groups = tuple(group for name, group in regexp.groupindex.items() if name.startswith(b"secret"))
        unless = frozenset(map(str.encode, entry.get("unless", ())))
        patterns.append((anchors, Pattern(regexp, (*groups, 0), unless)))
    words = rules["words"]["default"] + rules["words"]["more"]
    lists = rules["harmless"]
    harmless = Harmless(
        tuple(map(str.encode, lists["endings"])),
        tuple(map(str.encode, lists["beginnings"])),
        frozenset(map(str.encode, lists["values"])),
        frozenset(map(str.encode, lists["programs"])),
        frozenset(word.strip("*").encode() for word in words),
    )
    return Rules(words, patterns, programs, harmless)


def word_pattern(word: str) -> tuple[bytes, bytes]:
    """Return the regular expression of a word, and its longest literal part in lower case.

    Raises:
        ConfigError: it is not a word. (Specification 3.6 skips such a word with a warning. But a user expects the word
            to hide something, and without it secrets would leak, so it is rejected.)
    """
    allowed = word.replace("_", "a").replace("*", "a")
    if not allowed.isascii() or not allowed.isalnum() or word == "*" or "**" in word or not word.strip("*_"):
        raise ConfigError(
            f"sensitive word {word!r}: expected ASCII letters, digits, `_` and single `*` only",
            key="custom_sensitive_words",
            value=word,
        )
    parts = []
    for index, char in enumerate(word):
        if char == "*":
            parts.append(rb"[^\x00\s=:]*" if index == len(word) - 1 else rb"[^\x00\s=:$/]*")
        else:
            parts.append(b"[_-]" if char == "_" else char.encode())
    literal = max(word.lower().replace("_", "*").split("*"), key=len)
    return b"".join(parts), literal.encode()


def words_regexp(words: Iterable[bytes]) -> Any:
    """Return an expression that matches a name with the delimiter before its value.

    It matches a name at the start of an argument or after a space, and a name within a run of characters if an
    assignment follows (``--env=DB_PASSWORD=x``, JSON, the query of a URL). It has no groups, so RE2 uses only its fast
    matcher, which matters for a name of many kB.
    """
    name = rb"-{0,2}(?:" + b"|".join(words) + rb")"
    assign = rb"[\"']?" + SPACE + rb"*(?::=|=>|[=:])" + SPACE + rb"*"
    start = rb"(?:^|[\x00 \t\n\r\f\v])" + name + rb"(?:" + assign + rb"|" + SPACE + rb"+|[\"']?" + SPACE + rb"*\x00)"
    middle = rb"[=:,;&?\"'({\[|]" + name + assign
    return re2.compile(start + rb"|" + middle, options())


def compile_custom(pattern: str) -> Any:
    """Compile a pattern from the settings.

    Raises:
        ConfigError: it is not a valid RE2 expression, or it matches the empty text.
    """
    chosen = re2.Options()
    chosen.encoding = re2.Options.Encoding.LATIN1
    chosen.log_errors = False
    reason = "it matches the empty text, so it would match everywhere"
    try:
        regexp = re2.compile(pattern.encode("utf-8"), chosen)
        if regexp.search(b"") is None:
            return regexp
    except re2.error as error:
        words = error.args[0] if error.args else ""
        message = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        reason = f"{message} (RE2 syntax: no look-around, no back-references)"
    raise ConfigError(f"sensitive pattern {pattern!r}: {reason}", key="custom_sensitive_patterns", value=pattern)
