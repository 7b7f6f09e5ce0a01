"""The part of a host's stream that the server holds already, according to its last messages.

A message has the numbers of its events in its headers. So the last message of each subject shows where to continue,
whatever was killed and however long ago. `Nats-Msg-Id` alone would not do: a server forgets these after its duplicate
window.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.bus.stream.messages import MAJOR, MINOR
from pipeline.forward.batches import GAP, SNAPSHOT, Batch

VERSION = f"{MAJOR}.{MINOR}"
#: In `Procline-Next`, the end of the last time without a daemon that was sent as a gap.
_UNWATCHED = ""


@dataclass
class Subject:
    """The last message of one subject.

    Attributes:
        sequence: its number in the server's stream; 0: there is none.
        stream: id of its stream of Procline; None: there is no message, or no forwarder has sent it.
        next: the number behind its last event.
        to_ns: time of its last event.
    """

    sequence: int = 0
    stream: int | None = None
    next: int = 0
    to_ns: int = 0
    after_gaps: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, sequence: int, headers: Mapping[str, str]) -> Subject:
        """Return the facts in the headers of a message."""
        try:
            numbers = json.loads(headers.get("Procline-Next", "{}"))
            return cls(
                sequence, int(headers["Procline-Stream"]),
                int(headers["Procline-First"]) + int(headers["Procline-Count"]), int(headers.get("Procline-To", "0")),
                {str(topic): int(number) for topic, number in numbers.items()},
            )  # fmt: skip
        except (KeyError, ValueError, TypeError, AttributeError):
            return cls(sequence)


class Stored:
    """The messages of a host that the server holds.

    Attributes:
        subjects: the last message of each kind.
    """

    def __init__(self, subjects: dict[str, Subject]) -> None:
        self.subjects = subjects
        newest = max(subjects.values(), key=lambda subject: subject.sequence)
        #: The stream of the newest message. All of the streams before it is stored, because a new stream begins only
        #: when the one before it is done.
        self.stream = newest.stream
        self.to_ns = max(subject.to_ns for subject in subjects.values())

    def next(self, kind: str, topic: str) -> int | None:
        """Return the number of the current stream that comes next; None: it holds nothing of this topic."""
        known = [subject.next for subject in (self.subjects[kind],) if subject.stream == self.stream]
        gaps = self.subjects[GAP]
        if gaps.stream == self.stream and topic in gaps.after_gaps:
            known.append(gaps.after_gaps[topic])
        return max(known, default=None)

    def next_by_topic(self) -> dict[str, int]:
        """Return `next` of all topics that the server holds something of."""
        found: dict[str, int] = {}
        gaps = self.subjects[GAP]
        topics = set(gaps.after_gaps) if gaps.stream == self.stream else set()
        for kind, subject in self.subjects.items():
            if kind not in (GAP, SNAPSHOT) and subject.stream == self.stream and subject.stream is not None:
                topics.add(topic_of_kind(kind))
        for topic in topics - {_UNWATCHED}:
            number = self.next(topic.partition(".")[2], topic)
            if number is not None:
                found[topic] = number
        return found

    def missing_part(self, batch: Batch, order: Sequence[int]) -> Batch | None:
        """Return the part of a batch that the server lacks; None: it has all.

        Args:
            batch: the batch.
            order: the streams of the queue, oldest first.
        """
        if self.stream is None:
            return batch
        if batch.stream != self.stream:
            is_older = self.stream in order and order.index(batch.stream) < order.index(self.stream)
            return None if is_older else batch
        if not batch.topic:
            is_known = not batch.first or batch.to_ns <= self.subjects[GAP].after_gaps.get(_UNWATCHED, 0)
            return None if is_known else batch
        if batch.kind == GAP:
            following = self.next(batch.topic.partition(".")[2], batch.topic)
        else:
            following = self.next(batch.kind, batch.topic)
        if following is None or following <= batch.first:
            return batch
        return None if batch.next <= following else batch.after(following)

    def accept(self, batch: Batch, sequence: int) -> None:
        """Note that the server has stored a batch under this number."""
        subject = self.subjects[batch.kind]
        if batch.kind == GAP:
            after = self.after_gaps(batch)
            self.subjects[GAP] = Subject(sequence, batch.stream, batch.next, batch.to_ns, after)
        else:
            subject.sequence, subject.stream = sequence, batch.stream
            subject.next, subject.to_ns = batch.next, batch.to_ns
        self.stream = batch.stream
        self.to_ns = max(self.to_ns, batch.to_ns)

    def after_gaps(self, batch: Batch) -> dict[str, int]:
        """Return `Procline-Next` of a gap: by topic, the number behind its last gap."""
        gaps = self.subjects[GAP]
        after = dict(gaps.after_gaps) if gaps.stream == batch.stream else {}
        begins = batch.begins
        if begins is not None:
            after |= begins
        else:
            after[batch.topic or _UNWATCHED] = batch.next if batch.topic else batch.to_ns
        return after

    def newer(self, before: Stored, now: Stored) -> Stored:
        """Return this answer of the server, but `now` for subjects that changed while it was on its way.

        Args:
            before: what was known when the server was asked.
            now: what is known.
        """
        return Stored(
            {
                kind: now.subjects[kind]
                if now.subjects[kind].sequence != before.subjects[kind].sequence
                else self.subjects[kind]
                for kind in self.subjects
            }
        )

    def copy(self) -> Stored:
        """Return a copy, which `accept` does not change."""
        return Stored({kind: replace(subject) for kind, subject in self.subjects.items()})

    def headers(self, batch: Batch, *, host: str, form: str) -> dict[str, str]:
        """Return the headers of the message with a batch.

        Args:
            batch: the batch.
            host: name of the host.
            form: names of the fields, ``native`` or another format.
        """
        headers = {
            "Nats-Msg-Id": f"{batch.boot}-{batch.stream}-{batch.kind}-{batch.topic}-{batch.first}",
            "Nats-Expected-Last-Subject-Sequence": str(self.subjects[batch.kind].sequence),
            "Procline-Host": host,
            "Procline-Boot": batch.boot,
            "Procline-Stream": str(batch.stream),
            "Procline-Topic": batch.topic,
            "Procline-First": str(batch.first),
            "Procline-Count": str(batch.count),
            "Procline-To": str(batch.to_ns),
            "Procline-Version": VERSION,
        }
        if batch.encoding:
            headers["Content-Encoding"] = batch.encoding
        if form != "native":
            headers["Procline-Format"] = form
        if batch.kind == GAP:
            headers["Procline-Next"] = json.dumps(self.after_gaps(batch))
        return headers


def topic_of_kind(kind: str) -> str:
    """Return the topic of the events of a subject."""
    return f"sys.{kind}" if kind in ("loss", "stats") else f"proc.{kind}"
