"""Log lines as JSON, for `pipeline.log`."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pythonjsonlogger.json import JsonFormatter


class JsonLines(JsonFormatter):
    """One JSON object per line: event, level, timestamp and all facts, sorted by name."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__(
            [],
            static_fields=facts,
            rename_fields={"exc_info": "exception"},
            json_default=str,
            json_serializer=partial(json.dumps, sort_keys=True),
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add the level and the time."""
        super().add_fields(log_data, record, message_dict)
        log_data["level"] = record.levelname.lower()
        moment = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        log_data["timestamp"] = moment.isoformat(timespec="microseconds") + "Z"
