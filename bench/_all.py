"""Run the benches one after another and write one report: report.md, report.json, and a plot (SVG) of each curve.

    python bench/_all.py [NAME...] [--output DIRECTORY] [-- OPTIONS OF THE BENCHES]

Each bench runs in its own process with --json, with sizes that keep the total time below ten minutes. Give names to run
only some benches. Options after `--` are passed to each bench; `-- --small` runs all of them in a minute, only to check
that they work. If a bench fails, its output is in the report and the other benches still run. script/bench calls this
script.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import common

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 300

#: Options of benches for a run of all benches, where their defaults would take too long.
QUICK: dict[str, list[str]] = {
    "build_cost": ["--rounds", "2", "--images", "10000"],
    "host_tax": ["--rounds", "4", "--bursts", "40"],
    "everyday": ["--seconds", "3", "--rates", "2,100,1000,5000"],
    "worst_day": ["--seconds", "10", "--runs", "1", "--hours", "0.01"],
    "load_paired": ["--pairs", "20", "--load-pairs", "6", "--duration", "1"],
    "fleet": ["--hosts", "20", "--rate", "2000", "--events", "3000000"],
    "publish": ["--events", "150000", "--runs", "2"],
    "subscribe": ["--events", "60000", "--runs", "2"],
    "ingest_replay": ["--events", "200000", "--runs", "3"],
    "readers_hammer": ["--reads", "2000000", "--rounds", "7"],
    "growth_entries": ["--rounds", "5"],
    "growth_readers": ["--rounds", "5"],
}


def benches() -> list[str]:
    """Return the names of all benches: every executable script except this one."""
    found = (path for path in HERE.glob("*.py") if not path.name.startswith("_") and '"__main__"' in path.read_text())
    return sorted(path.stem for path in found)


def run(name: str, options: Sequence[str]) -> dict[str, Any]:
    """Run one bench; returns its report, or {"bench", "failed"} if it has none."""
    begin = time.perf_counter()
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", *(options or QUICK.get(name, []))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {"bench": name, "failed": f"it took more than {TIMEOUT_S} s"}
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()[-12:]
        return {"bench": name, "failed": f"exit code {done.returncode}", "said": said}
    report |= {"bench": name, "command": ["bench/" + f"{name}.py", *command[3:]], "took_s": time.perf_counter() - begin}
    if done.returncode:
        report["failed"] = f"exit code {done.returncode}"
    return report


def as_markdown(report: dict[str, Any], plots: Sequence[str]) -> str:
    """Return the section of report.md for one bench."""
    lines = [f"## {report['bench']}", ""]
    if "question" in report:
        lines += [report["question"], ""]
    if "failed" in report:
        lines += [f"**Failed**: {report['failed']}", "", *block(report.get("said", ()))]
    if "took_s" in report:
        lines += block([f"$ python {' '.join(report['command'])}    ({report['took_s']:.0f} s)"])
    if report.get("rows"):
        lines += block([common.tables(report["rows"])])
    lines += [f"- {note}" for note in report.get("notes", ())]
    for name in plots:
        lines += ["", f"![{name.removesuffix('.svg')}]({name})"]
    return "\n".join(lines) + "\n"


def is_loaded(report: dict[str, Any]) -> bool:
    """Whether other programs kept the machine busy before a bench."""
    return bool(report.get("machine", {}).get("busy_cores_before", 0) > common.QUIET_BUSY_CORES)


def block(lines: Sequence[str]) -> list[str]:
    """Return a Markdown block with preformatted lines."""
    return ["```text", *lines, "```", ""] if lines else []


def summary(reports: Sequence[dict[str, Any]]) -> str:
    """Return the failed benches and a table of all questions, figures and targets."""
    lines = [f"**{each['bench']} failed**: {each['failed']}\n" for each in reports if "failed" in each]
    lines += ["| question | figure | measured | target | |", "| --- | --- | --- | --- | --- |"]
    for report in reports:
        question = report.get("question", report["bench"])
        for target in report.get("targets", ()):
            sign = "≤" if target["is_upper_bound"] else "≥"
            cells = [
                question, target["name"], f"{common.number(target['value'])} {target['unit']}",
                f"{sign} {target['limit']:,g}",
                ("reached" if target["is_reached"] else "**missed**") + target["remark"],
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
            question = ""
        if not report.get("targets"):
            lines.append(f"| {question} | see [{report['bench']}](#{report['bench']}) | | | |")
    return "\n".join(lines) + "\n"


def plot(curves: Sequence[dict[str, Any]], directory: Path) -> list[str] | None:
    """Draw each curve into its own file; returns the file names, or None if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("svg")
    from matplotlib import pyplot

    names = []
    for curve in curves:
        figure, field = pyplot.subplots(figsize=(7, 3.5))
        for series, values in curve["y"].items():
            field.plot(curve["x"], values, marker="o", label=series)
        # A logarithmic axis suits sizes that grow by factors; a linear one is needed if the first size is 0.
        if 0 < min(curve["x"]) * 10 <= max(curve["x"]):
            field.set_xscale("log")
            field.set_xticks(curve["x"], [f"{x:,}" for x in curve["x"]])
            field.minorticks_off()
        field.set_ylim(bottom=0)  # a flat curve should look flat
        field.set(title=curve["title"], xlabel=curve["x_label"], ylabel=curve["y_label"])
        field.grid(alpha=0.3)
        field.legend()
        figure.tight_layout()
        names.append(re.sub(r"[^a-z0-9]+", "-", curve["title"].lower()).strip("-") + ".svg")
        figure.savefig(directory / names[-1], metadata={"Date": None})
        pyplot.close(figure)
    return names


def main(argv: list[str] | None = None) -> int:
    """Run the selected benches; returns 1 if one failed."""
    arguments = sys.argv[1:] if argv is None else argv
    own = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="name of a bench; none: all")
    parser.add_argument("--list", action="store_true", help="print the names of all benches")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="directory for the report")
    options = parser.parse_args(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    known = benches()
    if options.list:
        print("\n".join(known))
        return 0
    names = [name.removesuffix(".py") for name in options.names] or known
    for name in names:
        if name not in known:
            parser.error(f"there is no bench {name!r}: use one of {', '.join(known)}")
    machine = common.machine()
    when = datetime.now(UTC).isoformat(timespec="seconds")
    print(common.table([{"fact": key, "": str(value)} for key, value in machine.items()]), flush=True)
    reports = []
    for name in names:
        reports.append(run(name, own))
        print("\n" + as_markdown(reports[-1], ()), flush=True)
    written = write(options.output, when, machine, reports)
    print(summary(reports))
    print(f"written to {options.output}: {', '.join(written)}")
    return 1 if any("failed" in report for report in reports) else 0


def write(directory: Path, when: str, machine: dict[str, Any], reports: list[dict[str, Any]]) -> list[str]:
    """Write the report; returns the names of its files."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.svg"):
        old.unlink()
    whole = {"time": when, "machine": machine, "reports": reports}
    (directory / "report.json").write_text(json.dumps(whole, indent=1) + "\n")
    written = ["report.md", "report.json"]
    parts = []
    for report in reports:
        names = plot(report.get("curves", ()), directory) if report.get("curves") else []
        if names is None:
            report.setdefault("notes", []).append("matplotlib is not installed: the curves are only in report.json")
        parts.append(as_markdown(report, names or ()))
        written += names or ()
    facts = [{"fact": key, "value": str(value)} for key, value in machine.items()]
    beginning = f"# Procline, benchmarks of {when}\n\n" + "\n".join(block([common.table(facts)]))
    if any("--small" in report.get("command", ()) for report in reports):
        beginning += "\n**Run with --small**: this only shows that the benches work; the figures are meaningless.\n"
    loaded = [each["bench"] for each in reports if is_loaded(each)]
    if loaded:
        beginning += f"\n**Other programs loaded the machine** before {', '.join(loaded)}: figures are upper bounds.\n"
    (directory / "report.md").write_text(f"{beginning}\n{summary(reports)}\n" + "\n".join(parts))
    return written


if __name__ == "__main__":
    sys.exit(main())
