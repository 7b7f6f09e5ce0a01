"""Run a supervisor over fake workers and a source of plain files: like `procline run`, without a kernel.

PROCLINE_FAKE_OPENING is what opening the source does after a worker's process has begun: "" (nothing waits for one),
"works", "fails", or "hangs". With PROCLINE_FAKE_EAGER, the number of shards changes soon after a little work.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from pipeline import log, supervisor
from pipeline.config.loading import load, parse_option
from pipeline.config.schema import Config
from pipeline.errors import LoadError, ProclineError
from pipeline.records.capture_fds import CaptureFds
from pipeline.supervisor import Supervisor, shard_count
from pipeline.supervisor.feed import Feed

#: Without site-packages, which take a fifth of its start.
FAKE = (sys.executable, "-S", str(Path(__file__).with_name("fake_worker.py")))
#: Times of the supervisor, all in about the proportion that they have in the product, so that nothing takes long.
CHECK_S = 0.6
HANG_S = 1.5
_CHECK_EARLY_S = 0.075
_SAMPLE_S = 0.05


def opener(config: Config) -> Feed:
    """Open four rings, which are plain files."""
    if opening := os.environ.get("PROCLINE_FAKE_OPENING"):
        begun = Path(os.environ["PROCLINE_RUNTIME_DIR"], "begun")
        deadline = time.monotonic() + 60
        while not begun.exists():
            if time.monotonic() > deadline:
                raise LoadError("no worker has begun")
            time.sleep(0.01)
        if opening == "fails":
            raise LoadError("the kernel rejected it")
        while opening == "hangs":
            time.sleep(0.01)
    files = [Path("/dev/null").open("rb") for _ in range(4)]  # noqa: SIM115 - open as long as the feed
    return Feed(
        source="ebpf",
        ring_count=4,
        fds=CaptureFds({ring: file.fileno() for ring, file in enumerate(files)}),
        ring_bytes=dict.fromkeys(range(4), 4096),
        shard_count=config.shards.resolve(4),
        update_counts=look,
        sample=sample,
        sampling_interval_s=sampling_interval_s,
        close=lambda: [file.close() for file in files] and None,
    )


def look() -> None:
    """Record the time, unless there is no descriptor left."""
    with suppress(OSError), Path(os.environ["PROCLINE_RUNTIME_DIR"], "looks").open("a") as file:
        print(time.monotonic(), file=file)


def sample() -> float:
    """Record the time; fail while a file demands it."""
    root = Path(os.environ["PROCLINE_RUNTIME_DIR"])
    with Path(root, "samples").open("a") as file:
        print(time.monotonic(), file=file)
    if Path(root, "refuse").exists():
        raise OSError(12, "Cannot allocate memory")
    return _SAMPLE_S


def sampling_interval_s() -> float | None:
    """Return what a test has chosen."""
    chosen = Path(os.environ["PROCLINE_RUNTIME_DIR"], "interval")
    return float(chosen.read_text()) if chosen.exists() else None


def main() -> int:
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # for the workers
    config = load(options=dict(parse_option(text) for text in sys.argv[2:]), environ={})
    log.set_up(config.log.level, config.log.format, "supervisor")
    supervisor.supervisor.HANG_S = HANG_S
    supervisor.supervisor._CHECK_S, supervisor.supervisor._CHECK_EARLY_S = CHECK_S, _CHECK_EARLY_S
    if os.environ.get("PROCLINE_FAKE_EAGER"):
        supervisor.supervisor.most_shards = lambda settings, rings: min(settings.auto_max, rings)
        shard_count.OBSERVE_S, shard_count.BUSY_SHARE = 0.3, 0.02
        shard_count.QUIET_S, shard_count.QUIET_SHARE = 0.6, 100.0
    try:
        return Supervisor(config, sys.argv[1], opener=opener, resolver_command=FAKE, shard_command=FAKE).run()
    except ProclineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
