"""The file of a script itself, for the scripts that processes execute (the setting `contexts.script_files`).

The applier notes each exec of a script. A thread reads its file (`pipeline.procfs.script_file`), so no event waits: the
facts are in the entry, and in the later events of the process, as `extra.script_file`. A script that ended before its
file was read has none. The thread takes at most CPU_SHARE of a CPU; scripts beyond what it can read are counted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.host.boot import TICK_NS
from pipeline.procfs.script_file import script_file
from pipeline.resolver.entries import entry_extra
from pipeline.resolver.upkeep.aside import Aside
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    from pipeline.resolver.apply._applier import Applier
    from pipeline.shm.writer._writer import TableWriter

#: Key in `extra`.
KEY = "script_file"
JOBS_MAX = 256
ANSWERS_PER_TURN = 64
CPU_SHARE = 0.2
PAUSE_MAX_S = 30.0

_Facts = dict[str, Any]


class ScriptFiles:
    """Adds the facts of scripts' files to their rows. A part of the resolver's duty cycle.

    Args:
        tables, applier: of this instance; the applier's follow-ups list the scripts.
        read_file: reads a file by pid, start in ticks and invoked path; None: it cannot be read.
    """

    def __init__(
        self, tables: TableWriter, applier: Applier, read_file: Callable[[int, int, bytes], _Facts | None] = script_file
    ) -> None:
        self._tables = tables
        self._applier = applier
        self._read_file = read_file
        self._aside: Aside[tuple[int, _Facts | None]] = Aside(
            "scripts", jobs_max=JOBS_MAX, cpu_share=CPU_SHARE, pause_max_s=PAUSE_MAX_S
        )
        applier.followups.notes_scripts = True

    @property
    def has_answers(self) -> bool:
        """Whether the thread has answers that `do_work` has not handled yet."""
        return self._aside.has_answers

    def do_work(self) -> None:
        """Request the files of scripts that were executed since the last call, and handle answers."""
        rows, dropped = self._applier.followups.take_scripts()
        for row in rows:
            hot, cold = self._tables.hot_view()[row], self._tables.cold_view()[row]
            # The row may belong to another process by now, if it was reused within the batch.
            if hot["exit_boot_ns"] or not int(hot["flags"]) & layout.ROW_SCRIPT or not cold["name_ref"]:
                dropped += 1
                continue
            invoked = self._tables.names.py_bytes(int(cold["name_ref"])).partition(b"\0")[0]
            link = row | int(hot["generation"]) << 32
            job = partial(self._read, link, int(hot["tgid"]), int(hot["start_boot_ns"]) // TICK_NS, invoked)
            dropped += not self._aside.ask(job)
        for link, facts in self._aside.take(ANSWERS_PER_TURN):
            if facts is None or not self._store(self._tables.py_follow(link), facts):
                dropped += 1
        if dropped:
            self._tables.count("scripts_unread", dropped)

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread, and abandon what it is reading."""
        self._applier.followups.notes_scripts = False
        self._aside.close(timeout_s)

    def _read(self, link: int, tgid: int, start_ticks: int, invoked: bytes) -> tuple[int, _Facts | None]:
        facts = None
        # The process chose what is read. The script is counted as unread.
        with contextlib.suppress(Exception):
            facts = self._read_file(tgid, start_ticks, invoked)
        return link, facts

    def _store(self, row: int, facts: _Facts) -> bool:
        """Add the facts to `extra` of a row; False: it is not retained, there is no room, or they cannot be encoded."""
        if not row:
            return False
        ref = int(self._tables.cold_view()["extra_ref"][row])
        shown = {key: os.fsdecode(value) if isinstance(value, bytes) else value for key, value in facts.items()}
        new = 0
        with contextlib.suppress(Exception):  # a value that a process chose must not end the resolver
            extra = entry_extra.unpack(self._tables.args.py_bytes(ref)) if ref else {}
            new = self._tables.py_intern_args(entry_extra.pack(extra | {KEY: shown}))
        if not new:
            return False
        self._tables.py_begin(row)
        self._tables.py_set_ref("extra", row, new)
        self._tables.py_end(row)
        return True
