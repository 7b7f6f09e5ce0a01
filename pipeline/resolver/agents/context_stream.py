"""Publish context events: `proc.context` with the current fields of the process, and the event's own fields.

They are rare, so an event is built in Python: from the map that the encoder makes of a row, decoded and completed. What
an event does to the tables is in `context_loop`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.bus.stream.messages import TOPICS, Decoder, Fields, unpack_events
from pipeline.errors import FrameError
from pipeline.host import boot
from pipeline.records import declared
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import row_of
from pipeline.resolver.entries.model import NoProcessContextError, ProcessBrokenLineageError, Source
from pipeline.resolver.stream._encoder import FIELDS, Encoder

if TYPE_CHECKING:
    from pipeline.resolver.agents.context_loop import Dispatched
    from pipeline.resolver.apply._followups import FollowUps
    from pipeline.shm.writer._writer import TableWriter

_CONTEXT = TOPICS.index("proc.context")
_FORK = TOPICS.index("proc.fork")
_EXEC = TOPICS.index("proc.exec")


class ContextStream:
    """Numbers and encodes dispatched context events.

    Args:
        encoder: of the stream.
        followups: of the applier; they note entries that were made for an event, which apply does not see.
        tables: hold the rows of the processes.
        boot_id: 16 bytes.
        boot_unix_ns: Unix time of boot-clock zero.
    """

    def __init__(
        self, encoder: Encoder, followups: FollowUps, tables: TableWriter, boot_id: bytes, boot_unix_ns: int
    ) -> None:
        self._encoder = encoder
        self._followups = followups
        self._tables = tables
        self._boot_id = boot_id
        self._boot_unix_ns = boot_unix_ns
        self._scratch = Encoder(boot_id, envs=encoder.envs, file=encoder.file)
        self._scratch.topics_mask = 1 << _CONTEXT
        self._decoder = Decoder()

    def dispatch(self, event: Dispatched) -> None:
        """Publish the entries that were inserted for an event, then the event (specification 2.5 step 10)."""
        for entry in event.related:
            # The applier has published those that came from the kernel's maps.
            if entry.source == Source.PROCFS_FALLBACK and not entry.is_free:
                topic, kind = (_EXEC, declared.KIND_EXEC) if entry.is_exec else (_FORK, declared.KIND_FORK)
                self._followups.add(topic, kind, row_of(entry), event.time_boot_ns)
                self._encoder.add(self._tables, topic, kind, row_of(entry), event.time_boot_ns)
        fields: Fields = {}
        if (self._encoder.subscribed_mask | self._encoder.kept_mask) >> _CONTEXT & 1:
            fields = self._fields(event)
        self._encoder.put(_CONTEXT, fields)

    def _fields(self, event: Dispatched) -> Fields:
        entry, sent = event.entry, event.event
        if entry.is_free:
            fields: Fields = dict.fromkeys(FIELDS) | {
                "pid": sent.pid, "tid": sent.tid or sent.pid, "source": "placeholder", "marks": [], "lineage": [],
            }  # fmt: skip
        else:
            self._scratch.names = self._encoder.names
            self._scratch.add(self._tables, _CONTEXT, declared.KIND_COMM, row_of(entry), event.time_boot_ns)
            (message,) = self._scratch.take()
            (fields,) = unpack_events(self._decoder, bytes(message.body), 1)
        for name in ("seq", "order"):
            fields.pop(name)
        fields["event"] = sent.kind
        fields["time_ns"] = event.time_boot_ns + self._boot_unix_ns
        fields["context"] = {**sent.body, "error": _error(event.error)}
        if event.target is not None:
            fields["context"]["target"] = self._process(event.target)
        return fields

    def _process(self, entry: ProcessCacheEntry) -> dict[str, Any]:
        """Return a process in the form of an element of `lineage`."""
        is_known = not entry.is_free
        start = entry.start_boot_ns
        return {
            "pid": entry.pid, "start_time_ns": start + self._boot_unix_ns if start else None,
            "comm": entry.comm if is_known else None, "path": entry.file_event.pathname if is_known else None,
            "entity_id": boot.entity_id(self._boot_id, entry.pid, start) if start else None,
        }  # fmt: skip


def _error(error: Exception | None) -> str | None:
    """Return a word for programs, followed by the reason of a failure."""
    if error is None:
        return None
    if isinstance(error, NoProcessContextError):
        return "no_process_context"
    if isinstance(error, ProcessBrokenLineageError):
        return "broken_lineage"
    return f"failed: {error.reason if isinstance(error, FrameError) else error}"
