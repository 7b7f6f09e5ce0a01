"""The description that a worker process receives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config.schema import Capture, Config, settings
from pipeline.errors import ConfigError, ProclineError
from pipeline.records.capture_fds import CaptureFds
from pipeline.supervisor.child import Waiting
from pipeline.worker.description import WorkerDescription
from pipeline.worker.reading import read_description


def make(**changes: object) -> WorkerDescription:
    facts = {
        "instance": "web",
        "dir": "/dev/shm/procline/web",
        "role": "shard-0",
        "source": "ebpf",
        "config": Config(capture=Capture(ring_bytes=4096)),
        "boot_id": "00112233445566778899aabbccddeeff",
        "capture_id": 2**63 + 1,
        "supervisor_tgid": 1,
        "ring_count": 4,
        "ring_bytes": {0: 4096, 3: 8192},
        "fds": CaptureFds({0: 10, 3: 11}, shared=12, pid_owners=13, pid_cache=11),
    }
    return WorkerDescription(**(facts | changes))  # type: ignore[arg-type]


def test_a_worker_reads_the_description_of_the_supervisor() -> None:
    description = make()
    read = read_description(description.to_memfd())
    for name in WorkerDescription.__struct_fields__:
        if name != "config":
            assert getattr(read, name) == getattr(description, name), name
    assert description.boot_id_bytes == read.boot_id_bytes == bytes(range(0, 256, 17))
    assert description.directory == read.directory


def test_a_worker_has_every_setting_under_its_name() -> None:
    config = Config(capture=Capture(ring_bytes=4096))
    read = read_description(make(config=config).to_memfd()).config
    for setting in settings(config):
        section, _, name = setting.key.rpartition(".")
        value = getattr(getattr(read, section) if section else read, name)
        assert value == (list(setting.value) if isinstance(setting.value, tuple) else setting.value), setting.key


def test_a_field_that_is_not_there_is_of_another_version() -> None:
    read = read_description(make().to_memfd())
    with pytest.raises(ConfigError, match="another version"):
        read.wheels  # noqa: B018
    with pytest.raises(ConfigError, match="another version"):
        read.config.capture.wheels  # noqa: B018


def test_the_resolver_does_without_msgspec() -> None:
    """Loading the descriptions of the settings would cost 2 MB, for one document."""
    code = (
        "import sys, pipeline.resolver.daemon.main\n"
        "print(*{'msgspec', 'pipeline.config.schema', 'argparse'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_descriptors_are_named_once_each() -> None:
    assert make().descriptors() == (10, 11, 12, 13)
    assert make(fds=CaptureFds()).descriptors() == ()
    assert make(ready_fd=9).descriptors() == (10, 11, 12, 13, 9)


def test_the_description_reaches_another_process() -> None:
    description = make()
    fd = description.to_memfd()
    code = f"from pipeline.worker.reading import read_description; print(read_description({fd}).capture_id)"
    child = subprocess.run([sys.executable, "-c", code], pass_fds=[fd], capture_output=True, text=True, check=True)
    os.close(fd)
    assert int(child.stdout) == description.capture_id


@pytest.mark.parametrize(("rings", "is_awaited"), [(1, False), (450, False), (450, True)])
def test_a_process_that_waits_receives_the_description_and_its_descriptors(
    rings: int, is_awaited: bool, tmp_path: Path
) -> None:
    """More descriptors than the kernel passes at once; the worker has them under numbers of its own."""
    files = [(tmp_path / str(ring)).open("w+") for ring in range(rings)]
    for ring, file in enumerate(files):
        print(ring, file=file, flush=True)
    ready_fd = os.eventfd(0)
    shared = os.open(tmp_path / "0", os.O_RDONLY)
    fds = CaptureFds({ring: file.fileno() for ring, file in enumerate(files)}, shared=shared)
    description = make(fds=fds, ready_fd=ready_fd)
    code = (
        "import os, sys\n"
        "from pipeline.worker.reading import description_fd, read_description\n"
        "from pipeline.worker.start import report_ready\n"
        "read = read_description(description_fd(sys.argv[1:]))\n"
        "rings = {ring: os.pread(fd, 9, 0) for ring, fd in read.fds.rings.items()}\n"
        "rings_are_right = rings == {ring: b'%d\\n' % ring for ring in rings}\n"
        "inherit = [fd for fd in (*read.fds.all(), read.ready_fd) if os.get_inheritable(fd)]\n"
        f"with open({str(tmp_path / 'said')!r}, 'w') as file:\n"
        "    print(read.capture_id, len(rings), rings_are_right, inherit, file=file)\n"
        "    print(os.pread(read.fds.shared, 9, 0), read.fds.socket, file=file)\n"
        "report_ready(read)\n"
    )
    with Waiting([sys.executable, "-c", code]) as waiting:
        if is_awaited:
            deadline = time.monotonic() + 60
            while not waiting.is_waiting:
                assert not waiting.has_ended and time.monotonic() < deadline
                time.sleep(0.01)
        memfd = description.to_memfd()
        process = waiting.take(memfd, description.descriptors())
        os.close(memfd)
    assert process.wait(60) == 0
    assert (tmp_path / "said").read_text() == f"{description.capture_id} {rings} True []\nb'0\\n' -1\n"
    assert os.eventfd_read(ready_fd) == 1
    for fd in (ready_fd, shared):
        os.close(fd)
    for file in files:
        file.close()


def test_a_process_that_ends_does_not_wait() -> None:
    with Waiting([sys.executable, "-c", "raise SystemExit(1)"]) as waiting:
        deadline = time.monotonic() + 60
        while not waiting.has_ended:
            assert not waiting.is_waiting and time.monotonic() < deadline
        assert not waiting.is_waiting


def test_a_process_that_waits_ends_with_what_started_it() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with pytest.raises(ProclineError, match="the supervisor ended before"):
        read_description(theirs.detach())


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"instance": 1}'])
def test_anything_else_is_refused(content: bytes) -> None:
    fd = os.memfd_create("x")
    os.write(fd, content)
    with pytest.raises(ConfigError, match="started by `procline run`"):
        read_description(fd)


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(ConfigError, match="no worker description"):
        read_description(99_999)
