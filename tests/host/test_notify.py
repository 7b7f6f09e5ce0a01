"""Messages to systemd."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pipeline.host.notify import notify, watchdog_interval_s


@pytest.mark.parametrize("abstract", [False, True])
def test_fields_arrive_in_one_message(tmp_path: Path, abstract: bool) -> None:
    name = f"@procline-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        assert notify("READY=1", "STATUS=5 entries", environ={"NOTIFY_SOCKET": name})
        assert manager.recv(4096) == b"READY=1\nSTATUS=5 entries"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:1"}, {"NOTIFY_SOCKET": "/no"}])
def test_a_missing_service_manager_is_no_error(environ: dict[str, str]) -> None:
    assert not notify("READY=1", environ=environ)


def test_the_watchdog_is_fed_twice_as_often_as_it_asks() -> None:
    me = str(os.getpid())
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": me}) == 15
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}) == 15
    for environ in ({}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}):
        assert watchdog_interval_s(environ) is None
