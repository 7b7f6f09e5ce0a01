"""`procline` whose number of shards changes again and again: python eager_shards.py ARGUMENTS... (test_shards.py)."""

from __future__ import annotations

import sys

from pipeline.cli.main import main
from pipeline.supervisor import shard_count, supervisor

if __name__ == "__main__":
    supervisor.most_shards = lambda settings, ring_count: min(settings.auto_max, ring_count)
    # Any use of the CPU is much, and afterwards little.
    shard_count.OBSERVE_S, shard_count.BUSY_SHARE = 0.3, 0.0
    shard_count.QUIET_S, shard_count.QUIET_SHARE = 0.5, 100.0
    supervisor._CHECK_S = 0.5
    # The daemon's harness puts its own command behind this program: python -m pipeline.cli.main ARGUMENTS...
    sys.argv = ["procline", *sys.argv[sys.argv.index("pipeline.cli.main") + 1 :]]
    sys.exit(main())
