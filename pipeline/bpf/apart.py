"""Load the BPF programs in a process that ends then, and keep its descriptors, which are all that a capture is.

Loading (loader.py) needs libbpf, the libraries below it, the kernel's types and a second thread: 4 MB that would
stay with the supervisor for as long as it lives, and that nothing uses once the programs are attached. So a child is
forked, which loads, sends every descriptor of the kernel's BPF objects (SCM_RIGHTS of unix(7)) and ends. A link, a map
or a program lives as long as a descriptor of it, in whichever process. A fork and not a new interpreter: that would
make each start 0.1 s longer.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline import errors
from pipeline.errors import LoadError, ProclineError
from pipeline.host import privileges
from pipeline.records.capture_fds import CaptureFds

if TYPE_CHECKING:
    from pipeline.bpf.loader import Capture

#: Descriptors in a message; the kernel takes 253 (SCM_MAX_FD).
_FDS_A_MESSAGE = 200
#: Of the message that tells what they are: names and refusals, with the last lines of the verifier.
_MESSAGE_MAX_BYTES = 1 << 20
#: What the links of a capture are made of, as /proc/PID/fd names them; on some kernels a link is a perf event.
_KEPT = ("anon_inode:bpf", "anon_inode:[perf_event]")


@dataclass(frozen=True, kw_only=True)
class HeldCapture:
    """A running capture without what loaded it. Attributes as those of `loader.Capture`; `tiers` by name, in words."""

    ring_bytes: int
    ring_count: int
    fds: CaptureFds
    tiers: Mapping[str, str]
    open_fds: list[int]

    @property
    def program_fds(self) -> list[int]:
        """Descriptors of the programs among `open_fds`."""
        return [fd for fd in self.open_fds if "bpf-prog" in str(Path(f"/proc/self/fd/{fd}").readlink())]

    def close(self) -> None:
        """Detach the programs, free maps and rings; idempotent. Workers' copies keep their rings readable."""
        while self.open_fds:
            with contextlib.suppress(OSError):
                os.close(self.open_fds.pop())


def load_apart(**settings: Any) -> HeldCapture:
    """Make a `loader.Capture` with these arguments in a child. To be called before this process has threads.

    Raises:
        UnsupportedError, LoadError: as from Capture; LoadError also when the child ended without a word.
    """

    def make() -> Capture:
        # Here, so that it is the child's alone: the heaviest import of the daemon.
        from pipeline.bpf.loader import Capture

        return Capture(**settings)

    return hold(make)


def hold(make: Callable[[], Capture]) -> HeldCapture:
    """Call `make` in a child and return what it made; see `load_apart`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ours.close()
        _work(make, theirs, parent)
    theirs.close()
    fds: list[int] = []
    try:
        with ours:
            told = _receive(ours, fds)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _close(fds)
        raise
    _, status = os.waitpid(child, 0)
    if told is None or "error" in told:
        _close(fds)
        raise _error(told, os.waitstatus_to_exitcode(status))
    return HeldCapture(
        ring_bytes=told["ring_bytes"],
        ring_count=told["ring_count"],
        fds=CaptureFds.from_json(told["places"]).renumbered(fds.__getitem__),
        tiers=told["tiers"],
        open_fds=fds,
    )


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


# -- the child -------------------------------------------------------------------------------------------------------


def _work(make: Callable[[], Capture], to: socket.socket, parent: int) -> NoReturn:
    """Load, tell, end; never returns into what the parent was doing."""
    code = 1
    try:
        # The signals are the parent's: its handlers and what wakes it must not be used from here.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if privileges.pdeathsig(parent, signal.SIGKILL):
            before = _bpf_fds()
            try:
                capture = make()
            except ProclineError as error:
                to.send(json.dumps({"error": _facts(error)}, default=str).encode())
            else:
                _tell(capture, sorted(_bpf_fds() - before), to)
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        # Not sys.exit: what is registered to happen at the end is the parent's.
        os._exit(code)


def _bpf_fds() -> set[int]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(_KEPT):
                found.add(int(entry.name))
    return found


def _facts(error: ProclineError) -> dict[str, Any]:
    code = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
    return {"class": type(error).__name__, "message": str(error), "fields": vars(error), "errno": code}


def _tell(capture: Capture, fds: list[int], to: socket.socket) -> None:
    place_of = {fd: place for place, fd in enumerate(fds)}
    told = {
        "fds": len(fds), "ring_bytes": capture.ring_bytes, "ring_count": capture.ring_count,
        "places": capture.fds.renumbered(place_of.__getitem__),
        "tiers": {tier.name: tier.detail if tier.is_on else f"off: {tier.detail}" for tier in capture.tiers},
    }  # fmt: skip
    to.send(json.dumps(told).encode())
    for begin in range(0, len(fds), _FDS_A_MESSAGE):
        socket.send_fds(to, [b"\0"], fds[begin : begin + _FDS_A_MESSAGE])


# -- the parent ------------------------------------------------------------------------------------------------------


def _receive(by: socket.socket, fds: list[int]) -> dict[str, Any] | None:
    """Return what the child tells, its descriptors in `fds`; None: it ended before it had told all."""
    message = by.recv(_MESSAGE_MAX_BYTES)
    if not message:
        return None
    told: dict[str, Any] = json.loads(message)
    while len(fds) < told.get("fds", 0):
        # Not socket.recv_fds, which leaves out the flag: workers would inherit all of them.
        more, ancillary, _, _ = by.recvmsg(1, socket.CMSG_SPACE(4 * _FDS_A_MESSAGE), socket.MSG_CMSG_CLOEXEC)
        for _, _, data in ancillary:
            fds += array.array("i", data)
        if not more:
            return None
    return told


def _error(told: dict[str, Any] | None, code: int) -> ProclineError:
    if told is None:
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        return LoadError(f"the process that loads the BPF programs {how}: see what it said above")
    facts = told["error"]
    kind: type[ProclineError] = getattr(errors, facts["class"])
    # Not by calling it: some classes make their message of several parts.
    error = kind.__new__(kind, facts["message"])
    error.__dict__.update(facts["fields"])
    if facts["errno"] is not None:
        error.__cause__ = OSError(facts["errno"], os.strerror(facts["errno"]))
    return error
