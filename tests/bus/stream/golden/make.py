"""Golden messages of the stream: the exact bytes that version MAJOR.MINOR sends.

`python tests/bus/stream/golden/make.py` writes the file of the current version. It does not overwrite a different file,
because a changed message needs another version. Keep the files of earlier minor versions; the tests read all of them.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgpack

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
sys.path.insert(0, str(ROOT))

from pipeline.bus.stream.messages import (  # noqa: E402
    MAJOR,
    MINOR,
    TOPIC_BYTES,
    TOPICS,
    WELCOME_PREFIX,
    Decoder,
    Header,
    Message,
    unpack_events,
)
from pipeline.resolver.stream._container_cache import ContainerCache  # noqa: E402
from pipeline.resolver.stream._encoder import Encoder  # noqa: E402
from pipeline.resolver.stream._file_cache import FileCache  # noqa: E402
from pipeline.resolver.stream._name_cache import NameCache, Names  # noqa: E402
from pipeline.resolver.upkeep.containers import packed  # noqa: E402
from pipeline.shm.layout import layout  # noqa: E402
from pipeline.software import container_files  # noqa: E402
from tests.resolver.stream_rows import BOOT_UNIX_NS, EXTRA, Row, blob, tables  # noqa: E402

BOOT = bytes(range(16))
CONTAINER = b"c0ffee" * 10 + b"c0ff"
#: `next` behind the group of `events`.
ENDS = (2, 2, 2, 2, 4, 2, 2, 2)
CURRENT = HERE / f"{MAJOR}.{MINOR}.json"


def header(**fields: Any) -> Header:
    """A header with fields that do not depend on the host or the time."""
    common: dict[str, Any] = {
        "host": "golden", "boot": BOOT, "epoch": 3, "stream": 0x1122334455667788, "writer": 2, "step": 40, "group": 50,
        "rest": 0, "first": 1, "count": 0, "time_ns": BOOT_UNIX_NS + 9_000_000_000,
        "watermark_ns": BOOT_UNIX_NS + 8_000_000_000,
    }  # fmt: skip
    return Header(**(common | fields))


def events() -> list[tuple[bytes, bytes, bytes]]:
    """One group with a message of each topic."""
    with tables() as writer:
        file = layout.FILE
        import numpy as np

        facts = np.zeros(1, file)
        for number, name in enumerate(file.names or ()):
            facts[name] = 10 + number
        facts["fs_magic"] = 0xEF53
        facts["mount_end"], facts["mount_source"], facts["mount_origin"], facts["mount_flags"] = 5, 1, 2, 5
        known = 0x7FFFF
        init = Row(writer, tgid=1, start_boot_ns=10**9, comm=b"systemd", known=known, source=5, images=1)
        shell = Row(
            writer, tgid=400, ppid=1, start_boot_ns=2 * 10**9, comm=b"bash", known=known, images=2, ancestor=init,
            parent=init, creator=init, creator_tgid=1, file=facts.tobytes() + b"/usr/bin/bash", source=2,
            args=blob([b"-bash"]), argc=1, tty=b"pts0", flags=layout.ROW_HEAD | layout.ROW_IS_EXEC,
        )  # fmt: skip
        child = Row(
            writer, tgid=4321, ppid=400, tid=4321, start_boot_ns=3 * 10**9 + 7, fork_boot_ns=3 * 10**9 + 8,
            exec_boot_ns=3 * 10**9 + 9, exit_boot_ns=4 * 10**9, exit_code=256, comm=b"caf\xe9", known=known, images=3,
            ancestor=shell, parent=shell, creator=shell, creator_tgid=400, source=2, inode=12, uid=1000, gid=1000,
            euid=0, egid=1000, suid=0, sgid=1000, fsuid=0, fsgid=1000, auid=1000, audit_session=4, sid=400, pgid=4321,
            ns_pid=2, pid_ns=4026531836, mnt_ns=4026531841, net_ns=4026531840, user_ns=4026531837,
            cap_effective=1 << 40, cap_permitted=3, cap_attempted=5, cap_used=1, cookie=99, fork_flags=17, cgroup_id=77,
            argc=4, envc=1, exec_inode=13, cpu_user_ns=5 * 10**9, cpu_system_ns=70_000, children_cpu_ns=0,
            max_rss_bytes=1 << 26, read_bytes=4096, write_bytes=1 << 33, minor_faults=300, major_faults=2,
            voluntary_switches=2**32 - 1, involuntary_switches=9,
            file=facts.tobytes() + "/opt/grüß/py".encode(), name=b"./run\xff.py\0/srv/w\xc3\xb6rk",
            cgroup=struct.pack("<QQ", 10**9, 2 * 10**9) + b"/system.slice/docker-" + CONTAINER + b".scope",
            container=CONTAINER, args=blob([b"./run\xff.py", b"", "ü".encode(), b"x" * 40]), envs=blob([b"HOME"]),
            extra=EXTRA, tty=b"",
            flags=layout.ROW_HEAD | layout.ROW_IS_EXEC | layout.ROW_SCRIPT | layout.ROW_EXIT_KNOWN | layout.ROW_GAP
            | layout.ROW_ARGS_TRUNCATED | layout.ROW_ADOPTED | layout.ROW_NO_NEW_PRIVS | layout.ROW_SECCOMP_FILTER,
        )  # fmt: skip
        encoder = Encoder(BOOT, lineage_depth=1, envs="stored")
        encoder.topics_mask = 0xFF
        encoder.names = NameCache(Names(), 0, 0)
        encoder.names.set_views(
            {(CONTAINER, 4026531841, 4026531837): (Names({0: "root", 1000: "j\udcfcrg"}, {1000: "g"}), 0)}
        )
        encoder.containers = ContainerCache()
        names = container_files.Names("", "web", "nginx:1.27", "shop", "prod", {"tier": "front"})
        encoder.containers.set_all({CONTAINER.decode(): packed(names)[1]})
        key = tuple(int(facts[name][0]) for name in ("file_inode", "mtime_ns", "ctime_ns", "device"))
        encoder.packages, encoder.hashes = FileCache(), FileCache()
        package = {"name": "python3", "version": "3.13.5-1", "architecture": "amd64"}
        encoder.packages.set_all({key: (msgpack.packb(package), 0)})
        encoder.hashes.set_all({key: (msgpack.packb("0123456789abcdef" * 4), 0)})
        for topic, kind in ((0, 1), (1, 2), (5, 3), (2, 3), (3, 4), (4, 5), (4, 6), (4, 7)):
            detail = init.number if topic == 5 else 0
            if kind == 4:  # `cred`: a comparison found the change
                detail = 4 * 10**9
            encoder.add(writer, topic, kind, child.number, 5 * 10**9 + topic, detail)
        encoder.put(6, {"event": "loss", "lost": {"exec": 7, "fork": 0}, "new": {"exec": 7}, "time_ns": 1})
        encoder.put(7, {"event": "stats", "entries": {"live": 3}, "load": 0.5, "time_ns": -1})
        return [
            (
                TOPIC_BYTES[message.topic],
                header(first=message.first, count=message.count, rest=message.rest, next=following).pack(),
                bytes(message.body),
            )
            for message, following in with_next(encoder.take())
        ]


def with_next(messages: Iterable[Message]) -> Iterator[tuple[Message, tuple[int, ...]]]:
    """Each message of a first group with its `next`, as the publisher counts it."""
    following = [1] * len(TOPICS)
    for message in messages:
        following[message.topic] = message.first + message.count
        yield message, tuple(following)


def build() -> list[dict[str, Any]]:
    """Every kind of message, with its decoded form."""
    welcome = WELCOME_PREFIX + b"0123456789abcdef"
    messages = [
        (welcome, header(first=0, seqs=tuple(range(8))).pack(), b""),
        *events(),
        (TOPIC_BYTES[0], header(first=2, group=51, next=ENDS).pack(), b""),
        (TOPIC_BYTES[0], header(first=2, group=51, next=ENDS, end=True, watermark_ns=0).pack(), b""),
        (
            TOPIC_BYTES[0],
            header(
                first=2,
                group=52,
                next=ENDS,
                unwatched=((BOOT_UNIX_NS, BOOT_UNIX_NS + 7), (BOOT_UNIX_NS + 8, BOOT_UNIX_NS + 9)),
            ).pack(),
            b"",
        ),
        (
            b"only|user|1000|proc.fork",
            header(first=9, since=2, group=53, only=(b"only|user|1000",), next=(9, 3, 3, 2, 4, 2, 2, 2)).pack(),
            b"",
        ),
    ]
    decoder = Decoder()
    result = []
    for topic, packed_header, body in messages:
        parsed = Header.parse(packed_header)
        result.append(
            {
                "topic": topic.decode(),
                "header": packed_header.hex(),
                "body": body.hex(),
                "first": parsed.first,
                "count": parsed.count,
                "rest": parsed.rest,
                "seqs": parsed.seqs,
                "end": parsed.end,
                "unwatched": parsed.unwatched,
                "since": parsed.since,
                "only": [text.decode() for text in parsed.only],
                "next": parsed.next,
                "events": unpack_events(decoder, body, parsed.count) if parsed.count else [],
            }
        )
    assert {each["topic"] for each in result} >= set(TOPICS)
    return result


def main() -> int:
    text = json.dumps(build(), indent=1) + "\n"
    if CURRENT.exists() and CURRENT.read_text() != text:
        print(f"{CURRENT.name} differs: the messages have changed, so raise MINOR (or MAJOR) in messages.py")
        return 1
    CURRENT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
