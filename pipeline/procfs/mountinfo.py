"""Parsing of ``/proc/PID/mountinfo``, as far as several modules need it. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: A longer file is rejected, see `rooted.read_mounts`.
MOUNTINFO_BYTES_MAX = 4 << 20


def mounts_of(text: bytes) -> Iterator[tuple[list[bytes], bytes]]:
    """Yield the fields before the dash of each line, and the text after it: type, source, super block options."""
    for line in text.split(b"\n"):  # not splitlines(): the kernel does not escape a carriage return in a name
        fields, _, tail = line.partition(b" - ")
        mounted = fields.split(b" ")
        if len(mounted) > 4:
            yield mounted, tail


def unescape(raw: bytes) -> bytes:
    """Decode the octal escapes of spaces, tabs, newlines and backslashes in a name."""
    return raw if b"\\" not in raw else re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), raw)
