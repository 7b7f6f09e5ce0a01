"""Load the BPF programs in a child process that then ends, and keep its descriptors.

Loading (loader.py) needs libbpf, its libraries, the kernel's types and a second thread: 4 MB that the supervisor would
keep for its whole life, and that nothing uses once the programs are attached. So a forked child loads them, sends every
descriptor of the kernel's BPF objects and ends. A link, a map or a program exists as long as
any process has a descriptor of it. A new interpreter instead of a fork would make each start 0.1 s longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline import errors
from pipeline.bpf import syscall
from pipeline.errors import LoadError, ProclineError
from pipeline.host import passing, privileges
from pipeline.records.capture_fds import CaptureFds

if TYPE_CHECKING:
    from pipeline.bpf.loader import Capture

#: Size of the message that describes them: names and errors, with the last lines of the verifier's log.
_MESSAGE_MAX_BYTES = 1 << 20
#: The objects of a capture.
_KEPT = (syscall.ANY_OBJECT, syscall.PERF_EVENT)


@dataclass(frozen=True, kw_only=True)
class HeldCapture:
    """A running capture in a process that did not load it.

    Attributes:
        ring_bytes, ring_count, fds: as of `loader.Capture`.
        tiers: description of each tier by its name.
        open_fds: every descriptor of the capture, those of links and programs too.
    """

    ring_bytes: int
    ring_count: int
    fds: CaptureFds
    tiers: Mapping[str, str]
    open_fds: list[int]

    @property
    def program_fds(self) -> list[int]:
        """Descriptors of the programs among `open_fds`."""
        return self._fds(syscall.PROGRAM)

    @property
    def link_fds(self) -> list[int]:
        """Descriptors of the links among `open_fds`."""
        return self._fds(syscall.LINK)

    def _fds(self, kind: str) -> list[int]:
        return sorted(syscall.own_fds(kind).intersection(self.open_fds))

    def close(self) -> None:
        """Detach the programs, free maps and rings; idempotent. Workers' copies keep their rings readable."""
        while self.open_fds:
            with contextlib.suppress(OSError):
                os.close(self.open_fds.pop())


def load_apart(**settings: Any) -> HeldCapture:
    """Create a `loader.Capture` with these arguments in a child. Call it before this process has threads.

    Raises:
        UnsupportedError, LoadError: as from Capture; LoadError also if the child ended without an answer.
    """

    def make() -> Capture:
        # Deferred to the child: it is the heaviest import of the daemon.
        from pipeline.bpf.loader import Capture

        return Capture(**settings)

    return hold(make)


def hold(make: Callable[[], Capture]) -> HeldCapture:
    """Call `make` in a child and return the capture; see `load_apart`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ours.close()
        _load(make, theirs, parent)
    theirs.close()
    fds: list[int] = []
    try:
        with ours:
            answer = _receive(ours, fds)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _close(fds)
        raise
    _, status = os.waitpid(child, 0)
    if answer is None or "error" in answer:
        _close(fds)
        raise _error(answer, os.waitstatus_to_exitcode(status))
    return HeldCapture(
        ring_bytes=answer["ring_bytes"],
        ring_count=answer["ring_count"],
        fds=CaptureFds.from_json(answer["places"]).renumbered(fds.__getitem__),
        tiers=answer["tiers"],
        open_fds=fds,
    )


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


# -- the child -------------------------------------------------------------------------------------------------------


def _load(make: Callable[[], Capture], to: socket.socket, parent: int) -> NoReturn:
    """Load, send the descriptors and end; never returns to the parent's code."""
    code = 1
    try:
        # Signals are for the parent: its handlers and its wake-up descriptor must not be used here.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if privileges.pdeathsig(parent, signal.SIGKILL):
            before = syscall.own_fds(*_KEPT)
            try:
                capture = make()
            except ProclineError as error:
                to.send(json.dumps({"error": _fields_of(error)}, default=str).encode())
            else:
                _send(capture, sorted(syscall.own_fds(*_KEPT) - before), to)
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        # Not sys.exit: exit handlers belong to the parent.
        os._exit(code)


def _fields_of(error: ProclineError) -> dict[str, Any]:
    code = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
    return {"class": type(error).__name__, "message": str(error), "fields": vars(error), "errno": code}


def _send(capture: Capture, fds: list[int], to: socket.socket) -> None:
    place_of = {fd: place for place, fd in enumerate(fds)}
    answer = {
        "fds": len(fds), "ring_bytes": capture.ring_bytes, "ring_count": capture.ring_count,
        "places": capture.fds.renumbered(place_of.__getitem__),
        "tiers": {tier.name: tier.detail if tier.is_on else f"off: {tier.detail}" for tier in capture.tiers},
    }  # fmt: skip
    to.send(json.dumps(answer).encode())
    passing.send_fds(to, fds)


# -- the parent ------------------------------------------------------------------------------------------------------


def _receive(by: socket.socket, fds: list[int]) -> dict[str, Any] | None:
    """Return the child's answer, and append its descriptors to `fds`; None if it ended before it had sent all of it."""
    message = by.recv(_MESSAGE_MAX_BYTES)
    if not message:
        return None
    answer: dict[str, Any] = json.loads(message)
    if not passing.receive_fds(by, answer.get("fds", 0), fds):
        return None
    return answer


def _error(answer: dict[str, Any] | None, code: int) -> ProclineError:
    if answer is None:
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        return LoadError(f"the process that loads the BPF programs {how}; its output above has the reason")
    facts = answer["error"]
    kind: type[ProclineError] = getattr(errors, facts["class"])
    # Without __init__: some classes build their message from several arguments.
    error = kind.__new__(kind, facts["message"])
    error.__dict__.update(facts["fields"])
    if facts["errno"] is not None:
        error.__cause__ = OSError(facts["errno"], os.strerror(facts["errno"]))
    return error
