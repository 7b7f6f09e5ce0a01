"""Metadata that a tracing library stores about its process in a sealed memfd.

The library writes one msgpack map to an anonymous file named ``datadog-tracer-info-XXXXXXXX``, seals its size and
keeps it open. This module reads and decodes it. An event of the seal reports when and where, also for a file that was
sealed before the capture started (specification 1.3: procfs is not searched).

The file is untrusted. Only a regular memfd is accessed, never a device, a pipe, or a file on a file system that could
block (such as FUSE), whatever its name is. Its size must be sealed, and at most 64 KiB are decoded, with a limit on
every container.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgpack

from pipeline.errors import FrameError
from pipeline.proc_text import mount_id
from pipeline.procfs.rooted import memfd_mount

SIZE_MAX = 1 << 16

_LINK = "/memfd:"
# Tracing libraries seal the size and the seals. Not all of them seal the content (F_SEAL_WRITE), which they have
# written by then.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_ITEMS_MAX = 256


@dataclass(frozen=True, slots=True)
class TracerMetadata:
    """The decoded map. A text that the library left out is ""; unknown keys are dropped."""

    schema_version: int
    runtime_id: str = ""
    tracer_language: str = ""
    tracer_version: str = ""
    hostname: str = ""
    service_name: str = ""
    service_env: str = ""
    service_version: str = ""
    process_tags: str = ""
    container_id: str = ""
    threadlocal_attribute_keys: tuple[str, ...] = ()

    @property
    def tags(self) -> Mapping[str, str]:
        """The pairs of `process_tags`, which has the form ``a:1,b:2``."""
        pairs = (tag.partition(":") for tag in self.process_tags.split(",") if tag)
        return MappingProxyType({name.strip(): value for name, colon, value in pairs if colon})


_TEXTS = frozenset(field.name for field in fields(TracerMetadata) if field.type == "str")


def decode_tracer_metadata(data: bytes, peer: str = "") -> TracerMetadata:
    """Decode the map.

    Args:
        data: content of the memfd.
        peer: name of the process for error messages.

    Raises:
        FrameError: the content is not exactly one msgpack map with a schema version, or a value has a wrong type.
    """
    try:
        decoded = msgpack.unpackb(
            data, strict_map_key=False, max_array_len=_ITEMS_MAX, max_map_len=_ITEMS_MAX, max_ext_len=0,
            max_bin_len=SIZE_MAX, max_str_len=SIZE_MAX, unicode_errors="surrogateescape",
        )  # fmt: skip
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:  # TypeError: a list as a key
        raise _refused(peer, f"not msgpack: {error}") from error
    if not isinstance(decoded, dict):
        raise _refused(peer, f"expected a map, got {type(decoded).__name__}")
    version = decoded.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _refused(peer, f"schema_version: expected a positive number, got {version!r}")
    # A newer schema must remain compatible, so the keys that are known here are read from it too.
    values: dict[str, Any] = {}
    for name in _TEXTS:
        value = decoded.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise _refused(peer, f"{name}: expected text, got {type(value).__name__}")
        values[name] = value
    keys = decoded.get("threadlocal_attribute_keys", [])
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _refused(peer, "threadlocal_attribute_keys: expected a list of texts")
    return TracerMetadata(version, threadlocal_attribute_keys=tuple(keys), **values)


def read_tracer_metadata(tgid: int, fd: int, proc: str = "/proc") -> TracerMetadata:
    """Read and decode the metadata that a process keeps open.

    Args:
        tgid: the process.
        fd: its descriptor of the memfd.
        proc: mount point of procfs.

    Raises:
        FrameError: the file is gone, unreadable, not a memfd, not sealed, too large, or cannot be decoded; `reason`
            says which.
    """
    peer = f"process {tgid}"
    try:
        # O_PATH does not open the file, so a device or pipe in its place is not affected and cannot block.
        handle = os.open(f"{proc}/{tgid}/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(peer, f"descriptor {fd}: {error.strerror}") from error
    try:
        own = f"/proc/self/fd/{handle}"
        # Reading name and mount does not access the file system, which may be untrusted and never answer.
        if not str(Path(own).readlink()).startswith(_LINK) or mount_id(handle) != memfd_mount():
            raise _refused(peer, f"descriptor {fd} is not a memfd")
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(peer, f"descriptor {fd} is not a memfd")
        if status.st_size > SIZE_MAX:
            raise _refused(peer, f"{status.st_size} bytes long, more than {SIZE_MAX}")
        content = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(peer, f"descriptor {fd}: {error.strerror}") from error
    finally:
        os.close(handle)
    try:
        if fcntl.fcntl(content, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise _refused(peer, f"the memfd at descriptor {fd} is not sealed: F_SEAL_SHRINK or F_SEAL_GROW is missing")
        # The size cannot change any more. pread() does not depend on the library's file offset, read() would.
        data = os.pread(content, SIZE_MAX + 1, 0)
    except OSError as error:
        raise _refused(peer, f"descriptor {fd}: {error.strerror}") from error
    finally:
        os.close(content)
    return decode_tracer_metadata(data, peer)


def _refused(peer: str, reason: str) -> FrameError:
    return FrameError(f"tracer metadata of {peer or 'unknown process'}: {reason}", peer=peer, reason=reason)
