"""Events as the resolver's methods take them: an `Event`, and a chunk of arguments that precedes its exec event.

The kernel's own records do not have this form: they are columns (`pipeline.records`), and the applier reads those.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import ResolverError
from pipeline.records.limits import WAIT_CORE, WAIT_SIGNAL
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import AWSSecurityCredentials, Credentials, PIDContext, SpanContext
from pipeline.shm.layout.declared import EXIT_CAUSES

EXITED, SIGNALED, COREDUMPED = EXIT_CAUSES


@dataclass(slots=True)
class ArgsEnvsEvent:
    """A chunk of arguments or environment, sent before its exec event.

    Attributes:
        id: names the arguments in the exec event.
        payload: the strings, see `pipeline.secrets.argsenvs`.
        count: number of strings; None where the sender does not report it.

    Example:
        >>> import tempfile
        >>> from pipeline.secrets.argsenvs import encode_payload
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables)
        ...     resolver.update_args_envs(ArgsEnvsEvent(id=1, payload=encode_payload([b"date", b"+%s"])))
        ...     entry = ProcessCacheEntry(pid=7, args_id=1)
        ...     resolver.set_process_args(entry)
        >>> entry.args_entry.values
        ['date', '+%s']
    """

    id: int
    payload: bytes
    count: int | None = None


@dataclass(slots=True)
class Event:
    """The input of the resolver's methods. The event's kind decides which fields hold a value.

    Attributes:
        timestamp_ns: boot clock; 0: unknown.
        pid_context: the process that caused the event.
        entry: that process. The caller of a fork or exec method builds it with `new_process_cache_entry`; for other
            events the resolver finds it.
        span: the span that was active at the event.
        credentials: the body of a uid, gid, capset or login uid event.
        aws: the body of an IMDS event.
        fd: descriptor of the memfd of a tracing library.
        exit_status: wait status of an exit event; None: unknown.
        reaper_pid, reaper_start_boot_ns: the process that adopts the children of an exiting process; 0 where the
            kernel did not report it.
        exec_entry, exit_entry: the sections that rules read; set by the resolver.
        error: why the event's process or path is missing or uncertain.

    Example:
        >>> event = ResolverEvent(pid_context=PIDContext(pid=8675), exit_status=9)
        >>> event.exit_cause
        ('signaled', 9)
    """

    timestamp_ns: int = 0
    pid_context: PIDContext = field(default_factory=PIDContext)
    entry: ProcessCacheEntry | None = None
    span: SpanContext = field(default_factory=SpanContext)
    credentials: Credentials | None = None
    aws: AWSSecurityCredentials | None = None
    fd: int = -1
    exit_status: int | None = None
    reaper_pid: int = 0
    reaper_start_boot_ns: int = 0
    exec_entry: ProcessCacheEntry | None = None
    exit_entry: ProcessCacheEntry | None = None
    error: ResolverError | None = None

    @property
    def exit_cause(self) -> tuple[str, int]:
        """Cause, one of EXIT_CAUSES, and code of the wait status. Source: specification 1.12."""
        status = self.exit_status or 0
        signal = status & WAIT_SIGNAL
        if signal == 0:
            return EXITED, status >> 8 & 0xFF
        return (COREDUMPED if status & WAIT_CORE else SIGNALED), signal
