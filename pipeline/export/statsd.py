"""Push the resolver's counters over DogStatsD, under the names and tags of specification 6.

The client is given: anything with `gauge` and `count`. A counter is sent as what it grew by since the last push, if it
grew; the cache size is a gauge. Only what the control segment counts is sent. The loop is a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from pipeline.export.figures import Figures
from pipeline.shm.layout.tables import counter_of

CACHE_SIZE = ".process_resolver.cache_size"

#: Counter -> (metric, key of its tag, values of the tag), in the order of sending; see pipeline.resolver.api.stats.
MetricTable = Mapping[str, tuple[str, str, tuple[str, ...]]]


class Client(Protocol):
    """What is sent to; datadog.dogstatsd.DogStatsd is one."""

    def gauge(self, metric: str, value: float, tags: list[str]) -> object: ...

    def count(self, metric: str, value: int, tags: list[str]) -> object: ...


class StatsdPush:
    """Sends what changed; see the module.

    Args:
        client: sent to.
        metrics: names and tags.
        prefix: before every name.
        baseline: figures from before this daemon began, whose counts are not its own; None: there were none.
    """

    def __init__(self, client: Client, metrics: MetricTable, prefix: str, baseline: Figures | None = None) -> None:
        self._client = client
        self._prefix = prefix
        self._metrics = [
            (counter_of(name, tag), metric, [f"{key}:{tag}"] if key else [])
            for name, (metric, key, tags) in metrics.items()
            for tag in tags
        ]
        self._sent = {counter: baseline.counters[counter] if baseline else 0 for counter, _, _ in self._metrics}

    def push(self, figures: Figures) -> None:
        """Send once.

        Raises:
            whatever the client raises; what was not sent is sent next time.
        """
        self._client.gauge(self._prefix + CACHE_SIZE, float(figures.commit["heads_live"]), [])
        for counter, metric, tags in self._metrics:
            now = figures.counters[counter]
            if now < self._sent[counter]:
                self._sent[counter] = 0  # new tables count from 0
            grown = now - self._sent[counter]
            if grown > 0:
                self._client.count(self._prefix + metric, grown, tags)
                self._sent[counter] = now


class StatsdPusher:
    """Calls `push` again and again from a thread of its own, until it is closed.

    Args:
        push: what sends.
        look: reads the figures; None: nothing to send now.
        interval_s: between two pushes.
        log_failed: told of the first failure in a row.
    """

    def __init__(
        self, push: StatsdPush, look: Callable[[], Figures | None], interval_s: float,
        log_failed: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        self._push = push
        self._look = look
        self._interval_s = interval_s
        self._log_failed = log_failed
        self._is_failing = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statsd", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.wait(self._interval_s):
            self._once()

    def _once(self) -> None:
        try:
            figures = self._look()
            if figures is not None:
                self._push.push(figures)
            self._is_failing = False
        except Exception as error:  # whatever a client raises must not end the thread
            if not self._is_failing:
                self._log_failed(error)
            self._is_failing = True

    def close(self) -> None:
        """Push once more, and end."""
        self._ending.set()
        self._thread.join()
        self._once()
