"""Send the public stream: subscriptions in, messages and heartbeats out. Wire format: `pipeline.bus.stream.messages`.

Topics without a subscriber are not encoded: the subscriptions set the encoder's topic mask. Each subscriber has its own
queue. If the queue is full, this one subscriber loses the message and detects the gap by the sequence numbers. The
publisher never waits for a subscriber.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import zmq

from pipeline.bus._libzmq import NativeSocket
from pipeline.bus.sockets import Bus, SocketError
from pipeline.bus.stream.messages import (
    TOPIC_BYTES,
    TOPICS,
    WELCOME_PREFIX,
    WELCOME_WORD_MAX_BYTES,
    Header,
    Message,
    prefix_mask,
)
from pipeline.bus.stream.narrowing import PREFIX as FILTER_PREFIX
from pipeline.host.boot import now_boot_ns
from pipeline.resolver.stream.narrowed import Narrowed, RowFilters

if TYPE_CHECKING:
    from pipeline.bus.curve_server import CurveServer
    from pipeline.resolver.stream.journal_writer import JournalWriter

#: Length of a subscriber's queue. A message has at most about 72 KiB, so a queue at most 72 MiB. Queues
#: share the messages that are in several of them.
SEND_HWM_MESSAGES = 1024
HEARTBEAT_NS = 1_000_000_000
#: Subscriptions handled in one call. Further ones wait for the next call, so a peer cannot keep the resolver busy.
SUBSCRIPTIONS_PER_CALL = 256
#: A longer message from a peer closes its connection. ZeroMQ keeps subscriptions in a tree as deep as they are long and
#: frees the tree by recursion, so a subscription of a megabyte would end the resolver with a segmentation fault. The
#: limit also applies to handshake frames; those of CURVE have a few hundred bytes.
_PEER_MESSAGE_MAX_BYTES = 4096
#: How long a successor waits for its predecessor's subscribers (they check every 10 to 200 ms) ...
_REJOIN_NS = 400_000_000
#: ... and for further subscribers after the first topics are complete.
_REJOIN_SETTLE_NS = 50_000_000
#: The longest time between two questions that counts as waiting. No subscriber can reconnect while the successor gets
#: no CPU.
_REJOIN_TURN_NS = 50_000_000
#: How long the last messages may take, when the daemon ends.
LINGER_MS = 500

_LOSS = TOPICS.index("sys.loss")
_STATS = TOPICS.index("sys.stats")
#: The topics from this number on are not about processes. Subscribers with a filter get them without it.
_SYSTEM = sum(topic.startswith("proc.") for topic in TOPICS)
assert all(topic.startswith("proc.") for topic in TOPICS[:_SYSTEM])


class Encoder(Protocol):
    """The part of `pipeline.resolver.stream._encoder.Encoder` that the publisher uses."""

    topics_mask: int
    kept_mask: int

    @property
    def filters(self) -> RowFilters:
        """Decides which events of other topics are encoded."""
        ...

    @property
    def subscribed_mask(self) -> int:
        """Topics with a subscriber, also if all of them have filters."""
        ...

    @property
    def dropped(self) -> int:
        """Events that had a subscriber but found no room."""
        ...

    @property
    def stream(self) -> int:
        """Id of the space of sequence numbers; if it changes, the numbers begin again at 1."""
        ...

    @property
    def former_mask(self) -> int:
        """Topics that had a subscriber when the predecessor committed last, as a mask."""
        ...

    def take(self) -> Sequence[Message]:
        """Return the encoded messages, and forget them."""
        ...

    def put(self, topic: int, fields: Mapping[str, Any]) -> bool:
        """Encode one event from its fields."""
        ...

    def settled(self) -> Sequence[int]:
        """Return for each topic the last number that no pending message has or precedes."""
        ...


class Publisher:
    """The stream's only sender, a part of the resolver's duty cycle.

    Args:
        encoder: numbers and encodes the events; the publisher sets its `topics_mask`.
        bus: creates and closes the socket.
        path: ipc socket, in a directory that exists.
        mode, group: of the socket file; group -1 is the process's group.
        boot: the kernel's boot id, 16 bytes.
        boot_unix_ns: Unix time of boot-clock zero.
        epoch, takeovers: of the tables.
        tcp: also bind this ``tcp://`` address, which `curve` must then protect.
        curve: secures the socket between the two binds. ZeroMQ copies the options at each bind, so CURVE applies to TCP
            only, and the file mode still protects the ipc socket.
        send_hwm: messages queued for each subscriber.
        heartbeat_ns: interval at which a topic with subscribers reports its last number.
        host: name of this host in the headers.
        unwatched: (from, to) of the times without capture, boot ns; sent in welcomes and heartbeats.
        journal: keeps what is sent; None: nothing is kept.

    Attributes:
        published: events handed to ZeroMQ, so for at least one subscriber.
        unsent: events in messages that found a subscriber's queue full for the first time since it had room. Only that
            subscriber can count all the events that it lost.
        watermark_boot_ns: the watermark for the next headers; the owner keeps it up to date.

    Raises:
        SocketError, WriterExistsError, ConfigError: see `Bus.bind`; SocketError also if `tcp` cannot be bound.
    """

    def __init__(
        self,
        encoder: Encoder,
        bus: Bus,
        path: Path,
        *,
        mode: int = 0o660,
        group: int = -1,
        boot: bytes,
        boot_unix_ns: int,
        epoch: int,
        takeovers: int = 0,
        tcp: str = "",
        curve: CurveServer | None = None,
        send_hwm: int = SEND_HWM_MESSAGES,
        heartbeat_ns: int = HEARTBEAT_NS,
        host: str = "",
        unwatched: Sequence[tuple[int, int]] = (),
        journal: JournalWriter | None = None,
    ) -> None:
        if tcp and curve is None:
            raise ValueError("a stream over TCP needs CURVE keys")
        self.encoder = encoder
        self.published = 0
        self.unsent = 0
        self.watermark_boot_ns = 0
        self._boot = boot
        self._boot_unix_ns = boot_unix_ns
        self._epoch = epoch
        self._takeovers = takeovers
        self._host = host or socket.gethostname()
        self._heartbeat_ns = heartbeat_ns
        self._unwatched = tuple((begin + boot_unix_ns, end + boot_unix_ns) for begin, end in unwatched)
        self._beaten_ns = 0
        self._step = 0
        self._group = 0
        self._prefixes: dict[bytes, int] = {}
        self._narrowed = Narrowed(encoder.filters)
        self._dropped = encoder.dropped
        #: By topic, the number that comes next: earlier events were sent, or had no subscriber.
        self._next = self._settled_next()
        self._lost: dict[str, int] = {}
        self._covered_ns = 0
        self._awaited_ns = 0
        self._asked_ns: int | None = None
        self.journal = journal
        #: Topics whose events the journal has, without a gap, since its last block.
        self._whole = 0
        if journal is not None:
            encoder.kept_mask = self._whole = journal.kept(now_boot_ns())
            self._begin_journal(journal)
        self._is_awaiting = encoder.former_mask != 0
        self.socket = bus.socket(zmq.XPUB, send_hwm=send_hwm, receive_hwm=SUBSCRIPTIONS_PER_CALL)
        self.socket.setsockopt(zmq.MAXMSGSIZE, _PEER_MESSAGE_MAX_BYTES)
        # With this option, send reports a full queue; _send then decides what happens.
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._native = NativeSocket(self.socket)
        bus.bind(self.socket, path, mode=mode, group=group)
        self._curve = curve if tcp else None
        self.tcp_endpoint = "" if self._curve is None else self._bind_tcp(tcp, self._curve)

    def _bind_tcp(self, address: str, curve: CurveServer) -> str:
        """Also bind a TCP address, with CURVE; return it as ZeroMQ writes it, with the port that was chosen."""
        curve.secure(self.socket)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        # Also pass on subscriptions that another client has: they show which connection has which key.
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            curve.release(self.socket)
            raise SocketError(
                f"cannot bind {address}: {error.strerror}; use an address of this host and a free port "
                "(stream.tcp_endpoint)"
            ) from None
        endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        curve.watch(self.socket)
        return endpoint

    # -- duty cycle ----------------------------------------------------------------------------------------------------

    def send(self, messages: Iterable[Message]) -> int:
        """Send one step, the messages since the last commit; returns the number of events.

        The owner commits between two calls that send something: subscribers rely on this to recognize repeated events.
        """
        sent = 0
        group_step = self._step
        group: list[Message] = []
        is_torn = self.encoder.dropped != self._dropped
        self._dropped = self.encoder.dropped
        for message in messages:
            group.append(message)
            group_step = self._step + 1
            if message.rest:
                continue
            sent += self._send_group(group, is_torn)
            group.clear()
            self._group += 1
        if is_torn:
            self._narrowed.tear()
        self._step = group_step
        self.published += sent
        return sent

    def _send_group(self, group: Sequence[Message], is_torn: bool) -> int:
        """Keep a group and send it; return the number of events for any subscriber."""
        sent = 0
        system_next = self._next[_SYSTEM:]
        subscribed = self.encoder.topics_mask
        whole = subscribed | self.encoder.kept_mask
        # Other topics have only the events that pass a filter.
        packed = []
        for message in group:
            first, count = message.first, message.count
            self._next[message.topic] = first + count
            if whole >> message.topic & 1:
                header = self._header(first=first, count=count, rest=message.rest, following=self._next)
                packed.append((message.topic, header, message.body, first, count))
        if self.journal is not None and packed:
            # Before anything is sent: what a subscriber has received is in the journal.
            self._append(self.journal, packed)
        if self._narrowed.texts:
            self._send_narrowed(group, is_torn, system_next)
        for topic, header, body, _, count in packed:
            if subscribed >> topic & 1:
                self._send(TOPIC_BYTES[topic], header, body, count)
        for message in group:
            # Events that are not about a row count for every filter, also of other topics.
            if subscribed >> message.topic & 1 or (
                message.filters and self.encoder.filters.topics_mask >> message.topic & 1
            ):
                sent += message.count
        return sent

    def _send_narrowed(self, group: Sequence[Message], is_torn: bool, system_next: Sequence[int]) -> None:
        """Send the messages of a group to subscribers with filters, before those that have no filter."""
        system = self.encoder.topics_mask & -(1 << _SYSTEM)
        later = sum(1 << message.topic for message in group if system >> message.topic & 1)
        for text, message, rest, since, following in self._narrowed.select(group, is_torn):
            header = self._header(
                first=message.first, count=message.count, rest=rest | later, since=since,
                following=(*following[:_SYSTEM], *system_next),
            )  # fmt: skip
            self._send(text + b"|" + TOPIC_BYTES[message.topic], header, message.body, message.count)

    def _append(self, journal: JournalWriter, messages: Sequence[tuple[int, bytes, Any, int, int]]) -> None:
        journal.append(
            messages, stream=self.encoder.stream, writer=self._takeovers, epoch=self._epoch, step=self._step,
            group=self._group, time_ns=_now() + self._boot_unix_ns,
            kept=self.encoder.topics_mask | self.encoder.kept_mask,
        )  # fmt: skip

    def _begin_journal(self, journal: JournalWriter) -> None:
        """Append the beginning of a stream, or that no daemon watched for a time."""
        last = journal.last
        hole_end_ns = self._unwatched[-1][1] if self._unwatched else 0
        if last is not None and last[0] == self.encoder.stream and last[1] >= hole_end_ns:
            return  # a take-over
        self._append(journal, self._journal_beats((1 << len(TOPICS)) - 1))

    def _journal_beats(self, mask: int) -> list[tuple[int, bytes, Any, int, int]]:
        following = self._settled_next()
        return [
            (number, self._header(first=first, count=0, following=following), b"", first, 0)
            for number, first in enumerate(following)
            if mask >> number & 1
        ]

    def _settled_next(self) -> list[int]:
        return [int(seq) + 1 for seq in self.encoder.settled()]

    def do_work(self, now_boot_ns: int) -> int:
        """Handle subscriptions, send messages encoded outside a batch, and send heartbeats when due.

        Returns:
            The amount of work done.
        """
        work = self._handle_subscriptions()
        messages = self.encoder.take()
        if messages:
            work += self.send(messages)
        if now_boot_ns - self._beaten_ns >= self._heartbeat_ns:
            self._beaten_ns = now_boot_ns
            self._beat(now_boot_ns)
            self._note_kept(now_boot_ns)
        return work

    def _note_kept(self, now_boot_ns: int) -> None:
        if self.journal is None:
            return
        self.journal.note(self.encoder.topics_mask, now_boot_ns)
        mask = self.journal.kept(now_boot_ns)
        if mask != self.encoder.kept_mask:
            self.send(self.encoder.take())  # a message contains consecutive numbers
            self.encoder.kept_mask = mask
        whole = self.encoder.topics_mask | mask
        gained, self._whole = whole & ~self._whole, whole
        if gained:
            # If nothing else is appended before the stream ends, this shows how many events were not kept until now.
            self._append(self.journal, self._journal_beats(gained))

    def is_awaiting(self, now_boot_ns: int) -> bool:
        """Whether to wait a little longer for the predecessor's subscribers to reconnect.

        Until then the successor applies nothing. The kernel's rings hold the events; if the successor published them
        now, every subscriber would miss them.

        The wait begins with the first call, because a start can take long, and no subscriber is noticed during it. Call
        `do_work` between two calls.
        """
        if not self._is_awaiting:
            return False
        if self._asked_ns is not None:
            self._awaited_ns += min(now_boot_ns - self._asked_ns, _REJOIN_TURN_NS)
        self._asked_ns = now_boot_ns
        if self.encoder.former_mask & ~self.encoder.subscribed_mask == 0:
            self._covered_ns = self._covered_ns or now_boot_ns
            self._is_awaiting = now_boot_ns - self._covered_ns < _REJOIN_SETTLE_NS
        if self._awaited_ns >= _REJOIN_NS:
            self._is_awaiting = False
        return self._is_awaiting

    # -- the sys topics ------------------------------------------------------------------------------------------------

    def loss(self, lost: Mapping[str, int], now_boot_ns: int) -> bool:
        """Report a loss as cumulative counts by kind. Does nothing if the counts equal those of the last call.

        The first call of a successor may repeat what its predecessor already reported, because only the counts remain.
        """
        new = {kind: count - self._lost.get(kind, 0) for kind, count in lost.items() if count}
        new = {kind: count for kind, count in new.items() if count > 0}
        if not new:
            return False
        self._lost = dict(lost)
        return self._put(_LOSS, {"event": "loss", "lost": dict(lost), "new": new}, now_boot_ns)

    def stats(self, fields: Mapping[str, Any], now_boot_ns: int) -> bool:
        """Publish statistics if there is a subscriber or the journal keeps them."""
        if not self.wants_stats:
            return False
        return self._put(_STATS, {"event": "stats", **fields}, now_boot_ns)

    @property
    def wants_stats(self) -> bool:
        """Whether ``sys.stats`` has a subscriber or is kept; otherwise the statistics need not be collected."""
        return bool((self.encoder.topics_mask | self.encoder.kept_mask) >> _STATS & 1)

    def _put(self, topic: int, fields: Mapping[str, Any], now_boot_ns: int) -> bool:
        return self.encoder.put(topic, {**fields, "time_ns": now_boot_ns + self._boot_unix_ns})

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Send the last numbers and the end of the stream. Closing the bus then waits briefly until they are sent."""
        if self.socket.closed:
            return
        messages = self.encoder.take()
        if messages:
            self.send(messages)
        self._beat(now_boot_ns(), end=True)
        if self.journal is not None:
            self.journal.close()
        if self._curve is not None:
            self.socket.disable_monitor()
        self.socket.close(linger=LINGER_MS)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _handle_subscriptions(self) -> int:
        """Receive what subscribers have sent, and act on it; return the number of messages."""
        handled = 0
        welcomes: list[bytes] = []
        # Check first: raising an exception for the usual case, no message, takes longer than the rest.
        while handled < SUBSCRIPTIONS_PER_CALL and self._native.is_readable():
            is_tcp = False
            try:
                if self._curve is None:
                    message = self.socket.recv(zmq.NOBLOCK)
                else:
                    frame = self.socket.recv(zmq.NOBLOCK, copy=False)
                    is_tcp = self._curve.note(frame)
                    message = frame.bytes
            except zmq.Again:
                break
            handled += 1
            self._note_subscription(message, is_tcp, welcomes)
        if handled:
            self._apply_subscriptions()
        if welcomes:
            self._welcome(welcomes)
        return handled

    def _note_subscription(self, message: bytes, is_tcp: bool, welcomes: list[bytes]) -> None:
        """Note that a prefix was subscribed or unsubscribed; one that asks for a welcome is added to `welcomes`."""
        if not message or message[0] > 1:
            return  # an XSUB peer can send arbitrary messages upstream
        prefix = message[1:]
        if prefix.startswith(WELCOME_PREFIX):
            if message[0] and len(prefix) <= len(WELCOME_PREFIX) + WELCOME_WORD_MAX_BYTES:
                welcomes.append(prefix)
        elif prefix.startswith(FILTER_PREFIX):
            if message[0]:
                self._narrowed.subscribe(prefix)
            elif not is_tcp:
                self._narrowed.unsubscribe(prefix)
        elif message[0]:
            mask = prefix_mask(prefix)
            if mask:
                self._prefixes[prefix] = mask
        elif not is_tcp:
            # XPUB reports an unsubscription after the last subscriber of this prefix has gone, but also one by a client
            # that never had it. The relay drops those. A message from a client over TCP is ignored, too; the report at
            # the end of its connection has no sender.
            self._prefixes.pop(prefix, None)

    def _apply_subscriptions(self) -> None:
        """Encode from now on what is subscribed now."""
        mask = 0
        for asked in self._prefixes.values():
            mask |= asked
        if mask != self.encoder.topics_mask or self._narrowed.is_changed:
            # First send the events encoded under the old mask: a message contains consecutive numbers.
            self.send(self.encoder.take())
            self.encoder.topics_mask = mask
            self._next = self._settled_next()
            self._note_kept(now_boot_ns())
            self._narrowed.apply([int(seq) for seq in self.encoder.settled()])

    def _welcome(self, words: Iterable[bytes]) -> None:
        """Answer each request for a welcome, after all events so far."""
        self.send(self.encoder.take())
        header = self._header(first=0, count=0, seqs=tuple(int(seq) for seq in self.encoder.settled()))
        for word in words:
            self._send(word, header, b"", 0)

    def _beat(self, now_boot_ns: int, *, end: bool = False) -> None:
        self._next = self._settled_next()
        for number, topic in enumerate(TOPIC_BYTES):
            if self.encoder.topics_mask >> number & 1:
                header = self._header(
                    first=self._next[number], count=0, end=end, now_boot_ns=now_boot_ns, following=self._next
                )
                self._send(topic, header, b"", 0)
        is_torn = self.encoder.dropped != self._dropped
        self._dropped = self.encoder.dropped
        for text, number, first, since, following in self._narrowed.beat(self._next, is_torn):
            header = self._header(
                first=first, count=0, end=end, now_boot_ns=now_boot_ns, since=since,
                following=(*following[:_SYSTEM], *self._next[_SYSTEM:]),
            )  # fmt: skip
            self._send(text + b"|" + TOPIC_BYTES[number], header, b"", 0)

    def _header(
        self,
        *,
        first: int,
        count: int,
        rest: int = 0,
        seqs: tuple[int, ...] | None = None,
        end: bool = False,
        now_boot_ns: int = 0,
        since: int | None = None,
        following: Sequence[int] | None = None,
    ) -> bytes:
        watermark = self.watermark_boot_ns
        return Header(
            host=self._host,
            boot=self._boot,
            epoch=self._epoch,
            stream=self.encoder.stream,
            writer=self._takeovers,
            step=self._step,
            group=self._group,
            rest=rest,
            first=first,
            count=count,
            time_ns=(now_boot_ns or _now()) + self._boot_unix_ns,
            watermark_ns=watermark + self._boot_unix_ns if watermark else 0,
            seqs=seqs,
            end=end,
            unwatched=() if count else self._unwatched,
            since=since,
            only=() if count else self._narrowed.texts,
            next=None if following is None else tuple(following),
        ).pack()

    def _send(self, topic: bytes, header: bytes, body: Any, count: int) -> None:
        frames = (topic, header, body)
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
            return
        except zmq.Again:
            # A queue is full, or seems to be: while it sends, ZeroMQ reads what its I/O thread reports at most once in
            # a millisecond. Reading the events makes it check now.
            self.socket.getsockopt(zmq.EVENTS)
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            # A queue is full. Skip its subscriber until it has room again; the others get the message.
            self.unsent += count
            self.socket.setsockopt(zmq.XPUB_NODROP, 0)
            try:
                self.socket.send_multipart(frames, zmq.NOBLOCK)
            finally:
                self.socket.setsockopt(zmq.XPUB_NODROP, 1)


def _now() -> int:
    return now_boot_ns()
