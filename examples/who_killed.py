#!/usr/bin/env python3
"""Print which processes are killed by a signal, and by which process. Without seconds, it runs until Ctrl-C.

The sender is known if the instance runs with capture.signal_senders = "on".
"""

import argparse
import signal
from contextlib import suppress

from pipeline import ProcessTable, ProclineError, Subscriber, printable

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("seconds", nargs="?", type=float)
options = parser.parse_args()
with suppress(KeyboardInterrupt), ProcessTable.attach() as table:
    for event in Subscriber(topics=["exit"], on_gap=print, timeout=options.seconds):
        if event["exit_cause"] not in ("signaled", "coredumped"):
            continue
        text = f"{event['comm']}({event['pid']}) was killed by {signal.strsignal(event['exit_cause_code'] or 0)}"
        sender = (event["extra"] or {}).get("exit_signal_sender")
        if isinstance(sender, dict):
            text += f", sent by {sender['comm']}({sender['pid']}) of user {sender['uid']}"
            with suppress(ProclineError):  # the sender is not retained, or the instance is being restarted
                if sender["pid"] and (found := table.resolve(sender["pid"], at=event["time_ns"])):
                    text += "".join(f" < {each.comm}({each.pid})" for each in found.ancestors())
        print(printable(text), flush=True)
