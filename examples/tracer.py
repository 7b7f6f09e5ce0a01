#!/usr/bin/env python3
"""A tracer that knows nothing but its own container, and a receiver that resolves what it tells.

A process is named by its pid *and* its pid namespace, so tracers of many containers can feed one receiver. This tracer
is as small as one can be: it runs a command and reports what it knows of it, from fork to exit. A real one would get
its events from ptrace, seccomp or a runtime's hooks; the frames would be the same.

    python examples/tracer.py listen /run/tracer.ipc &
    unshare --pid --fork --mount-proc python examples/tracer.py run /run/tracer.ipc -- sleep 1

Who may connect to the socket may say anything: its directory must belong to who is trusted.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pipeline import boot, events
from pipeline.bus.frames import decode_frame
from pipeline.bus.sockets import Bus
from pipeline.errors import FrameError
from pipeline.resolver.ebpfless import EBPFLessResolver
from pipeline.resolver.procfs import WANT_ALL, ProcInfo, read_process
from pipeline.resolver.tracer_frames import FrameFeed
from pipeline.sources import proc_records
from pipeline.sources.proc_records import About
from pipeline.sources.tracer import FrameSender


def about(info: ProcInfo, tid: int = 0) -> About:
    """Say whom a record is about; its time is now."""
    return About(boot.now_boot_ns(), info.tgid, tid or info.tgid, info.start_boot_ns, ppid=info.ppid)


def run(socket: Path, command: list[str]) -> int:
    """Run a command and report it."""
    with Bus() as bus:
        push = bus.push(socket)
        sender = FrameSender(push.send, boot_id=boot.boot_id(), name="example-tracer", ring=os.getpid())
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
        end = About(boot.now_boot_ns(), pid, pid, child.start_boot_ns, ppid=child.ppid)
        sender.send([proc_records.exit_(end, status, child)])
        return os.waitstatus_to_exitcode(status)


def listen(socket: Path, seconds: float) -> int:
    """Print what each frame leaves known."""
    resolver = EBPFLessResolver()
    feed = FrameFeed(resolver, boot_unix_ns=boot.BootClock.read().offset_ns)
    deadline = time.monotonic() + seconds
    with Bus() as bus:
        pull = bus.pull(socket, mode=0o600)
        print("listening", flush=True)
        while pull.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            try:
                frame = decode_frame(pull.recv(), peer="a tracer")
            except FrameError as error:
                print(error, file=sys.stderr)
                continue
            feed.apply(frame)
            for head, task in zip(frame.head, frame.task, strict=True):
                kind = events.KIND_NAMES[int(head["kind"])]
                print(f"{frame.source}: {kind} of {head['tgid']} in namespace {task['pid_ns']}")
            resolver.walk(
                lambda entry: print(f"  {entry.pid} in {entry.nsid}: {entry.comm}, child of {entry.ppid}", flush=True)
            )
    return 0


def main(arguments: list[str]) -> int:
    match arguments:
        case ["listen", socket]:
            return listen(Path(socket), 86_400.0)
        case ["listen", socket, seconds]:
            return listen(Path(socket), float(seconds))
        case ["run", socket, "--", *command] if command:
            return run(Path(socket), command)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
