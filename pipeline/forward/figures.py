"""Counters of the forwarder, and their form for Prometheus and for the status that systemd shows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.durations import duration
from pipeline.screen.sizes import size

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Counters and what each counts.
COUNTERS = {
    "events": "Events that the destination has confirmed.",
    "messages": "Messages that the destination has confirmed.",
    "bytes": "Bytes of confirmed messages, after compression.",
    "retries": "Messages that were sent again, because no confirmation arrived or the server rejected them.",
    "reconnects": "Connections to the destination that were lost.",
    "repeated": "Events that were not sent, because the destination had them already.",
    "gaps": "Records of gaps that the destination has confirmed.",
    "gap_events": "Events in these gaps, where their number is known.",
    "dropped": "Events dropped because the spool or the buffer was full. Each is in a gap.",
    "damaged": "Parts of the spool that could not be read, because the end of a file was torn off or a sum was wrong.",
    "snapshots": "Lists of live processes that were read.",
}


@dataclass
class Figures:
    """Counts since the start, and the present state."""

    counts: Counter[str] = field(default_factory=Counter)
    is_connected: bool = False
    is_reading: bool = False
    waiting_bytes: int = 0
    waiting_segments: int = 0
    #: Time of the last event that was confirmed, and of the first one that waits, ns since the Unix epoch.
    confirmed_ns: int = 0
    #: Whether nothing waits.
    is_drained: bool = True
    #: When the first of the waiting events began to wait, if nothing was confirmed yet.
    since_ns: int = 0

    @property
    def lag_s(self) -> float:
        """How far the destination is behind the host, s."""
        if self.is_drained:
            return 0.0
        return max(0, time.time_ns() - max(self.confirmed_ns, self.since_ns)) / 1e9

    def status(self) -> str:
        """Return one line for people."""
        parts = ["forwarding" if self.is_connected else "the destination is not connected"]
        if not self.is_reading:
            parts.append("waiting for the instance")
        parts.append(f"{self.counts['events']} events confirmed")
        if not self.is_drained:
            parts.append(f"{duration(int(self.lag_s * 1e9))} behind with {size(self.waiting_bytes)}")
        if self.counts["dropped"]:
            parts.append(f"{self.counts['dropped']} events dropped")
        return ", ".join(parts)


class FiguresCollector:
    """The metrics of one forwarder for `pipeline.export.prometheus.MetricsServer`."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        figures = self._figures
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"procline_forward_{name}", text)
            counter.add_metric([], figures.counts[name])
            yield counter
        for name, text, value in (
            ("connected", "Whether the destination is connected.", float(figures.is_connected)),
            ("reading", "Whether the stream of the instance is read.", float(figures.is_reading)),
            ("lag_seconds", "How far the destination is behind this host.", figures.lag_s),
            ("waiting_bytes", "Bytes of the messages that wait, in the spool or in memory.", figures.waiting_bytes),
            ("spool_segments", "Files of the spool.", figures.waiting_segments),
        ):
            yield GaugeMetricFamily(f"procline_forward_{name}", text, value=value)
