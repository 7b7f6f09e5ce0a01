"""Results of `ask`: a resolver that cannot answer now never means "not found"."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.bus import requests
from pipeline.client import ask
from pipeline.errors import BusyError, StaleError


@contextmanager
def resolver(reason: str) -> Iterator[Path]:
    """Directory of an instance that gives the same answer to each request."""
    directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    (directory / paths.REQUESTS_DIR).mkdir()
    ended = threading.Event()

    def answer(server: requests.RequestSocket) -> None:
        while not ended.is_set():
            for client, data in server.receive(8):
                server.answer(
                    client, requests.encode_answer(requests.Answer(requests.decode_request(data).pid, reason=reason))
                )
            time.sleep(0.001)

    with requests.RequestSocket(paths.requests_socket(directory)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        try:
            yield directory
        finally:
            ended.set()
            thread.join()
            shutil.rmtree(directory)


@pytest.mark.parametrize(("reason", "error"), [(requests.BUSY, BusyError), (requests.FILLING, StaleError)])
def test_not_now_is_an_error(reason: str, error: type[Exception]) -> None:
    with resolver(reason) as directory, pytest.raises(error, match="ask again"):
        ask.ask(directory, 7, 100)


def test_absent_is_an_answer() -> None:
    with resolver(requests.ABSENT) as directory:
        assert ask.ask(directory, 7, 5000) == requests.Answer(7, reason=requests.ABSENT)
