"""Hide secrets in command lines.

Covers the two stages of specification 3.6, kept apart per argument, and what its word list misses: names with dashes,
short options of known programs, passwords in URLs, headers, and tokens that are known by their shape. The rules stand
in ``scrub_rules.toml``. Leaves out the environment (`argsenvs.EnvsEntry.filter`) and where the result is kept.

What differs from specification 3.6, and why (its own section 9.3 asks for it):

1. An argument stays an argument: words are matched in the arguments with a NUL behind each, never in a line that was
   joined by spaces, so ``["-c", "a b"]`` does not come out as three.
2. A name is also found at the start of the first argument after argv[0].
3. The result is a new object. Whoever shares the unscrubbed arguments keeps them whole.
4. When the next argument is the value, all of it is hidden, spaces included; so is all that is left of an argument that
   is one assignment (``--password=two words``).
5. argv[0] is looked at where it is a command line and no name: when it is alone, as in a process that wrote a title
   over its arguments, or has spaces.
6. What comes out is scrubbed again until it stays as it is. So scrubbing twice is scrubbing once, whoever does it: a
   recording that holds scrubbed arguments makes the same tables as its capture did.

Command lines are chosen by whoever runs a command, so everything is matched by RE2, whose time grows with the length
of the text and not with its content. Nothing is decoded: bytes go in and come out.
"""

from __future__ import annotations

import re
import tomllib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from os import fsdecode, fsencode, urandom
from typing import Any, Literal

import re2  # type: ignore[import-untyped]  # the wheel ships no stubs

from pipeline.errors import ConfigError
from pipeline.host.digest import blake2b
from pipeline.secrets.argsenvs import is_command_line

WORD_MASK = b"*" * 8
PATTERN_MASK = b"*" * 5

Mode = Literal["scrubbed", "none", "raw"]

#: A line with more secrets of one kind than this is not worth the time: the rest of it is hidden as a whole.
_MATCHES_MAX = 500
#: What still changes after so many rounds was made to: all of it is hidden. Two is what a line with a secret takes.
_ROUNDS_MAX = 4
_WORDS = -1
_PROGRAMS = -2
_CACHE_BYTES = 4 * 1024 * 1024
_CACHE_ENTRY_OVERHEAD = 100

# One argument's end and what counts as space inside of one. Patterns are Latin-1, so any byte is a character.
_SPACE = rb"[ \t\n\r\f\v]"
_SPACES = re.compile(_SPACE)
# One class, one loop: safe with Python's re.
_RUN = re.compile(rb"[^\x00 \t\n\r\f\v]+")
#: The same as far as a shell reads one word, quotes aside.
_TOKEN = re.compile(rb"[^\x00 \t\n\r\f\v;|&()`]+")
#: What may be attached to a quoted text and belongs to the value: 'a'bc.
_ATTACHED = re.compile(rb"[^\x00 \t\n\r\f\v\"',;|&(){}\[\]<>`]+")
#: Where a command ends and the options of the next one mean something else. (Not a single &: 2>&1.)
_COMMAND_END = re.compile(rb"[;|]|&&|(?<!\\)\n")
#: The option behind which a shell's script stands.
_SCRIPT_OPTION = re.compile(rb"-[A-Za-z]*c|--command")
_NEXT_KEY = re.compile(rb"[ \t\n\r\f\v]+[\w.-]+=")


def _options() -> re2.Options:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.case_sensitive = False
    options.log_errors = False
    return options


@dataclass(frozen=True, slots=True)
class _Pattern:
    regexp: Any
    groups: tuple[int, ...]  #: the secret is the first of these that took part in the match; the last is the whole


#: The rest of a quoted text, its end included, by what opened it.
_CLOSING = {
    b"'": re2.compile(rb"[^\x00']*'", _options()),
    b'"': re2.compile(rb'(?:[^"\\\x00]|\\[^\x00])*"', _options()),
    b'\\"': re2.compile(rb'(?:[^"\\\x00]|\\\\(?:\\")?|\\[^"\\\x00])*\\"', _options()),  # JSON within double quotes
}


@dataclass(frozen=True, slots=True)
class _Program:
    attached: tuple[bytes, ...]
    separate: frozenset[bytes]
    flags: bytes
    positional: bool
    shown: int
    after: bytes
    form: bytes

    def begins(self, bare: bytes) -> bool:
        """Whether the rule holds from this token on."""
        if bare == self.after:
            return True
        if len(self.after) != 2 or self.after[:1] != b"-" or bare[:1] != b"-":
            return False
        return self.after[1:] in bare and not bare[1:].strip(self.flags)


@dataclass(frozen=True, slots=True)
class _Rules:
    words: list[str]
    patterns: list[tuple[list[bytes], _Pattern]]
    programs: dict[bytes, list[_Program]]


def _load_rules() -> _Rules:
    rules = tomllib.loads(files("pipeline.secrets").joinpath("scrub_rules.toml").read_text(encoding="utf-8"))
    programs: dict[bytes, list[_Program]] = {}
    for entry in rules["program"]:
        program = _Program(
            tuple(map(str.encode, entry.get("attached", ()))),
            frozenset(map(str.encode, entry.get("separate", ()))),
            entry.get("flags", "").encode(),
            entry.get("positional", False),
            entry.get("shown", 0),
            entry.get("after", "").encode(),
            entry.get("form", "").encode(),
        )
        for name in entry["names"]:
            programs.setdefault(name.encode(), []).append(program)
    patterns = []
    for entry in rules["pattern"]:
        regexp = re2.compile(entry["pattern"].encode(), _options())
        anchors = [anchor.encode() for anchor in entry["anchors"]]
        groups = tuple(group for name, group in regexp.groupindex.items() if name.startswith(b"secret"))
        patterns.append((anchors, _Pattern(regexp, (*groups, 0))))
    return _Rules(rules["words"]["default"] + rules["words"]["more"], patterns, programs)


def _word_pattern(word: str) -> tuple[bytes, bytes]:
    """A word's regular expression and its longest literal part, in small letters.

    Raises:
        ConfigError: not a word. (Specification 3.6 skips such a word with a warning; a word that somebody set and that
            hides nothing is a leak, so it is refused.)
    """
    allowed = word.replace("_", "a").replace("*", "a")
    if not allowed.isascii() or not allowed.isalnum() or word == "*" or "**" in word or not word.strip("*_"):
        raise ConfigError(
            f"sensitive word {word!r}: ASCII letters, digits, `_` and single `*` only",
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


def _words_regexp(words: Iterable[bytes]) -> tuple[Any, Any]:
    """Two expressions: a name with what separates it from its value, and a text that is nothing but a name.

    The first matches a name at the start of an argument or behind a space, and one inside of a run where an assignment
    follows (``--env=DB_PASSWORD=x``, JSON, a URL's query). Neither has groups: RE2 then needs its fast matcher only,
    which matters for a name of many kB.
    """
    name = rb"-{0,2}(?:" + b"|".join(words) + rb")"
    assign = rb"[\"']?" + _SPACE + rb"*(?::=|[=:])" + _SPACE + rb"*"
    start = rb"(?:^|[\x00 \t\n\r\f\v])" + name + rb"(?:" + assign + rb"|" + _SPACE + rb"+|[\"']?" + _SPACE + rb"*\x00)"
    middle = rb"[=,;&?\"'({\[|]" + name + assign
    return re2.compile(start + rb"|" + middle, _options()), re2.compile(name, _options())


def _word_end(text: bytes, start: int, end: int, run: re.Pattern[bytes]) -> int:
    """Where the word at `start` ends, not after `end`: a run, or quoted texts with what is attached to them."""
    at = start
    if text.startswith(WORD_MASK, start, end):  # in its place there may have been a quoted text
        at += len(WORD_MASK)
        more = _ATTACHED.match(text, at, end)
        return more.end() if more else at
    while at < end:
        opening = text[at : at + 2] if text[at : at + 1] == b"\\" else text[at : at + 1]
        closing = _CLOSING.get(opening)
        match = closing.match(text, at + len(opening), end) if closing is not None else None
        # Another kind of quotes is attached in 'a'"'"'b'. With spaces in it it is none: ('token "a"') % {'x': …
        if match is not None and (opening == text[start : start + len(opening)] or not _SPACES.search(match[0])):
            at = match.end()
        elif at > start and (more := _ATTACHED.match(text, at, end)) is not None:
            at = more.end()
        else:
            break
    if at > start:
        return at
    found = run.match(text, start, end)
    # A run does not end in a quote: in sh -c "… 'x: token y'" that one closes more than the value.
    return start + len(found[0].rstrip(b"\"'")) if found else start


def _is_whole(text: bytes, begin: int, start: int, end: int) -> bool:
    """Whether a value at `start`, its name found at `begin`, is all that is left of the argument, spaces included.

    That is so where the argument is one assignment: an option (``--password=two words``, ``--env=PASSWORD=two words``),
    or a variable, unless it is one for a command that follows (``sh -c "PASSWORD=x command"``) or one of several.
    """
    if text[begin:start].rstrip()[-1:] not in (b"=", b":"):
        return False
    argument = text.rfind(b"\0", 0, begin + 1) + 1
    head = text[argument:begin]
    is_quoted = text.startswith((b'"', b"'", WORD_MASK), start)
    if text[argument : argument + 1] == b"-":
        return not head or (text[begin : begin + 1] == b"=" and not is_quoted and _SPACES.search(head) is None)
    if head or is_quoted or b"=" not in text[begin:start] or not (text[argument : argument + 1].isalnum()):
        return False
    before = text[text.rfind(b"\0", 0, max(argument - 1, 0)) + 1 : max(argument - 1, 0)]
    run = _RUN.match(text, start, end)
    return _SCRIPT_OPTION.fullmatch(before) is None and (run is None or _NEXT_KEY.match(text, run.end(), end) is None)


def _value_span(text: bytes, begin: int, start: int) -> tuple[int, int]:
    """Where the value is that is due at `start`, behind a delimiter and the name at `begin`; empty: nowhere."""
    if text[start - 1 : start] != b"\0" and text[start : start + 1] not in (b"", b"\0"):
        end = text.find(b"\0", start)
        end = len(text) if end < 0 else end
        return start, end if _is_whole(text, begin, start, end) else _word_end(text, start, end, _RUN)
    # The value is the next argument, behind one that is a lone = or :.
    if text[start : start + 1] == b"\0":
        start += 1
    if text[start : start + 2] in (b"=\0", b":\0"):
        start += 2
    end = text.find(b"\0", start)
    return start, len(text) if end < 0 else end


class _Command:
    """Which tokens of a command line are values of known programs.

    A program's rules hold from its name, wherever it stands (sudo, env, ssh), to the next one's.
    """

    def __init__(self, programs: dict[bytes, list[_Program]], name: bytes = b"") -> None:
        self._programs = programs
        self.end()
        self._run(programs.get(name, []))

    def end(self) -> None:
        """The command is over."""
        self._owed: bytes | None = None  # form of the value that the token before announced
        self._run([])

    def _run(self, rules: list[_Program]) -> None:
        self._waiting = rules
        self._active = [program for program in rules if not program.after]
        self._positionals = 0

    def value(self, token: bytes) -> tuple[int, bytes] | None:
        """Where in the token a value begins, and its form; None: nothing in it is to be hidden."""
        if self._owed is not None:
            form, self._owed = self._owed, None
            return 0, form
        bare = token.lstrip(b"\"'(")
        named = self._programs.get(bare.rpartition(b"/")[2])
        if named is not None:
            self._run(named)
            return None
        if not self._waiting:
            return None
        begun = [program for program in self._waiting if program.after and program.begins(bare)]
        self._active += [program for program in begun if program not in self._active]
        is_option = bare[:1] == b"-"
        self._positionals += bare not in (b"", b"\\") and not is_option
        for program in self._active:
            option = bare
            if program.flags and is_option and bare[:2] != b"--":
                option = b"-" + bare[1:].lstrip(program.flags)
            if option in program.separate:
                self._owed = program.form
                return None
            flag = next((f for f in program.attached if option.startswith(f) and len(option) > len(f)), b"")
            if not flag and option.startswith(b"--"):
                name, equals, _ = option.partition(b"=")
                flag = name + equals if equals and name in program.separate else b""
            if flag:
                return len(token) - len(option) + len(flag), program.form
            is_value = program.positional and bare and not is_option and self._positionals > program.shown
            if is_value and not (program.form and bare[:1] in (b"@", b"/")):
                return len(token) - len(bare), program.form
        return None


class Scrubber:
    """Hides secrets in argument lists. One user at a time.

    Args:
        custom_words: names of settings whose values are hidden, besides the built-in ones; `*` stands for more of it.
        custom_patterns: regular expressions in RE2 syntax; what they match in an argument is hidden.
        mode: "scrubbed"; "none" drops every argument but argv[0], and of a title all but its first word; "raw" changes
            nothing.
        cache_entries: command lines remembered (by a keyed digest, so that no secret stays in memory for it).

    Raises:
        ConfigError: a word or a pattern is wrong; `value` names it.
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
            raise ConfigError(f"args {mode!r}: must be scrubbed, none or raw", key="args", value=mode)
        self.mode = mode
        rules = _load_rules()
        words = [_word_pattern(word) for word in (*rules.words, *custom_words)]
        self._words, self._name = _words_regexp(dict.fromkeys(pattern for pattern, _ in words))
        self._patterns = [pattern for _, pattern in rules.patterns]
        self._programs = rules.programs
        self._custom = [_compile_custom(pattern) for pattern in custom_patterns]
        # What each literal of the prefilter calls for: _WORDS, _PROGRAMS, or a pattern by its index.
        self._calls: list[int] = []
        self._prefilter = re2.Set.SearchSet(_options())
        self._literals: list[bytes] = []
        self._names: list[bytes] = []
        for literal in dict.fromkeys(literal for _, literal in words):
            self._add_literal(literal, _WORDS)
        for name in self._programs:
            self._add_literal(name, _PROGRAMS)
        for index, (anchors, _) in enumerate(rules.patterns):
            for anchor in anchors:
                self._add_literal(anchor, index)
        self._prefilter.Compile()
        self._cache: OrderedDict[bytes, bytes | None] = OrderedDict()
        self._cache_entries = cache_entries
        self._cached_bytes = 0
        self._cache_key = urandom(16)

    def _add_literal(self, literal: bytes, call: int) -> None:
        # Literals only: a set of expressions can run out of memory on hostile text and then says "no match".
        self._prefilter.Add(re2.escape(literal))
        (self._names if call == _PROGRAMS else self._literals).append(literal)
        self._calls.append(call)

    @property
    def literals(self) -> list[bytes] | None:
        """A command line with none of these (case ignored) and none of `program_names` as a word needs no scrubbing.

        None: any may need it.
        """
        return None if self._custom else self._literals

    @property
    def program_names(self) -> list[bytes]:
        """Programs with rules of their own; see `literals`."""
        return self._names

    def scrub_argv(self, argv: bytes) -> bytes:
        """Hide the secrets of a raw argument area: argv[0] first, a NUL after each.

        Returns:
            The same form with as many arguments; the same object when nothing was hidden.
        """
        if self.mode == "raw" or not argv:
            return argv
        end = argv.find(b"\0")
        argv0, behind = (argv, b"") if end < 0 else (argv[:end], argv[end:])
        is_line = is_command_line(argv0, not behind.strip(b"\0"))
        if self.mode == "none":
            # Of a title, which has all arguments in it, the first word is the program.
            return argv0.split(maxsplit=1)[0] + behind[:1] if is_line else argv0 + behind[:1]
        if len(behind) < 2 and not is_line:
            return argv
        digest = blake2b(argv, digest_size=16, key=self._cache_key).digest()
        try:
            result = self._cache[digest]
            self._cache.move_to_end(digest)
        except KeyError:
            # By itself: "/opt/Token Tool" has no value in the argument behind it.
            shown = self._scrub(argv0, b"") if is_line else argv0
            scrubbed = shown + behind[:1] + self._scrub(behind[1:], shown)
            result = None if scrubbed == argv else scrubbed
            self._remember(digest, result)
        return argv if result is None else result

    def scrub(self, args: Sequence[str], argv0: str = "") -> tuple[list[str], bool]:
        """Hide the secrets of a list of arguments without argv[0].

        Args:
            args: text; bytes that are not UTF-8 as surrogate escapes, which come back unchanged.
            argv0: names the program, for the rules of known programs.

        Returns:
            A new list of the same length, and whether anything was hidden.
        """
        if self.mode == "none":
            return [], bool(args)
        if not args:
            return [], False
        # A string ends at its first NUL, as it is stored: what is behind one would come out as one more argument.
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
        """Arguments after argv[0], NUL after each (the last one may lack it)."""
        for _ in range(_ROUNDS_MAX):
            hidden = self._scrub_once(text, argv0)
            if hidden == text:
                return text
            text = hidden
        return _mask_rest(text)

    def _scrub_once(self, text: bytes, argv0: bytes) -> bytes:
        hits = self._prefilter.Match(argv0 + b"\0" + text)
        calls = {self._calls[hit] for hit in hits} if hits else set()
        # From what knows most of a secret's bounds to what knows least.
        if _PROGRAMS in calls:
            text = self._scrub_programs(text, argv0)
        for call in sorted(calls):
            if call >= 0:
                text = _substitute(self._patterns[call].regexp, text, self._patterns[call].groups)
        if _WORDS in calls:
            text = self._scrub_words(text)
        if self._custom:
            arguments = text.split(b"\0")
            for pattern in self._custom:
                arguments = [pattern.sub(_pattern_mask, argument) if argument else argument for argument in arguments]
            text = b"\0".join(arguments)
        return text

    def _scrub_words(self, text: bytes) -> bytes:
        """Hide the values of names.

        A value that is a name itself is a name for what follows it: in ``--token --password x`` x is hidden too.
        """
        pieces: list[bytes] = []
        end = position = 0
        while (match := self._words.search(text, position)) is not None:
            begin, start = match.span()
            if text[begin:start].strip(b" \t\n\r\f\v\0") in self._programs:  # htpasswd is no name of a setting
                position = start - 1
                continue
            start, stop = _value_span(text, begin, start)
            if stop <= start:
                position = match.end()
                continue
            pieces += (text[end:start], WORD_MASK)
            end = position = stop
            if self._name.fullmatch(text[start:stop]):
                position = start - 1  # what stands before a name is part of the match
            if len(pieces) > 2 * _MATCHES_MAX:
                return b"".join(pieces) + _mask_rest(text[end:])
        return b"".join(pieces) + text[end:] if pieces else text

    def _scrub_programs(self, text: bytes, argv0: bytes) -> bytes:
        arguments = text.split(b"\0")
        command = _Command(self._programs, argv0.rpartition(b"/")[2])
        for index, argument in enumerate(arguments):
            found = command.value(argument)
            if found is not None and argument:
                arguments[index] = argument[: found[0]] + _mask_form(argument[found[0] :], found[1])
            elif _SPACES.search(argument) is not None:
                arguments[index] = self._scrub_script(argument)
        return b"\0".join(arguments)

    def _scrub_script(self, script: bytes) -> bytes:
        """An argument that is a command line, or several: sh -c "cd /; mysql -psecret"."""
        command = _Command(self._programs)
        pieces: list[bytes] = []
        done = position = 0
        while (token := _TOKEN.search(script, position)) is not None:
            if _COMMAND_END.search(script, position, token.start()) is not None:
                command.end()
            found = command.value(token[0])
            position = token.end()
            if found is None:
                continue
            start, form = token.start() + found[0], found[1]
            quoted = _CLOSING.get(token[0][:1]) if found[0] else None
            if quoted is not None and (closing := quoted.match(script, token.start() + 1)) is not None:
                stop = max(start, closing.end() - 1)  # "-ptwo words"
            else:
                stop = _word_end(script, start, len(script), _TOKEN)
            if stop > start:
                pieces += (script[done:start], _mask_form(script[start:stop], form))
                done = stop
                position = max(position, stop)
        return b"".join(pieces) + script[done:] if pieces else script


def _mask_form(value: bytes, form: bytes) -> bytes:
    """Hide a value, or what follows its first separator; without the separator it holds no secret."""
    if not form:
        return WORD_MASK
    shown, found, hidden = value.partition(form)
    quote = hidden[-1:] if len(hidden) > 1 and hidden[-1:] == value[:1] and value[:1] in (b'"', b"'") else b""
    return shown + form + WORD_MASK + quote if found and hidden else value


def _pattern_mask(match: Any) -> bytes:
    # What is hidden already would grow with each time that it is looked at.
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
    """Hide each argument that is left and not empty."""
    return b"\0".join([part and WORD_MASK for part in text.split(b"\0")])


def _compile_custom(pattern: str) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    reason = "it matches the empty text, so everywhere"
    try:
        regexp = re2.compile(pattern.encode("utf-8"), options)
        if regexp.search(b"") is None:
            return regexp
    except re2.error as error:
        words = error.args[0] if error.args else ""
        told = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        reason = f"{told} (RE2 syntax: no look-around, no back-references)"
    raise ConfigError(f"sensitive pattern {pattern!r}: {reason}", key="custom_sensitive_patterns", value=pattern)
