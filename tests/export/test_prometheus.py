"""Metrics for Prometheus: every counter once, with valid names, from a server that no client can block."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.export import prometheus
from pipeline.export.figures import read_figures
from pipeline.export.prometheus import InstanceCollector, KernelFigures, MetricsServer
from pipeline.export.statsd import StatsdPush
from pipeline.resolver.api.stats import COUNTERS, PREFIX
from pipeline.shm.layout import layout
from pipeline.shm.layout.layout import counter_of
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter
from tests.sampling import times
from tests.waiting import until

MONITORING = Path(__file__).parents[2] / "packaging/monitoring"
Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def tables(directory: Path) -> Iterator[TableWriter]:
    with open_tables(
        directory, boot_id=bytes(range(16)), capture_id=1, ring_count=2, row_capacity=4096, pid_capacity=4096,
        chunk_rows=4096, key_capacity=1024, names_bytes=1 << 20, args_bytes=1 << 20, envs_bytes=1 << 20,
        boot_unix_ns=0, retention_ns=10**9,
    ) as made:  # fmt: skip
        yield made


@pytest.fixture
def promtool(missing: Callable[[str], NoReturn]) -> str:
    return shutil.which("promtool") or missing("promtool, of Debian's package prometheus")


def commit(tables: TableWriter, lag_ns: int = 0) -> None:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    zeros = np.zeros(tables.ring_count, np.uint64)
    tables.commit(now - lag_ns, zeros, zeros, np.arange(1, 9, dtype=np.uint64))
    tables.heartbeat(now)


def text_of(collector: InstanceCollector) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry).decode()


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.values())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def exported(directory: Path, tables: TableWriter) -> dict[str, set[str]]:
    """Labels of every metric that a daemon exports."""
    commit(tables)
    kernel = KernelFigures(lost_by_cpu={0: 1}, fill_bytes={0: 1}, size_bytes={0: 2})
    text = text_of(InstanceCollector(directory, "1", COUNTERS, lambda figures: kernel))
    found: dict[str, set[str]] = {
        # The figures of a daemon's processes; this test has none.
        "procline_process_cpu_seconds_total": {"role"}, "procline_process_proportional_memory_bytes": {"role"},
    }  # fmt: skip
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_alerts_and_dashboard_use_only_metrics_and_labels_that_exist(
    directory: Path, tables: TableWriter, name: str
) -> None:
    text = (MONITORING / name).read_text()
    known = exported(directory, tables)
    used = set(re.findall(r"\bprocline_[a-z_]+", text))
    assert len(used) > 8 and used - known.keys() == set()
    everywhere = {"instance", "job"}.union(*known.values())
    labels = {one for some in re.findall(r"\bby \(([a-z, ]+)\)", text) for one in some.split(", ")}
    labels |= set(re.findall(r"\$labels\.([a-z]+)", text)) | set(re.findall(r"{{([a-z]+)}}", text))
    assert labels - everywhere == set()


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    board = json.loads((MONITORING / "dashboard.json").read_text())
    assert board["title"] == "Procline" and board["schemaVersion"] >= 36
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not covered & places, f"{panel['title']} covers another panel"
        places |= covered
        assert panel["title"], panel["id"]
        if panel["type"] != "row":
            assert panel["targets"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert all(target["datasource"] == panel["datasource"] for target in panel["targets"]), panel["title"]


def test_prometheus_can_parse_each_query_of_the_dashboard(tmp_path: Path, promtool: str) -> None:
    board = json.loads((MONITORING / "dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 20
    # Grafana replaces these before it asks.
    values = {"$instance": ".*", "$__rate_interval": "1m"}
    for name, value in values.items():
        queries = [query.replace(name, value) for query in queries]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(queries)} rules found" in done.stdout, done.stdout + done.stderr


def test_each_alert_fires_for_its_cause_alone(promtool: str) -> None:
    done = subprocess.run([promtool, "test", "rules", MONITORING / "alerts_test.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    tested = re.findall(r"alertname: (\w+)", (MONITORING / "alerts_test.yml").read_text())
    assert sorted(2 * alerts) == sorted(tested), "each alert once silent and once firing"


def test_an_instance_without_tables_is_down(directory: Path) -> None:
    found = samples(text_of(InstanceCollector(directory, "1.2", COUNTERS)))
    assert found == {("procline_build_info", ("1.2",)): 1, ("procline_up", ()): 0}


def test_each_counter_of_the_tables_is_there_once_with_its_own_value(directory: Path, tables: TableWriter) -> None:
    values = {name: 1000 + number for number, name in enumerate(layout.COUNTERS) if name != "events_none"}
    for name, value in values.items():
        tables.set_counter(name, value)
    commit(tables)
    found = samples(text_of(InstanceCollector(directory, "1", COUNTERS)))
    mine = sorted(value for (name, _), value in found.items() if name.endswith("_total") and value >= 1000)
    assert mine == sorted(values.values())
    assert found["procline_events_total", ("fork",)] == values["events_fork"]
    assert found["procline_lost_samples_total", ("exec",)] == values["lost_exec"]
    assert found["procline_lost_samples_total", ("unknown",)] == values["lost_none"]
    assert found["procline_publish_unsent_total", ()] == values["publish_unsent"]
    assert found["procline_stream_events_total", ("proc.exec",)] == 2


#: Specification 6, row by row: counter, metric, key and values of its tag ("" is none), and name for Prometheus.
CALLPATHS = ("set_process_context", "do_exit", "dequeue_exited", "event_serialization", "kernel_ppid")
SECTION_6 = [
    ("hits", "hits", "type", ("cache", "kernel_maps", "procfs"), "procline_hits_total"),
    ("miss", "miss", "", ("",), "procline_miss_total"),
    ("added", "added", "type", ("event", "kernel_maps", "procfs"), "procline_added_total"),
    ("flushed", "flushed", "", ("",), "procline_flushed_total"),
    ("path_error", "path_error", "", ("",), "procline_path_error_total"),
    ("args_truncated", "args.truncated", "", ("",), "procline_args_truncated_total"),
    ("args_size", "args.size", "", ("",), "procline_args_size_total"),
    ("envs_truncated", "envs.truncated", "", ("",), "procline_envs_truncated_total"),
    ("envs_size", "envs.size", "", ("",), "procline_envs_size_total"),
    ("broken_lineage", "event_broken_lineage", "", ("",), "procline_event_broken_lineage_total"),
    ("reparent_success", "reparent.success", "callpath", CALLPATHS, "procline_reparent_success_total"),
    ("reparent_failed", "reparent.failed", "callpath", CALLPATHS, "procline_reparent_failed_total"),
    ("reparent_procfs_ok", "reparent.procfs.success", "", ("",), "procline_reparent_procfs_success_total"),
    ("reparent_procfs_fail", "reparent.procfs.failed", "", ("",), "procline_reparent_procfs_failed_total"),
    ("limiter_drop", "proc_fallback_limiter.drop", "", ("",), "procline_proc_fallback_limiter_drop_total"),
    (
        "inode_error", "inode_error", "type",
        ("fork_parent_missing", "exec_parent_missing", "procfs_mismatch"), "procline_inode_error_total",
    ),
]  # fmt: skip


def test_statsd_and_prometheus_have_every_counter_and_tag_of_section_6(directory: Path, tables: TableWriter) -> None:
    """Each value that is pushed with a tag is scraped with a label of the same name and value, and no others are."""
    values = {counter: 1000 + number for number, counter in enumerate(_counters_of_section_6())}
    for counter, value in values.items():
        tables.set_counter(counter, value)
    commit(tables)
    pushed: dict[tuple[str, tuple[str, ...]], float] = {}

    class Client:
        def gauge(self, metric: str, value: float, tags: list[str]) -> None:
            pushed[metric, tuple(tags)] = value

        count = gauge

    figures = read_figures(directory)
    assert figures is not None
    StatsdPush(Client(), COUNTERS, PREFIX).push(figures)
    scraped = {
        (sample.name, tuple(f"{key}:{value}" for key, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text_of(InstanceCollector(directory, "1", COUNTERS)))
        for sample in family.samples
    }
    before = f"{PREFIX}.process_resolver."
    assert pushed.pop((before + "cache_size", ())) == scraped["procline_cache_size", ()] == 0
    for name, metric, key, tags, here in SECTION_6:
        of_metric = {tag: values[counter_of(name, tag)] for tag in tags}
        for tag, value in of_metric.items():
            label = (f"{key}:{tag}",) if key else ()
            assert pushed.pop((before + metric, label)) == scraped[here, label] == value
        assert sum(name == here for name, _ in scraped) == len(of_metric)
    assert not pushed


def _counters_of_section_6() -> list[str]:
    return [counter_of(name, tag) for name, _, _, tags, _ in SECTION_6 for tag in tags]


def test_names_and_labels_are_as_prometheus_wants_them(directory: Path, tables: TableWriter) -> None:
    commit(tables)
    text = text_of(InstanceCollector(directory, "1", COUNTERS))
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("procline_") and family.documentation
        assert not family.name.endswith(("_ms", "_ns", "_kb"))
        for sample in family.samples:
            assert not set(sample.labels) & {"pid", "tgid", "comm", "user", "uid", "path"}
            assert (family.type == "counter") == sample.name.endswith("_total")


def test_every_counter_and_nothing_else_has_a_help_text() -> None:
    of_section_6 = {counter_of(name, tag) for name, (_, _, tags) in COUNTERS.items() for tag in tags}
    labelled = {"events_none", *(counter for _, _, counters in prometheus.LABELLED.values() for counter in counters)}
    assert set(prometheus.HELP) == {*COUNTERS, *(set(layout.COUNTERS) - of_section_6 - labelled)}
    assert all(text.endswith(".") and len(text) > 10 for text in prometheus.HELP.values())


def test_up_needs_complete_tables_and_a_resolver_that_lives(directory: Path, tables: TableWriter) -> None:
    def up() -> float:
        return samples(text_of(InstanceCollector(directory, "1", COUNTERS)))["procline_up", ()]

    commit(tables)
    assert up() == 0
    tables.set_state(layout.STATE_READY)
    assert up() == 1
    tables.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 2 * prometheus.UP_WITHIN_NS)
    assert up() == 0


def test_lag_is_in_seconds(directory: Path, tables: TableWriter) -> None:
    commit(tables, lag_ns=2_500_000_000)
    found = samples(text_of(InstanceCollector(directory, "1", COUNTERS)))
    assert 2.5 <= found["procline_lag_seconds", ()] < 4


def test_facts_of_the_owner_of_the_rings_are_exported(directory: Path, tables: TableWriter) -> None:
    commit(tables)
    kernel = KernelFigures(lost_by_cpu={0: 3, 1: 0}, fill_bytes={0: 10, 1: 0}, size_bytes={0: 4096, 1: 4096})
    found = samples(text_of(InstanceCollector(directory, "1", COUNTERS, lambda figures: kernel)))
    assert found["procline_cpu_lost_samples_total", ("0",)] == 3
    assert found["procline_ring_fill_bytes", ("0",)] == 10
    assert found["procline_ring_size_bytes", ("1",)] == 4096
    assert found["procline_ring_stalled", ("1",)] == 0


def test_a_commit_is_read_completely_or_not_at_all(directory: Path, tables: TableWriter) -> None:
    """Both counters always increase together, so a reader must see equal values."""
    import threading

    ending = threading.Event()

    def write() -> None:
        while not ending.is_set():
            tables.count("frames")
            tables.count("late")
            commit(tables)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(times(2000, 500)):
            figures = read_figures(directory)
            assert figures is not None and figures.counters["frames"] == figures.counters["late"]
    finally:
        ending.set()
        writer.join()


@pytest.fixture
def server(directory: Path, tables: TableWriter, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsServer]:
    monkeypatch.setattr(prometheus, "STOP_S", 0.01)
    commit(tables)
    made = MetricsServer("127.0.0.1", 0, InstanceCollector(directory, "1", COUNTERS))
    yield made
    made.close()


def get(server: MetricsServer, path: str = "/metrics", **headers: str) -> tuple[str, str]:
    request = urllib.request.Request("http://{}:{}{}".format(*server.address, path), headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def test_it_is_scraped_in_both_formats(server: MetricsServer) -> None:
    text, kind = get(server)
    assert kind.startswith("text/plain") and samples(text)["procline_build_info", ("1",)] == 1
    text, kind = get(server, Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text") and text.endswith("# EOF\n")


def test_nothing_else_is_there(server: MetricsServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(server, "/")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "CLIENT_TIMEOUT_S", 0.3)


def test_silent_clients_are_closed_and_block_no_scrape(hasty: None, server: MetricsServer) -> None:
    held = []
    for _ in range(prometheus.CLIENTS_MAX * 3):
        held.append(socket.create_connection(server.address))
        time.sleep(0.002)  # the server accepts it: beyond its queue, the kernel repeats a connection after a second

    def is_scraped() -> bool:
        try:
            return bool(get(server))
        except OSError:
            return False

    until(is_scraped)
    for client in held:
        client.close()


def test_an_address_in_use_is_an_error(server: MetricsServer, directory: Path) -> None:
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", 0))
        other.listen()
        MetricsServer("127.0.0.1", other.getsockname()[1], InstanceCollector(directory, "1", COUNTERS))
