"""Hide secret values of known programs if their options are too short to be recognised by a word: ``mysql -pSECRET``.

The rules are the programs of ``scrub_rules.toml`` (`rules.Program`). An argument may itself contain commands:
``sh -c "cd /; mysql -pSECRET"``.
"""

from __future__ import annotations

import re

from pipeline.secrets.rules import Program
from pipeline.secrets.values import CLOSING, SPACES, TOKEN, WORD_MASK, word_end

#: Where a command ends, so that the options of the next one have another meaning. (Not a single &: 2>&1.)
_COMMAND_END = re.compile(rb"[;|]|&&|(?<!\\)\n")


class Command:
    """Walks the tokens of a command line and finds the secret values of known programs.

    The rules of a program apply from its name on, wherever it is (sudo, env, ssh), up to the name of the next program.

    Args:
        programs: rules by name of the program.
        name: the program that the command line starts with.
    """

    def __init__(self, programs: dict[bytes, list[Program]], name: bytes = b"") -> None:
        self._programs = programs
        self.end()
        self._run(programs.get(name, []))

    def end(self) -> None:
        """Forget the rules: the command has ended."""
        self._owed: bytes | None = None  # form of the value that the previous token announced
        self._run([])

    def _run(self, rules: list[Program]) -> None:
        self._waiting = rules
        # The positional arguments seen so far, for each rule that applies.
        self._active = {index: 0 for index, program in enumerate(rules) if not program.after}

    def value(self, token: bytes) -> tuple[int, bytes] | None:
        """Process the next token.

        Returns:
            Where in the token a value begins, and the form of the value (`Program.form`); None: it has none.
        """
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
        is_option = bare[:1] == b"-"
        is_positional = bare not in (b"", b"\\") and not is_option
        begun = set()
        for index, program in enumerate(self._waiting):
            if index in self._active:
                self._active[index] += is_positional
            elif program.begins(bare):
                self._active[index] = 0
                begun.add(index)
        for index in sorted(self._active):
            program = self._waiting[index]
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
            if index in begun:
                continue
            is_value = program.positional and is_positional and self._active[index] > program.shown
            if program.settings and b"=" in bare:
                is_value = False
            if is_value and not (program.form and bare[:1] in (b"@", b"/")):
                return len(token) - len(bare), program.form
        return None


def scrub_programs(text: bytes, argv0: bytes, programs: dict[bytes, list[Program]]) -> bytes:
    """Hide the secret values of known programs.

    Args:
        text: arguments after argv[0], a NUL after each.
        argv0: the first argument.
        programs: rules by name of the program.

    Returns:
        The text with the same number of arguments.
    """
    arguments = text.split(b"\0")
    command = Command(programs, argv0.rpartition(b"/")[2])
    for index, argument in enumerate(arguments):
        found = command.value(argument)
        if found is not None and argument:
            arguments[index] = argument[: found[0]] + _mask_form(argument[found[0] :], found[1])
        elif SPACES.search(argument) is not None:
            arguments[index] = _scrub_script(argument, programs)
    return b"\0".join(arguments)


def _scrub_script(script: bytes, programs: dict[bytes, list[Program]]) -> bytes:
    """Hide secrets in an argument that contains commands: sh -c "cd /; mysql -pSECRET"."""
    command = Command(programs)
    pieces: list[bytes] = []
    done = position = 0
    while (token := TOKEN.search(script, position)) is not None:
        if _COMMAND_END.search(script, position, token.start()) is not None:
            command.end()
        found = command.value(token[0])
        position = token.end()
        if found is None:
            continue
        start, form = token.start() + found[0], found[1]
        quoted = CLOSING.get(token[0][:1]) if found[0] else None
        if quoted is not None and (closing := quoted.match(script, token.start() + 1)) is not None:
            stop = max(start, closing.end() - 1)  # "-ptwo words"
        else:
            stop = word_end(script, start, len(script), TOKEN)
        if stop > start:
            pieces += (script[done:start], _mask_form(script[start:stop], form))
            done = stop
            position = max(position, stop)
    return b"".join(pieces) + script[done:] if pieces else script


def _mask_form(value: bytes, form: bytes) -> bytes:
    """Hide a value, or only what follows its first `form`; a value without `form` contains no secret."""
    if not form:
        return WORD_MASK
    shown, found, hidden = value.partition(form)
    quote = hidden[-1:] if len(hidden) > 1 and hidden[-1:] == value[:1] and value[:1] in (b'"', b"'") else b""
    return shown + form + WORD_MASK + quote if found and hidden else value
