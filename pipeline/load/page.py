"""A report, or a comparison of reports, as one HTML page that needs nothing else: no script, no font, no network.

The page is well-formed XML too. All text of reports is escaped; control characters are shown as escapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.load import compare, drawing, summary
from pipeline.load.run import is_exact
from pipeline.screen.html import page, safe

_STYLE = """
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: .9rem; margin: 1rem 0 0; font-weight: 600; }
p { margin: .4rem 0; }
.verdict { padding: .6rem .9rem; border-left: 4px solid; background: var(--card); margin: 1rem 0; }
.good { border-color: var(--good); } .bad { border-color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; } td:first-child, th:first-child { text-align: left; }
.prose td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
svg { width: 100%; max-width: 760px; height: auto; display: block; }
.label { font: 12px system-ui, sans-serif; fill: var(--dim); } .grid { stroke: var(--line); }
.line { fill: none; stroke: var(--blue); stroke-width: 1.5; } .span { stroke: var(--dim); stroke-width: 1.5; }
.bar { fill: var(--blue); } .dot { fill: var(--blue); stroke: var(--back); }
.dot0 { fill-opacity: .35; } .dot1 { fill-opacity: .6; } .dot3 { fill: var(--orange); }
.with { fill: var(--orange); }
.key::before { content: ""; display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin: 0 .3em 0 .8em;
  background: var(--blue); } .key0::before { opacity: .35; } .key1::before { opacity: .6; }
.key3::before { background: var(--orange); }
"""

#: Metrics of a comparison that are drawn, by name.
_DRAWN = (
    "made, events/s", "highest rate without loss, events/s", "slowdown", "CPU per event", "to table, p99",
    "to subscriber, p99", "memory", "fullest ring",
)  # fmt: skip
#: With more reports than this, each report is a row of the tables instead of a column.
_COLUMNS_MAX = 3
_DOTS = ("p50", "p90", "p99", "max")


def of_report(report: Mapping[str, Any]) -> str:
    """Return the page of one report."""
    return page("Load test", _STYLE, _report(report))


def of_reports(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return the page that compares reports; `names` are those of their files."""
    return page("Load tests compared", _STYLE, _comparison(reports, names))


def _report(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h1>Load test of {safe(report['host']['name'])}</h1>"
    yield f'<p class="dim">{safe(summary.title(report))}; {safe(report["host"]["processor"])}</p>'
    yield f'<p class="dim">{safe(report["time"])}</p>'
    yield f'<p class="verdict {"good" if is_exact(report) else "bad"}">{safe(summary.verdict(report))}</p>'
    for table in summary.tables(report):
        yield f"<h2>{safe(table.title)}</h2>"
        if table.title == "Latency":
            yield from _latency(report)
        if report["paired"] is not None and table.title.startswith("Slowdown"):
            yield from _rounds(report["paired"])
        if report["limit"] is not None and table.title.startswith("Highest"):
            yield from _steps(report["limit"])
        yield _table(table)
    yield from _samples(report["samples"])


def _latency(report: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for place, kinds in report["latency_us"].items():
        for kind, found in kinds.items():
            if isinstance(found, Mapping) and found["count"]:
                values = [(part, found[f"{part}_us"]) for part in _DOTS if found[f"{part}_us"] is not None]
                rows.append((f"{kind} to {place}", [(part, value) for part, value in values if value > 0]))
    if any(found for _, found in rows):
        keys = "".join(f'<span class="key key{number}">{part}</span>' for number, part in enumerate(_DOTS))
        yield f'<p class="dim">From the kernel\'s time of the event until it is visible there. {keys}</p>'
        yield drawing.dots(rows, summary.us, "latency")


def _rounds(paired: Mapping[str, Any]) -> Iterator[str]:
    yield '<p class="dim">Events a second of each round. <span class="key">without</span>'
    yield '<span class="key key3">with the instance</span></p>'
    if paired["rounds"]:
        rounds = [(each["is_with"], each["events_per_s"]) for each in paired["rounds"]]
        yield drawing.pairs(rounds, summary.figure, "rounds with and without the instance")


def _steps(limit: Mapping[str, Any]) -> Iterator[str]:
    steps = sorted(limit["steps"], key=lambda step: step["rate_events_per_s"])
    rows = [
        (
            f"{summary.figure(step['rate_events_per_s'])} events/s",
            step["made_events_per_s"],
            f"{summary.figure(step['made_events_per_s'])} {step['reason'] or 'sustained'}",
        )
        for step in steps
    ]
    if rows:
        yield '<p class="dim">Events a second that were made, by the rate that was asked for.</p>'
        yield drawing.bars(rows, "rates that were tried")


def _samples(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not samples:
        return
    yield "<h2>While it ran</h2>"
    for title, key, show in (
        ("Made, events/s", "events_per_s", summary.figure),
        ("Tables behind", "table_lag_ms", lambda value: summary.us(value * 1000)),
        ("Fullest ring, KiB", "ring_fill_bytes", summary.figure),
    ):
        size = 1024 if key.endswith("_bytes") else 1
        points = [(sample["at_s"], sample[key] / size) for sample in samples if sample[key] is not None]
        if points:
            yield f"<h3>{title}</h3>{drawing.lines(points, show, title)}"


def _comparison(reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    headings = compare.labels(reports, names)
    yield f"<h1>{len(reports)} load tests</h1>"
    exact = sum(is_exact(report) for report in reports)
    kind = "good" if exact == len(reports) else "bad"
    yield f'<p class="verdict {kind}">{exact} of {len(reports)} tests saw every event once and none wrong.</p>'
    for table in (compare.figures(reports, names), compare.differences(reports, names)):
        if len(reports) > _COLUMNS_MAX:
            table = compare.turned(table)
        yield f"<h2>{safe(table.title)}</h2>{_table(table)}"
    yield "<h2>Side by side</h2>"
    by_name = {metric.name: metric for metric in compare.METRICS}
    for name in _DRAWN:
        metric = by_name[name]
        values = [metric.value(report) for report in reports]
        if any(values):
            rows = [(heading, value, metric.show(value)) for heading, value in zip(headings, values, strict=True)]
            direction = "less" if metric.is_less_better else "more"
            yield f'<h3>{safe(name)} <span class="dim">({direction} is better)</span></h3>{drawing.bars(rows, name)}'
    yield "<h2>Results</h2>"
    for heading, report in zip(headings, reports, strict=True):
        yield f"<h3>{safe(heading)}</h3><p>{safe(summary.verdict(report))}</p>"
        yield f'<p class="dim">{safe(summary.title(report))}; {safe(report["time"])}</p>'


def _table(table: summary.Table) -> str:
    heading, *rows = table.rows
    is_prose = heading[1:] == ["value"]
    lines = [] if is_prose else ["".join(f"<th>{safe(cell)}</th>" for cell in heading)]
    lines += ["".join(f"<td>{safe(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table{" class=" + chr(34) + "prose" + chr(34) if is_prose else ""}>{body}</table></div>'
