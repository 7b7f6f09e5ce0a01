"""The tables of docs/fleet.md, made from the code. `python tests/fleet/page.py` writes them into the page."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from pipeline.fleet.named_queries import listing  # noqa: E402
from pipeline.fleet.open_store import VIEWS  # noqa: E402
from pipeline.fleet.parquet import PROGRAM_COLUMNS  # noqa: E402 - found by the line above
from pipeline.fleet.schema import LEADING, TRAILING  # noqa: E402

PAGE = ROOT / "docs" / "fleet.md"
_MARKED = re.compile(r"(<!-- (questions|views|head|programs) -->\n\|[^\n]*\n\|[^\n]*\n).*?(<!-- end -->)", re.DOTALL)


def _columns(columns: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for name, (kind, meaning) in columns.items():
        yield f"| `{name}` | {kind} | {meaning} |\n"


def tables() -> dict[str, str]:
    """Return the rows of each table."""
    return {
        "questions": "".join(f"| `{usage}` | {meaning} |\n" for usage, meaning in listing()),
        "views": "".join(f"| `{name}` | {meaning} |\n" for name, (meaning, _) in VIEWS.items()),
        "head": "".join(_columns(LEADING | TRAILING)),
        "programs": "".join(_columns(PROGRAM_COLUMNS)),
    }


def filled(page: str) -> str:
    """Return the page with its tables replaced."""
    made = tables()
    assert [match[2] for match in _MARKED.finditer(page)] == list(made), "a table is missing"
    return _MARKED.sub(lambda match: match[1] + made[match[2]] + match[3], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
