"""Make docs/images/load.png and load-time.png: the report of a load test, from a real run, in a real browser.

Run it as root, on Debian with Chromium: ``.venv/bin/python docs/site/load.py [PAGE]``; with PAGE, the page is kept.
`procline load` starts an instance of its own. The host in the pictures is called web1, in a namespace of its own, so
that the name of the machine is not in them. The first picture is the beginning of the page, the second its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from browser import IMAGES, photograph, run

#: Width, and the height of the two pictures.
WIDTH, BEGIN_HEIGHT, END_HEIGHT = 860, 880, 730
LAST_PART = "<h2>While it ran</h2>"
COMMAND = (
    sys.executable, "-m", "pipeline.cli.main", "load", "mix", "--own", "--rate", "5000", "--duration", "10", "--json",
)  # fmt: skip


def make(directory: Path) -> tuple[Path, str]:
    """Make the page and the pictures."""
    page, end = directory / "load.html", directory / "end.html"
    as_web1 = ["unshare", "--uts", "sh", "-c", 'hostname web1; exec "$@"', "sh"]
    done = subprocess.run([*as_web1, *COMMAND, "--report", page], check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    assert found["host"]["name"] == "web1"
    before, _, after = page.read_text().partition(LAST_PART)
    end.write_text(before[: before.index("<h1>")] + LAST_PART + after)
    photograph(page.as_uri(), IMAGES / "load.png", (WIDTH, BEGIN_HEIGHT))
    photograph(end.as_uri(), IMAGES / "load-time.png", (WIDTH, END_HEIGHT))
    return page, f"load: {found['load']['events_per_s']:,.0f} events/s, lost {found['lost']}"


if __name__ == "__main__":
    run(make)
