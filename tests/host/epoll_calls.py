"""A program that makes waits, and answers the system calls of these waits itself (seccomp(2), user notification).

Standard input has JSON: `waiter` is ``ring`` (a shard's) or ``turn`` (the resolver's), `waits` are seconds, and
`answers` are the results of the calls: a number of descriptors, a negative error number, or null for the real call.
Calls after the last answer are real. Standard output has `calls`, the name and the timeout in nanoseconds of each, and
`ended`, for each wait: the number of the error that it raised, or whether a descriptor ended it.

Answered waits take no time, so nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import struct
import sys
import threading
from itertools import chain, repeat
from typing import Any

_IS_X86 = platform.machine() == "x86_64"
_SECCOMP = 317 if _IS_X86 else 277
_CALLS = {441: "epoll_pwait2", **({232: "epoll_wait", 281: "epoll_pwait"} if _IS_X86 else {22: "epoll_pwait"})}

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
#: struct seccomp_notif: id, pid, flags, then number, architecture, instruction and arguments of the call.
_ASKED = struct.Struct("=QII iIQ 6Q")
_ANSWER = struct.Struct("=QqiI")
_TIMESPEC = struct.Struct("=qq")


def _filter() -> bytes:
    """Return a BPF program that asks about _CALLS and allows all others."""
    numbers = list(_CALLS)
    steps = [(0x20, 0, 0, 0)]  # load the number of the call
    steps += [(0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    steps += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x7FC00000)]  # allow; ask
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def ask_about_calls() -> int:
    """Make the kernel ask about each wait of this thread from now on; return the descriptor that it asks at."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = _filter()
    program = ctypes.create_string_buffer(steps, len(steps))
    head = struct.pack("@HP", len(steps) // 8, ctypes.addressof(program))
    # The kernel requires this of a process without privileges.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    descriptor = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, head)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(descriptor)


def answer_calls(descriptor: int, answers: list[int | None], calls: list[tuple[str, int]]) -> None:
    """Record each call and answer it."""
    for answer in chain(answers, repeat(None)):
        asked = bytearray(_ASKED.size)
        fcntl.ioctl(descriptor, _RECEIVE, asked)
        number, _, _, number_of_call, _, _, *arguments = _ASKED.unpack(asked)
        name = _CALLS[number_of_call]
        if name == "epoll_pwait2":
            seconds, ns = _TIMESPEC.unpack(ctypes.string_at(arguments[3], _TIMESPEC.size))
            assert 0 <= ns < 1_000_000_000
            calls.append((name, seconds * 1_000_000_000 + ns))
        else:
            calls.append((name, ctypes.c_int(arguments[3]).value * 1_000_000))
        if answer is None:
            back = number, 0, 0, _CONTINUE
        elif answer < 0:
            back = number, 0, answer, 0
        else:
            back = number, answer, 0, 0
        fcntl.ioctl(descriptor, _SEND, bytearray(_ANSWER.pack(*back)))


class Ring:
    """A shard's waiter, with a hurry descriptor that is readable once."""

    def __init__(self) -> None:
        from pipeline.sources.shard._pacing import RingWaiter

        self._waiter = RingWaiter([], os.eventfd(1))

    def wait(self, seconds: float) -> bool:
        from pipeline.sources.shard._pacing import Wait

        self._waiter.wait(Wait(seconds, asleep=True))
        return self._waiter.is_hurried


class Turn:
    """The resolver's waiter, on sockets without peers."""

    def __init__(self) -> None:
        import zmq

        from pipeline.resolver.daemon._waiting import FrameSocket, TurnWaiter

        context = zmq.Context()
        self._waiter = TurnWaiter(FrameSocket(context.socket(zmq.PULL)), context.socket(zmq.XPUB))
        self._waiter.wait(0)  # finds that there is no frame

    def wait(self, seconds: float) -> bool:
        self._waiter.wait(seconds * 1000)
        return not self._waiter.slept_through


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    waiter = {"ring": Ring, "turn": Turn}[asked["waiter"]]()
    calls: list[tuple[str, int]] = []
    ended: list[int | bool] = []
    begin, descriptors = threading.Event(), list[int]()

    def answer() -> None:
        begin.wait()
        answer_calls(descriptors[0], asked["answers"], calls)

    # It begins before the filter exists, which therefore does not apply to it.
    threading.Thread(target=answer, daemon=True).start()
    descriptors.append(ask_about_calls())
    begin.set()
    for seconds in asked["waits"]:
        try:
            ended.append(waiter.wait(seconds))
        except OSError as error:
            ended.append(error.errno or 0)
    json.dump({"calls": calls, "ended": ended}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # the other thread would answer no more calls


if __name__ == "__main__":
    main()
