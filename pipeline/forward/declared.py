"""The layout of a spool's files, declared once: a forwarder continues with the files of an earlier version.

A file has the magic and then records until its end, each behind a prefix. `spool` writes and reads it.
"""

from __future__ import annotations

from pipeline.records.declaring import Layout

SPOOL_MAGIC = b"PLSPOOL1"

SPOOL_PREFIX_LAYOUT = Layout(
    "SPOOL_PREFIX", "spool_prefix", 8,
    """
    What is before each record.
    """,
    """
    record_bytes  u4  bytes  length of the record that follows
    crc           u4  -      CRC-32 (of zlib) of the record
    """,
)  # fmt: skip
