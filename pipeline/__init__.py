"""Procline: process lineage for every process of a Linux host.

    from pipeline import ProcessTable

    with ProcessTable.attach() as table:
        print(table.resolve(1).path)

Public names are imported on first use. A reader therefore does not load the modules that only the daemon needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.bus.context_events import ContextSender
    from pipeline.client.subscriber import Subscriber
    from pipeline.errors import (
        AccessError,
        BehindError,
        BusyError,
        ConfigError,
        FrameError,
        LayoutError,
        NotRunningError,
        ProclineError,
        StaleError,
        TooOldError,
        UnsupportedError,
        UntrustedError,
        WriterExistsError,
    )
    from pipeline.resolver.api.ebpf import EBPFResolver
    from pipeline.resolver.api.ebpfless import EBPFLessResolver
    from pipeline.resolver.entries.args_views import (
        get_process_argv,
        get_process_argv0,
        is_busybox,
        is_kworker,
        is_through_sym_link,
    )
    from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
    from pipeline.resolver.entries.model import SNAPSHOTTED, SNAPSHOTTING, CacheResolverKey
    from pipeline.resolver.entries.opts import ResolverOpts
    from pipeline.shm.reader.table import Entry, ProcessTable

__version__ = "0.1.0"

#: Public names by the module that defines them.
_MODULES = {
    "pipeline.shm.reader.table": ("Entry", "ProcessTable"),
    "pipeline.client.subscriber": ("Subscriber",),
    "pipeline.bus.context_events": ("ContextSender",),
    "pipeline.resolver.api.ebpf": ("EBPFResolver",),
    "pipeline.resolver.api.ebpfless": ("EBPFLessResolver",),
    "pipeline.resolver.entries.model": ("CacheResolverKey", "SNAPSHOTTING", "SNAPSHOTTED"),
    "pipeline.resolver.entries.opts": ("ResolverOpts",),
    "pipeline.resolver.entries.cache_entry": ("ProcessCacheEntry",),
    "pipeline.resolver.entries.args_views": (
        "get_process_argv", "get_process_argv0", "is_busybox", "is_kworker", "is_through_sym_link",
    ),
    "pipeline.errors": (
        "AccessError", "BehindError", "BusyError", "ConfigError", "FrameError", "LayoutError", "NotRunningError",
        "ProclineError", "StaleError", "TooOldError", "UnsupportedError", "UntrustedError", "WriterExistsError",
    ),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 - the order of _MODULES
    "Entry", "ProcessTable", "Subscriber", "ContextSender", "EBPFResolver", "EBPFLessResolver", "CacheResolverKey",
    "SNAPSHOTTING", "SNAPSHOTTED", "ResolverOpts", "ProcessCacheEntry", "get_process_argv", "get_process_argv0",
    "is_busybox", "is_kworker", "is_through_sym_link", "AccessError", "BehindError", "BusyError",
    "ConfigError", "FrameError", "LayoutError", "NotRunningError", "ProclineError", "StaleError", "TooOldError",
    "UnsupportedError", "UntrustedError", "WriterExistsError",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
