"""The common parts of all HTML pages: colours for light and dark screens, and a policy that allows no network.

A page is one file that needs nothing else. Its policy (Content-Security-Policy) names the style and the scripts that it
was made with, by their hashes, and allows no others. So if text of a process became markup by mistake, it could neither
run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from pipeline.export.text import printable

#: Names of colours, for both modes. `mark` is the background of what is selected.
COLOURS = """
:root { color-scheme: light dark; --text: #1c2126; --dim: #5b6670; --line: #d9dee3; --back: #fff; --card: #f6f8fa;
  --blue: #2f6fb5; --orange: #d9822b; --good: #1a7f37; --bad: #c0392b; --mark: #dceafa; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --dim: #9aa5af; --line: #3a424a; --back: #15191d;
  --card: #1e2429; --blue: #6aa9e9; --orange: #f0a35e; --good: #57c774; --bad: #f08477; --mark: #24384d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
.dim { color: var(--dim); }
"""


def safe(text: object) -> str:
    """Return text for an element or an attribute: without control characters, and with markup escaped."""
    return escape(printable(text))


def page(title: str, style: str, body: Iterable[str], script: str = "") -> str:
    """Return a page.

    Args:
        title: its title, as text.
        style: rules that follow COLOURS.
        body: pieces of markup, a line for each.
        script: runs when the body is complete; empty: the page allows no script.
    """
    style = COLOURS + style
    sources = ["default-src 'none'", f"style-src {_hash(style)}", "base-uri 'none'", "form-action 'none'"]
    if script:
        sources.insert(1, f"script-src {_hash(script)}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(sources)}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>Procline: {safe(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + (f"\n<script>{script}</script>" if script else "")
        + "\n</body></html>\n"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
