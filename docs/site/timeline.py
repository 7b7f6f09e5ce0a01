"""Make docs/images/timeline.png: the timeline of a `make -j2 libz.a` of zlib, from a real run, in a real browser.

Run it as root, on Debian with Chromium: ``.venv/bin/python docs/site/timeline.py [PAGE]``; with PAGE, the page is
kept. It downloads zlib's source by apt, in a directory of its own, configures it, records the build, and takes a
picture of the page. The period and the process that are shown are chosen from what was recorded. bench/build_cost.py
compares the cost of the same build.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from browser import IMAGES, photograph, run

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import build_cost

PROCLINE = [sys.executable, "-m", "pipeline.cli.main"]
PICTURE = IMAGES / "timeline.png"
SIZE = (1240, 700)


def recorded(tree: Path, file: Path) -> int:
    """Record `make -j2 libz.a`; return its pid."""
    recorder = subprocess.Popen([*PROCLINE, "record", file], stderr=subprocess.PIPE, text=True)
    assert recorder.stderr is not None and "recording" in recorder.stderr.readline()
    build = subprocess.Popen(["make", "-j2", build_cost.GOAL], cwd=tree, stdout=subprocess.DEVNULL)
    assert build.wait() == 0
    recorder.send_signal(signal.SIGINT)
    print(recorder.communicate(timeout=60)[1].splitlines()[-1])
    return build.pid


def view(found: dict[str, Any]) -> str:
    """Return the address's fragment: the first compilers, one of which is selected."""
    begin = found["from_time_ns"]
    compilers = [(row, each) for row, each in enumerate(found["processes"]) if (each["path"] or "").endswith("/cc1")]
    row, _ = compilers[3]
    end = max(each["exit_time_ns"] for _, each in compilers[:6])
    first = compilers[0][1]["start_time_ns"]
    return f"t={max(0, first - begin) / 1e9 - 0.05:.3f},{(end - begin) / 1e9 + 0.25:.3f}&row={row}"


def make(directory: Path) -> tuple[Path, str]:
    """Make the page and the picture."""
    tree, file, page = build_cost.fetch(directory), directory / "zlib.rec", directory / "zlib.html"
    pid = recorded(tree, file)
    command = [*PROCLINE, "timeline", "--replay", file, "--under", str(pid), "--html", page, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    assert str(directory) not in page.read_text(), "a path of this machine is in the page"
    written = photograph(f"{page.as_uri()}#{view(found)}", PICTURE, SIZE)
    return page, f"{PICTURE.name}: {len(found['processes'])} processes, {written:,} bytes"


if __name__ == "__main__":
    run(make)
