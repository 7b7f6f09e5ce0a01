"""Where a secret value begins and ends in a text of arguments, and the masks that replace values.

The text has a NUL after each argument.
"""

from __future__ import annotations

import re

import re2  # type: ignore[import-untyped]  # the wheel ships no stubs

from pipeline.secrets.rules import SPACE, options

WORD_MASK = b"*" * 8
PATTERN_MASK = b"*" * 5

# These expressions have no nested or ambiguous repetition, so Python's re is safe.
SPACES = re.compile(SPACE)
_RUN = re.compile(rb"[^\x00 \t\n\r\f\v]+")
#: A word as a shell reads it, without quotes.
TOKEN = re.compile(rb"[^\x00 \t\n\r\f\v;|&()`]+")
#: Text that is attached to a quoted text and belongs to the value: 'a'bc.
_ATTACHED = re.compile(rb"[^\x00 \t\n\r\f\v\"',;|&(){}\[\]<>`]+")
#: The option of a shell before a script.
_SCRIPT_OPTION = re.compile(rb"-[A-Za-z]*c|--command")
_NEXT_KEY = re.compile(rb"[ \t\n\r\f\v]+[\w.-]+=")

#: The rest of a quoted text including its end, by the opening quote.
CLOSING = {
    b"'": re2.compile(rb"[^\x00']*'", options()),
    b'"': re2.compile(rb'(?:[^"\\\x00]|\\[^\x00])*"', options()),
    b'\\"': re2.compile(rb'(?:[^"\\\x00]|\\\\(?:\\")?|\\[^"\\\x00])*\\"', options()),  # JSON within double quotes
}


def word_end(text: bytes, start: int, end: int, run: re.Pattern[bytes]) -> int:
    """Return where the word at `start` ends: a run of characters, or quoted texts with what is attached to them.

    Args:
        text: the arguments.
        start: first byte of the word.
        end: the word ends here at the latest.
        run: matches a word without quotes.
    """
    at = start
    if text.startswith(WORD_MASK, start, end):  # the mask may have replaced a quoted text
        at += len(WORD_MASK)
        more = _ATTACHED.match(text, at, end)
        return more.end() if more else at
    while at < end:
        opening = text[at : at + 2] if text[at : at + 1] == b"\\" else text[at : at + 1]
        closing = CLOSING.get(opening)
        match = closing.match(text, at + len(opening), end) if closing is not None else None
        # Quotes of another kind belong to the word in 'a'"'"'b', but not if they contain a space: ('token "a"') % {…
        if match is not None and (opening == text[start : start + len(opening)] or not SPACES.search(match[0])):
            at = match.end()
        elif at > start and (more := _ATTACHED.match(text, at, end)) is not None:
            at = more.end()
        else:
            break
    if at > start:
        return at
    found = run.match(text, start, end)
    # A quote at the end of a run is not part of it: in sh -c "… 'x: token y'" it closes more than the value.
    return start + len(found[0].rstrip(b"\"'")) if found else start


def value_span(text: bytes, begin: int, start: int) -> tuple[int, int]:
    """Return start and end of the value of a name; equal if there is none.

    Args:
        text: the arguments.
        begin: first byte of the name.
        start: first byte after the name and its delimiter.
    """
    if text[start - 1 : start] != b"\0" and text[start : start + 1] not in (b"", b"\0"):
        end = text.find(b"\0", start)
        end = len(text) if end < 0 else end
        if text[begin : begin + 1] in (b"?", b"&", b";") and b'"' not in text[start : start + 1]:
            # One of several settings: the query of a URL, a connection string.
            separator = b";" if text[begin : begin + 1] == b";" else b"&"
            next_one = text.find(separator, start, end)
            end = next_one if next_one >= 0 else end
        return start, end if _is_whole(text, begin, start, end) else word_end(text, start, end, _RUN)
    # The value is the next argument, or the one after an argument that is a single = or :.
    if text[start : start + 1] == b"\0":
        start += 1
    if text[start : start + 2] in (b"=\0", b":\0"):
        start += 2
    end = text.find(b"\0", start)
    return start, len(text) if end < 0 else end


def _is_whole(text: bytes, begin: int, start: int, end: int) -> bool:
    """Return whether the value at `start` is the rest of its argument, including spaces.

    It is the rest if the argument is one assignment: of an option (``--password=two words``, ``--env=PASSWORD=two
    words``) or of a variable. It is not the rest if the variable is for a command that follows (``sh -c "PASSWORD=x
    command"``), or if it is one of several variables.
    """
    if text[begin:start].rstrip()[-1:] not in (b"=", b":"):
        return False
    argument = text.rfind(b"\0", 0, begin + 1) + 1
    before = text[argument:begin]
    is_quoted = text.startswith((b'"', b"'", WORD_MASK), start)
    if text[argument : argument + 1] == b"-":
        return not before or (text[begin : begin + 1] == b"=" and not is_quoted and SPACES.search(before) is None)
    if before or is_quoted or b"=" not in text[begin:start] or not (text[argument : argument + 1].isalnum()):
        return False
    before = text[text.rfind(b"\0", 0, max(argument - 1, 0)) + 1 : max(argument - 1, 0)]
    run = _RUN.match(text, start, end)
    return _SCRIPT_OPTION.fullmatch(before) is None and (run is None or _NEXT_KEY.match(text, run.end(), end) is None)
