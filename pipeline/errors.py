"""Exceptions of Procline: one class for each situation to which a caller reacts differently.

A message says what failed, why, and what to do about it. The facts are also in attributes.
"""

from __future__ import annotations


class ProclineError(Exception):
    """Base class of all exceptions that Procline raises on purpose."""


class ConfigError(ProclineError):
    """A setting is wrong; the user has to correct it.

    Attributes:
        key: full name of the setting; None: it has none.
        value: the rejected value.
    """

    def __init__(self, message: str, *, key: str | None = None, value: object = None) -> None:
        super().__init__(message)
        self.key = key
        self.value = value


class WriteError(ProclineError):
    """A requested output file cannot be written, or not completely.

    Attributes:
        path: the file.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class UnsupportedError(ProclineError):
    """This host lacks something that is needed.

    Attributes:
        feature: what cannot be used.
        needs: what it needs.
        hint: what to do about it; it is also appended to the message.
    """

    def __init__(self, message: str, *, feature: str = "", needs: str = "", hint: str = "") -> None:
        super().__init__(message if not hint else f"{message}; {hint}")
        self.feature = feature
        self.needs = needs
        self.hint = hint


class LoadError(ProclineError):
    """The kernel rejected a BPF program.

    Attributes:
        program: name of the program.
        log_tail: the last lines of the verifier's log.
    """

    def __init__(self, message: str, *, program: str = "", log_tail: str = "") -> None:
        super().__init__(message)
        self.program = program
        self.log_tail = log_tail


class GivingUpError(ProclineError):
    """A worker process failed too often, so the daemon stops.

    Attributes:
        role: the worker, for example "resolver".
    """

    def __init__(self, message: str, *, role: str) -> None:
        super().__init__(message)
        self.role = role


class HopelessError(GivingUpError):
    """A worker process reported that a restart would fail in the same way, for example due to a wrong setting."""


class NotRunningError(ProclineError):
    """The instance does not exist or is not ready.

    Attributes:
        instance: its name.
    """

    def __init__(self, message: str, *, instance: str = "") -> None:
        super().__init__(message)
        self.instance = instance


class AccessError(ProclineError):
    """The caller has no permission to read this instance.

    Attributes:
        path: the file or directory that cannot be accessed.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class UntrustedError(AccessError):
    """A file or directory could have been created or changed by another user.

    Attributes:
        path: the file or directory.
        owner: uid of its owner; None: unknown.
        mode: its permission bits; None: unknown.
    """

    def __init__(self, message: str, *, path: str = "", owner: int | None = None, mode: int | None = None) -> None:
        super().__init__(message, path=path)
        self.owner = owner
        self.mode = mode


class WriterExistsError(ProclineError):
    """Another process already writes the tables of this instance.

    Attributes:
        tgid: the other process; 0: unknown.
    """

    def __init__(self, message: str, *, tgid: int = 0) -> None:
        super().__init__(message)
        self.tgid = tgid


class LayoutError(ProclineError):
    """A segment has another magic number, version or size than this version of Procline reads.

    Attributes:
        expected: the value that this version reads.
        found: the value in the segment.
    """

    def __init__(self, message: str, *, expected: object = None, found: object = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class StaleError(ProclineError):
    """The writer is gone or behind, so the tables cannot show whether a process exists. Retry when it has recovered."""


class BehindError(StaleError):
    """The instance is running, but its tables lag behind. Retry when it has caught up.

    Attributes:
        behind_ns: the lag.
    """

    def __init__(self, message: str, *, behind_ns: int = 0) -> None:
        super().__init__(message)
        self.behind_ns = behind_ns


class BusyError(ProclineError):
    """A row was being written for longer than a reader waits. Retry."""


class TooOldError(ProclineError):
    """The requested time is before the retained history.

    Attributes:
        horizon_unix_ns: the earliest time that can be requested.
    """

    def __init__(self, message: str, *, horizon_unix_ns: int = 0) -> None:
        super().__init__(message)
        self.horizon_unix_ns = horizon_unix_ns


class FrameError(ProclineError):
    """A peer sent a frame that cannot be decoded; the whole frame was rejected.

    Attributes:
        peer: the sender.
        reason: what is wrong with the frame.
    """

    def __init__(self, message: str, *, peer: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.reason = reason


class InvariantError(ProclineError):
    """A rule that the tables must satisfy is violated. Raised by `validate_*` functions only.

    Attributes:
        rule: the violated rule.
        row: the row that violates it; None: no single row.
    """

    def __init__(self, message: str, *, rule: str = "", row: int | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.row = row


class ResolverError(ProclineError):
    """The resolver rejected a call or cannot provide the requested facts."""


class NoProcessContextError(ResolverError):
    """The process of an event could not be resolved."""


class LineageError(ResolverError):
    """The chain of ancestors of a process is broken.

    Attributes:
        pid: pid of the entry at which the chain breaks.
        ppid: its parent.
        container_id: its container.
    """

    def __init__(self, message: str, *, pid: int = 0, ppid: int = 0, container_id: str = "") -> None:
        super().__init__(message)
        self.pid = pid
        self.ppid = ppid
        self.container_id = container_id


class ProcessMissingParentNodeError(LineageError):
    """An entry of the chain has another parent or previous image than expected."""


class ProcessWrongParentNodeError(LineageError):
    """Pid 1 has an ancestor; `ppid` is the pid of that ancestor."""


class ProcessIncompleteLineageError(LineageError):
    """The chain ended before pid 1."""
