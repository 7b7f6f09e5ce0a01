"""The header of a message of the stream, limits of subscriptions and the layout of the journal, declared once.

``script/generate`` writes the tables of docs/wire-schema.md, the header in docs/stream.schema.json, the structs in
``_blocks.pyx`` and the limits in ``_relay.pyx`` and ``_row_filters.pxd`` from this module. `messages`, `narrowing` and
`journal` say how messages, filters and the journal are used.
"""

from __future__ import annotations

from pipeline.records.declaring import Key, Layout
from pipeline.shm.layout.declared import TOPICS

#: Keys of a header, in the order in which they are sent.
HEADER_KEYS = (
    Key("major", "uint", "version of the stream; a reader rejects any other than its own"),
    Key("minor", "uint", "increases when keys or fields are added; none is removed or changes its type", bits=32),
    Key("host", "str", "name of the publishing host"),
    Key("boot", "bin 16", "its boot id"),
    Key("epoch", "uint", "epoch of the tables that the events were applied to", bits=32),
    Key(
        "stream", "uint",
        "a random number of up to 64 bits that names the space of numbers; if it changes, the numbers begin again at 1",
        bits=64,
    ),
    Key("writer", "uint", "take-overs so far", bits=32),
    Key(
        "step", "uint",
        "number of the step. A step can be published before the previous one is committed, but never two steps",
        bits=64,
    ),
    Key("group", "uint", "messages of one group belong together", bits=64),
    Key(
        "rest", "uint",
        "mask of the topics of which a message of this group is still to come: bit *n* is the topic with "
        "[number](#topics) *n*",
        bits=32,
    ),
    Key("first", "uint", "number of the first event; with `count` 0 the number that is next", bits=64),
    Key("count", "uint", "events in the body; 0: heartbeat", bits=32),
    Key("time_ns", "int", "when it was sent, ns since the Unix epoch"),
    Key("watermark_ns", "int", "events before it have been published; 0: unknown"),
    Key(
        "seqs", "array",
        "last number of each topic; the place in the array is the [number](#topics) of the topic, from 0",
        "optional, in a welcome",
    ),
    Key("end", "bool", "the publisher ends on purpose", "optional"),
    Key(
        "unwatched", "array",
        "[from, to] of each of the last eight times in which no daemon of this instance watched, ns since the Unix "
        "epoch, oldest first",
        "optional, since 1.1, in heartbeats and welcomes",
    ),
    Key(
        "since", "uint", "no event with a number from here to `first` - 1 has passed it",
        "optional, since 1.6, in messages for a [filter](#filters)",
    ),
    Key("only", "[bin]", "the filters in use", "optional, since 1.6, in heartbeats and welcomes"),
    Key(
        "next", "array",
        "by topic [number](#topics), the number that comes next. All earlier events of the topic were sent before this "
        "message or in it. 0: unknown",
        "optional, since 1.8, not in welcomes",
    ),
)  # fmt: skip

SUBSCRIPTION_MAX_BYTES = 64  #: length of a subscription, also of one with a filter
FILTERS_MAX = 16  #: filters in use at a time, of all subscribers together
FILTER_VALUES_MAX = 8  #: values of a filter

JOURNAL_MAGIC = b"PLJOURN\n"
JOURNAL_VERSION = 1
JOURNAL_HEADER_BYTES = 4096  #: where the ring begins

BLOCK_MAGIC = 0x424A4C50  #: begins the header of a block
BLOCK_ALIGNMENT = 64  #: blocks and bodies begin at a multiple of this
BLOCK_HEADER_BYTES = 144  #: length of the header of a block
BLOCK_MESSAGE_BYTES = 12  #: length of what is before the header of a message

JOURNAL_FILE_LAYOUT = Layout(
    "JOURNAL_FILE", "journal_file", 136,
    """
    Header of the file.
    """,
    f"""
    magic          V8   -          `PLJOURN` and a newline
    version        u4   -          {JOURNAL_VERSION}
    header_bytes   u4   bytes      {JOURNAL_HEADER_BYTES}: where the ring begins
    segment_bytes  u4   bytes      size of a segment
    segments       u4   -          segments in the ring; its size R is `segment_bytes` × `segments`
    boot           V16  -          the kernel's boot id; journals of another boot are ignored
    crc            u4   -          CRC-32 (of zlib) of bytes 0 to 39
    unused         V20  -          zeros
    kept_until     {len(TOPICS)}u8  ns (boot)  by topic number: until when the topic is kept
    torn           u8   -          the position of the block before which events could not be appended, plus 1; 0: none.
                                   For the next writer
    """,
)  # fmt: skip
JOURNAL_BLOCK_LAYOUT = Layout(
    "JOURNAL_BLOCK", "block_header", BLOCK_HEADER_BYTES,
    """
    Header of a block.
    """,
    f"""
    magic     u4   -          `0x{BLOCK_MAGIC:X}`
    header_crc  u4   -          CRC-32 of bytes 8 to 143
    at        u8   bytes      position: the block is at `header_bytes` + `at` modulo R
    bytes     u4   bytes      length with this header
    body_crc  u4   -          CRC-32 of bytes 144 to `bytes`
    messages  u4   -          number of messages
    kept      u4   mask       topics that are kept; 0 if events before this block could not be appended
    stream    u8   -          as in the headers of its messages
    group     u8   -          likewise
    step      u8   -          likewise
    writer    u4   -          likewise
    epoch     u4   -          likewise
    time_ns   i8   ns (unix)  when it was written
    unused    u8   -          0
    next      {len(TOPICS)}u8  -          by topic number: number of the topic's first event in this block or behind it
    """,
)  # fmt: skip
JOURNAL_MESSAGE_LAYOUT = Layout(
    "JOURNAL_MESSAGE", "message_begin", BLOCK_MESSAGE_BYTES,
    """
    First part of a message in a block.
    """,
    """
    topic         u4  -      number of the topic
    header_bytes  u4  bytes  length of the header
    body_bytes    u4  bytes  length of the body
    """,
)  # fmt: skip

#: Layouts by their names.
LAYOUTS = {layout.name: layout for layout in (JOURNAL_FILE_LAYOUT, JOURNAL_BLOCK_LAYOUT, JOURNAL_MESSAGE_LAYOUT)}
