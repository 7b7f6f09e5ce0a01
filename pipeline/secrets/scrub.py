"""Hide secrets in command lines.

Covers the two stages of specification 3.6, applied to each argument separately. Secrets that its word list misses are
hidden too: names with dashes, short options of known programs, passwords in URLs, headers, and tokens with a known
form. The rules are in ``scrub_rules.toml``. `argsenvs.EnvsEntry.filter` filters environments.

Differences from specification 3.6, and their reasons (its own section 9.3 asks for them):

1. An argument remains an argument. Words are matched in the arguments with a NUL after each, never in a line joined by
   spaces; so ``["-c", "a b"]`` does not become three arguments.
2. A name is also found at the start of the first argument after argv[0].
3. The result is a new object. Other holders of the unscrubbed arguments keep them unchanged.
4. If the next argument is the value, all of it is hidden, including spaces. The same applies to the rest of an argument
   that is one assignment (``--password=two words``).
5. argv[0] is scrubbed if it is a command line and not a name. It is one if it contains spaces, or if it is the only
   argument, as in a process that wrote a title over its arguments.
6. Not every word is the name of a secret; `names` decides. The next option is never a value.
7. The result is scrubbed again until it no longer changes, so that scrubbing twice equals scrubbing once: a recording
   with scrubbed arguments makes the same tables as its capture.

Nothing is decoded: the scrubber reads and returns bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from os import fsdecode, fsencode, urandom
from typing import Any, Literal

import re2  # type: ignore[import-untyped]  # the wheel ships no stubs

from pipeline.errors import ConfigError
from pipeline.host.digest import blake2b
from pipeline.secrets.argsenvs import is_command_line
from pipeline.secrets.commands import scrub_programs
from pipeline.secrets.names import Judge
from pipeline.secrets.rules import compile_custom, load_rules, options, word_pattern, words_regexp
from pipeline.secrets.values import PATTERN_MASK, WORD_MASK, value_span

Mode = Literal["scrubbed", "none", "raw"]

#: If a line has more secrets of one kind than this, the rest of it is hidden as a whole, to save time.
_MATCHES_MAX = 500
#: A line with a secret needs two rounds. If a line still changes after this many, somebody made it to change: all of it
#: is hidden.
_ROUNDS_MAX = 4
#: How many arguments are examined to find the program that sudo or env runs.
_WRAPPERS_MAX = 16
_WORDS = -1
_PROGRAMS = -2
_CACHE_BYTES = 4 * 1024 * 1024
_CACHE_ENTRY_OVERHEAD = 100


@lru_cache(maxsize=2)
def _search_set(literals: tuple[bytes, ...]) -> re2.Set:
    """Return what finds the literals in a text, by their places. It never changes, so equal scrubbers share it."""
    found = re2.Set.SearchSet(options())
    for literal in literals:
        # Literals only: with expressions, a set can run out of memory on hostile text and then reports no match.
        found.Add(re2.escape(literal))
    found.Compile()
    return found


class Scrubber:
    """Hides secrets in lists of arguments. Not thread-safe.

    Args:
        custom_words: names with secret values, in addition to the built-in ones; `*` matches any letters.
        custom_patterns: regular expressions in RE2 syntax; the text that they match in an argument is hidden.
        mode: "scrubbed"; "none" drops every argument except argv[0], and of a title all but its first word; "raw"
            changes nothing.
        cache_entries: maximum number of cached command lines (by a keyed digest, so the cache contains no secrets).

    Raises:
        ConfigError: a word or a pattern is wrong; `value` is the wrong one.
    """

    def __init__(
        self,
        custom_words: Sequence[str] = (),
        custom_patterns: Sequence[str] = (),
        *,
        mode: Mode = "scrubbed",
        cache_entries: int = 4096,
    ) -> None:
        if mode not in ("scrubbed", "none", "raw"):
            raise ConfigError(f"args {mode!r}: expected scrubbed, none or raw", key="args", value=mode)
        self.mode = mode
        rules = load_rules()
        words = [word_pattern(word) for word in (*rules.words, *custom_words)]
        self._words = words_regexp(dict.fromkeys(pattern for pattern, _ in words))
        self._patterns = [pattern for _, pattern in rules.patterns]
        self._programs = rules.programs
        self._harmless = rules.harmless
        self._custom = [compile_custom(pattern) for pattern in custom_patterns]
        # Each literal with the stage that it triggers: _WORDS, _PROGRAMS, or the index of a pattern.
        stages = [(literal, _WORDS) for literal in dict.fromkeys(literal for _, literal in words)]
        stages += [(name, _PROGRAMS) for name in self._programs]
        stages += [(anchor, index) for index, (anchors, _) in enumerate(rules.patterns) for anchor in anchors]
        self._calls = [stage for _, stage in stages]
        self._literals = [literal for literal, stage in stages if stage != _PROGRAMS]
        self._names = [literal for literal, stage in stages if stage == _PROGRAMS]
        self._prefilter = _search_set(tuple(literal for literal, _ in stages))
        self._cache: OrderedDict[bytes, bytes | None] = OrderedDict()
        self._cache_entries = cache_entries
        self._cached_bytes = 0
        self._cache_key = urandom(16)

    @property
    def literals(self) -> list[bytes] | None:
        """Texts of which a command line must contain one, or a word of `program_names`, to need scrubbing.

        Case is ignored. None: any command line may need it.
        """
        return None if self._custom else self._literals

    @property
    def program_names(self) -> list[bytes]:
        """Programs with rules of their own; see `literals`."""
        return self._names

    def scrub_argv(self, argv: bytes) -> bytes:
        """Hide the secrets of a raw argument area: argv[0] first, a NUL after each argument.

        Returns:
            The arguments in the same form and number; the same object if nothing was hidden.
        """
        if self.mode == "raw" or not argv:
            return argv
        end = argv.find(b"\0")
        argv0, behind = (argv, b"") if end < 0 else (argv[:end], argv[end:])
        is_line = is_command_line(argv0, not behind.strip(b"\0"))
        if self.mode == "none":
            # A title contains all arguments; its first word is the program.
            return argv0.split(maxsplit=1)[0] + behind[:1] if is_line else argv0 + behind[:1]
        if len(behind) < 2 and not is_line:
            return argv
        digest = blake2b(argv, digest_size=16, key=self._cache_key).digest()
        try:
            result = self._cache[digest]
            self._cache.move_to_end(digest)
        except KeyError:
            # argv[0] is scrubbed separately: "/opt/Token Tool" has no value in the next argument.
            shown = self._scrub(argv0, b"") if is_line else argv0
            scrubbed = shown + behind[:1] + self._scrub(behind[1:], shown)
            result = None if scrubbed == argv else scrubbed
            self._remember(digest, result)
        return argv if result is None else result

    def scrub(self, args: Sequence[str], argv0: str = "") -> tuple[list[str], bool]:
        """Hide the secrets of a list of arguments without argv[0].

        Args:
            args: text; bytes that are not UTF-8 are surrogate escapes, which are returned unchanged.
            argv0: the name of the program, for the rules of known programs.

        Returns:
            A new list of the same length, and whether anything was hidden.
        """
        if self.mode == "none":
            return [], bool(args)
        if not args:
            return [], False
        # An argument is stored up to its first NUL; the rest would become a further argument.
        raw = b"".join(fsencode(arg).partition(b"\0")[0] + b"\0" for arg in (argv0, *args))
        scrubbed = self.scrub_argv(raw)
        if scrubbed is raw:
            return list(args), False
        return [fsdecode(arg) for arg in scrubbed[:-1].split(b"\0")[1:]], True

    def _remember(self, digest: bytes, result: bytes | None) -> None:
        if self._cache_entries <= 0:
            return
        self._cache[digest] = result
        self._cached_bytes += _CACHE_ENTRY_OVERHEAD + len(result or b"")
        while len(self._cache) > self._cache_entries or self._cached_bytes > _CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= _CACHE_ENTRY_OVERHEAD + len(dropped or b"")

    def _scrub(self, text: bytes, argv0: bytes) -> bytes:
        """Scrub arguments after argv[0], a NUL after each (the last may lack it), until they no longer change."""
        for _ in range(_ROUNDS_MAX):
            hidden = self._scrub_once(text, argv0)
            if hidden == text:
                return text
            text = hidden
        return _mask_rest(text)

    def _scrub_once(self, text: bytes, argv0: bytes) -> bytes:
        hits = self._prefilter.Match(argv0 + b"\0" + text)
        calls = {self._calls[hit] for hit in hits} if hits else set()
        # The stages that know the bounds of a secret best come first.
        if _PROGRAMS in calls:
            text = scrub_programs(text, argv0, self._programs)
        for call in sorted(calls):
            if call >= 0 and not (self._patterns[call].unless and _runs(argv0, text, self._patterns[call].unless)):
                text = _substitute(self._patterns[call].regexp, text, self._patterns[call].groups)
        if _WORDS in calls:
            text = self._scrub_words(text, argv0)
        if self._custom:
            arguments = text.split(b"\0")
            for pattern in self._custom:
                arguments = [pattern.sub(_pattern_mask, argument) if argument else argument for argument in arguments]
            text = b"\0".join(arguments)
        return text

    def _scrub_words(self, text: bytes, argv0: bytes) -> bytes:
        """Hide the values of names."""
        pieces: list[bytes] = []
        end = position = looked = 0
        judge = Judge(self._harmless, argv0, text)
        while (match := self._words.search(text, position)) is not None:
            begin, start = match.span()
            if text[begin:start].strip(b" \t\n\r\f\v\0") in self._programs:  # htpasswd is not the name of a setting
                position = start - 1
                continue
            looked += 1
            delimited = start
            start, stop = value_span(text, begin, start)
            if stop <= start:
                position = match.end()
                continue
            if looked > _MATCHES_MAX or len(pieces) > 2 * _MATCHES_MAX:
                return b"".join(pieces) + _mask_rest(text[end:])
            if not judge.is_secret(begin, start, stop):
                position = delimited - 1  # the character before a name is part of the match
                continue
            pieces += (text[end:start], WORD_MASK)
            end = position = stop
        return b"".join(pieces) + text[end:] if pieces else text


def _runs(argv0: bytes, text: bytes, programs: frozenset[bytes]) -> bool:
    """Return whether the command, or one that it runs (sudo, env), is one of these programs."""
    words = (argv0, *text.split(b"\0", _WRAPPERS_MAX)[:_WRAPPERS_MAX])
    return any(word.rpartition(b"/")[2] in programs for word in words)


def _pattern_mask(match: Any) -> bytes:
    # Text that is hidden already is not replaced again, otherwise it would grow with each round.
    hidden: bytes = match[0]
    return PATTERN_MASK if hidden.strip(b"*") else hidden


def _substitute(regexp: Any, text: bytes, groups: tuple[int, ...]) -> bytes:
    """Hide, in each match, the first of `groups` that took part in it."""
    pieces: list[bytes] = []
    end = 0
    for match in regexp.finditer(text):
        start, stop = next(span for group in groups if (span := match.span(group))[0] >= 0)
        pieces += (text[end:start], WORD_MASK)
        end = stop
        if len(pieces) > 2 * _MATCHES_MAX:
            return b"".join(pieces) + _mask_rest(text[end:])
    return b"".join(pieces) + text[end:] if pieces else text


def _mask_rest(text: bytes) -> bytes:
    """Hide every remaining argument that is not empty."""
    return b"\0".join([part and WORD_MASK for part in text.split(b"\0")])
