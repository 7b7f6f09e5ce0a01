"""Run the benches one after another and write one report: bench/results/report.txt, report.json, and curves.png.

Each bench runs as a process of its own with --json, in a size that keeps the whole under about five minutes; a name
and options of one's own run just that, in the size wanted. A bench that fails is in the report with what it said. The
plot needs matplotlib; without it the curves are in the JSON. Called by script/bench.

    python bench/_all.py [NAME...] [--output DIRECTORY] [-- OPTIONS OF THE BENCHES]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import common

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 600

#: Where the defaults of a bench take longer than a round through all of them should.
QUICK: dict[str, list[str]] = {
    "publish": ["--events", "150000", "--runs", "2"],
    "ingest_replay": ["--events", "200000", "--runs", "3"],
    "readers_hammer": ["--reads", "2000000", "--pairs", "3", "--events", "200000"],
    "readers_latency": ["--runs", "30"],
}


def benches() -> list[str]:
    """Names of all scripts that are benches: those that can be started and are not this one."""
    found = (path for path in HERE.glob("*.py") if not path.name.startswith("_") and '"__main__"' in path.read_text())
    return sorted(path.stem for path in found)


def run(name: str, options: Sequence[str]) -> dict[str, Any]:
    """Run one bench; returns its report, or {"bench", "failed"}."""
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


def as_text(report: dict[str, Any]) -> str:
    """One bench's report as text."""
    lines = [f"== {report['bench']}"]
    if "failed" in report:
        lines += [f"FAILED: {report['failed']}", *report.get("said", ())]
    if "took_s" in report:
        lines.append(f"$ python {' '.join(report['command'])}    ({report['took_s']:.0f} s)")
    if "question" in report:
        lines.append(report["question"])
    rows = report.get("rows") or report.get("results")
    if rows:
        lines += ["", common.tables(rows)]
    elif "failed" not in report:
        known = ("bench", "command", "took_s", "machine", "kernel", "cores", "versions", "curves")
        flat = _flat({key: value for key, value in report.items() if key not in known})
        lines += ["", common.table([{"figure": key, "value": value} for key, value in flat])]
    lines += [""] if report.get("targets") else []
    for target in report.get("targets", ()):
        verdict = "reached" if target["is_reached"] else "MISSED"
        sign = "<=" if target["is_upper_bound"] else ">="
        value = common.number(target["value"])
        lines.append(f"{verdict}: {target['name']}: {value} {target['unit']} (target {sign} {target['limit']:g})")
    lines += [f"note: {note}" for note in report.get("notes", ())]
    return "\n".join(lines) + "\n"


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """(dotted name, figure) of everything in nested objects and lists."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}" if name else key)]
    if isinstance(value, list):
        return [pair for i, inner in enumerate(value) for pair in _flat(inner, f"{name}[{i}]")]
    return [(name, value)]


def plot(curves: Sequence[dict[str, Any]], target: Path) -> bool:
    """Draw each curve in a field of its own; returns whether matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, fields = pyplot.subplots(len(curves), 1, figsize=(7, 3.5 * len(curves)), squeeze=False)
    for field, curve in zip(fields[:, 0], curves, strict=True):
        for series, values in curve["y"].items():
            field.plot(curve["x"], values, marker="o", label=series)
        # Sizes go by factors of ten; nothing below zero, so that flat looks flat.
        if min(curve["x"]) > 0 and max(curve["x"]) >= 50 * min(curve["x"]):
            field.set_xscale("log")
        field.set_ylim(bottom=0)
        field.set(title=curve["title"], xlabel=curve["x_label"], ylabel=curve["y_label"])
        field.grid(alpha=0.3)
        field.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
    return True


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; returns 1 if a bench failed."""
    arguments = sys.argv[1:] if argv is None else argv
    own = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a bench; none: all")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="directory for the report")
    options = parser.parse_args(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    known = benches()
    names = [name.removesuffix(".py") for name in options.names] or known
    for name in names:
        if name not in known:
            parser.error(f"there is no bench {name!r}: {', '.join(known)}")
    machine = common.machine()
    facts = "".join(f"{key:18} {value}\n" for key, value in machine.items())
    when = datetime.now(UTC).isoformat(timespec="seconds")
    print(facts, flush=True)
    reports = []
    for name in names:
        reports.append(run(name, own))
        print(as_text(reports[-1]), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    curves = [curve for report in reports for curve in report.get("curves", ())]
    whole = {"time": when, "machine": machine, "reports": reports}
    (options.output / "report.json").write_text(json.dumps(whole, indent=1) + "\n")
    (options.output / "report.txt").write_text(f"{when}\n{facts}\n" + "\n".join(map(as_text, reports)))
    written = ["report.txt", "report.json"]
    if curves:
        if plot(curves, options.output / "curves.png"):
            written.append("curves.png")
        else:
            print("no matplotlib here: the curves are in report.json, not drawn")
    print(f"written to {options.output}: {', '.join(written)}")
    return 1 if any("failed" in report for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
