"""A host of fake processes. Its publisher works in a thread, so that a test can read from it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from pathlib import Path

from tests.stream_host import Host, MiniResolver


class PolledHost:
    """A host of fake processes. Its publisher answers in a thread; `step` makes events."""

    def __init__(self, **options: int) -> None:
        """Args: `options` of the MiniResolver."""
        self.directory = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
        self.host = Host(MiniResolver(self.directory, **options))
        self._is_over = False
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def _poll(self) -> None:
        while not self._is_over:
            with self.host.lock:
                self.host.resolver.do_work()
            time.sleep(0.005)

    def step(self, count: int, *, commit: bool = True) -> None:
        with self.host.lock:
            self.host.step(count, commit=commit)

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        self.host.resolver.close()
        shutil.rmtree(self.directory, ignore_errors=True)
