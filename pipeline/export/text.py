"""Untrusted text, such as names and paths of processes, made safe to show."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""Return `text` with an escape for each character that is not printable.

    A process chooses its name, arguments and files. They can contain sequences that change the terminal, line breaks
    that forge a line of a log, and bytes that are not UTF-8. So print and write them only in this form.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(c if c.isprintable() else _escape(c) for c in string)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
