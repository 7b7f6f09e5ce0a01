"""What a tracer's frames do to an `EBPFLessResolver`: each record is the call of one method (specification 2.6, 4).

The process of a record is (pid, pid namespace): HEAD's tgid and TASK's `pid_ns`. Making such frames is in
`sources.tracer`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from pipeline import events
from pipeline.bus.frames import Frame
from pipeline.resolver.ebpfless import EBPFLessResolver
from pipeline.resolver.model import CacheResolverKey
from pipeline.shm import layout


class FrameFeed:
    """Applies frames to one resolver.

    Attributes:
        skipped_total: records without a pid namespace, or of a kind that changes nothing here.
    """

    def __init__(self, resolver: EBPFLessResolver, *, boot_unix_ns: int, container_id: str = "") -> None:
        """Apply to `resolver`.

        Args:
            resolver: whose methods are called.
            boot_unix_ns: Unix time of the boot clock's zero (`boot.BootClock.offset_ns`).
            container_id: of the tracer's container, where it is known.
        """
        self._resolver = resolver
        self._boot_unix_ns = boot_unix_ns
        self._container_id = container_id
        self.skipped_total = 0

    def apply(self, frame: Frame) -> int:
        """Apply every record of a frame, in order; returns how many changed something."""
        done = 0
        for head, task, body, strings in _records(frame):
            key = CacheResolverKey(int(head["tgid"]), int(task["pid_ns"]))
            if key.nsid and self._one(key, head, task, body, strings):
                done += 1
            else:
                self.skipped_total += 1
        return done

    def _one(
        self, key: CacheResolverKey, head: np.void, task: np.void, body: np.void | None, strings: memoryview
    ) -> bool:
        time_ns = int(head["time_boot_ns"]) + self._boot_unix_ns
        kind = int(head["kind"])
        if kind == events.KIND_FORK:
            self._resolver.add_fork_entry(key, int(head["ppid"]), time_ns)
        elif kind == events.KIND_EXIT:
            self._resolver.delete_entry(key, time_ns)
        elif kind == events.KIND_EXEC and body is not None:
            self._exec(key, head, task, body, strings, time_ns)
        elif kind != events.KIND_CRED:
            return False
        if kind in (events.KIND_EXEC, events.KIND_CRED) and int(task["task_reserved"]) & layout.KNOWN_CREDS:
            self._resolver.update_user(key, int(task["uid"]), int(task["euid"]), "", "")
            self._resolver.update_group(key, int(task["gid"]), int(task["egid"]), "", "")
        return True

    def _exec(
        self, key: CacheResolverKey, head: np.void, task: np.void, body: np.void, strings: memoryview, time_ns: int
    ) -> None:
        at = 0
        parts = []
        for name in ("path", "name", "args", "envs"):
            length = int(body[f"{name}_bytes"])
            parts.append(strings[at : at + length].tobytes())
            at += length
        path, _, args, envs = parts
        flags = int(body["exec_flags"])
        # A fork without a time of its own: the tracer found the process when it began.
        is_found = int(head["time_boot_ns"]) == int(head["start_boot_ns"])
        add = self._resolver.add_procfs_entry if is_found else self._resolver.add_exec_entry
        add(
            key, int(head["ppid"]), os.fsdecode(path), _strings(args), bool(flags & events.EXEC_ARGS_TRUNCATED),
            _strings(envs), bool(flags & events.EXEC_ENVS_TRUNCATED), self._container_id, time_ns,
            os.fsdecode(bytes(task["tty"])),
        )  # fmt: skip


def _strings(area: bytes) -> list[str]:
    return [os.fsdecode(part) for part in area[:-1].split(b"\0")] if area else []


def _records(frame: Frame) -> Iterator[tuple[np.void, np.void, np.void | None, memoryview]]:
    """Yield HEAD, TASK, body and strings of each record."""
    columns = (frame.fork, frame.exec, frame.exit)
    bodies = dict(zip((events.KIND_FORK, events.KIND_EXEC, events.KIND_EXIT), map(iter, columns), strict=True))
    at = 0
    for head, task in zip(frame.head, frame.task, strict=True):
        is_whole = not int(head["flags"]) & events.FLAG_HEAD_ONLY
        column = bodies.get(int(head["kind"])) if is_whole else None
        length = int(head["var_bytes"])
        yield head, task, next(column) if column is not None else None, frame.blob[at : at + length]
        at += length
