"""Lines of ``/proc/PID/mountinfo``, as far as more than one module takes them apart. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator


def mounts_of(text: bytes) -> Iterator[tuple[list[bytes], bytes]]:
    """The fields before the dash of each line, and what follows it: type, source, options of the super block."""
    for line in text.split(b"\n"):  # not splitlines(): a carriage return in a name is not escaped
        fields, _, tail = line.partition(b" - ")
        mounted = fields.split(b" ")
        if len(mounted) > 4:
            yield mounted, tail


def unescape(raw: bytes) -> bytes:
    """A name as it is: spaces, tabs, newlines and backslashes are octal numbers in it."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), raw)
