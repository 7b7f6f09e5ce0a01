"""One class for each situation that calls for its own reaction; the message names the next step."""

from __future__ import annotations


class ProclineError(Exception):
    """Base of everything that Procline raises on purpose."""


class ConfigError(ProclineError):
    """A setting is wrong; the user corrects it."""

    def __init__(self, message: str, *, key: str | None = None, value: object = None) -> None:
        super().__init__(message)
        self.key = key
        self.value = value


class WriteError(ProclineError):
    """A file that was asked for cannot be written, or not to its end; `path` names it."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class UnsupportedError(ProclineError):
    """This host lacks something; `hint` says what to do about it."""

    def __init__(self, message: str, *, feature: str = "", needs: str = "", hint: str = "") -> None:
        super().__init__(message if not hint else f"{message}; {hint}")
        self.feature = feature
        self.needs = needs
        self.hint = hint


class LoadError(ProclineError):
    """The kernel refused a BPF program; `log_tail` holds the verifier's last words."""

    def __init__(self, message: str, *, program: str = "", log_tail: str = "") -> None:
        super().__init__(message)
        self.program = program
        self.log_tail = log_tail


class GivingUpError(ProclineError):
    """A worker of the daemon, `role`, cannot be kept alive: the daemon ends."""

    def __init__(self, message: str, *, role: str) -> None:
        super().__init__(message)
        self.role = role


class HopelessError(GivingUpError):
    """The worker reported that another start would fail in the same way, for instance because of a setting."""


class NotRunningError(ProclineError):
    """No such instance, or it is not ready."""

    def __init__(self, message: str, *, instance: str = "") -> None:
        super().__init__(message)
        self.instance = instance


class AccessError(ProclineError):
    """The caller may not read this instance; `path` is what was refused."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class UntrustedError(AccessError):
    """Another user could have put `path` there, or could change what is below it; `owner` is its uid."""

    def __init__(self, message: str, *, path: str = "", owner: int | None = None, mode: int | None = None) -> None:
        super().__init__(message, path=path)
        self.owner = owner
        self.mode = mode


class WriterExistsError(ProclineError):
    """Another process already writes this instance."""

    def __init__(self, message: str, *, tgid: int = 0) -> None:
        super().__init__(message)
        self.tgid = tgid


class LayoutError(ProclineError):
    """Magic, version or size of a segment differ from what this version reads."""

    def __init__(self, message: str, *, expected: object = None, found: object = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class StaleError(ProclineError):
    """The writer is gone or behind, so "absent" would be a guess. Ask again when it is back."""


class BehindError(StaleError):
    """The instance is running, but its tables are `behind_ns` behind the present. Ask again when it has caught up."""

    def __init__(self, message: str, *, behind_ns: int = 0) -> None:
        super().__init__(message)
        self.behind_ns = behind_ns


class BusyError(ProclineError):
    """A row stayed under its writer's hand for longer than a reader waits. Ask again."""


class TooOldError(ProclineError):
    """The time asked for lies before what is retained."""

    def __init__(self, message: str, *, horizon_unix_ns: int = 0) -> None:
        super().__init__(message)
        self.horizon_unix_ns = horizon_unix_ns


class FrameError(ProclineError):
    """A peer sent what cannot be read; the frame was refused whole."""

    def __init__(self, message: str, *, peer: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.reason = reason


class InvariantError(ProclineError):
    """Raised only by `validate_*`: a rule that the tables must satisfy does not hold."""

    def __init__(self, message: str, *, rule: str = "", row: int | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.row = row


class ResolverError(ProclineError):
    """A call of the resolver was refused, or what it was asked for cannot be had."""


class NoProcessContextError(ResolverError):
    """The process of an event could not be resolved."""


class LineageError(ResolverError):
    """A process' chain of ancestors is not whole; `pid`, `ppid` and `container_id` are of the entry where it breaks."""

    def __init__(self, message: str, *, pid: int = 0, ppid: int = 0, container_id: str = "") -> None:
        super().__init__(message)
        self.pid = pid
        self.ppid = ppid
        self.container_id = container_id


class ProcessMissingParentNodeError(LineageError):
    """An entry on the chain has another parent or previous image than the expected one."""


class ProcessWrongParentNodeError(LineageError):
    """Pid 1 has an ancestor; `ppid` is that ancestor's pid."""


class ProcessIncompleteLineageError(LineageError):
    """The chain ended before pid 1."""
