"""The shard process. The supervisor starts it as ``python -m pipeline.sources.shard.main --spec-fd N``."""

from __future__ import annotations

import sys

from pipeline.sources.shard.process import run_source
from pipeline.sources.shard.source import open_source

if __name__ == "__main__":
    sys.exit(run_source(open_source))
