#!/usr/bin/python
# Copyright: 2026 The Procline authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Check that an instance is healthy."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: health
short_description: Check that a Procline instance is ready, loses nothing and sees new processes
description:
  - Waits until C(procline stat) reports that the instance is ready, has lost no record and is not behind.
  - Then starts a process, and waits until the instance shows it with the right parent, and shows its end.
  - Fails with the reason if this does not happen in time. It changes nothing.
version_added: "0.1.0"
author:
  - The Procline authors (@procline)
options:
  timeout:
    description: How long to wait until everything holds, in seconds.
    type: float
    default: 60
  max_lag_ms:
    description:
      - How far the tables may be behind, in ms. An idle host needs up to 350 ms.
    type: float
    default: 1000
  max_lost:
    description: Number of records that may be lost beyond O(lost_before).
    type: int
    default: 0
  lost_before:
    description:
      - Number of records that were lost before. The count survives a restart that continues with the tables. If the
        instance reports fewer, its tables are new, and everything that it reports counts.
    type: int
    default: 0
  version:
    description: Version that must be installed. Any, if not set.
    type: str
  probe:
    description: Whether a process is started and looked up.
    type: bool
    default: true
extends_documentation_fragment: procline.procline.command
"""

EXAMPLES = r"""
- name: Check the instance
  procline.procline.health:
  register: health

- name: Show how far the tables are behind
  ansible.builtin.debug:
    msg: "{{ health.stat.watermark_lag_ns / 1000000 }} ms"
"""

RETURN = r"""
version:
  description: The installed version.
  returned: success
  type: str
  sample: 0.1.0
stat:
  description: What C(procline stat --json) printed last.
  returned: when the instance runs
  type: dict
lost:
  description: Number of records that were lost beyond O(lost_before).
  returned: when the instance runs
  type: int
  sample: 0
probe:
  description: The process that was started, as the instance showed it.
  returned: when O(probe=true) and the instance showed it
  type: dict
  sample: {"pid": 4711, "ppid": 4700, "path": "/usr/bin/sleep", "seen_ms": 58.1, "exit_seen_ms": 61.0}
waited_s:
  description: How long everything took, in seconds.
  returned: always
  type: float
  sample: 0.4
"""

import os
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.procline.procline.plugins.module_utils.command import (
    ARGUMENTS,
    NOT_RUNNING,
    TRY_AGAIN,
    CommandError,
    Procline,
)

PAUSE_S = 0.2


class UnhealthyError(Exception):
    """A fault of the instance, which may be temporary."""


def lost_since(stat, before):
    """Return how many records were lost since there were `before`."""
    lost = sum(stat["lost"].values())
    return lost - before if lost >= before else lost


def complaint(stat, params):
    """Return what the figures of an instance say against it, None if nothing."""
    if stat["state"] != "ready":
        return "the instance is in state %s, not ready" % stat["state"]
    lost = lost_since(stat, params["lost_before"])
    if lost > params["max_lost"]:
        return "%d records were lost, allowed are %d: raise capture.rings_bytes" % (lost, params["max_lost"])
    lag_ns = stat["watermark_lag_ns"]
    if lag_ns is None:
        return "the instance has not applied anything yet"
    behind_ns = max(lag_ns, stat["behind_ns"])
    if behind_ns > params["max_lag_ms"] * 1e6:
        return "the tables are behind by %.0f ms, allowed are %.0f" % (behind_ns / 1e6, params["max_lag_ms"])
    return None


def until(check, end):
    """Return what a check returns; repeat it while it raises UnhealthyError, or the instance cannot answer."""
    while True:
        try:
            return check()
        except UnhealthyError as error:
            reason = str(error)
        except CommandError as error:
            if error.code not in (NOT_RUNNING, TRY_AGAIN):
                raise UnhealthyError(str(error)) from error
            reason = str(error)
        if time.monotonic() >= end:
            raise UnhealthyError(reason)
        time.sleep(PAUSE_S)


def check_figures(procline, params, result):
    """Store the figures in the result. Raises UnhealthyError if they are bad."""
    result["stat"] = procline.stat()
    result["lost"] = lost_since(result["stat"], params["lost_before"])
    reason = complaint(result["stat"], params)
    if reason:
        raise UnhealthyError(reason)


def check_process(procline, pid, ppid):
    """Return the entry of a live process that has called exec."""
    entry = procline.resolve(pid)
    if entry is None:
        raise UnhealthyError("the instance does not show process %d, which was started by this check" % pid)
    if entry["exec_time_ns"] is None or entry["exit_time_ns"] is not None:
        raise UnhealthyError("the instance does not show that process %d executed a program and lives" % pid)
    if entry["ppid"] != ppid:
        raise UnhealthyError("the instance shows %s as parent of process %d, but it is %d" % (entry["ppid"], pid, ppid))
    return entry


def check_exit(procline, pid):
    """Raise UnhealthyError unless the end of a process is shown."""
    entry = procline.resolve(pid)
    if entry is None or entry["exit_time_ns"] is None:
        raise UnhealthyError("the instance does not show that process %d has ended" % pid)


def probe(module, procline, end):
    """Start a process, and look it up while it lives and after its end."""
    # run_command() would return only after the end of the process.
    command = [module.get_bin_path("sleep", required=True), "600"]
    with subprocess.Popen(command) as child:  # pylint: disable=ansible-bad-function
        try:
            started = time.monotonic()
            entry = until(lambda: check_process(procline, child.pid, os.getpid()), end)
            seen = time.monotonic()
        finally:
            child.kill()
    ended = time.monotonic()
    until(lambda: check_exit(procline, child.pid), end)
    return {
        "pid": child.pid,
        "ppid": entry["ppid"],
        "path": entry["path"],
        "seen_ms": round((seen - started) * 1e3, 1),
        "exit_seen_ms": round((time.monotonic() - ended) * 1e3, 1),
    }


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec=dict(
            ARGUMENTS,
            timeout={"type": "float", "default": 60},
            max_lag_ms={"type": "float", "default": 1000},
            max_lost={"type": "int", "default": 0},
            lost_before={"type": "int", "default": 0},
            version={"type": "str"},
            probe={"type": "bool", "default": True},
        ),
        supports_check_mode=True,
    )
    started = time.monotonic()
    end = started + module.params["timeout"]
    procline = Procline(module)
    result = {"changed": False}
    try:
        result["version"] = procline.version()
        wanted = module.params["version"]
        if wanted and result["version"] != wanted:
            raise UnhealthyError("version %s is installed, not %s" % (result["version"], wanted))
        until(lambda: check_figures(procline, module.params, result), end)
        if module.params["probe"]:
            result["probe"] = probe(module, procline, end)
            # The probe itself must not have cost a record.
            until(lambda: check_figures(procline, module.params, result), end)
    except (CommandError, UnhealthyError) as error:
        result["waited_s"] = round(time.monotonic() - started, 1)
        module.fail_json(msg="Procline is not healthy: %s" % error, **result)
    result["waited_s"] = round(time.monotonic() - started, 1)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
