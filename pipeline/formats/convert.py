"""`convert_event`: an event of the stream in the names of another schema."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Mapping

from pipeline.errors import ConfigError
from pipeline.formats import ecs, ocsf, otel
from pipeline.formats.declared import FORMATS

_DOCUMENTS: dict[str, Callable[[Mapping[str, object], str], dict[str, object]]] = {
    "otel": otel.document, "ecs": ecs.document, "ocsf": ocsf.document,
}  # fmt: skip


def convert_event(event: Mapping[str, object], form: str, *, host: str | None = None) -> dict[str, object]:
    """Return an event as a document of another schema, which `json.dumps` accepts.

    docs/formats.md says what becomes of each event and of each field. A field of an impossible type is left out.

    Args:
        event: as `Subscriber` yields it.
        form: ``"otel"`` (OpenTelemetry, OTLP in JSON), ``"ecs"`` (Elastic Common Schema), or ``"ocsf"`` (Open
            Cybersecurity Schema Framework).
        host: name of the host that the event comes from, as `Subscriber.host`; None: this host.

    Raises:
        ConfigError: there is no such form.

    Example:
        >>> with Subscriber(topics=["exec"], on_gap=print) as subscriber:
        ...     event = subscriber.read(timeout=5)[0]
        >>> document = convert_event(event, "ecs", host=subscriber.host)
        >>> document["event"]["action"], document["process"]["executable"], document["process"]["pid"]
        ('exec', '/usr/local/bin/backup', 3000)
    """
    make = _DOCUMENTS.get(form)
    if make is None:
        raise ConfigError(f"no format {form!r}: use one of {', '.join(FORMATS)}", key="form", value=form)
    return make(event, host if host is not None else _this_host())


@functools.cache
def _this_host() -> str:
    return socket.gethostname()
