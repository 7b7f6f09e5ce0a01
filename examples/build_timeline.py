#!/usr/bin/env python3
"""Run a command, and draw the lives of its processes as an SVG. Usage: build_timeline.py FILE.svg COMMAND..."""

import subprocess
import sys
from html import escape
from pathlib import Path
from zlib import crc32

from pipeline import ProcessTable

if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
    sys.exit(__doc__)
with ProcessTable.attach() as table, subprocess.Popen(sys.argv[2:]) as child:
    if (root := table.wait_tree(child.pid)) is None:
        sys.exit("the instance did not record the command")
    found = [root, *root.descendants(by="creator", exited=True)]
lives = [(each.start_time_ns or 0, each.exit_time_ns or 0, each) for each in found]
lives.sort(key=lambda life: life[0])
first, lanes, svg = lives[0][0], list[int](), ""  # lanes: when each line is free again
scale = 1000 / (max(end for _, end, _ in lives) - first)
for start, end, each in lives:
    lane = next((number for number, free in enumerate(lanes) if free <= start), len(lanes))
    lanes[lane : lane + 1] = [end]
    x, width = (start - first) * scale, (end - start) * scale + 0.3
    look = f'height="1em" fill="hsl({crc32((each.path or "").encode()) % 360},60%,60%)"'
    svg += f'<rect x="{x:.2f}" y="{lane}em" width="{width:.2f}" {look}><title>{escape(str(each.argv))}</title></rect>'
size = f'width="1001" height="{len(lanes)}em"'
Path(sys.argv[1]).write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{svg}</svg>')
