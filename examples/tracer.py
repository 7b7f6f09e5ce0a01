#!/usr/bin/env python3
"""A minimal tracer: it runs a command in its container and reports the command's process to an instance.

A process is identified by its pid *and* its pid namespace, so tracers of many containers can report to one instance.
This tracer reports one command from fork to exit. A real tracer would get its events from ptrace, seccomp or the hooks
of a container runtime; it would send the same frames.

    procline run --source tracer --name traced &
    unshare --pid --fork --mount-proc python examples/tracer.py traced -- sleep 60 &
    procline tree --name traced                         pid 1 is the tracer, its child is the command
    procline children 1 --pid-ns INODE --name traced    `lsns -t pid` shows the INODE

Any process that can connect to the socket can report any process; `access.tracers_mode` and the instance's group limit
the access. To use the tracer in a container, mount the socket into the container, and pass its path instead of the name
of the instance.

The modules that it imports from `pipeline` are internal, unlike the names in `pipeline.__all__`: a later version can
rename or change them. Use the package of the same version as the instance, or make the frames yourself, as
docs/wire-schema.md describes them. An instance rejects frames of a version that it does not know.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline import paths
from pipeline.bus.sockets import Bus
from pipeline.client.frame_sender import FrameSender
from pipeline.host import boot
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.proc_reader import WANT_ALL, read_process
from pipeline.sources.proc_connector import proc_records
from pipeline.sources.proc_connector.proc_records import About


def about(info: ProcInfo) -> About:
    """Return the process and the current time for a record."""
    return About(boot.now_boot_ns(), info.tgid, info.tgid, info.start_boot_ns, ppid=info.ppid)


def run(socket: Path, command: list[str]) -> int:
    """Run a command, report its process, and return its exit code."""
    with Bus() as bus:
        sender = FrameSender(
            bus.push(socket).send, boot_id=boot.boot_id(), name="example-tracer", ring=os.getpid(),
            container_id=os.environ.get("CONTAINER_ID", ""),
        )  # fmt: skip
        me = read_process(os.getpid(), WANT_ALL)
        assert me is not None
        # A process that existed before: report an exec at the time of its start.
        found = about(me)
        found.time_boot_ns = me.start_boot_ns
        sender.send([proc_records.exec_(found, me)])

        pid = os.posix_spawnp(command[0], command, os.environ)
        child = read_process(pid, WANT_ALL)
        assert child is not None  # the process exists until waitpid() returns
        sender.send([proc_records.fork(about(child), child), proc_records.exec_(about(child), child)])

        _, status = os.waitpid(pid, 0)
        end = about(child)
        sender.send([proc_records.exit_(end, status, child)])
        bus.close(linger_ms=1000)
        return os.waitstatus_to_exitcode(status)


def main(arguments: list[str]) -> int:
    """Parse the command line: the instance's name or a socket's path, ``--``, and a command."""
    match arguments:
        case [where, "--", *command] if command:
            return run(Path(where) if "/" in where else paths.tracers_socket(paths.instance_dir(where)), command)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
