"""What each kernel can do, tried: a storm, records against /proc, changes of credentials; and the table in the docs.

`tests/vm/kernels --suite bookworm` starts that kernel in a guest, runs this file with `--here` in it, keeps the row in
tests/vm/kernels.json and writes the tables of docs/kernels.md from all rows. `--all` does it with each of KERNELS, one
after another, `--host` with the running kernel.

Exit code 0: the kernel captures exactly, or what was lost is counted, changes are seen at once, and everything works
that works according to its row in kernels.json. 1: not all of that. Others are those of guest.py.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROWS = Path(__file__).with_name("kernels.json")
PAGE = ROOT / "docs" / "kernels.md"
CACHE = ROOT / ".cache" / "vm"
BEGIN, END = "<!-- written by tests/vm/kernels -->", "<!-- end -->"

#: Suite and flavour of the kernels that the documents show.
KERNELS = (
    ("bullseye", "cloud"), ("bookworm", "cloud"), ("", "cloud"), ("", "rt"), ("trixie-backports=6.18", "cloud"),
    ("sid", "cloud"),
)  # fmt: skip
#: What a kernel may allow or not, by tier; see CREDENTIALS and others in pipeline/bpf/loader.py.
FEATURES = {
    "core": "fork, exec and exit",
    "context": "names, cgroups",
    "iter": "task iterator, for snapshot and repair",
    "signal": "`capture.signal_senders`",
    "calls": "`capture.calls`",
    "capability": "`capture.capabilities_usage`",
    "cred_fentry": "changes by `fentry`",
    "cred_kprobe": "changes by `kprobe`",
    "cred_sampled": "changes by `sampled`",
    "cred_syscalls": "changes by `syscalls`",
}

FORKS, EXECS = 2000, 500
THREADED = 1500  # processes with two threads, which may end at the same moment and then both see no live thread
RING_BYTES = 8 << 20
PREFIX = "row: "
#: What each row has.
ROW = (
    "release", "is_rt", "lacks", "tiers", "made", "recorded", "lost", "head_only", "differs", "changes", "misses_calls",
    "features", "is_exact", "from", "date",
)  # fmt: skip


def main() -> int:
    """Examine a kernel, or start one for it."""
    parser = argparse.ArgumentParser(prog="tests/vm/kernels", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--here", action="store_true", help="examine the running kernel, and print its row")
    parser.add_argument("--all", action="store_true", help="examine the kernels of the documents, and write the tables")
    parser.add_argument("--host", action="store_true", help="examine the running kernel, and write the table")
    parser.add_argument("--suite", default="", help="as of tests/vm/run: examine this kernel in a guest")
    parser.add_argument("--flavour", default="cloud", help="as of tests/vm/run")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for the guest; default: %(default)g")
    parser.add_argument(
        "--no-table", action="store_true", help="compare with the kernel's row, but leave rows and tables as they are"
    )
    options = parser.parse_args()
    if options.here:
        row = examine()
        print(PREFIX + json.dumps(row), flush=True)
        return 0 if row["is_exact"] else 1
    print(f"workload: {workload()}")
    if options.host:
        row = examine()
        row["from"] = "the host of these guests"
        is_kept = keep(row, has_table=not options.no_table)
        return 0 if row["is_exact"] and is_kept else 1
    code = 0
    for suite, flavour in KERNELS if options.all else [(options.suite, options.flavour)]:
        began = time.monotonic()
        row, this_code = in_guest(suite, flavour, options.timeout)
        if row is not None and not keep(row, has_table=not options.no_table):
            this_code = this_code or 1
        print(
            f"kernels: {suite or 'trixie'}, {flavour}: exit code {this_code}, {time.monotonic() - began:.0f} s",
            flush=True,
        )
        code = code or this_code
    return code


def keep(row: dict[str, Any], *, has_table: bool) -> bool:
    """Print a row, and write the tables with it; return whether everything still works that worked before."""
    row["date"] = time.strftime("%Y-%m-%d")
    assert set(row) == set(ROW), set(row) ^ set(ROW)
    print(json.dumps(row, indent=1))
    kernel = f"Linux {row['release']} ({row['from']})"
    before = committed(row)
    if before is None:
        print(f"kernels: {kernel} has no row in {ROWS.name}: its features are compared with none")
    gone = lost(row, before) if before is not None else []
    for what in gone:
        print(f"kernels: {kernel} NO LONGER SUPPORTS {what}")
    if gone:
        print(
            f"kernels: it did in its row in {ROWS.name}; the output above has the reasons. "
            "If this is right, remove the row and try the kernel again"
        )
    elif has_table:
        write(row)
    return not gone


def committed(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row that is kept of the same kernel, else the newest one of the same suite and flavour."""
    mine = [each for each in kept() if each["from"] == row["from"]]
    return next((each for each in mine if series(each) == series(row)), mine[-1] if mine else None)


def lost(row: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Return what worked in another row of the same kernel, and does not in this one."""

    def off(what: str) -> list[str]:
        return [name for name, had in before[what].items() if had and not row[what].get(name)]

    features = off("features")
    gone = [f"{name}: {FEATURES.get(name, 'not tried')}" for name in features]
    # `unseen` expects only what the tiers that are on can see.
    gone += [f"{name} with the settings of this test" for name in off("tiers") if name not in features]
    gone += [f"a change at once: {name}" for name in off("changes")]
    if row["lacks"] and not before["lacks"]:
        gone.append(f"the newer set of programs: {', '.join(row['lacks'])}")
    return gone


def workload() -> Path:
    """Compile the storm, here: in a guest it would take long. A static program, which needs nothing of the guest."""
    CACHE.mkdir(parents=True, exist_ok=True)
    program, source = CACHE / "workload", ROOT / "tests" / "live" / "workload.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["gcc", "-static", "-O1", "-pthread", source, "-o", program], check=True)
    return program


def in_guest(suite: str, flavour: str, timeout_s: float) -> tuple[dict[str, Any] | None, int]:
    """Return the row of a kernel of Debian's, and the exit code."""
    sys.path.insert(0, str(Path(__file__).parent))
    import debian
    import guest

    try:
        guest.require()
        directory = debian.kernel(guest.CACHE, flavour, *debian.parse_suite(suite))
        output = bytearray()

        def keep_output(piece: bytes, _cpu_s: float) -> bool:
            output.extend(piece)
            return False

        python = os.environ.get("PROCLINE_VM_PYTHON") or str(ROOT / ".venv" / "bin" / "python")
        code = guest.run(directory, [python, "tests/vm/kernels.py", "--here"], timeout_s=timeout_s, watch=keep_output)
    except debian.NotPossibleError as error:
        print(f"vm: NO GUEST: {error}", file=sys.stderr)
        return None, guest.NOT_POSSIBLE
    for line in output.decode(errors="replace").splitlines():
        if line.startswith(PREFIX):
            row = json.loads(line.removeprefix(PREFIX))
            row["from"] = origin(suite, flavour)
            return row, code
    return None, code or 1


def origin(suite: str, flavour: str) -> str:
    """Return where a kernel is from, as the tables say it."""
    return f"Debian {suite or 'trixie'}{'' if flavour == 'cloud' else f', {flavour}'}"


# -- on the kernel ----------------------------------------------------------------------------------------------------


def examine() -> dict[str, Any]:
    """Load a capture and try it, then load each other method for changes; return what was seen."""
    sys.path.insert(0, str(ROOT))
    from pipeline.bpf.loader import CREDENTIALS, Capture

    began = time.monotonic()
    methods = {kind.name: method for method, kind in CREDENTIALS.items()}
    row: dict[str, Any] = {"release": os.uname().release, "is_rt": "PREEMPT_RT" in os.uname().version}
    with Capture(
        ring_bytes=RING_BYTES, credentials="auto", capabilities_usage="on", signal_senders="on", calls="on"
    ) as capture:
        print(f"loaded after {time.monotonic() - began:.0f} s", flush=True)
        row["lacks"] = list(capture.lacks)
        row["tiers"] = {tier.name: tier.detail if tier.is_on else None for tier in capture.tiers}
        for tier in capture.tiers:
            if not tier.is_on:
                print(f"{tier.name} is off: {tier.detail}", flush=True)
        row |= storm(capture, FORKS, EXECS)
        print(f"storm after {time.monotonic() - began:.0f} s: {row['recorded']} of {row['made']}", flush=True)
        threaded = storm(capture, THREADED, 0, width=1, threads=1)
        print(f"threads after {time.monotonic() - began:.0f} s: {threaded['recorded']}", flush=True)
        row["differs"] = differences(capture)
        row["changes"] = changes(capture)
        row["misses_calls"] = bool(row["tiers"]["calls"]) and not sees_debuggers(capture)
    row["features"] = {
        name: bool(row["tiers"].get(name)) or (name in methods and loads(methods[name])) for name in FEATURES
    }
    row["features"]["calls"] &= not row["misses_calls"]
    print(f"methods after {time.monotonic() - began:.0f} s", flush=True)
    row["is_exact"] = is_counted(row) and is_counted(threaded)
    row["is_exact"] &= not row["differs"] and not unseen(row) and not row["misses_calls"]
    return row


def loads(method: str) -> bool:
    """Return whether the kernel accepts a method for changes of credentials."""
    from pipeline.bpf.loader import Capture
    from pipeline.errors import LoadError, UnsupportedError

    try:
        with Capture(ring_bytes=1 << 16, credentials=method) as capture:
            return any(tier.name == f"cred_{method}" and tier.is_on for tier in capture.tiers)
    except (LoadError, UnsupportedError) as error:
        print(f"{method}: {error}", flush=True)
        return False


def is_counted(row: dict[str, Any]) -> bool:
    """Return whether everything that a storm made was recorded, or counted as lost."""
    return all(made <= row["recorded"][kind] + row["lost"][kind] for kind, made in row["made"].items())


def unseen(row: dict[str, Any]) -> list[str]:
    """Return the changes that should have been recorded at once, and were not."""
    expected = {"name"} if row["tiers"]["context"] else set()
    fentry = row["tiers"]["cred_fentry"]
    if fentry:
        expected |= {"user", "session", "network namespace"}
        expected |= {"login"} if "pl_set_loginuid" not in fentry else set()
    return sorted(name for name in expected if not row["changes"][name])


def storm(capture: Any, forks: int, execs: int, width: int = 8, threads: int = 0) -> dict[str, Any]:
    """Run forks and execs; return how many of each kind were made, recorded once, and counted as lost.

    At most `width` of the processes exist at a time. Each of them has `threads` more threads, which end together.
    """
    from pipeline.bpf import maps
    from pipeline.bpf.misses import Misses
    from pipeline.records import declared
    from tests.bpf.ring_reader import Reader

    kinds = {"fork": declared.KIND_FORK, "exec": declared.KIND_EXEC, "exit": declared.KIND_EXIT}
    misses = Misses(capture._program_fds, capture._link_fds, capture.fds.shared)
    states = maps.cpu_states(capture.fds.shared)

    def lost() -> dict[str, int]:
        misses.update()
        return {name: int(states["lost_samples"][:, kind].sum()) for name, kind in kinds.items()}

    before = lost()
    output = subprocess.run(
        [CACHE / "workload", "storm", str(forks), str(execs), str(width), str(threads)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    made = [line.split() for line in output.splitlines()]
    pids = {int(pid) for _, pid, _ in made}
    executed = {int(pid) for kind, pid, _ in made if kind == "exec"}
    reader = Reader(capture)
    reader.poll()
    mine = [record for record in reader.records if record.tgid in pids]
    seen = {name: Counter(record.tgid for record in mine if record.kind == kind) for name, kind in kinds.items()}
    after = lost()
    for name, counts in seen.items():
        twice = [pid for pid, count in counts.items() if count > 1]
        assert not twice, f"{name} recorded twice: {twice[:5]}"
    assert set(seen["exec"]) <= executed
    return {
        "made": {"fork": len(pids), "exec": len(executed), "exit": len(pids)},
        "recorded": {name: len(counts) for name, counts in seen.items()},
        "lost": {name: after[name] - before[name] for name in kinds},
        "head_only": int(states["head_only"].sum()),
    }


def differences(capture: Any) -> list[str]:
    """Compare the exec record of a live process and the iterator's output with /proc; return the differences."""
    from pipeline.bpf.iterator import read_tasks
    from pipeline.records import declared
    from tests.bpf.ring_reader import Reader

    reader = Reader(capture)
    arguments = ["an argument", "x" * 3000]
    command = [sys.executable, "-S", "-c", "input(); raise SystemExit(3)", *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd="/usr",
        process_group=0,
        preexec_fn=_differ,
    ) as child:
        record = reader.one(child.pid, declared.KIND_EXEC, 60)
        proc = Path(f"/proc/{child.pid}")
        stat = (proc / "stat").read_text().rpartition(")")[2].split()
        body = record.body
        assert body is not None and record.task is not None
        wanted_task = task_of(proc)
        expected: dict[str, tuple[Any, Any]] = {
            "path": (record.path, os.fsencode((proc / "exe").readlink())),
            "args": (record.args, (proc / "cmdline").read_bytes()),
            "cwd": (record.directories.get("cwd"), b"/usr"),
            "inode": (int(body["inode"]), (proc / "exe").stat().st_ino),
            "ppid": (int(record.header["ppid"]), os.getpid()),
            "start": (int(record.header["start_boot_ns"]) // 10_000_000, int(stat[19])),
        }
        expected |= {name: (record.task[name].item(), wanted) for name, wanted in wanted_task.items()}
        link = capture.fds.iter_link
        if link >= 0:
            tasks = read_tasks(link)
            at = tasks.header["tgid"].tolist().index(child.pid)
            expected["iterator's path"] = (tasks.paths[at], record.path)
            for name in ("start_boot_ns", "ppid"):
                expected[f"iterator's {name}"] = (int(tasks.header[name][at]), int(record.header[name]))
            for name, wanted in wanted_task.items():
                expected[f"iterator's {name}"] = (tasks.task[name][at].item(), wanted)
        child.communicate(b"\n")
        # Kernels keep the exit code of one thread, of several, and of a signal in different places.
        ends = {"one": child, "several": ended(_END_WITH_THREADS), "signal": ended(_END_BY_SIGNAL)}
        for how, process in ends.items():
            exit_ = reader.one(process.pid, declared.KIND_EXIT, 60).body
            assert exit_ is not None
            expected[f"exit code, {how}"] = (os.waitstatus_to_exitcode(int(exit_["exit_code"])), process.returncode)
        return [f"{name}: {seen!r} is not {wanted!r}" for name, (seen, wanted) in expected.items() if seen != wanted]


def _differ() -> None:
    """Get ids that differ from each other, as far as they survive an exec. With another real user, root stays root."""
    os.setresgid(1, 2, 3)
    os.setresuid(4, 0, 0)


def task_of(proc: Path) -> dict[str, Any]:
    """Return the name, ids, capabilities and namespaces of a process from /proc, by the fields of TASK."""
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    stat = (proc / "stat").read_text().rpartition(")")[2].split()
    found: dict[str, Any] = {"comm": (proc / "comm").read_bytes().rstrip(b"\n")}
    for kind in "uid", "gid":
        names = (kind, f"e{kind}", f"s{kind}", f"fs{kind}")
        found |= dict(zip(names, map(int, status[kind.capitalize()].split()), strict=True))
    found |= {"cap_effective": int(status["CapEff"], 16), "cap_permitted": int(status["CapPrm"], 16)}
    found |= {"pgid": int(stat[2]), "sid": int(stat[3]), "ns_pid": int(status["NSpid"].split()[-1])}
    found |= {f"{name}_ns": (proc / "ns" / name).stat().st_ino for name in ("pid", "mnt", "net", "user")}
    for field, name in (("auid", "loginuid"), ("audit_session", "sessionid")):
        if (proc / name).exists():
            found[field] = int((proc / name).read_text())
    return found


_END_WITH_THREADS = "import os, threading; threading.Thread(target=threading.Event().wait).start(); os._exit(3)"
_END_BY_SIGNAL = "import os; os.kill(os.getpid(), 9)"


def ended(code: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-S", "-c", code])
    process.wait()
    return process


def changes(capture: Any) -> dict[str, bool]:
    """Return which changes of a live process were recorded at once."""
    from pipeline.records import declared
    from tests.bpf.ring_reader import Reader

    reader = Reader(capture)
    acts = {
        "user": (declared.KIND_CRED, "os.setuid(65534)"),
        "session": (declared.KIND_SID, "os.setsid()"),
        "name": (declared.KIND_COMM, "open('/proc/self/comm', 'w').write('renamed')"),
        "network namespace": (declared.KIND_SID, "os.unshare(os.CLONE_NEWNET)"),
        "login": (declared.KIND_CRED, "open('/proc/self/loginuid', 'w').write('1000')"),
    }
    seen = {}
    for name, (kind, act) in acts.items():
        # The process waits, so that its exit is no reason for the record.
        code = f"import os\n{act}\nprint(flush=True)\ninput()"
        child = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        has_acted = bool(child.stdout.readline())
        reader.poll()
        seen[name] = has_acted and bool(reader.of(child.pid, kind))
        child.communicate(b"\n")
    return seen


def sees_debuggers(capture: Any) -> bool:
    """Return whether calls of ptrace(2) are recorded: a compiler may put the traced function into its callers."""
    from tests.bpf.queued_calls import take_calls

    trace_me, seize = 0, 0x4206
    ptrace = ctypes.CDLL(None).ptrace
    code = f"import ctypes; ctypes.CDLL(None).ptrace({trace_me}, 0, 0, 0); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    traced = subprocess.Popen([sys.executable, "-c", code], **pipes)
    with traced, subprocess.Popen(["cat"], **pipes) as target:
        assert traced.stdout is not None and traced.stdout.readline()
        assert ptrace(seize, ctypes.c_long(target.pid), None, None) == 0
        calls = take_calls(capture.fds.calls)
        seen = {(call.pid, call.body.get("target"), call.body.get("request")) for call in calls}
        traced.communicate(b"\n")
        target.communicate(b"")
    return {(traced.pid, 0, trace_me), (os.getpid(), target.pid, seize)} <= seen


# -- the table --------------------------------------------------------------------------------------------------------


def kept() -> list[dict[str, Any]]:
    """Return the rows, oldest kernel first."""
    rows: list[dict[str, Any]] = json.loads(ROWS.read_text()) if ROWS.exists() else []
    return rows


def write(row: dict[str, Any]) -> None:
    """Keep the row, and write the tables from all rows."""
    rows = [each for each in kept() if each["from"] != row["from"] or series(each) != series(row)] + [row]
    rows.sort(key=lambda each: ([int(part) for part in series(each).split(".")], each["is_rt"], each["from"]))
    ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(rows)}\n{END}{tail}")


def series(row: dict[str, Any]) -> str:
    """Return major and minor version."""
    return ".".join(row["release"].split(".")[:2])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the tables as Markdown."""
    lines = [
        "| Linux | from | tried on | programs | forks, execs and exits recorded | lost, counted | as `/proc` |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        made, recorded, lost = (row[name] for name in ("made", "recorded", "lost"))
        shown = ", ".join(f"{recorded[kind]:,} of {made[kind]:,}" for kind in made)
        missing = sum(made[kind] - recorded[kind] for kind in made)
        lines.append(
            f"| {row['release']} | {row['from']} | {row['date']} | "
            f"{'older' if row['lacks'] else 'newer'} set | {shown} | "
            f"{sum(lost.values()) if missing else 'none'} | {'; '.join(row['differs']) or 'yes'} |"
        )
    names = list(rows[0]["changes"])
    lines += ["", f"| Linux | from | method for changes | {' | '.join(f'{n}, at once' for n in names)} | iterator |"]
    lines += ["| --- " * (len(names) + 4) + "|"]
    for row in rows:
        method = next((name for name, detail in row["tiers"].items() if name.startswith("cred_") and detail), "none")
        shown = " | ".join("yes" if row["changes"][name] else "no" for name in names)
        iterator = "yes" if row["tiers"].get("iter") else "no"
        lines.append(f"| {row['release']} | {row['from']} | `{method.removeprefix('cred_')}` | {shown} | {iterator} |")
    short = [f"{series(row)}{' rt' if row['is_rt'] else ''}" for row in rows]
    lines += ["", f"| | {' | '.join(short)} |", "| --- " * (len(rows) + 1) + "|"]
    for name, meaning in FEATURES.items():
        has = ["yes" if row["features"][name] else "no" for row in rows]
        lines.append(f"| {meaning} | {' | '.join(has)} |")
    lacking = [(row["release"], row["lacks"]) for row in rows if row["lacks"]]
    lines += ["", *(f"- {release} lacks {', '.join(lacks)}." for release, lacks in lacking)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if shutil.which("gcc") is None and "--here" not in sys.argv:
        sys.exit("tests/vm/kernels: gcc is not installed")
    sys.exit(main())
