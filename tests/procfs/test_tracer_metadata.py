"""Tracer metadata: real sealed memfds, and everything that is not one."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FrameError
from pipeline.procfs.tracer_metadata import (
    SIZE_MAX,
    TracerMetadata,
    decode_tracer_metadata,
    read_tracer_metadata,
)

FULL: dict[str, Any] = {
    "schema_version": 2,
    "runtime_id": "8a3b6f5e-0000-4000-8000-000000000000",
    "tracer_language": "python",
    "tracer_version": "3.1.0",
    "hostname": "host",
    "service_name": "web",
    "service_env": "prod",
    "service_version": "1",
    "process_tags": "entrypoint.name:app,entrypoint.type:script",
    "container_id": "abc",
    "threadlocal_attribute_keys": ["http.method"],
}
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@contextmanager
def memfd(data: bytes, seals: int = SEALS, name: str = "datadog-tracer-info-a1b2c3d4") -> Iterator[int]:
    fd = os.memfd_create(name, os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        if seals:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield fd
    finally:
        os.close(fd)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_sealed_memfd_of_another_process_is_read() -> None:
    code = (
        "import os,sys,fcntl;d=bytes.fromhex(sys.argv[1]);f=os.memfd_create(sys.argv[2],os.MFD_ALLOW_SEALING)\n"
        "os.write(f,d);fcntl.fcntl(f,fcntl.F_ADD_SEALS,7);print(f,flush=True);sys.stdin.read()"
    )
    name = "datadog-tracer-info-12345678"
    with subprocess.Popen(
        [sys.executable, "-c", code, msgpack.packb(FULL).hex(), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdin is not None
        fd = int(child.stdout.readline())
        metadata = read_tracer_metadata(child.pid, fd)
        child.stdin.close()
    assert metadata == TracerMetadata(**(FULL | {"threadlocal_attribute_keys": ("http.method",)}))
    assert metadata.tags == {"entrypoint.name": "app", "entrypoint.type": "script"}
    with pytest.raises(FrameError):
        read_tracer_metadata(child.pid, fd)


def test_reading_leaves_no_descriptor_behind_and_moves_no_offset() -> None:
    before = open_fds()
    with memfd(msgpack.packb(FULL)) as fd:
        position = os.lseek(fd, 3, os.SEEK_SET)
        read_tracer_metadata(os.getpid(), fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == position
    with memfd(b"", 0) as fd, pytest.raises(FrameError):
        read_tracer_metadata(os.getpid(), fd)
    assert open_fds() == before


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE])
def test_a_memfd_with_an_unsealed_size_is_refused(seals: int) -> None:
    with memfd(msgpack.packb(FULL), seals) as fd, pytest.raises(FrameError, match="not sealed"):
        read_tracer_metadata(os.getpid(), fd)


def test_too_large_is_refused() -> None:
    with memfd(b"\xc0" * (SIZE_MAX + 1)) as fd, pytest.raises(FrameError, match="65537 bytes"):
        read_tracer_metadata(os.getpid(), fd)


def test_a_file_that_is_no_memfd_is_refused_without_waiting(tmp_path: Path) -> None:
    """A plain open of a pipe without a writer would block forever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "7/fd").mkdir(parents=True)
    (tmp_path / "7/fd/3").symlink_to(tmp_path / "pipe")
    (tmp_path / "7/fd/4").symlink_to("/dev/zero")
    (tmp_path / "7/fd/5").symlink_to(tmp_path)
    for fd in (3, 4, 5):
        with pytest.raises(FrameError, match="not a memfd"):
            read_tracer_metadata(7, fd, str(tmp_path))
    with socket.socket() as other, pytest.raises(FrameError):
        read_tracer_metadata(os.getpid(), other.fileno())
    with pytest.raises(FrameError, match="No such file"):
        read_tracer_metadata(os.getpid(), 9999)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_file_that_is_called_as_a_memfd_is_asked_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a detached mount only the path below it is shown. It could be one of FUSE, so the file is not accessed."""
    name = "memfd:datadog-tracer-info-1 (deleted)"
    script = f"mount -t tmpfs none {tmp_path} && exec 5<>'{tmp_path}/{name}' && umount -l {tmp_path} && echo && cat"
    command = ["unshare", "-m", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        assert str(Path(f"/proc/{child.pid}/fd/5").readlink()) == f"/{name}"
        monkeypatch.setattr(os, "fstat", None)
        with pytest.raises(FrameError, match="not a memfd"):
            read_tracer_metadata(child.pid, 5)
        monkeypatch.undo()
        child.stdin.close()


def test_only_the_version_is_obligatory() -> None:
    assert decode_tracer_metadata(msgpack.packb({"schema_version": 1})) == TracerMetadata(1)


def test_unknown_keys_and_newer_versions_are_read() -> None:
    data = msgpack.packb({"schema_version": 9, "service_name": "web", "new": {"a": [1]}, 5: 6, "hostname": None})
    assert decode_tracer_metadata(data) == TracerMetadata(9, service_name="web")


@pytest.mark.parametrize(
    "value",
    [
        {}, {"schema_version": "1"}, {"schema_version": True}, {"schema_version": 0}, [1], 5, None,
        {"schema_version": 1, "hostname": 5}, {"schema_version": 1, "service_name": b"x"},
        {"schema_version": 1, "threadlocal_attribute_keys": "x"},
        {"schema_version": 1, "threadlocal_attribute_keys": [1]},
        {"schema_version": 1, "x": list(range(300))},
    ],
)  # fmt: skip
def test_wrong_shape_is_refused(value: Any) -> None:
    with pytest.raises(FrameError) as caught:
        decode_tracer_metadata(msgpack.packb(value), "process 7")
    assert caught.value.peer == "process 7" and caught.value.reason


@given(st.binary(max_size=200))
def test_any_bytes_are_metadata_or_refused(data: bytes) -> None:
    with suppress(FrameError):
        decode_tracer_metadata(data)


@pytest.mark.parametrize("data", [b"", b"\x81", msgpack.packb(FULL)[:-1], msgpack.packb(FULL) + b"\0", b"\x91" * 5000])
def test_broken_or_nested_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_tracer_metadata(data)


def test_bytes_that_are_no_utf8_survive() -> None:
    data = b"\x82" + msgpack.packb("schema_version") + b"\x01" + msgpack.packb("hostname") + b"\xa1\xff"
    assert decode_tracer_metadata(data).hostname == "\udcff"
