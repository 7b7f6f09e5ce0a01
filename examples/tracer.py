#!/usr/bin/env python3
"""A tracer that knows nothing but its own container, and tells a running instance of it.

A process is named by its pid *and* its pid namespace, so tracers of many containers can feed one instance. This tracer
is as small as one can be: it runs a command and reports what it knows of it, from fork to exit. A real one would get
its events from ptrace, seccomp or a runtime's hooks; the frames would be the same.

    procline run --source tracer --name traced &
    unshare --pid --fork --mount-proc python examples/tracer.py traced -- sleep 60 &
    procline tree --name traced                         1 is the tracer, below it is its command
    procline children 1 --pid-ns INODE --name traced    INODE as `lsns -t pid` shows it

Who may connect to the socket may say anything: `access.tracers_mode` and the instance's group say who that is. In a
container the socket is a file that is mounted into it: give its path instead of the instance's name.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline import paths
from pipeline.bus.sockets import Bus
from pipeline.host import boot
from pipeline.procfs.reader import WANT_ALL, ProcInfo, read_process
from pipeline.sources.proc_connector import proc_records
from pipeline.sources.proc_connector.proc_records import About
from pipeline.sources.tracer.frames import FrameSender


def about(info: ProcInfo) -> About:
    """Say whom a record is about; its time is now."""
    return About(boot.now_boot_ns(), info.tgid, info.tgid, info.start_boot_ns, ppid=info.ppid)


def run(socket: Path, command: list[str]) -> int:
    """Run a command and report it."""
    with Bus() as bus:
        sender = FrameSender(
            bus.push(socket).send, boot_id=boot.boot_id(), name="example-tracer", ring=os.getpid(),
            container_id=os.environ.get("CONTAINER_ID", ""),
        )  # fmt: skip
        me = read_process(os.getpid(), WANT_ALL)
        assert me is not None
        # What was there before: an exec at the time of its start.
        found = about(me)
        found.time_boot_ns = me.start_boot_ns
        sender.send([proc_records.exec_(found, me)])

        pid = os.posix_spawnp(command[0], command, os.environ)
        child = read_process(pid, WANT_ALL)
        assert child is not None  # until it is waited for, it is there
        sender.send([proc_records.fork(about(child), child), proc_records.exec_(about(child), child)])

        _, status = os.waitpid(pid, 0)
        end = about(child)
        sender.send([proc_records.exit_(end, status, child)])
        bus.close(linger_ms=1000)
        return os.waitstatus_to_exitcode(status)


def main(arguments: list[str]) -> int:
    match arguments:
        case [where, "--", *command] if command:
            return run(Path(where) if "/" in where else paths.tracers_socket(paths.instance_dir(where)), command)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
