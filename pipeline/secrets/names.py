"""Decide whether the name of a setting is followed by a secret, or by something that people need to read.

A word such as *token* also stands in commit messages, file names, sub-commands and options about secrets, for example
``--token-ttl 3600``. The lists are in ``scrub_rules.toml`` (`rules.Harmless`). In doubt the value is hidden.
"""

from __future__ import annotations

import re

from pipeline.secrets.rules import Harmless

_EDGE = b" \t\n\r\f\v\0,;&?\"'({[|"
_DELIMITERS = b" \t\n\r\f\v\0=:\"'"
#: ``--option`` and ``-o`` are other options, not values.
_OPTION = re.compile(rb"--[A-Za-z][\w-]*(?:=.*)?\Z|-[A-Za-z]\Z", re.DOTALL)
#: Nothing but references that a shell or a template replaces: what they stand for is not in the command line. The whole
#: value counts, because a password can begin with a dollar. Within a script a value ends at a space: ``$(cat``, ``{{``.
_REFERENCE = re.compile(
    rb"[\"']?(?:(?:\$[A-Za-z_]\w*|\$\{[A-Za-z_]\w*\}|\$\((?:cat(?:\s[^()]*\)?)?|<[^()]*\)?)\Z|%\w+%"
    rb"|\{\{(?:[^{}]*\}\}|\s*\Z))[:@/.,;-]?)+[\"']?\Z"
)
#: A shell has replaced the variables of an argument before the program gets it, and names of variables are upper case.
_DOLLAR_WORD = re.compile(rb"[\"']?\$\w*[a-z]\w*[\"']?\Z")
_FILE = re.compile(
    rb"[\w./~-]*\.[A-Za-z][A-Za-z0-9]{0,5}\Z|(?:/|\./|\.\./|~/)[\w./~-]*\Z|[\w.-]+/\Z"
    rb"|[a-z0-9_.-]+(?:/[a-z0-9_.-]+)+\Z"
)
_PATH = re.compile(rb"(?:/|~/|\./)[\w./~-]+\Z")
_PLAIN_WORD = re.compile(rb"(?:[A-Za-z]?[a-z]+|[A-Z]+)(?:-[a-z]+)*[.,:;!?]*\Z")
_NUMBER = re.compile(rb"\d{1,7}\Z")
_SETTING = re.compile(rb"\w+\Z")
#: So mixed are only secrets; names of objects are lower case, also where they contain digits.
_STRONG = re.compile(rb"(?=.*[0-9])(?=.*[A-Z])(?=.*[a-z])\S{12,}\Z")
#: What may come before a name within a run of characters, as in ``print('token``.
_INNER = re.compile(rb"[\"'({\[|]")
_CAMEL = re.compile(rb"(?<=[a-z0-9])(?=[A-Z])")
_LONGEST = 200


class Judge:
    """Decides about one command line at a time.

    Args:
        harmless: the lists of names and programs.
        argv0: the first argument.
        text: the arguments after argv[0], a NUL after each.
    """

    def __init__(self, harmless: Harmless, argv0: bytes, text: bytes) -> None:
        self._harmless = harmless
        self._argv0 = argv0
        self._text = text
        self._data_from: int | None = None

    def is_secret(self, begin: int, start: int, stop: int) -> bool:
        """Return whether a value is a secret.

        Args:
            begin: first byte of the match, which may be the character before the name.
            start: first byte of the value; the name and its delimiter are before it.
            stop: end of the value.
        """
        text = self._text
        # A name or a value of this length is no sentence of a person, and examining it would cost time.
        if start - begin > _LONGEST or stop - start > _LONGEST:
            return True
        raw = text[begin:start].lstrip(_EDGE)
        name = _INNER.split(raw.rstrip(_DELIMITERS))[-1].lstrip(b"-")
        value = text[start:stop]
        words = _CAMEL.sub(b"_", name).lower().replace(b"-", b"_").replace(b".", b"_")
        harmless = self._harmless
        is_assigned = raw[len(raw.rstrip(_DELIMITERS)) :].strip(b" \t\n\r\f\v\0\"'") != b""
        is_option = raw.startswith(b"-")
        if words.endswith(harmless.endings) or words.startswith(harmless.beginnings):
            return False
        if words.endswith(b"secret_id") and is_option and not is_assigned:
            return False
        if value.lower() in harmless.values:
            return False
        if _REFERENCE.match(value) and not (_DOLLAR_WORD.match(value) and self._is_in_one_word(start, stop)):
            return False
        if _NUMBER.match(value) and (words.endswith(b"tokens") or (raw.startswith(b"-D") and is_assigned)):
            return False
        if words.endswith(b"credentials") and _PATH.match(value):
            return False
        if is_assigned and b"\0" not in text[begin + 1 : start]:
            return True
        if _OPTION.match(value):
            return False
        return is_option or self._is_secret_of_a_word(name, words, value, begin, start)

    def _is_in_one_word(self, start: int, stop: int) -> bool:
        """Whether the argument with this value has no space, so that it is no script with variables of its own."""
        end = self._text.find(b"\0", stop)
        argument = self._text[self._text.rfind(b"\0", 0, start) + 1 : end if end >= 0 else None]
        return not any(character in b" \t\n" for character in argument)

    def _is_secret_of_a_word(self, name: bytes, words: bytes, value: bytes, begin: int, start: int) -> bool:
        """Return whether a word without a dash and without = has a secret value: ``password hunter2``."""
        last = name.replace(b"-", b".").rpartition(b".")[2]
        if not _SETTING.match(name) and last.lower() not in self._harmless.cores:
            return False  # a file, a host, a sub-command such as get-secret-value
        if _FILE.match(value) or not any(map(_is_letter_or_digit, value)):
            return False
        is_sentence = b"\0" not in self._text[begin + 1 : start]
        is_plain = _PLAIN_WORD.match(value) is not None
        if is_plain and (is_sentence or words not in self._harmless.cores):
            return False
        if words not in self._harmless.cores or _STRONG.match(value):
            return True
        return is_sentence or not self._is_data(begin)

    def _is_data(self, begin: int) -> bool:
        """Whether words at `begin` are data of a program such as grep or git, and no settings."""
        if self._data_from is None:
            self._data_from = self._first_program_with_data()
        return begin >= self._data_from

    def _first_program_with_data(self) -> int:
        programs = self._harmless.programs
        if self._argv0.rpartition(b"/")[2] in programs:
            return 0
        at = 0
        for argument in self._text.split(b"\0", 16)[:16]:
            if argument.rpartition(b"/")[2] in programs:
                return at
            at += len(argument) + 1
        return len(self._text) + 1


def _is_letter_or_digit(byte: int) -> bool:
    return 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122 or byte >= 128
