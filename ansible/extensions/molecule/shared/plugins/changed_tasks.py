"""Write which tasks changed what, as JSON: a check in check.json, other runs in run-1.json, run-2.json and so on.

It also prints how long each play took.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: changed_tasks
type: notification
short_description: Write which tasks changed what
description: Writes the names of the tasks that changed something, by host, into the directory CHANGED_TASKS_DIRECTORY.
"""


class CallbackModule(CallbackBase):
    """Remember the tasks, and write them when the playbook has ended."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "changed_tasks"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self._changed = {}
        self._play = None

    def v2_runner_on_ok(self, result):
        """Remember a task that changed something."""
        if result.result.get("changed"):
            # "role : name" of the task; a task that stands in for another has a suffix after a comma.
            name = result.task.get_name().rpartition(" : ")[2].partition(",")[0]
            self._changed.setdefault(result.host.get_name(), []).append(name)

    def v2_playbook_on_play_start(self, play):
        """Begin to measure a play."""
        self._show_duration()
        self._play = (play.get_name(), time.monotonic())

    def _show_duration(self):
        if self._play is not None:
            name, started = self._play
            minutes, seconds = divmod(round(time.monotonic() - started), 60)
            self._display.display(f"{name}: {minutes}:{seconds:02} (minutes:seconds)")

    def v2_playbook_on_stats(self, stats):
        """Write the file."""
        self._show_duration()
        directory = os.environ.get("CHANGED_TASKS_DIRECTORY")
        if not directory:
            return
        if context.CLIARGS.get("check"):
            path = Path(directory, "check.json")
        else:
            path = Path(directory, f"run-{len(list(Path(directory).glob('run-*.json'))) + 1}.json")
        path.write_text(json.dumps({host: sorted(names) for host, names in sorted(self._changed.items())}))
