#!/usr/bin/python
# Copyright: 2026 The Procline authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Find processes and their ancestors."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: process_info
short_description: Find processes by name, executable or pid, with their ancestors
description:
  - Returns the processes that the Procline of the host knows, with their ancestors.
  - For each live process it also says whether the file that it executes was replaced or deleted since, so that a
    playbook can find processes that still run an old binary.
  - Uses the command C(procline) of the host. It changes nothing.
version_added: "0.1.0"
author:
  - The Procline authors (@procline)
options:
  name:
    description:
      - Name of the program. It is compared with the last part of the executable's path, that of the script, and
        the name that the kernel has for the process (15 characters at most).
    type: str
  path:
    description:
      - Path of the executable or of the script. V(*), V(?) and V([...]) match as in a shell. V(*) also matches V(/).
    type: str
  pid:
    description: Number of the process.
    type: int
  include_exited:
    description: Whether processes that have exited and are still in the tables are returned too.
    type: bool
    default: false
  ancestors:
    description:
      - Whether the ancestors of each process are returned. This takes one more command for each process that was found.
    type: bool
    default: true
  timeout:
    description: How long to wait, in seconds, while the instance is starting or cannot answer.
    type: float
    default: 10
extends_documentation_fragment: procline.procline.command
notes:
  - Without privileges, arguments are returned only to members of the group that may read them, and
    RV(processes[].executable_replaced) is unknown for processes of other users. Use C(become).
  - If several of O(name), O(path) and O(pid) are set, a process must match all of them.
"""

EXAMPLES = r"""
- name: Find processes that still run the old binary of nginx
  procline.procline.process_info:
    name: nginx
  register: nginx
  become: true

- name: Refuse to continue while the old binary runs
  ansible.builtin.assert:
    that: nginx.processes | selectattr('executable_replaced', 'true') | length == 0
    fail_msg: >-
      Still running:
      {{ nginx.processes | selectattr('executable_replaced', 'true') | map(attribute='pid') | join(', ') }}

- name: Find everything that was started from an old release
  procline.procline.process_info:
    path: /srv/app/releases/2026-10-*/bin/*
    ancestors: false

- name: Ask which programs started a process
  procline.procline.process_info:
    pid: 4711
    include_exited: true
  register: found

- name: Show the names of its ancestors
  ansible.builtin.debug:
    msg: "{{ found.processes[0].ancestors | map(attribute='name') }}"
"""

RETURN = r"""
processes:
  description: The processes that match, ordered by pid.
  returned: success
  type: list
  elements: dict
  contains:
    pid:
      description: Number of the process.
      type: int
      sample: 4711
    ppid:
      description: Number of its parent.
      type: int
      sample: 1
    name:
      description: Last part of the path of the executable, or the kernel's name of the process if the path is unknown.
      type: str
      sample: nginx
    path:
      description: Path of the executable.
      type: str
      sample: /usr/sbin/nginx
    script_path:
      description: Path of the script that the executable interprets.
      type: str
    argv:
      description: Arguments, with secrets hidden as the instance's settings say. None if the user may not read them.
      type: list
      elements: str
    user:
      description: Name of the user, None if it has none.
      type: str
      sample: root
    uid:
      description: Number of the user.
      type: int
      sample: 0
    cgroup:
      description: Path of the cgroup.
      type: str
      sample: /system.slice/nginx.service
    container_id:
      description: The container, None if it is in none.
      type: str
    container_trust:
      description:
        - Whether RV(processes[].container_id) can be forged. The id is a part of the name of a cgroup. V(root) if only
          root can create cgroups there, V(user) if another user can, too.
        - None if the process is in no container, or if this is unknown.
      type: str
    start_time_ns:
      description: When the process started, in ns since the Unix epoch.
      type: int
      sample: 1795838200862824410
    exit_time_ns:
      description: When it exited, None if it runs.
      type: int
    executable_replaced:
      description:
        - Whether the file that the process executes is no longer the one at its path, because it was replaced or
          deleted. In a container, its path in the container counts.
        - None if this cannot be known, such as for a process that has exited or belongs to another user.
      type: bool
      sample: false
    ancestors:
      description: The ancestors with the keys above, except RV(processes[].executable_replaced), nearest first.
      type: list
      elements: dict
"""

import fnmatch
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.procline.procline.plugins.module_utils.command import (
    ARGUMENTS,
    CommandError,
    Procline,
    patiently,
)

#: Fields that are returned as the tables have them.
FIELDS = (
    "pid",
    "ppid",
    "path",
    "script_path",
    "argv",
    "user",
    "uid",
    "cgroup",
    "container_id",
    "container_trust",
    "start_time_ns",
    "exit_time_ns",
)


def base(path):
    """Return the last part of a path, None if there is none."""
    return path.rpartition("/")[2] if path else None


def is_match(entry, params):
    """Return whether an entry is asked for."""
    if params["pid"] is not None and entry["pid"] != params["pid"]:
        return False
    if entry.get("exit_time_ns") is not None and not params["include_exited"]:
        return False
    paths = [path for path in (entry.get("path"), entry.get("script_path")) if path]
    name, pattern = params["name"], params["path"]
    if name is not None and name not in [base(path) for path in paths] and name[:15] != entry.get("comm"):
        return False
    return pattern is None or any(fnmatch.fnmatchcase(path, pattern) for path in paths)


def describe(entry):
    """Return what the module returns of an entry."""
    described = {field: entry.get(field) for field in FIELDS}
    described["name"] = base(entry.get("path")) or entry.get("comm")
    return described


def is_replaced(entry, proc="/proc"):
    """Return whether the file that a process executes is no longer the one at its path; None if that is not known."""
    path = entry.get("path")
    if entry.get("exit_time_ns") is not None or not path:
        return None
    process = Path(proc, str(entry["pid"]))
    try:
        running = (process / "exe").stat()
        # The path is one in the root directory and the mount namespace of the process.
        root = process / "root"
        root.stat()
    except OSError:
        return None
    try:
        present = (root / path.lstrip("/")).stat()
    except FileNotFoundError:
        return True
    except OSError:
        return None
    return (running.st_dev, running.st_ino) != (present.st_dev, present.st_ino)


def ancestors(procline, pid):
    """Return the ancestors of a process, nearest first: the newest image of each, and not the process itself."""
    found = []
    seen = {pid}
    for entry in procline.ancestors(pid):
        if entry["pid"] not in seen:
            seen.add(entry["pid"])
            found.append(describe(entry))
    return found


def find(procline, params):
    """Return the processes that are asked for."""
    if params["pid"] is None:
        entries = procline.dump()
    else:
        entry = procline.resolve(params["pid"])
        entries = [entry] if entry else []
    processes = []
    for entry in sorted(entries, key=lambda entry: entry["pid"]):
        if not is_match(entry, params):
            continue
        process = describe(entry)
        process["executable_replaced"] = is_replaced(entry)
        if params["ancestors"]:
            process["ancestors"] = ancestors(procline, entry["pid"])
        processes.append(process)
    return processes


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec=dict(
            ARGUMENTS,
            name={"type": "str"},
            path={"type": "str"},
            pid={"type": "int"},
            include_exited={"type": "bool", "default": False},
            ancestors={"type": "bool", "default": True},
            timeout={"type": "float", "default": 10},
        ),
        required_one_of=[("name", "path", "pid")],
        supports_check_mode=True,
    )
    procline = Procline(module)
    try:
        processes = patiently(lambda: find(procline, module.params), module.params["timeout"])
    except CommandError as error:
        module.fail_json(msg=str(error), exit_code=error.code)
    module.exit_json(changed=False, processes=processes)


if __name__ == "__main__":
    main()
