"""What an APM tracer tells about its process, in a sealed memfd.

A tracer library writes one msgpack map into an anonymous file called ``datadog-tracer-info-XXXXXXXX``, seals its size
and keeps it open. Covers reading and decoding it. Leaves out when and where: the seal event says, also of a file that
was sealed before the capture (specification 1.3: nothing is looked up in procfs).

The file belongs to a stranger, so: only a regular memfd is asked for anything (never a device, a pipe, or a file whose
file system might let us wait, FUSE's, whatever it is called), its size must be sealed, and at most 64 KiB are decoded,
with bounds on every container.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgpack

from pipeline.errors import FrameError
from pipeline.procfs.rooted import mount_id

SIZE_MAX = 1 << 16
#: Newest schema that is understood; newer ones must stay compatible, so their known keys are read too.
SCHEMA_VERSION = 2

_LINK = "/memfd:"
# Tracers seal size and seals; not all of them seal the content (F_SEAL_WRITE), which they write before.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_ITEMS_MAX = 256


@dataclass(frozen=True, slots=True)
class TracerMetadata:
    """The decoded map. Text is "" where the tracer left it out; keys that are not known are dropped."""

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
        """`process_tags` taken apart: ``a:1,b:2``."""
        pairs = (tag.partition(":") for tag in self.process_tags.split(",") if tag)
        return MappingProxyType({name.strip(): value for name, colon, value in pairs if colon})


_TEXTS = frozenset(field.name for field in fields(TracerMetadata) if field.type == "str")


def decode_tracer_metadata(data: bytes, peer: str = "") -> TracerMetadata:
    """Decode the map.

    Raises:
        FrameError: not one msgpack map with a schema version, or a value of the wrong type.
    """
    try:
        decoded = msgpack.unpackb(
            data, strict_map_key=False, max_array_len=_ITEMS_MAX, max_map_len=_ITEMS_MAX, max_ext_len=0,
            max_bin_len=SIZE_MAX, max_str_len=SIZE_MAX, unicode_errors="surrogateescape",
        )  # fmt: skip
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:  # TypeError: a list as a key
        raise _refused(peer, f"not msgpack: {error}") from error
    if not isinstance(decoded, dict):
        raise _refused(peer, f"a map is due, not {type(decoded).__name__}")
    version = decoded.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _refused(peer, f"schema_version {version!r}")
    values: dict[str, Any] = {}
    for name in _TEXTS:
        value = decoded.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise _refused(peer, f"{name} is {type(value).__name__}, not text")
        values[name] = value
    keys = decoded.get("threadlocal_attribute_keys", [])
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _refused(peer, "threadlocal_attribute_keys is not a list of text")
    return TracerMetadata(version, threadlocal_attribute_keys=tuple(keys), **values)


def read_tracer_metadata(tgid: int, fd: int, proc: str = "/proc") -> TracerMetadata:
    """Read and decode the metadata that a process holds open.

    Args:
        tgid: the process.
        fd: its descriptor of the memfd.
        proc: where procfs is mounted.

    Raises:
        FrameError: gone, unreadable, no memfd, not sealed, too large, or not to be decoded; `reason` says which.
    """
    peer = f"process {tgid}"
    try:
        # O_PATH opens nothing yet, so a device or pipe in this place notices nothing and blocks nothing.
        handle = os.open(f"{proc}/{tgid}/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(peer, f"descriptor {fd}: {error.strerror}") from error
    try:
        own = f"/proc/self/fd/{handle}"
        # Name and mount are told without a question to the file system, which may be a stranger's and never answer.
        if not str(Path(own).readlink()).startswith(_LINK) or mount_id(handle) != _memfd_mount():
            raise _refused(peer, f"descriptor {fd} is no memfd")
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(peer, f"descriptor {fd} is no memfd")
        if status.st_size > SIZE_MAX:
            raise _refused(peer, f"{status.st_size} bytes, more than {SIZE_MAX}")
        content = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(peer, f"descriptor {fd}: {error.strerror}") from error
    finally:
        os.close(handle)
    try:
        if fcntl.fcntl(content, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise _refused(peer, f"descriptor {fd} is not sealed")
        # The size can not change any more. Other than read(), pread() works where the tracer's offset is.
        data = os.pread(content, SIZE_MAX + 1, 0)
    except OSError as error:
        raise _refused(peer, f"descriptor {fd}: {error.strerror}") from error
    finally:
        os.close(content)
    return decode_tracer_metadata(data, peer)


@cache
def _memfd_mount() -> bytes:
    """The mount that all memfds of the kernel are on (but for those of huge pages), and nothing that has a name."""
    fd = os.memfd_create("procline", os.MFD_CLOEXEC)
    try:
        return mount_id(fd)
    finally:
        os.close(fd)


def _refused(peer: str, reason: str) -> FrameError:
    return FrameError(f"tracer metadata of {peer or 'unknown process'}: {reason}", peer=peer, reason=reason)
