"""The layout of a recording, declared once: ``script/generate`` writes the tables of docs/sources.md from this module.

The file has the header and then frames until its end, each behind a prefix. `file` writes and reads it.
"""

from __future__ import annotations

from pipeline.records.declaring import Layout

RECORDING_MAGIC = b"PROCLREC"
RECORDING_VERSION = 1

RECORDING_HEADER_LAYOUT = Layout(
    "RECORDING_HEADER", "recording_header", 64,
    """
    Header of the file.
    """,
    f"""
    magic            V8   -          `{RECORDING_MAGIC.decode()}`
    version          u4   -          {RECORDING_VERSION}
    header_bytes     u4   bytes      where the first prefix begins
    boot_id          V16  -          boot in which the frames were made
    boot_unix_ns     i8   ns (unix)  when the clock of that boot was zero; 0: unknown
    created_unix_ns  i8   ns (unix)  when the file was created
    reserved         V16  -          zeros
    """,
)  # fmt: skip
RECORDING_PREFIX_LAYOUT = Layout(
    "RECORDING_PREFIX", "recording_prefix", 8,
    """
    What is before each frame.
    """,
    """
    frame_bytes  u4  bytes  length of the frame that follows
    crc          u4  -      CRC-32 (of zlib) of the frame
    """,
)  # fmt: skip

#: Layouts by their names.
LAYOUTS = {layout.name: layout for layout in (RECORDING_HEADER_LAYOUT, RECORDING_PREFIX_LAYOUT)}
