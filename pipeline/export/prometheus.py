"""The figures of an instance for Prometheus: a collector that reads them at the scrape, and a small HTTP server for it.

Hot loops keep plain counters in the control segment; nothing is counted twice here. All names begin with ``procline_``;
what specification 6 names has its name and tags behind that. Units are base units, and no label names a pid, a command
or a user. The server answers ``GET /metrics`` to a few clients at a time. Which process it runs in is the supervisor's
business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET6, socket
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from pipeline.export.figures import Figures, read_figures
from pipeline.export.statsd import CACHE_SIZE, MetricTable
from pipeline.host import processes
from pipeline.records.kinds import KIND_NAMES
from pipeline.shm.layout import tables as layout
from pipeline.shm.layout.tables import counter_of

#: Heartbeats come every 50 ms; an older one than this means that the resolver is gone.
UP_WITHIN_NS = 1_000_000_000

CLIENTS_MAX = 8
CLIENT_TIMEOUT_S = 5

#: Counters of the tables that are one metric with a label: metric -> (help, label, {counter: value of the label}).
LABELLED = {
    "events": (
        "Events applied to the tables.", "kind",
        {f"events_{kind}": kind for kind in KIND_NAMES if kind != "none"},
    ),
    "lost_samples": (
        "Records that the kernel could not write because a ring was full.", "kind",
        {f"lost_{kind}": "unknown" if kind == "none" else kind for kind in KIND_NAMES},
    ),
}  # fmt: skip

#: Help of the others: of the resolver's counters, whose names, labels and values are those of the table of `metrics`
#: that a collector is given, and of the rest, each called procline_COUNTER_total. Those not named get their own name.
HELP = {
    "hits": "Look-ups that found a process, for readers and context events, by where it was found.",
    "added": "Processes entered into the tables, by where they came from.",
    "reparent_success": "Processes moved below another parent, by what told of it.",
    "reparent_failed": "Processes that could not be moved, as their new parent was not known.",
    "inode_error": "Executables that were not the expected ones: an exec before was lost.",
    "frames": "Frames that reached the resolver.",
    "frames_refused": "Frames that could not be read.",
    "frames_duplicate": "Frames that were received before.",
    "frames_gap": "Frames that came too early and were asked for again.",
    "late": "Events older than what was already applied.",
    "head_only": "Records that had room for their header alone.",
    "repairs": "Comparisons of the tables with the live processes.",
    "evictions": "Exited entries dropped.",
    "elided": "Images and ancestors dropped at the ceiling of the tables.",
    "table_full": "Entries that found no room.",
    "arena_full": "Strings that found no room.",
    "published": "Events handed to the stream.",
    "publish_unsent": "Events that subscribers could not be sent.",
    "stalls": "Times that a ring was passed over.",
    "threads_forked": "New threads, which are no processes and are not recorded.",
    "kthreads_forked": "New kernel threads.",
    "procfs_reads": "Processes read from /proc for a question.",
    "procfs_failed": "Of these, those that could not be read.",
    "miss": "Look-ups that found nobody.",
    "flushed": "Processes closed by a comparison because nobody told of their end.",
    "path_error": "Executables whose path is not known.",
    "args_size": "Arguments of the images that were executed, in strings.",
    "args_truncated": "Images whose arguments were cut.",
    "envs_size": "Environment variables of the images that were executed, in strings.",
    "envs_truncated": "Images whose environment was cut.",
    "broken_lineage": "Events of a process whose parent or earlier image is not known.",
    "reparent_procfs_ok": "Parents found in /proc.",
    "reparent_procfs_fail": "Parents not found in /proc.",
    "context_events": "Context events of agents on the host.",
    "context_dropped": "Of these, those beyond what may wait.",
    "maps_filled": "Processes that only /proc told of, entered into the kernel's maps.",
    "maps_refused": "Processes that the kernel's maps did not take.",
    "maps_full": "Processes that a BPF program found no place for in the kernel's map of processes.",
    "sessions_unread": "Programs that sshd executed and that ended before it was known whether they began a session.",
    "sessions_refused": "Programs that a process called sshd executed that is not the host's own sshd.",
    "sessions_evicted": "ssh sessions of which the details were dropped to make room.",
    "limiter_drop": "Times that /proc was not asked because it had been asked a moment before.",
    "requests": "Questions of readers.",
    "requests_refused": "Questions that were malformed, or too many.",
    "requests_dropped": "Connections of questioners that were closed to make room for others.",
    "growth_refused": "Times that a table could not grow because its file system is full.",
    "names_evicted": "Containers that lost their user names to make room for others.",
    "names_refused": "Times that names of a container were not read, or not all of them, because of a limit.",
}
_IN_LABELLED = {"events_none", *(counter for _, _, counters in LABELLED.values() for counter in counters)}


def name_of(metric: str) -> str:
    """The name here of a metric of specification 6, without the suffix of counters."""
    return "procline_" + metric.removeprefix(".process_resolver.").replace(".", "_")


@dataclass(frozen=True, slots=True)
class KernelFigures:
    """What only the holder of the kernel's rings and maps knows; empty for a source that has none.

    Attributes:
        lost_by_cpu: records lost so far, by CPU.
        fill_bytes: what is in a ring and not yet applied, by ring.
        size_bytes: of a ring, by ring.
    """

    lost_by_cpu: dict[int, int] = field(default_factory=dict)
    fill_bytes: dict[int, int] = field(default_factory=dict)
    size_bytes: dict[int, int] = field(default_factory=dict)


class InstanceCollector:
    """Gives the metrics of the instance in `directory`, as they are at each scrape.

    Args:
        directory: the instance's runtime directory.
        version: of Procline, for ``procline_build_info``.
        metrics: names and tags of the resolver's counters, as statsd is told them too.
        kernel: reads what the control segment does not have.
    """

    def __init__(
        self,
        directory: Path,
        version: str,
        metrics: MetricTable,
        kernel: Callable[[Figures], KernelFigures] = lambda figures: KernelFigures(),
    ) -> None:
        self._directory = directory
        self._version = version
        self._metrics = metrics
        self._kernel = kernel

    def describe(self) -> Iterable[Metric]:
        """Nothing: otherwise a registration would collect once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; of an instance without tables only what says so."""
        yield InfoMetricFamily("procline_build", "What runs here.", value={"version": self._version})
        figures = read_figures(self._directory)
        age_ns = figures.now_boot_ns - int(figures.header["heartbeat_boot_ns"]) if figures is not None else 0
        is_up = figures is not None and figures.is_ready and age_ns < UP_WITHIN_NS
        yield _gauge("up", "1: the tables are complete and their resolver lives.", int(is_up))
        yield from self._processes()
        if figures is not None:
            yield _gauge("heartbeat_age_seconds", "Time since the resolver's last sign of life.", max(0, age_ns) / 1e9)
            yield from _state(figures)
            yield from _resolver(figures, self._metrics)
            yield from _counters(figures, self._metrics)
            yield from self._rings(figures)

    def _rings(self, figures: Figures) -> Iterator[Metric]:
        known = self._kernel(figures)
        lost = CounterMetricFamily(
            "procline_cpu_lost_samples", "Records that the kernel could not write, by CPU.", labels=["cpu"]
        )
        for cpu, count in known.lost_by_cpu.items():
            lost.add_metric([str(cpu)], count)
        fill = GaugeMetricFamily("procline_ring_fill_bytes", "In a ring and not yet applied.", labels=["ring"])
        size = GaugeMetricFamily("procline_ring_size_bytes", "Room of a ring.", labels=["ring"])
        for ring, count in known.fill_bytes.items():
            fill.add_metric([str(ring)], count)
        for ring, count in known.size_bytes.items():
            size.add_metric([str(ring)], count)
        stalled = GaugeMetricFamily("procline_ring_stalled", "1: passed over by the merge.", labels=["ring"])
        for ring in known.size_bytes:
            if ring < len(figures.rings):
                stalled.add_metric([str(ring)], int(bool(figures.rings["stalled"][ring])))
        yield from (lost, fill, size, stalled)

    def _processes(self) -> Iterator[Metric]:
        cpu = CounterMetricFamily(
            "procline_process_cpu_seconds", "CPU time of a process of the daemon.", labels=["role"]
        )
        memory = GaugeMetricFamily(
            "procline_process_proportional_memory_bytes", "Memory of a process (PSS).", labels=["role"]
        )
        for process in processes.measure(self._directory):
            if process["cpu_seconds"] is not None:
                cpu.add_metric([process["role"]], process["cpu_seconds"])
            if process["pss_bytes"] is not None:
                memory.add_metric([process["role"]], process["pss_bytes"])
        yield from (cpu, memory)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"procline_{name}", text, value=value)


def _state(figures: Figures) -> Iterator[Metric]:
    header, commit = figures.header, figures.commit
    watermark = int(commit["watermark_boot_ns"])
    if watermark:
        lag = max(0, figures.now_boot_ns - watermark)
        yield _gauge("lag_seconds", "How far the tables are behind the clock.", lag / 1e9)
    entries = GaugeMetricFamily("procline_entries", "Processes in the tables.", labels=["state"])
    entries.add_metric(["live"], int(commit["heads_live"]))
    entries.add_metric(["exited"], int(commit["heads_exited"]))
    yield entries
    yield _gauge("table_rows_used", "Images in the entry table.", int(commit["rows_used"]))
    yield _gauge("table_rows_capacity", "Ceiling of the entry table, in images.", int(header["row_capacity"]))
    for what, source, text in (
        ("used", commit, "Bytes in use in an arena of strings."),
        ("allocated", header, "Memory of an arena of strings."),
        ("capacity", header, "Ceiling of an arena of strings."),
    ):
        arenas = GaugeMetricFamily(f"procline_arena_{what}_bytes", text, labels=["arena"])
        for arena in ("names", "args", "envs"):
            arenas.add_metric([arena], int(source[f"{arena}_{what}_bytes"]))
        yield arenas
    yield CounterMetricFamily(
        "procline_takeovers", "Resolvers that took over these tables.", value=int(header["takeovers"])
    )
    yield _gauge("table_epoch", "Times that the tables were built anew.", int(header["epoch"]))
    stream = CounterMetricFamily("procline_stream_events", "Events of the stream, by topic.", labels=["topic"])
    for topic, number in zip(layout.TOPICS, commit["topic_seq"].tolist(), strict=False):
        stream.add_metric([topic], number)
    yield stream


def _resolver(figures: Figures, metrics: MetricTable) -> Iterator[Metric]:
    """What specification 6 names; no order of tags matters, as each is one label."""
    size = int(figures.commit["heads_live"])
    yield GaugeMetricFamily(name_of(CACHE_SIZE), "Live processes in the tables.", value=size)
    for name, (metric, key, tags) in metrics.items():
        family = CounterMetricFamily(name_of(metric), HELP[name], labels=[key] if key else [])
        for tag in tags:
            family.add_metric([tag] if key else [], figures.counters[counter_of(name, tag)])
        yield family


def _counters(figures: Figures, metrics: MetricTable) -> Iterator[Metric]:
    """All others."""
    for name, (text, label, values) in LABELLED.items():
        metric = CounterMetricFamily(f"procline_{name}", text, labels=[label])
        for counter, value in values.items():
            metric.add_metric([value], figures.counters[counter])
        yield metric
    told = {counter_of(name, tag) for name, (_, _, tags) in metrics.items() for tag in tags}
    for counter, number in figures.counters.items():
        if counter not in _IN_LABELLED and counter not in told:
            text = HELP.get(counter, f"Counter {counter} of the resolver.")
            yield CounterMetricFamily(f"procline_{counter}", text, value=number)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = CLIENTS_MAX

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = AF_INET6
        self._room = threading.BoundedSemaphore(CLIENTS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        # Each client has a thread: those beyond a few, who would have to wait for long, are turned away.
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A client that went away is no news."""


class MetricsServer:
    """Serves ``/metrics`` from a thread of its own until it is closed.

    Args:
        host, port: where to listen; port 0: any that is free, see `address`.
        collector: what is served.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(self, host: str, port: int, collector: Any) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)

        class Handler(BaseHTTPRequestHandler):
            timeout = CLIENT_TIMEOUT_S
            server_version = "procline"
            sys_version = ""

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404, "only /metrics is here")
                    return
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                body = encode(registry)
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Scrapes are no news."""

        self._server = _Server((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop listening; scrapes under way are cut off."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
