"""The figures of an instance for Prometheus: a collector that reads them at each scrape, and a small HTTP server.

The daemon counts in the control segment; this module only reads the counters. All metric names begin with
``procline_``. Metrics of specification 6 have their names and tags from there. Units are base units. No label contains
a pid, a command or a user. The server answers ``GET /metrics`` to a few clients at a time. The supervisor decides in
which process the server runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET6, socket

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pipeline.export.figures import Figures, read_figures
from pipeline.export.statsd import CACHE_SIZE, MetricTable
from pipeline.host import processes
from pipeline.records.declared import KIND_NAMES
from pipeline.shm.layout import layout
from pipeline.shm.layout.layout import counter_of

#: A running resolver writes heartbeats more often than this, so an older heartbeat means that it is gone.
UP_WITHIN_NS = 1_000_000_000

CLIENTS_MAX = 8
CLIENT_TIMEOUT_S = 5
#: How often the server checks whether it is to stop, so `close` can take this long.
STOP_S = 0.5

#: Metrics that combine several counters of the tables: metric -> (help, label, {counter: value of the label}).
LABELLED = {
    "events": (
        "Events applied to the tables.", "kind",
        {f"events_{kind}": kind for kind in KIND_NAMES if kind != "none"},
    ),
    "lost_samples": (
        "Events without a record, because a ring was full or the kernel did not run the program.", "kind",
        {f"lost_{kind}": "unknown" if kind == "none" else kind for kind in KIND_NAMES},
    ),
}  # fmt: skip

#: Help of all other metrics. The counters of specification 6 have their names and labels from the table `metrics` of
#: the collector; every other counter is called procline_COUNTER_total.
HELP = {
    "hits": "Look-ups that found a process, for readers and context events, by the place where it was found.",
    "added": "Processes added to the tables, by the source that reported them.",
    "reparent_success": "Processes moved to another parent, by the code path that moved them.",
    "reparent_failed": "Processes that could not be moved to another parent because the parent is unknown.",
    "inode_error": "Executables that differ from the expected ones because an earlier exec was lost.",
    "frames": "Frames received by the resolver.",
    "frames_refused": "Frames that could not be read.",
    "frames_duplicate": "Frames that were already received before.",
    "frames_gap": "Frames that arrived too early and were requested again.",
    "replayed": "Events that were received again and skipped because they had been applied before.",
    "rewinds": "Requests to a shard to send a part of a ring again.",
    "late": "Events older than an event that was already applied.",
    "head_only": "Records without details because the ring had room for the header only.",
    "malformed": "Records that could not be read, or that have a pid outside the index.",
    "snapshot_added": "Processes added by the snapshot when the resolver started.",
    "repairs": "Comparisons of the tables with the live processes.",
    "repair_added": "Processes or images that a comparison added.",
    "repair_changed": "Processes that a comparison corrected.",
    "repair_closed": "Processes that a comparison marked as exited.",
    "takeover_rows_repaired": "Rows that a killed resolver left incomplete, repaired by its successor.",
    "evictions": "Exited entries evicted.",
    "elided": "Images missing in chains, because of tables.chain_max or because the tables reached their ceiling.",
    "table_full": "Entries dropped because a table was full.",
    "arena_full": "Strings dropped because an arena was full.",
    "published": "Events passed to the stream.",
    "publish_unsent": "Events that could not be sent to subscribers.",
    "journal_events": "Events written to the journal.",
    "journal_bytes": "Bytes written to the journal.",
    "journal_failed": "Events that could not be written to the journal, because memory or room was lacking.",
    "journal_reads": "Parts of the journal that were served through the socket for questions.",
    "journal_refused": "Requests for the journal by clients that may not read the stream, or too many of them.",
    "stream_refused": "Connections to the stream that were closed because there were too many.",
    "stream_rejected": "Connections to the stream that were closed because the client broke a limit of the protocol, "
    "or because too many connections of its user, or of all users, did not read.",
    "curve_refused": "Clients of the stream over TCP that were rejected: no key, or a key that is not allowed.",
    "curve_revoked": "Connections to the stream over TCP that were ended because their key was revoked.",
    "stalls": "Times that the merge skipped a stalled ring.",
    "threads_forked": "New threads; threads are not processes and are not recorded.",
    "kthreads_forked": "New kernel threads.",
    "procfs_reads": "Processes read from /proc for a request.",
    "procfs_failed": "Processes that could not be read from /proc for a request.",
    "miss": "Look-ups that found no process.",
    "flushed": "Processes closed by a comparison because their exit event was lost.",
    "path_error": "Executed images with an unknown path; includes single calls of the Python API.",
    "args_size": "Number of arguments of executed images, before truncation; not counted if no argument was kept.",
    "args_truncated": "Images with truncated arguments, unless none was kept; includes calls of the Python API.",
    "envs_size": "Number of environment variables of executed images; not counted if none was kept.",
    "envs_truncated": "Images with a truncated environment, unless none was kept; includes calls of the Python API.",
    "broken_lineage": "Events of a process with a lineage that does not lead to pid 1 without a gap.",
    "parent_missing": "Images that were added without their parent or earlier image because it is unknown.",
    "exec_without_fork": "Images of processes with a lost fork event.",
    "exec_bomb": "Execs of the program that already runs; they make no new image.",
    "exits_unseen": "Processes marked as exited because their exit event was lost.",
    "exec_unknown": "Execs of processes that are not in the tables and had ended before they could be read.",
    "exit_unknown": "Exit events of processes that are not in the tables.",
    "reparents": "Processes moved to another parent.",
    "reparents_confirmed": "Predicted moves to another parent that a later event confirmed.",
    "reparents_corrected": "Predicted moves to another parent that a later event corrected.",
    "reparent_procfs_ok": "Parents found in /proc.",
    "reparent_procfs_fail": "Parents not found in /proc.",
    "context_events": "Context events received from agents on the host.",
    "context_dropped": "Context events dropped because too many were waiting, or because the resolver ended.",
    "maps_filled": "Processes known only from /proc that were added to the kernel's maps.",
    "maps_refused": "Processes that could not be added to the kernel's maps.",
    "maps_full": "Processes for which a BPF program found no room in the kernel's map of processes.",
    "sessions_unread": "Programs executed by sshd that ended before their ssh session was known.",
    "sessions_refused": "Programs executed by a process called sshd that is not the host's own sshd.",
    "sessions_evicted": "ssh sessions that lost their details to make room for others.",
    "keys_refused": "Processes of other pid namespaces that found no place in the index.",
    "keys_recycled": "Places in the index of pids of other namespaces that were reused.",
    "limiter_drop": "Times that /proc was not read because it had been read for the same pid a moment before.",
    "requests": "Requests from readers.",
    "requests_refused": "Requests rejected because they were malformed or too many.",
    "requests_dropped": "Connections of requesting clients closed to make room for others; those whose requests were "
    "all answered are not counted.",
    "growth_refused": "Times that a table could not grow because its file system is full.",
    "names_evicted": "Containers that lost their user names, or their details, to make room for others.",
    "scripts_unread": "Scripts whose own file could not be read: the process had ended, or there were too many.",
    "files_unread": "Times that package or hash of an executable could not be read: it was gone, or had changed.",
    "files_refused": "Times that an executable was not read: too large, on a file system that could block, too many.",
    "files_evicted": "Executables whose package or hash was dropped to make room for others.",
    "files_hashed_bytes": "Bytes of executables that were read for their hashes.",
    "runs_skipped": "Runs of BPF programs that the kernel skipped, few of which would have recorded anything.",
    "calls_unrecorded": "Recorded calls (`capture.calls`) that were dropped: above the rate limit, or no room.",
    "names_refused": "Times that names or details of a container were not read completely because of a limit.",
}
_IN_LABELLED = {"events_none", *(counter for _, _, counters in LABELLED.values() for counter in counters)}


def name_of(metric: str) -> str:
    """Return the Prometheus name of a metric of specification 6, without the suffix of counters."""
    return "procline_" + metric.removeprefix(".process_resolver.").replace(".", "_")


@dataclass(frozen=True, slots=True)
class KernelFigures:
    """Figures that require access to the kernel's rings and maps; empty for a source without them.

    Attributes:
        lost_by_cpu: records lost so far, by CPU.
        fill_bytes: bytes in a ring that are not applied yet, by ring.
        size_bytes: size of a ring, by ring.
    """

    lost_by_cpu: dict[int, int] = field(default_factory=dict)
    fill_bytes: dict[int, int] = field(default_factory=dict)
    size_bytes: dict[int, int] = field(default_factory=dict)


class InstanceCollector:
    """Collects the current metrics of an instance at each scrape.

    Args:
        directory: the instance's runtime directory.
        version: version of Procline, for ``procline_build_info``.
        metrics: names and tags of the resolver's counters, the same as for statsd.
        kernel: reads the figures that are not in the control segment.
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
        """Return nothing, so that registration does not collect the metrics to find their names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; without tables only build, up and the costs of the processes."""
        yield InfoMetricFamily("procline_build", "Version of Procline.", value={"version": self._version})
        figures = read_figures(self._directory)
        age_ns = figures.now_boot_ns - int(figures.header["heartbeat_boot_ns"]) if figures is not None else 0
        is_up = figures is not None and figures.is_ready and age_ns < UP_WITHIN_NS
        yield _gauge("up", "1 if the tables are complete and their resolver is alive.", int(is_up))
        yield from self._processes()
        if figures is not None:
            yield _gauge("heartbeat_age_seconds", "Time since the resolver's last heartbeat.", max(0, age_ns) / 1e9)
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
        fill = GaugeMetricFamily("procline_ring_fill_bytes", "Bytes in a ring, not applied yet.", labels=["ring"])
        size = GaugeMetricFamily("procline_ring_size_bytes", "Size of a ring.", labels=["ring"])
        for ring, count in known.fill_bytes.items():
            fill.add_metric([str(ring)], count)
        for ring, count in known.size_bytes.items():
            size.add_metric([str(ring)], count)
        stalled = GaugeMetricFamily("procline_ring_stalled", "1 if the merge skips the stalled ring.", labels=["ring"])
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
        yield _gauge("lag_seconds", "Time by which the tables are behind the clock.", lag / 1e9)
    entries = GaugeMetricFamily("procline_entries", "Processes in the tables.", labels=["state"])
    entries.add_metric(["live"], int(commit["heads_live"]))
    entries.add_metric(["exited"], int(commit["heads_exited"]))
    yield entries
    yield _gauge("table_rows_used", "Images in the entry table.", int(commit["rows_used"]))
    yield _gauge("table_rows_capacity", "Maximum size of the entry table, in images.", int(header["row_capacity"]))
    for what, source, text in (
        ("used", commit, "Bytes in use in a string arena."),
        ("allocated", header, "Allocated bytes of a string arena."),
        ("capacity", header, "Maximum size of a string arena."),
    ):
        arenas = GaugeMetricFamily(f"procline_arena_{what}_bytes", text, labels=["arena"])
        for arena in ("names", "args", "envs"):
            arenas.add_metric([arena], int(source[f"{arena}_{what}_bytes"]))
        yield arenas
    yield CounterMetricFamily(
        "procline_takeovers", "Number of resolvers that took over these tables.", value=int(header["takeovers"])
    )
    yield _gauge("table_epoch", "Number of times that the tables were rebuilt.", int(header["epoch"]))
    stream = CounterMetricFamily("procline_stream_events", "Events of the stream, by topic.", labels=["topic"])
    for topic, number in zip(layout.TOPICS, commit["topic_seq"].tolist(), strict=False):
        stream.add_metric([topic], number)
    yield stream


def _resolver(figures: Figures, metrics: MetricTable) -> Iterator[Metric]:
    """Yield the metrics of specification 6. Each has at most one tag, which becomes a label."""
    size = int(figures.commit["heads_live"])
    yield GaugeMetricFamily(name_of(CACHE_SIZE), "Live processes in the tables.", value=size)
    for name, (metric, key, tags) in metrics.items():
        family = CounterMetricFamily(name_of(metric), HELP[name], labels=[key] if key else [])
        for tag in tags:
            family.add_metric([tag] if key else [], figures.counters[counter_of(name, tag)])
        yield family


def _counters(figures: Figures, metrics: MetricTable) -> Iterator[Metric]:
    """Yield the metrics of all other counters."""
    for name, (text, label, values) in LABELLED.items():
        metric = CounterMetricFamily(f"procline_{name}", text, labels=[label])
        for counter, value in values.items():
            metric.add_metric([value], figures.counters[counter])
        yield metric
    reported = {counter_of(name, tag) for name, (_, _, tags) in metrics.items() for tag in tags}
    for counter, number in figures.counters.items():
        if counter not in _IN_LABELLED and counter not in reported:
            yield CounterMetricFamily(f"procline_{counter}", HELP[counter], value=number)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = CLIENTS_MAX

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = AF_INET6
        self._room = threading.BoundedSemaphore(CLIENTS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        # Each client needs a thread, so connections beyond the limit are closed at once.
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        """Ignore errors of a client that disconnected."""


class MetricsServer:
    """Serves ``/metrics`` in its own thread until it is closed.

    Args:
        host: address on which to listen.
        port: port on which to listen; 0: any free port, see `address`.
        collector: collects the metrics.

    Raises:
        OSError: the address is not available.
    """

    def __init__(self, host: str, port: int, collector: Collector) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)

        class Handler(BaseHTTPRequestHandler):
            timeout = CLIENT_TIMEOUT_S
            server_version = "procline"
            sys_version = ""

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404, "only /metrics exists")
                    return
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                body = encode(registry)
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Do not log scrapes."""

        self._server = _Server((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(STOP_S,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port on which the server listens."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop the server; running scrapes are aborted."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
