"""The use of the resolver's memory while its tables are full and users attack: `python -m tests.faults.memory --help`.

The limits of the tables are small, so that they are full within a minute. Then each attack runs for some time, again
and again. After each, the resolver's resident memory is shown by part: pages of each table that were touched, and what
it has allocated itself. What grows in the first round and not in the later ones is bounded.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from pipeline import ProcessTable, paths
from pipeline.shm.writer.segments import SEGMENTS
from tests import zmtp
from tests.attacks.harness import as_nobody
from tests.attacks.programs import CHURN
from tests.live.harness import Daemon, build_workload
from tests.live.storms import Storm
from tests.waiting import eventually

MIB = 1 << 20
CONFIG = """
[args]
show = "raw"
[tables]
max_entries = {rows}
chunk_rows = 256
names_bytes = 2097152
args_bytes = 4194304
retention_s = 3600
"""
#: The resolver's own memory may be this much larger after the last round than after the second one.
GROWTH_BYTES = 4 * MIB
#: Freed queues of subscribers are returned to the kernel within this time.
RETURNED_S = 4.0
_LINE = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)")
_OWN = "allocated"
_JOURNAL = "journal"
SHOWN = ("hot", "cold", "costs", "names", "args", _JOURNAL, "rest")

#: Programs with new paths, names and arguments: no earlier process had them.
NAMES = """
import os, random, sys
directory = sys.argv[1]
print(directory, flush=True)
while True:
    name = "%s/%0200x" % (directory, random.getrandbits(800))
    os.symlink("/bin/true", name)
    pid = os.posix_spawn(name, [os.urandom(99).replace(b"\\0", b"\\n"), os.urandom(3000).replace(b"\\0", b"\\n")], {})
    os.waitpid(pid, 0)
    os.unlink(name)
"""
#: Subscribes twice a second, and does not read. Each connection stays, so that libzmq holds other messages for each.
SUBSCRIBERS = """
import socket, sys, time
path, hello, subscription = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
print("ready", flush=True)
held = []
while True:
    time.sleep(0.5)
    try:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(path)
        client.sendall(hello)
        received = b""
        while b"XPUB" not in received:
            more = client.recv(1)
            if not more:
                raise ConnectionError
            received += more
        client.sendall(subscription)
        held.append(client)
    except OSError:
        pass
"""


def parts_of(pid: int) -> Counter[str]:
    """Return the resident bytes of a process by part: tables by name, `allocated` (anonymous memory), and the rest."""
    found: Counter[str] = Counter()
    part = "rest"
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if start := _LINE.fullmatch(line):
            path = Path(start[1])
            is_own = not start[1] or start[1].startswith("[")
            part = path.name if path.name in SEGMENTS else _OWN if is_own else "rest"
            if _JOURNAL in path.name:
                part = _JOURNAL
        elif line.startswith("Rss:"):
            found[part] += int(line.split()[1]) << 10
    return found


def row(what: str, parts: Counter[str]) -> str:
    """Return a line of the table, MB."""
    shown = [sum(parts.values()), parts[_OWN], *(parts[name] for name in SHOWN)]
    return f"| {what} | " + " | ".join(f"{size / 1e6:.1f}" for size in shown) + " |"


def fill(table: ProcessTable, workload: Path) -> None:
    """Run storms until images are evicted because the tables are full."""
    while not table.stats()["counters"].get("evictions_capacity", 0) and table.stats()["evictions"] == 0:
        with Storm(workload):
            time.sleep(1)


def largest(pid: int) -> str:
    """Return the largest mappings that the process has allocated, MB."""
    found = []
    for block in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE):
        start = _LINE.match(block)
        if start and (not start[1] or start[1].startswith("[")):
            found.append((int(re.findall(r"^Rss:\s+(\d+)", block, re.MULTILINE)[0]) << 10, start[1] or "anonymous"))
    return ", ".join(f"{name} {size / 1e6:.1f}" for size, name in sorted(found, reverse=True)[:6])


def attacks_of(daemon: Daemon, directory: str) -> tuple[tuple[str, str, tuple[str | int, ...]], ...]:
    """Return the attacks: name, script and its arguments; `directory` is one that every user may write to."""
    return (
        ("names and arguments", NAMES, (directory,)),
        ("questions", CHURN, (str(paths.requests_socket(daemon.directory)), 2)),
        (
            "subscribers",
            SUBSCRIBERS,
            (
                str(paths.stream_socket(daemon.directory)),
                (zmtp.GREETING + zmtp.READY).hex(),
                zmtp.subscription(b"proc.").hex(),
            ),
        ),
    )


def run(rows: int, rounds: int, seconds: float, workload: Path, only: str = "") -> bool:
    """Run the attacks, and print the table; returns whether the resolver's own memory stayed as it was.

    Raises:
        AssertionError: the resolver was replaced.
    """
    own = []
    settings = CONFIG.format(rows=rows) + '[access]\nstream_mode = "0666"\n'
    with (
        tempfile.TemporaryDirectory(prefix="procline-names-") as directory,
        Daemon(settings) as daemon,
        daemon.attach() as table,
    ):
        Path(directory).chmod(0o777)
        (resolver,) = daemon.pids("resolver")
        print("| after | all | allocated | " + " | ".join(SHOWN) + " |\n|" + " --- |" * (3 + len(SHOWN)))
        print(row("the start", parts_of(resolver)), flush=True)
        fill(table, workload)
        print(row("the tables were full", parts_of(resolver)), flush=True)
        for number in range(rounds):
            for what, script, arguments in attacks_of(daemon, directory):
                if only not in what:
                    continue
                with ExitStack() as stack:
                    attacker = stack.enter_context(as_nobody(script, *arguments))
                    assert attacker.stdout is not None and attacker.stdout.readline()
                    stack.enter_context(Storm(workload, 0.5))
                    time.sleep(seconds)
                time.sleep(RETURNED_S)
                assert daemon.pids("resolver") == [resolver], daemon.log.read_text()[-4000:]
                print(row(f"{what}, round {number + 1}", parts_of(resolver)), flush=True)
            own.append(parts_of(resolver)[_OWN])
        print(f"\nThe largest allocations: {largest(resolver)}.")
        eventually(lambda: table.stats()["watermark_lag_ns"] < 10**9, 60)
        stats = daemon.stat()
        print(f"Subscribers that were closed: {stats['counters']['stream_rejected']:,}.")
        print(f"Events {sum(stats['events'].values()):,}, lost {sum(stats['lost'].values()):,}; questions "
              f"{stats['counters'].get('requests', 0):,}; evicted {stats['evictions']:,}.")  # fmt: skip
    return own[-1] - own[min(1, len(own) - 1)] < GROWTH_BYTES


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16_384, metavar="N", help="tables.max_entries; default: 16,384")
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="duration of each attack; default: 60")
    parser.add_argument("--only", default="", metavar="TEXT", help="only attacks with this in their name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="procline-memory-") as directory:
        is_bounded = run(options.rows, options.rounds, options.seconds, build_workload(Path(directory)), options.only)
    print("bounded" if is_bounded else "NOT BOUNDED: the resolver has allocated more in each round")
    raise SystemExit(not is_bounded)


if __name__ == "__main__":
    main()
