"""Look up two processes every 5 ms until a file exists; print how long answers were stale, as JSON.

The first process is init, which the tables always have. The second does not exist, so it is answered only while a
daemon keeps the tables up to date.
"""

import json
import os
import sys
import time
from pathlib import Path

from pipeline import ProcessTable, errors

stop = Path(sys.argv[1])
result = {"hits": 0, "misses": 0, "hit_failures": [], "longest_stale_ms": 0.0, "detached": []}
with ProcessTable.attach() as table:
    stale_since = None
    while not stop.exists():
        try:
            result["hits"] += table.resolve(1) is not None
        except errors.ProclineError as error:
            result["hit_failures"].append(repr(error))
        now = time.monotonic()
        try:
            table.resolve(4194303)
            result["misses"] += 1
            stale_since = None
        except errors.StaleError:
            stale_since = stale_since or now
            result["longest_stale_ms"] = max(result["longest_stale_ms"], round((now - stale_since) * 1e3, 1))
        except errors.ProclineError as error:
            result["detached"].append(repr(error))
        time.sleep(0.005)
# The load average is that of the last minute, which includes the upgrade.
result["is_busy"] = os.getloadavg()[0] > (os.cpu_count() or 1)
result["detached"] = result["detached"][:5]
result["hit_failures"] = result["hit_failures"][:5]
print(json.dumps(result))
