"""Read all messages of the stream, and print what they have by host. It fails if an event is missing or there twice.

A mark is a process of marks.py; its last argument is its number.
"""

import asyncio
import json
import ssl
import sys
from collections import Counter, defaultdict
from pathlib import Path

checkout, address, directory = sys.argv[1:]
sys.path.insert(0, checkout)
from tests.forward import world  # noqa: E402

MARK = "procline-mark"

found = asyncio.run(
    world._messages(
        address, "PROCLINE", tls=ssl.create_default_context(cafile=Path(directory, "hub.pem")),
        nkeys_seed=str(Path(directory, "user.nk")), connect_timeout=20,
    )
)  # fmt: skip
spaces = defaultdict(list)
events, gaps, streams, marks = defaultdict(Counter), defaultdict(Counter), defaultdict(set), defaultdict(list)
for message in found:
    host = message.headers["Procline-Host"]
    if message.kind == "snapshot":
        continue
    space = (host, message.headers["Procline-Boot"], message.headers["Procline-Stream"])
    streams[host].add(space)
    if message.headers["Procline-Topic"]:
        spaces[(*space, message.headers["Procline-Topic"])].append(message)
    if message.kind == "gap":
        gaps[host].update(record["reason"] for record in message.events)
        continue
    events[host][message.kind] += message.count
    if message.kind == "exec":
        for event in message.events:
            argv = event.get("argv") or []
            if len(argv) == 2 and argv[0] == MARK:
                marks[host].append(int(argv[1]))
for (*_, topic), of_topic in spaces.items():
    numbers = sorted(world.covered(of_topic, topic))
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), f"{topic}: numbers are missing"
result = {}
for host, counted in events.items():
    seen = marks[host]
    assert len(seen) == len(set(seen)), f"{host}: a mark is there twice"
    result[host] = {
        "events": counted, "gaps": gaps[host], "streams": len(streams[host]), "marks": len(seen),
        "last_mark": max(seen, default=0),
        # Places at which marks are missing.
        "interruptions": sum(after - before > 1 for before, after in zip(sorted(seen), sorted(seen)[1:], strict=False)),
    }  # fmt: skip
print(json.dumps(result))
