#!/usr/bin/env python3
"""Write execs and exits into an SQLite database until Ctrl-C. The newest million rows are kept."""

import argparse
import json
import sqlite3
import time
from contextlib import closing, suppress

from pipeline import Subscriber, printable

COLUMNS = ("time_ns", "event", "pid", "ppid", "user", "path", "argv", "exit_code", "entity_id", "parent_entity_id")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("file")
parser.add_argument("seconds", nargs="?", type=float, default=float("inf"))
options = parser.parse_args()
deadline = time.monotonic() + options.seconds
with suppress(KeyboardInterrupt), closing(sqlite3.connect(options.file)) as database:
    database.execute(f"CREATE TABLE IF NOT EXISTS events ({', '.join(COLUMNS)})")
    with Subscriber(topics=["exec", "exit"], on_gap=print) as subscriber:
        while time.monotonic() < deadline:
            for event in subscriber.read(0.5):
                row: dict[str, object] = {**event, "argv": json.dumps(event["argv"])}
                # Names and arguments need not be text.
                row |= {key: printable(value) for key, value in row.items() if isinstance(value, str)}
                database.execute(f"INSERT INTO events VALUES (:{', :'.join(COLUMNS)})", row)
            database.execute("DELETE FROM events WHERE rowid <= (SELECT max(rowid) FROM events) - 1000000")
            database.commit()  # others can read while this runs
