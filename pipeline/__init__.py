"""Procline: process lineage for every process of a Linux host.

    >>> from pipeline import ProcessTable, Subscriber
    >>> with ProcessTable.attach() as table:        # look up processes, also ended ones
    ...     print(table.resolve(1).path)
    /usr/lib/systemd/systemd
    >>> for event in Subscriber(topics=["exec"]):   # follow events, each with its ancestors
    ...     print(event["pid"], event["argv"])
    ...     break
    3000 ['backup']

Begin with `help(pipeline.ProcessTable)`. The most important names, each with its own help:

    ProcessTable        the processes of an instance: look-ups, ancestors, waiting, columns for numpy and pandas
    Entry               a process: its fields, relatives, times, and how it ended
    Subscriber          events as they happen, for `for` and `async for`; their types are ExecEvent, ExitEvent, ...
    EventObject         an event with attributes instead of keys
    Selection           which processes a subscriber is about
    StreamPosition      where a subscriber stands, to continue from there after a restart
    Columns, Batch      many processes at once: arrays and frames, or Python values; FIELDS has the names
    printable           names and arguments, safe to print
    signal_name         the name of a signal, such as that of `Entry.exit_signal`
    convert_event       an event in the names of OpenTelemetry, ECS or OCSF
    ProclineError       base class of all errors; NotRunningError, StaleError, TooOldError and others
    ContextSender       for agents that report facts about processes
    EBPFResolver, EBPFLessResolver, create_tables
                        for programs that resolve processes without the daemon

`pipeline.__all__` has all public names. docs/python.md explains them by tasks, and has a table for readers who
know psutil. Names are imported on first use. A reader therefore does not load the modules that only the daemon needs.

This module imports the public names. It defines none of them, and it opens and starts nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module

from pipeline.version import __version__ as __version__

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from pipeline.bus.context_events import ContextSender
    from pipeline.bus.stream.event_dict import (
        Ancestor,
        ContextEvent,
        CredEvent,
        Event,
        ExecEvent,
        ExitEvent,
        ForkEvent,
        GapEvent,
        LossEvent,
        MissedEvent,
        ProcessEvent,
        ReparentEvent,
        SnapshotEvent,
        StatsEvent,
        UnwatchedEvent,
    )
    from pipeline.bus.stream.position import StreamPosition
    from pipeline.client.event_object import EventObject
    from pipeline.client.subscriber import Subscriber
    from pipeline.errors import (
        AccessError,
        BehindError,
        BusyError,
        ClosedError,
        ConfigError,
        DetachedError,
        FrameError,
        InUseError,
        LayoutError,
        LineageError,
        NoProcessContextError,
        NoProcessError,
        NotRunningError,
        ProcessIncompleteLineageError,
        ProcessMissingParentNodeError,
        ProcessWrongParentNodeError,
        ProclineError,
        ResolverError,
        StaleError,
        StartingError,
        TooOldError,
        UnsupportedError,
        UntrustedError,
        WaitTimeoutError,
        WriterExistsError,
    )
    from pipeline.export.text import printable
    from pipeline.formats.convert import convert_event
    from pipeline.resolver.api.ebpf import EBPFResolver
    from pipeline.resolver.api.ebpfless import EBPFLessResolver
    from pipeline.resolver.api.stats import StatsdClient
    from pipeline.resolver.apply.tables import create_tables
    from pipeline.resolver.entries.args_views import (
        get_process_argv,
        get_process_argv0,
        is_busybox,
        is_kworker,
        is_through_sym_link,
    )
    from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
    from pipeline.resolver.entries.collaborators import (
        CGroupResolver,
        EnvVarsResolver,
        MountResolver,
        NewEntryCallback,
        PathResolver,
        ProcSource,
        TimeResolver,
        UserGroupResolver,
        UserSessionResolver,
    )
    from pipeline.resolver.entries.event import ArgsEnvsEvent
    from pipeline.resolver.entries.event import Event as ResolverEvent
    from pipeline.resolver.entries.kernel_maps import KernelMap
    from pipeline.resolver.entries.model import (
        SNAPSHOTTED,
        SNAPSHOTTING,
        AWSSecurityCredentials,
        CacheResolverKey,
        CGroupContext,
        ContainerContext,
        Credentials,
        FileEvent,
        FileFields,
        PathKey,
        PathResolutionError,
        PIDContext,
        Source,
        UserSessionContext,
    )
    from pipeline.resolver.entries.opts import ResolverOpts
    from pipeline.secrets.argsenvs import ArgScrubber, ArgsEntry, EnvsEntry
    from pipeline.select.selection import Selection
    from pipeline.shm.layout.declared import ROW_REPLACED
    from pipeline.shm.names.signals import signal_name
    from pipeline.shm.reader.columns import Columns
    from pipeline.shm.reader.table import FIELDS, Entry, ProcessTable
    from pipeline.shm.reader.values import Batch
    from pipeline.shm.writer._writer import TableWriter

#: Public names by the module that defines them.
_MODULES = {
    "pipeline.shm.reader.table": ("Entry", "ProcessTable", "FIELDS"),
    "pipeline.shm.reader.values": ("Batch",),
    "pipeline.shm.layout.declared": ("ROW_REPLACED",),
    "pipeline.shm.reader.columns": ("Columns",),
    "pipeline.client.subscriber": ("Subscriber",),
    "pipeline.client.event_object": ("EventObject",),
    "pipeline.select.selection": ("Selection",),
    "pipeline.export.text": ("printable",),
    "pipeline.shm.names.signals": ("signal_name",),
    "pipeline.formats.convert": ("convert_event",),
    "pipeline.bus.stream.event_dict": (
        "Event", "ProcessEvent", "ForkEvent", "ExecEvent", "ExitEvent", "CredEvent", "ContextEvent", "ReparentEvent",
        "SnapshotEvent", "LossEvent", "StatsEvent", "GapEvent", "MissedEvent", "UnwatchedEvent", "Ancestor",
    ),
    "pipeline.bus.stream.position": ("StreamPosition",),
    "pipeline.bus.context_events": ("ContextSender",),
    "pipeline.resolver.api.ebpf": ("EBPFResolver",),
    "pipeline.resolver.api.ebpfless": ("EBPFLessResolver",),
    "pipeline.resolver.apply.tables": ("create_tables",),
    "pipeline.shm.writer._writer": ("TableWriter",),
    "pipeline.resolver.entries.model": (
        "CacheResolverKey", "SNAPSHOTTING", "SNAPSHOTTED", "PIDContext", "CGroupContext", "ContainerContext",
        "UserSessionContext", "Credentials", "AWSSecurityCredentials", "FileEvent", "FileFields", "PathKey", "Source",
        "PathResolutionError",
    ),
    "pipeline.resolver.entries.event": ("ResolverEvent", "ArgsEnvsEvent"),
    "pipeline.resolver.entries.opts": ("ResolverOpts",),
    "pipeline.resolver.entries.cache_entry": ("ProcessCacheEntry",),
    "pipeline.resolver.entries.collaborators": (
        "NewEntryCallback", "CGroupResolver", "EnvVarsResolver", "MountResolver", "PathResolver", "ProcSource",
        "TimeResolver", "UserGroupResolver", "UserSessionResolver",
    ),
    "pipeline.resolver.entries.kernel_maps": ("KernelMap",),
    "pipeline.resolver.api.stats": ("StatsdClient",),
    "pipeline.secrets.argsenvs": ("ArgScrubber", "ArgsEntry", "EnvsEntry"),
    "pipeline.resolver.entries.args_views": (
        "get_process_argv", "get_process_argv0", "is_busybox", "is_kworker", "is_through_sym_link",
    ),
    "pipeline.errors": (
        "AccessError", "BehindError", "BusyError", "ClosedError", "ConfigError", "DetachedError", "FrameError",
        "InUseError", "LayoutError", "LineageError", "NoProcessContextError", "NoProcessError", "NotRunningError",
        "ProcessIncompleteLineageError", "ProcessMissingParentNodeError", "ProcessWrongParentNodeError",
        "ProclineError", "ResolverError", "StaleError", "StartingError", "TooOldError", "UnsupportedError",
        "UntrustedError", "WaitTimeoutError", "WriterExistsError",
    ),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
#: Names that differ from those in the module: `pipeline.Event` is an event of the stream.
_NAMES = {"ResolverEvent": "Event"}

__all__ = [  # noqa: RUF022 - the order of _MODULES
    "Entry", "ProcessTable", "FIELDS", "Batch", "ROW_REPLACED",
    "Columns", "Subscriber", "EventObject", "Selection", "printable", "signal_name", "convert_event",
    "Event",
    "ProcessEvent", "ForkEvent", "ExecEvent", "ExitEvent", "CredEvent", "ContextEvent", "ReparentEvent",
    "SnapshotEvent", "LossEvent", "StatsEvent", "GapEvent", "MissedEvent", "UnwatchedEvent", "Ancestor",
    "StreamPosition", "ContextSender", "EBPFResolver", "EBPFLessResolver", "create_tables", "TableWriter",
    "CacheResolverKey", "SNAPSHOTTING", "SNAPSHOTTED", "PIDContext", "CGroupContext", "ContainerContext",
    "UserSessionContext", "Credentials", "AWSSecurityCredentials", "FileEvent", "FileFields", "PathKey", "Source",
    "PathResolutionError", "ResolverEvent", "ArgsEnvsEvent", "ResolverOpts", "ProcessCacheEntry",
    "NewEntryCallback", "CGroupResolver", "EnvVarsResolver", "MountResolver", "PathResolver", "ProcSource",
    "TimeResolver", "UserGroupResolver", "UserSessionResolver", "KernelMap", "StatsdClient", "ArgScrubber", "ArgsEntry",
    "EnvsEntry", "get_process_argv", "get_process_argv0", "is_busybox", "is_kworker", "is_through_sym_link",
    "AccessError", "BehindError", "BusyError", "ClosedError", "ConfigError", "DetachedError", "FrameError",
    "InUseError", "LayoutError", "LineageError", "NoProcessContextError", "NoProcessError", "NotRunningError",
    "ProcessIncompleteLineageError", "ProcessMissingParentNodeError", "ProcessWrongParentNodeError", "ProclineError",
    "ResolverError", "StaleError", "StartingError", "TooOldError", "UnsupportedError", "UntrustedError",
    "WaitTimeoutError", "WriterExistsError",
]  # fmt: skip


#: Functions of psutil, for which the error says what to write instead, or that Procline has nothing like it.
_PSUTIL = frozenset({
    "boot_time", "cpu_count", "cpu_percent", "cpu_times", "disk_usage", "net_connections", "net_io_counters",
    "pid_exists", "pids", "process_iter", "swap_memory", "users", "virtual_memory", "wait_procs",
})  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        hint = ""
        # Each import of a submodule asks for its name here, which is in small letters. So this costs nothing otherwise.
        if name in _PSUTIL or name[:1].isupper():
            from pipeline.shm.layout import near_names

            hint = near_names.suggestion(name, __all__, of=near_names.MODULE)
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}{hint}")
    value = getattr(import_module(_HOMES[name]), _NAMES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    if sys._getframe(1).f_globals.get("__name__") == "inspect":
        # help() asks so. It would print the help of every class, which is 10,000 lines.
        return ["__doc__", "__version__"]
    return sorted({*globals(), *__all__})
