"""Answers as a table, JSON or CSV. Names in them were chosen by others, so control characters are escaped."""

from __future__ import annotations

import csv
import itertools
import sys
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import click

from pipeline.export.json import dumps
from pipeline.export.text import printable
from pipeline.fleet.open_store import QueryResult
from pipeline.screen.lines import Line
from pipeline.screen.tables import Column, table
from pipeline.screen.terminal import Screen

FORMS = ("table", "json", "csv")
#: A cell of a table on a terminal is cut at this width.
_CELL_WIDTH_MAX = 80


def write(rows: QueryResult, form: str, *, limit: int) -> int:
    """Print an answer; returns its number of rows.

    Args:
        rows: the answer.
        form: one of FORMS.
        limit: largest number of rows of a table, which needs memory for all of them.
    """
    if form == "table":
        return _write_table(rows, limit)
    return (_write_json if form == "json" else _write_csv)(rows)


def _write_json(rows: QueryResult) -> int:
    """Print an array with one object a line."""
    count = 0
    for count, row in enumerate(rows, 1):
        click.echo(
            ("[\n" if count == 1 else ",\n") + dumps(dict(zip(rows.columns, map(_plain, row), strict=True))), nl=False
        )
    click.echo("\n]" if count else "[]")
    return count


def _write_csv(rows: QueryResult) -> int:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(printable, rows.columns))
    count = 0
    for row in rows:
        count += 1
        values = map(_plain, row)
        writer.writerow(
            "" if value is None else dumps(value) if isinstance(value, list | dict | bool) else printable(value)
            for value in values
        )
    return count


def _write_table(rows: QueryResult, limit: int) -> int:
    found = list(itertools.islice(rows, limit + 1))
    shown = found[:limit]
    screen = Screen()
    columns = []
    for at, name in enumerate(rows.columns):
        numbers = [row[at] for row in shown if row[at] is not None]
        is_right = bool(numbers) and all(type(value) in (int, float, Decimal) for value in numbers)
        columns.append(Column(printable(name).upper(), is_right, _CELL_WIDTH_MAX if screen.is_terminal else None))
    if shown:
        screen.cut(table(columns, [[Line(_cell(value)) for value in row] for row in shown]))
    if len(found) > limit:
        click.echo(f"procline: only the first {limit} rows; raise --limit, or use --format csv or json", err=True)
    return len(shown)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, float | Decimal):
        return f"{value:,.3f}"
    return dumps(_plain(value)) if isinstance(value, list | dict) else str(value)


def _plain(value: Any) -> Any:
    """Return a value as JSON can have it. Times are UTC."""
    if isinstance(value, datetime):
        return value.isoformat() + ("" if value.tzinfo else "Z")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if isinstance(value, date) else str(value)
