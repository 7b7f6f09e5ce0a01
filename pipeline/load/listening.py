"""The subscriber of a load test: a process of its own that keeps the load's events, with the time at which they came.

`listener` starts it as `python -m pipeline.load.listening`. It prints a line when it is subscribed, and its result when
its standard input ends: a line of JSON, then the events (`declared.SEEN_LAYOUT`). It imports what a subscriber needs,
and no numpy.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path

from pipeline.errors import AccessError, ProclineError
from pipeline.load.declared import KINDS, SEEN_LAYOUT

#: After the end of the load it waits until no event came for this long, and at most DRAIN_S.
_QUIET_S = 0.3
DRAIN_S = 60.0
_TICK_S = 0.1
EXIT_NO_ACCESS = 2
_UNKNOWN = 0xFFFFFFFF


def listen(name: str, directory: Path, comm: str, root_pid: int, boot_unix_ns: int) -> None:
    """Run the subscriber in this process until standard input ends."""
    from pipeline.client.subscriber import Subscriber

    program = str(Path(__file__).with_name("procline-load").resolve())
    kinds = KINDS
    packed = SEEN_LAYOUT.struct(*SEEN_LAYOUT.fields).pack
    seen = bytearray()
    missed = 0
    with Subscriber(name, [f"proc.{kind}" for kind in kinds], path=directory) as subscriber:
        print("ready", flush=True)
        ended = quiet_since = 0.0
        is_over = False
        while not is_over:
            events = subscriber.read(_TICK_S)
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            now = time.monotonic()
            is_ours = False
            for event in events:
                if event["event"] == "missed":
                    missed += event["count"] or 0
                    continue
                if "pid" not in event or event["comm"] != comm or event["pid"] == root_pid:
                    continue
                is_ours = True
                what = event["event"]
                if what == "exit":
                    about = event["exit_code"]
                elif what == "cred":
                    about = event["euid"]
                else:
                    about = event["ppid"]
                is_other = what == "exec" and event["path"] is not None and not _is_program(event["path"], program)
                time_ns = event["time_ns"] - boot_unix_ns
                about = _UNKNOWN if about is None else about & _UNKNOWN
                seen += packed(time_ns, now_ns - time_ns, event["pid"], about, kinds[what], is_other)
            if is_ours or not ended:
                quiet_since = now
            if not ended and select.select([sys.stdin], [], [], 0)[0]:
                ended = now
            is_over = bool(ended) and (now - quiet_since > _QUIET_S or now - ended > DRAIN_S)
        missed = max(missed, subscriber.missed)
    print(json.dumps({"missed": missed}), flush=True)
    sys.stdout.buffer.write(seen)
    sys.stdout.buffer.flush()


def _is_program(path: str, program: str) -> bool:
    """Whether a path in an event is the load's program; below the root of its mount, which can be a part of ours."""
    return program.endswith(path) or path.endswith("/procline-load")


def main() -> int:
    """Read the arguments, which are those of `listen`, and listen."""
    name, directory, comm, root_pid, boot_unix_ns = sys.argv[1:]
    try:
        listen(name, Path(directory), comm, int(root_pid), int(boot_unix_ns))
    except ProclineError as error:
        print(error, file=sys.stderr)
        return EXIT_NO_ACCESS if isinstance(error, AccessError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
