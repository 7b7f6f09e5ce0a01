"""The metrics that an instance sends to monitoring, and the error if the library for it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.schema import Metrics
from pipeline.errors import UnsupportedError
from pipeline.records.capture_fds import CaptureFds
from pipeline.supervisor.metrics import measured


@pytest.mark.parametrize(
    ("setting", "package", "modules"),
    [
        ("listen", "prometheus-client", ("prometheus_client", "pipeline.export.prometheus")),
        ("statsd", "datadog", ("datadog", "datadog.dogstatsd")),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, setting: str, package: str, modules: tuple[str, ...]
) -> None:
    for name in [name for name in sys.modules if name.startswith(modules)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, modules[0], None)  # type: ignore[arg-type]
    feed: Any = SimpleNamespace(source="tracer", fds=CaptureFds())
    with (
        pytest.raises(UnsupportedError, match=rf"metrics\.{setting} is set, but the package {package}") as caught,
        measured(Metrics(**{setting: "127.0.0.1:0"}), Path("/dev/shm"), feed, None),
    ):
        pass
    assert "procline[" in caught.value.hint
