"""Send the resolver's counters over DogStatsD, with the names and tags of specification 6.

The caller provides the client, any object with `gauge` and `count`. A counter that has grown since the last push is
sent as the difference; the cache size is sent as a gauge. All values come from the control segment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from pipeline.export.figures import Figures
from pipeline.shm.layout.layout import counter_of

CACHE_SIZE = ".process_resolver.cache_size"

#: Counter -> (metric, key of its tag, values of the tag), in sending order; see pipeline.resolver.api.stats.
MetricTable = Mapping[str, tuple[str, str, tuple[str, ...]]]


class Client(Protocol):
    """A client for DogStatsD, such as datadog.dogstatsd.DogStatsd."""

    def gauge(self, metric: str, value: float, tags: list[str]) -> object:
        """Send the value of a gauge."""

    def count(self, metric: str, value: int, tags: list[str]) -> object:
        """Send the increase of a counter."""


class StatsdPush:
    """Sends the changes since the last push.

    Args:
        client: the DogStatsD client.
        metrics: names and tags of the counters.
        prefix: prefix of all names.
        baseline: figures at the start of this daemon, if it continues existing tables; their counts are not sent.
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
        """Send the gauge and all counters that have grown.

        If the client raises an exception, the values that were not sent are sent with the next push.
        """
        self._client.gauge(self._prefix + CACHE_SIZE, float(figures.commit["heads_live"]), [])
        for counter, metric, tags in self._metrics:
            now = figures.counters[counter]
            if now < self._sent[counter]:
                self._sent[counter] = 0  # the tables were rebuilt and count from 0
            grown = now - self._sent[counter]
            if grown > 0:
                self._client.count(self._prefix + metric, grown, tags)
                self._sent[counter] = now


class StatsdPusher:
    """Pushes periodically in its own thread until it is closed.

    Args:
        push: sends the figures.
        read_figures: reads the figures; returns None if there is nothing to send now.
        interval_s: time between two pushes.
        log_failed: called with the first of several consecutive errors.
    """

    def __init__(
        self, push: StatsdPush, read_figures: Callable[[], Figures | None], interval_s: float,
        log_failed: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        self._push = push
        self._read_figures = read_figures
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
            figures = self._read_figures()
            if figures is not None:
                self._push.push(figures)
            self._is_failing = False
        except Exception as error:  # no exception of a client may end the thread
            if not self._is_failing:
                self._log_failed(error)
            self._is_failing = True

    def close(self) -> None:
        """Push once more and stop the thread."""
        self._ending.set()
        self._thread.join()
        self._once()
