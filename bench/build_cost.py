#!/usr/bin/env python3
"""Does `procline cost` say the same about a build as time(1), and how long does the answer take?

Method
    A daemon with default settings watches. `/usr/bin/time -v make -j2` builds a real C project: zlib, fetched by
    `apt-get source` from Debian, or what `--source` says. Then `procline cost --under` sums up the same make. Both
    count CPU time of everything that make waited for; time(1) has it from wait4(), in steps of 10 ms for user and
    system time each. Several rounds, each from a clean tree.
    The answer's time is that of the whole command `procline cost`, with a table of `--images` images and more, most of
    them of a shell that runs true(1) again and again.
Command
    python bench/build_cost.py [--rounds N] [--source DIRECTORY] [--json]     (root; Debian: time, make, gcc)
How to read it
    `difference` is cost against time(1); a positive one means that cost says more. `records` is what the records
    of the processes say, without the time in which they ended, which only the parent that waited knows. The answer's
    target is for CPU time, so that it does not depend on what else the machine does.
What it does not show
    User and system time of the ends: the kernel adds both to one number of the parent.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import live

PROJECT, GOAL = "zlib", "libz.a"
IMAGES = 30_000
SMALL = {"rounds": 1, "images": 400, "source": "own", "answers": 1}


def fetch(directory: Path) -> Path:
    """Return the unpacked and configured source of PROJECT, fetched with package lists in a directory of its own."""
    parts = Path("/etc/apt/sources.list.d")
    lists = directory / "lists"
    (lists / "partial").mkdir(parents=True)
    sources = directory / "source.sources"
    sources.write_text(
        "\n\n".join(
            re.sub(r"^Types:.*$", "Types: deb-src", part.read_text(), flags=re.MULTILINE)
            for part in sorted(parts.glob("*.sources"))
            if "debian.org" in part.read_text()
        )
    )
    options = [
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::lists={lists}",
        "-oAPT::Sandbox::User=root",
    ]
    for command in (["update", "-qq"], ["source", "-qq", "--download-only", "--tar-only", PROJECT]):
        subprocess.run(["apt-get", *options, *command], cwd=directory, check=True, stdout=subprocess.DEVNULL)
    (archive,) = directory.glob("*.orig.tar.*")
    subprocess.run(["tar", "xf", archive], cwd=directory, check=True)
    source = next(path for path in directory.iterdir() if (path / "configure").exists())
    subprocess.run(["./configure"], cwd=source, check=True, stdout=subprocess.DEVNULL)
    return source


def own(directory: Path) -> Path:
    """Return a project of this repository's C code, for machines without a network: a program, compiled 8 times."""
    shutil.copy(Path(__file__).parents[1] / "tests/live/workload.c", directory / "workload.c")
    objects = " ".join(f"workload{number}.o" for number in range(8))
    (directory / "Makefile").write_text(
        f".PHONY: {GOAL} clean\n{GOAL}: {objects}\n"
        f"%.o: workload.c\n\tgcc -O2 -pthread -c -o $@ $<\nclean:\n\trm -f {objects}\n"
    )
    return directory


def build(source: Path) -> tuple[int, float]:
    """Build once; return make's pid, and the CPU seconds that time(1) says."""
    subprocess.run(["make", "-s", "clean"], cwd=source, check=True, stdout=subprocess.DEVNULL)
    report, pid = source / "time.txt", source / "pid.txt"
    script = f"echo $$ > {pid}; exec make -s -j2 {GOAL}"
    subprocess.run(
        ["/usr/bin/time", "-v", "-o", report, "sh", "-c", script], cwd=source, check=True, stdout=subprocess.DEVNULL
    )
    seconds = re.findall(r"(?:User|System) time \(seconds\): ([\d.]+)", report.read_text())
    return int(pid.read_text()), sum(map(float, seconds))


def answer_s(daemon: live.Daemon, answers: int, *arguments: str) -> tuple[float, float]:
    """Return how long the command takes, and its CPU time, in seconds: the medians of `answers` calls."""
    took, used = [], []
    for _ in range(answers):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = daemon.cli("cost", *arguments)
        took.append(time.perf_counter() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    return statistics.median(took), statistics.median(used)


def main(argv: list[str] | None = None) -> int:
    """Run the bench."""
    made = common.parser(__doc__)
    made.add_argument("--rounds", type=int, default=5, help="builds (default %(default)s)")
    made.add_argument(
        "--source",
        help=f"directory with a Makefile that has the goals {GOAL} and clean, or `own`: C code of this repository",
    )
    made.add_argument("--images", type=int, default=IMAGES, help="images in the large table (default %(default)s)")
    made.add_argument("--answers", type=int, default=5, help="runs of each `procline cost` (default %(default)s)")
    options = common.parse(made, argv, SMALL)
    report = common.begin(__file__, __doc__, options)
    with tempfile.TemporaryDirectory(prefix="procline-bench-") as directory:
        if options.source is None:
            source = fetch(Path(directory))
        elif options.source == "own":
            source = own(Path(directory))
        else:
            source = Path(directory) / "source"
            shutil.copytree(options.source, source)
        with live.Daemon() as daemon:
            common.settle(options, live.SETTLES_S)
            for number in range(1, options.rounds + 1):
                pid, expected = build(source)
                time.sleep(1)
                found: dict[str, Any] = json.loads(daemon.cli("cost", "--under", str(pid), "--json").stdout)
                total = found["total"]
                cost_s = total["cpu_ns"] / 1e9
                report.rows.append({
                    "build": number, "processes": total["processes"], "time(1) s": round(expected, 2),
                    "cost s": round(cost_s, 3), "records s": round((total["cpu_ns"] - total["rest_cpu_ns"]) / 1e9, 3),
                    "difference %": round(100 * (cost_s / expected - 1), 2),
                    "lost exits": found["coverage"]["lost_exits"],
                })  # fmt: skip
            worst = max(abs(row["difference %"]) for row in report.rows)
            report.target("difference to time(1)", worst, 2.0, "%")
            storm = shutil.which("true") or "/bin/true"
            script = f"i=0; while [ $i -lt {options.images // 2} ]; do {storm}; i=$((i+1)); done"
            subprocess.run(["sh", "-c", script], check=True)
            time.sleep(1)
            images = daemon.stat()["entries"]["images"]
            for name, arguments in (("", []), (" --under PID", ["--under", str(os.getpid())])):
                took, used = answer_s(daemon, options.answers, *arguments)
                report.notes.append(f"`procline cost{name}` took {took:.2f} s, of it {used:.2f} s of CPU time")
                report.target(f"`procline cost{name}`, {images:,} images, CPU time", round(used, 2), 1.0, "s")
    return common.finish(report, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
