"""The page of a timeline: the columns as JSON, and the script and the style that stand beside this module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from pipeline.screen import html
from pipeline.screen.times import duration, moment

#: In the order in which they are one script.
SCRIPTS = ("model.js", "drawing.js", "app.js")


def page(columns: Mapping[str, Any], *, title: str, version: str, left_out: int = 0) -> str:
    """Return the page.

    Args:
        columns: what `pipeline.timeline.columns.columns` returns.
        title: what the timeline is of, as text.
        version: of Procline.
        left_out: processes that are not in `columns`, because the timeline has a limit.
    """
    own = Path(__file__).parent
    count, from_ns = len(columns["pid"]), int(columns["from_ns"])
    failed = sum(columns["failed"])
    summary = (
        f"{count:,} {'process' if count == 1 else 'processes'}, {failed:,} failed; "
        f"{duration(columns['duration'] * 1000)} from {moment(from_ns)[:19]} UTC"
    )
    notice = ""
    if left_out:
        notice = f'<p class="notice">{left_out:,} older processes are left out: this page has at most {count:,}.</p>'
    body = Template((own / "body.html").read_text("utf-8")).substitute(
        title=html.safe(title), summary=html.safe(summary), left_out=notice, version=html.safe(version)
    )
    # Inside of a script element, only "<" can begin something else: "</script>" or "<!--".
    embedded = json.dumps(columns, separators=(",", ":")).replace("<", "\\u003c")
    script = '"use strict";\n(() => {\n' + "\n".join((own / name).read_text("utf-8") for name in SCRIPTS) + "})();\n"
    data = f'<script type="application/json" id="data">{embedded}</script>'
    return html.page(title, "\n" + (own / "style.css").read_text("utf-8"), [body, data], script)
