"""Count and log the clients of the stream that are rejected. `bus._relay` and `bus.curve_server` reject them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.host.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from pipeline.bus._relay import Relay
    from pipeline.bus.curve_server import CurveServer
    from pipeline.shm.writer._writer import TableWriter

#: During a flood, each counter makes at most one line in this time.
LOG_INTERVAL_NS = 10_000_000_000

_LINES = {
    "stream_refused": "too many connections to the stream: connections were closed",
    "stream_rejected": "clients of the stream broke a limit of its protocol: connections were closed",
    "curve_refused": "clients of the stream over TCP were rejected: no key, or a key that is not allowed",
    "curve_revoked": "connections to the stream over TCP were ended: their keys were revoked",
}


class RejectedClients:
    """A part of the duty cycle. It continues the counters of a predecessor.

    Args:
        tables: where the counters are.
        relay: the stream's socket on this host.
        curve: guards the stream over TCP; None: there is no such stream.
        warn: writes a line of the log.
    """

    def __init__(
        self, tables: TableWriter, relay: Relay, curve: CurveServer | None, warn: Callable[..., object]
    ) -> None:
        self._tables = tables
        self._relay = relay
        self._curve = curve
        self._warn = warn
        self._base = {name: tables.counter(name) for name in _LINES}
        self._logged = dict.fromkeys(_LINES, 0)
        self._limiter: RateLimiter[str] = RateLimiter(len(_LINES), LOG_INTERVAL_NS)

    def do_work(self, now_boot_ns: int) -> None:
        """Store the counters, and log those that have changed, not more often than `LOG_INTERVAL_NS`."""
        relay, curve = self._relay, self._curve
        counts = {"stream_refused": relay.refused, "stream_rejected": relay.rejected}
        if curve is not None:
            counts["stream_refused"] += curve.crowded
            counts["stream_rejected"] += curve.rejected
            counts |= {"curve_refused": curve.refused, "curve_revoked": curve.revoked}
        for name, count in counts.items():
            new = count - self._logged[name]
            if not new:
                continue
            self._tables.set_counter(name, self._base[name] + count)
            if self._limiter.allow(name, now_boot_ns):
                key = {"key": curve.last_refused} if curve is not None and name == "curve_refused" else {}
                self._warn(_LINES[name], connections=new, **key)
                self._logged[name] = count
