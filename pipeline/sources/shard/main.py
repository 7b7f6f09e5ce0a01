"""The shard process. The supervisor starts it as ``python -m pipeline.sources.shard.main --description-fd N``."""

from __future__ import annotations

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # until the source is open: what the imports make stays

from pipeline.sources.shard.process import run_source
from pipeline.sources.shard.source import open_source

if __name__ == "__main__":
    sys.exit(run_source(open_source))
