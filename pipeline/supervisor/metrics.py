"""Metrics of an instance, from threads of the supervisor: an HTTP address for Prometheus, and a push to statsd.

They run in the supervisor, so that a scrape does not delay the resolver. Both are off by default. Figures that only the
supervisor can read (the kernel's counts by CPU, the fill of the rings) are read here; their names are in
`pipeline.export`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import Metrics, split_address
from pipeline.errors import ConfigError, UnsupportedError
from pipeline.records.capture_fds import NO_FD
from pipeline.supervisor.feed import Feed

if TYPE_CHECKING:
    from pipeline.export.figures import Figures
    from pipeline.export.prometheus import KernelFigures


@contextlib.contextmanager
def measured(settings: Metrics, directory: Path, feed: Feed, log: Any) -> Iterator[None]:
    """Serve and push according to the settings, as long as the context lasts.

    Raises:
        ConfigError: the address cannot be used.
        UnsupportedError: the library for one of them is not installed.
    """
    require_packages(settings)
    with contextlib.ExitStack() as stack:
        if settings.listen:
            stack.callback(_serve(settings, directory, feed, stack, log).close)
        if settings.statsd:
            stack.callback(_push(settings, directory, log).close)
        yield


def require_packages(settings: Metrics) -> None:
    """Check that the libraries for these settings are installed.

    Raises:
        UnsupportedError: one of them is not installed.
    """
    for is_set, key, module, package, extra in (
        (settings.listen, "metrics.listen", "prometheus_client", "prometheus-client", "daemon"),
        (settings.statsd, "metrics.statsd", "datadog", "datadog", "statsd"),
    ):
        if is_set and importlib.util.find_spec(module) is None:
            raise UnsupportedError(
                f"{key} is set, but the package {package} is not installed",
                feature=key,
                needs=package,
                hint=f"install procline[{extra}], or remove the setting",
            )


def _serve(settings: Metrics, directory: Path, feed: Feed, stack: contextlib.ExitStack, log: Any) -> Any:
    from pipeline.export.prometheus import InstanceCollector, MetricsServer
    from pipeline.resolver.api.stats import COUNTERS
    from pipeline.version import __version__

    host, port = split_address(settings.listen)
    kernel = _kernel_figures(feed, stack)
    try:
        server = MetricsServer(host, port, InstanceCollector(directory, __version__, COUNTERS, kernel))
    except OSError as error:
        raise ConfigError(
            f"metrics.listen: cannot listen on {settings.listen}: {error.strerror or error}; use an address of this "
            "host and a free port",
            key="metrics.listen", value=settings.listen,
        ) from None  # fmt: skip
    log.info("serving metrics", address="http://{}:{}/metrics".format(*server.address))
    return server


def _push(settings: Metrics, directory: Path, log: Any) -> Any:
    from datadog.dogstatsd import DogStatsd

    from pipeline.export.figures import read_figures
    from pipeline.export.statsd import StatsdPush, StatsdPusher
    from pipeline.resolver.api.stats import COUNTERS

    host, port = split_address(settings.statsd)
    # Without the library's own telemetry and without a tag of this process: the figures belong to the instance.
    client = DogStatsd(host=host, port=port, disable_telemetry=True, origin_detection_enabled=False)
    push = StatsdPush(client, COUNTERS, settings.statsd_prefix, read_figures(directory))
    return StatsdPusher(
        push, lambda: read_figures(directory), settings.statsd_interval_s,
        lambda error: log.warning("cannot send metrics to statsd", address=settings.statsd, reason=str(error)),
    )  # fmt: skip


def _kernel_figures(feed: Feed, stack: contextlib.ExitStack) -> Callable[[Figures], KernelFigures]:
    import numpy as np

    from pipeline.export.prometheus import KernelFigures

    if feed.source != "ebpf" or feed.fds.shared == NO_FD:
        return lambda figures: KernelFigures()
    from pipeline.bpf._positions import ProducerPositions
    from pipeline.bpf.maps import cpu_states

    states = cpu_states(feed.fds.shared, count=feed.ring_count)
    positions = ProducerPositions(dict(feed.fds.rings), feed.ring_count)
    stack.callback(positions.close)

    def read(figures: Figures) -> KernelFigures:
        # Applied positions first: in the other order a ring could seem to hold less than nothing.
        applied = figures.rings["applied_pos"]
        produced = np.zeros(feed.ring_count, np.uint64)
        positions.sample(produced)
        lost = states["lost_samples"].sum(axis=1)
        return KernelFigures(
            lost_by_cpu={cpu: int(lost[cpu]) for cpu in feed.fds.rings if cpu < len(lost)},
            fill_bytes={
                ring: max(0, int(produced[ring]) - int(applied[ring])) for ring in feed.fds.rings if ring < len(applied)
            },
            size_bytes=dict(feed.ring_bytes),
        )

    return read
