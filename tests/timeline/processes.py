"""Processes of a timeline, made by hand."""

from __future__ import annotations

from typing import Any

from pipeline.timeline.columns import Image, Process

#: When the timeline begins, ns since the Unix epoch.
BEGIN_NS = 1_764_300_000_000_000_000
MS = 1_000_000

#: Text that a process may choose, which must stay text: markup, quotes, an escape, a change of direction, a lone
#: surrogate (a byte that is not UTF-8), and much of it.
HOSTILE = (
    "</script><script>document.title='out'</script><!--\"'`><img src=x onerror=y>\x1b[31m\u202egnp.exe\udcff&amp;\x00"
)


def process(
    pid: int, start_ms: float, end_ms: float | None, above: int | None = None, *, path: str = "/usr/bin/sh",
    argv: list[str] | None = None, before: str | None = None, exec_ms: float = 1, **fields: Any,
) -> Process:  # fmt: skip
    """Return a process.

    Args:
        pid: also its identity, as `e7`.
        start_ms, end_ms: after BEGIN_NS; None: it runs.
        above: pid of its creator and parent.
        path, argv: of the newest image.
        before: executable of the image that it was forked with; None: there was no exec.
        exec_ms: when it called exec, after its start.
        fields: other fields of its entry.
    """
    start = BEGIN_NS + int(start_ms * MS)
    entry: Any = {
        "pid": pid, "entity_id": f"e{pid}", "comm": path.rpartition("/")[2][:15], "path": path,
        "creator_entity_id": None if above is None else f"e{above}",
        "parent_entity_id": None if above is None else f"e{above}",
        "argv": [path.rpartition("/")[2]] if argv is None else argv, "start_time_ns": start,
        "exit_time_ns": None if end_ms is None else BEGIN_NS + int(end_ms * MS), "uid": 0, "user": "root",
        "cgroup": "/system.slice/ssh.service", "marks": [], **fields,
    }  # fmt: skip
    images = [Image(start, entry)]
    if before is not None:
        forked: Any = {"path": before, "comm": before.rpartition("/")[2], "argv": [before]}
        images = [Image(start, forked), Image(start + int(exec_ms * MS), entry)]
    return Process(entry, images)


def failed(code: int) -> dict[str, Any]:
    """Return the fields of a process that ended with a code."""
    return {"exit_code": code << 8, "exit_cause": "exited", "exit_cause_code": code}


def killed(number: int) -> dict[str, Any]:
    """Return the fields of a process that was ended by a signal."""
    return {"exit_code": number, "exit_cause": "signaled", "exit_cause_code": number}


def build(units: int) -> list[Process]:
    """Return the processes that `make` starts for this many files: four for each, below a shell."""
    made = [
        process(100, -5000, None, path="/usr/bin/bash", argv=["-bash"]),
        process(101, 0, 10 + 40 * units, 100, path="/usr/bin/make", argv=["make", "-j2"], before="/usr/bin/bash"),
    ]
    for unit in range(units):
        pid, at = 1000 + 4 * unit, 5 + 40 * unit
        end = failed(1) if unit % 25 == 3 else {"exit_code": 0, "exit_cause": "exited", "exit_cause_code": 0}
        made += [
            process(pid, at, at + 60, 101, path="/usr/bin/dash", before="/usr/bin/make",
                    argv=["sh", "-c", f"gcc -O2 -c file{unit}.c"]),
            process(pid + 1, at + 2, at + 58, pid, path="/usr/bin/gcc", argv=["gcc", "-O2", "-c", f"file{unit}.c"],
                    before="/usr/bin/dash", **end),
            process(pid + 2, at + 4, at + 45, pid + 1, path="/usr/libexec/gcc/cc1", argv=["cc1", f"file{unit}.c"],
                    before="/usr/bin/gcc", cpu_user_ns=38 * MS, cpu_system_ns=2 * MS, max_rss_bytes=30 << 20,
                    minor_faults=4000, major_faults=0, voluntary_switches=12,
                    involuntary_switches=3, read_bytes=4096, write_bytes=0),
            process(pid + 3, at + 46, at + 56, pid + 1, path="/usr/bin/as", argv=["as", f"file{unit}.s"],
                    before="/usr/bin/gcc"),
        ]  # fmt: skip
    return made
