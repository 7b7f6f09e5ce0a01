# Copyright: 2026 The Procline authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run the command `procline` of a host and read its JSON."""

from __future__ import annotations

import json
import time

#: Exit codes of `procline` (`man procline`).
FOUND = 0
NOT_FOUND = 1
NOT_RUNNING = 3
TRY_AGAIN = 75

#: Arguments that modules have in common.
ARGUMENTS = {
    "instance": {"type": "str", "default": "default"},
    "executable": {"type": "path"},
}


class CommandError(Exception):
    """A command of procline failed; the message says why."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Procline:
    """The command `procline` on the host.

    Args:
        module: the AnsibleModule that runs.
    """

    def __init__(self, module):
        self._module = module
        self._instance = module.params["instance"]
        self._path = module.params["executable"] or module.get_bin_path("procline", opt_dirs=["/opt/procline/bin"])
        if not self._path:
            module.fail_json(
                msg="procline is not installed on this host: there is no /opt/procline/bin/procline. Install it with "
                "the role procline.procline.procline, or set the option executable."
            )

    def version(self):
        """Return the version that is installed."""
        return self._json("version", "--json")["procline"]

    def stat(self):
        """Return the figures of the instance."""
        return self._json("stat", "--json", "--name", self._instance)

    def dump(self):
        """Return the newest entry of each pid."""
        return self._json("dump", "--json", "--name", self._instance)["entries"]

    def resolve(self, pid):
        """Return the entry of a process, None if it is not known."""
        return self._of_process("resolve", pid)

    def ancestors(self, pid):
        """Return the entries of the ancestors of a process, nearest first; empty if it is not known."""
        return self._of_process("ancestors", pid) or []

    def _of_process(self, command, pid):
        try:
            return self._json(command, str(pid), "--json", "--name", self._instance)
        except CommandError as error:
            if error.code == NOT_FOUND:
                return None
            raise

    def _json(self, *arguments):
        code, out, err = self._module.run_command([self._path, *arguments], environ_update={"LC_ALL": "C.UTF-8"})
        if code != FOUND:
            raise CommandError(
                code, err.strip() or out.strip() or "procline %s ended with exit code %d" % (arguments[0], code)
            )
        try:
            return json.loads(out)
        except ValueError:
            raise CommandError(code, "procline %s printed no JSON: %s" % (arguments[0], out[:200])) from None


def patiently(call, timeout_s, pause_s=0.2):
    """Return what a call returns; repeat it while the instance is not ready or cannot answer, until the time is up."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except CommandError as error:
            if error.code not in (NOT_RUNNING, TRY_AGAIN) or time.monotonic() >= end:
                raise
        time.sleep(pause_s)
