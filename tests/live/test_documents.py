"""Every command and program of the README and the documents runs, on one instance (see tests/docs/blocks.py).

So does every program in examples/, and each shows what it is for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from importlib.metadata import metadata
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.blocks import Block, all_blocks
from tests.hierarchy import cgroup_v2_root, remove_cgroups
from tests.live.harness import CHECKOUT, Daemon
from tests.private_root import entering
from tests.sampling import chosen
from tests.waiting import eventually

#: What a block may take, until its end or, if it runs until it is stopped, until it prints something.
LIMIT_S = 120
#: More at a time would make each so slow that it could fail for that.
AT_ONCE = 4
CONTAINER = "0123456789abcdef" * 4
#: A part of the screen of `procline top`.
SCREEN = re.compile(rb"ev(?:ents)?/s")
#: How often a block is tried whose instance is behind.
BEHIND_MAX = 4
#: A recording that a block opens.
_OPENED = re.compile(r"""(?:--replay |ProcessTable\.open\(")([\w.]+)""")
_EXTRAS = re.compile(r"'procline\[([\w,]+)\]'")
#: A file that a block writes instead of printing.
_WRITTEN = re.compile(r"jsonl:(/\S+)")
#: The container of docs/guides/containers.md.
DOCUMENTED_CONTAINER = "4f1c" * 16


@pytest.fixture(scope="module")
def place(live_kernel: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An instance with the default name, as the documents assume, on a host where something happens."""
    directory = tmp_path_factory.mktemp("busy")
    # One example names the senders of signals.
    with Daemon("[capture]\nsignal_senders = 'on'\n", name="default") as daemon, busy(directory):
        yield daemon


@contextmanager
def busy(directory: Path) -> Iterator[None]:
    """Let processes come and go: also those that some documents look for.

    These are a shell below a web server, a build, a failing job, a process of www-data, an sshd, and a container.
    """
    server, build, logins = directory / "nginx", directory / "make", directory / "sshd"
    for program in (server, build, logins):
        shutil.copy("/bin/sh", program)
    over = threading.Event()
    root = cgroup_v2_root()
    assert root is not None, "a cgroup v2 hierarchy is needed"
    group = root / f"procline-documents-{os.getpid()}"
    inside = group / f"docker-{DOCUMENTED_CONTAINER}.scope"
    inside.mkdir(parents=True)
    commands = (
        ["sh", "-c", "ls / | sort > /dev/null; exit 3"],
        [server, "-c", "sh -c 'id > /dev/null'; true"],
        [server, "-c", "(sleep 0.2; sh -c 'echo > /dev/null; true') &"],
        [build, "-c", "sh -c 'true --report 3; exit 1'; true"],
        ["sh", "-c", f"echo $$ > {inside}/cgroup.procs; id > /dev/null; exit 3"],
    )

    def work() -> None:
        while not over.wait(0.5):
            for command in commands:
                subprocess.run(command, stdin=subprocess.DEVNULL, check=False)

    as_user = ["setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups"]
    lasting = [
        subprocess.Popen([*as_user, "sleep", "600"]),
        subprocess.Popen([logins, "-c", "while id > /dev/null; do sleep 0.5; done"]),
        subprocess.Popen(["sh", "-c", f"echo $$ > {inside}/cgroup.procs; exec sleep 600"]),
    ]
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for process in lasting:
            process.kill()
            process.wait()
        remove_cgroups(group, root)


def run(block: Block, directory: Path, environment: dict[str, str], limit_s: float = LIMIT_S) -> str | None:
    """Run a block in a directory; return what went wrong, or None."""
    if block.mark == "needs" and importlib.util.find_spec(block.detail) is None and shutil.which(block.detail) is None:
        return None
    directory.mkdir()
    for name in ("examples", "docs", "script", "tests"):
        (directory / name).symlink_to(CHECKOUT / name)
    (directory / ".venv").symlink_to(sys.prefix)
    (directory / "Makefile").write_text("all:\n\techo made > $@\n")
    if (found := _OPENED.search(block.script)) and f"record {found[1]}" not in block.script:
        # Some ask for what was five seconds before the end.
        record = ["procline", "record", found[1], "--seconds", "6"]
        subprocess.run(record, cwd=directory, env=environment, capture_output=True, check=True)
    if block.mark == "runs in a terminal":
        wrongs = (in_terminal(line, directory, environment, limit_s) for line in block.script.splitlines())
        wrong_lines = [each for each in wrongs if each]
        return f"{block.page}:{block.line}: {wrong_lines}" if wrong_lines else None
    if block.mark == "runs until stopped" and block.language == "sh":
        # Else the second one would never begin.
        ends = (run_alone(block, line, directory, environment, limit_s) for line in block.script.splitlines())
        return "\n".join(filter(None, ends)) or None
    for _ in range(BEHIND_MAX):
        wrong = run_alone(block, block.script, directory, environment, limit_s)
        # On a busy machine, tables can be behind, or the resolver late. The messages say: try again.
        if wrong is None or not ("behind by " in wrong or "does not answer at " in wrong):
            break
    return wrong


def run_alone(block: Block, script: str, directory: Path, environment: dict[str, str], limit_s: float) -> str | None:
    """Run the script of a block, a shell's in a root of its own; return what went wrong, or None."""
    command = [sys.executable, "-c"]
    if block.language != "python":
        (directory / ".root").mkdir(exist_ok=True)
        command = [*entering(directory / ".root"), "sh", "-euc"]
    wanted = int(block.detail) if block.mark == "fails with" else 0
    with (directory / ".output").open("w+b") as output:
        process = subprocess.Popen(
            [*command, script], cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip
        endless = block.mark == "runs until stopped"
        try:
            files = [Path(output.name), *(Path(f"/proc/{process.pid}/root{name}") for name in _WRITTEN.findall(script))]
            code: int | str = prints(process, files[-1], limit_s) if endless else process.wait(limit_s)
            wrong = code != ("printed" if endless else wanted)
        except subprocess.TimeoutExpired:
            code, wrong = f"none after {limit_s} s", True
        finally:
            # What a block leaves in the background ends with it.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                if not in_group(process.pid):
                    break
                os.killpg(process.pid, number)
                time.sleep(0.5)
            process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    # pip does not mind an extra that there is not.
    named = {extra for each in _EXTRAS.findall(script) for extra in each.split(",")}
    wrong |= not named <= set(metadata("procline").get_all("Provides-Extra", []))
    wrong |= wanted != 0 and text != block.shown
    return f"{block.page}:{block.line}: exit code {code}\n{script}\n{text[-2000:]}" if wrong else None


def in_terminal(line: str, directory: Path, environment: dict[str, str], limit_s: float) -> str | None:
    """Run a command in a terminal, press q when it has drawn something; return what went wrong, or None."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["sh", "-c", f"exec {line}"], cwd=directory, env=environment | {"TERM": "xterm-256color", "LINES": "24"},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    deadline = time.monotonic() + limit_s
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if select.select([ours], [], [], 1)[0]:
                with suppress(OSError):
                    drawn = (drawn + os.read(ours, 65536))[-100_000:]
            if SCREEN.search(drawn):
                os.write(ours, b"q")
        return None if process.poll() == 0 and SCREEN.search(drawn) else f"{line}: {process.poll()}: {drawn[-2000:]!r}"
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def prints(process: subprocess.Popen[bytes], output: Path, limit_s: float) -> int | str:
    """Wait until a program has printed or written something and still runs, or has ended; return its exit code then."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1)
        with suppress(FileNotFoundError):
            if output.stat().st_size:
                return "printed"
    raise subprocess.TimeoutExpired(process.args, limit_s)


def in_group(group: int) -> bool:
    """Return whether a process group still has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_block_runs(place: Daemon, tmp_path: Path) -> None:
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = dict(place.environment, PATH=tools, COLUMNS="120")
    environment.pop("PYTHONPATH")
    # `pip install` finds what it is to install, with each extra that it names; nothing is downloaded.
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
    chosen = [each for each in all_blocks() if each.is_run]
    # Those that are watched mostly wait, so they all run at once.
    watched = [each for each in chosen if each.mark.startswith("runs ") or " record " in each.script]
    with ThreadPoolExecutor(len(watched)) as waiting, ThreadPoolExecutor(AT_ONCE) as computing:
        results = [
            (waiting if each in watched else computing).submit(run, each, tmp_path / str(number), environment)
            for number, each in enumerate(chosen)
        ]
        wrong = [text for each in results if (text := each.result())]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.live
@pytest.mark.parametrize(
    ("language", "text", "mark"),
    [
        ("sh", "procline resolve 999999999", ""),
        ("sh", "false\ntrue", ""),
        ("python", "from pipeline import NoSuchName", ""),
        ("python", "print('ended')", "runs until stopped"),
        ("sh", "sleep 30", "runs until stopped"),
        ("sh", "true", "runs in a terminal"),
        ("sh", "procline top --columns nonesuch", "runs in a terminal"),
        ("sh", "pip install 'procline[nonesuch]'", ""),
        ("console", "$ procline resolve x\nanother message\n", "fails with"),
    ],
)
def test_a_block_that_does_not_run_is_found(place: Daemon, tmp_path: Path, language: str, text: str, mark: str) -> None:
    environment = dict(place.environment, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    environment |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
    detail = "2" if mark == "fails with" else ""
    limit_s = 1 if text == "sleep 30" else LIMIT_S
    assert run(Block("x.md", 1, language, text, mark, detail), tmp_path / "block", environment, limit_s) is not None


# -- examples ----------------------------------------------------------------------------------------------------------


def example(place: Daemon, name: str, *arguments: object, stdin: str = "") -> str:
    """Run a program of examples/ to its end, and return its output."""
    done = subprocess.run(
        [sys.executable, CHECKOUT / "examples" / name, *map(str, arguments)],
        env=place.environment, input=stdin, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.live
def test_top_spawners(place: Daemon) -> None:
    found = example(place, "top_spawners.py", 4)
    assert re.match(r"\d+ forks, 0 events missed\n", found)
    counts = {int(pid): int(count) for count, pid in re.findall(r"^ +(\d+) .* \(pid (\d+)\)$", found, re.MULTILINE)}
    # The thread of busy() in this process forks twice each time. Ten programs of other tests may have made more.
    assert counts[os.getpid()] >= 4 if os.getpid() in counts else len(counts) == 10 and min(counts.values()) >= 4


@pytest.mark.live
def test_web_shell_alert(place: Daemon, tmp_path: Path) -> None:
    text = f"python {CHECKOUT}/examples/web_shell_alert.py"
    block = Block("examples/web_shell_alert.py", 1, "sh", text, "runs until stopped")
    environment = dict(place.environment, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert run(block, tmp_path / "block", environment) is None
    assert re.search(
        r"ALERT shell below a web server: pid \d+ \['sh', '-c', '(id|echo) > /dev/null(; true)?'\] < nginx < ",
        (tmp_path / "block" / ".output").read_text(),
    )


@pytest.mark.live
def test_web_shell_alert_about_an_orphan(place: Daemon) -> None:
    """The server forks twice and ends; when the shell starts, its parent is the process that adopted it."""
    with subprocess.Popen(
        [sys.executable, CHECKOUT / "examples" / "web_shell_alert.py"],
        env=place.environment, text=True, stdout=subprocess.PIPE, process_group=0,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        killer = threading.Timer(LIMIT_S, process.kill)
        killer.start()
        alert = r"ALERT shell below a web server: pid \d+ \['sh', '-c', 'echo > /dev/null; true'\] < .*\bnginx\b"
        found = any(re.search(alert, line) for line in process.stdout)
        killer.cancel()
        process.kill()
    assert found


@pytest.mark.live
def test_log_lineage_also_of_a_process_that_has_ended(place: Daemon) -> None:
    ended = subprocess.Popen(["sh", "-c", "true"])
    ended.wait()
    with place.attach() as table:
        table.resolve(ended.pid, wait_ms=60_000)
    found = example(place, "log_lineage.py", stdin=f"sh[{ended.pid}]: done\nwithout a pid\n")
    assert re.match(rf"sh\[{ended.pid}\]: done  \[from .*\({os.getpid()}\)( < .*)?\]\nwithout a pid\n$", found)


@pytest.mark.live
def test_container_processes(place: Daemon) -> None:
    root = cgroup_v2_root()
    assert root is not None
    group = root / f"procline-test-{os.getpid()}"
    scope = group / f"docker-{CONTAINER}.scope"
    scope.mkdir(parents=True)
    inside = subprocess.Popen(["sleep", "60"])
    try:
        (scope / "cgroup.procs").write_text(str(inside.pid))
        deadline = time.monotonic() + 60
        while f"{inside.pid:7} " not in (found := example(place, "container_processes.py", CONTAINER[:12])):
            assert time.monotonic() < deadline, found
        assert "['sleep', '60']" in found
        assert f"1 processes in {CONTAINER}\n" in example(place, "container_processes.py")
    finally:
        inside.kill()
        inside.wait()
        remove_cgroups(group, root)


@pytest.mark.live
def test_exec_counts_include_images_that_were_replaced(place: Daemon, tmp_path: Path) -> None:
    program = tmp_path / "replaced"
    shutil.copy("/bin/sh", program)
    for _ in range(50):  # enough to be among the first on a busy host
        subprocess.run([program, "-c", "exec true"], check=True)
    deadline = time.monotonic() + 60
    while f"     50 {program}\n" not in (found := example(place, "exec_counts.py", 1)):
        assert time.monotonic() < deadline, found


@pytest.mark.live
def test_life_times(place: Daemon) -> None:
    lines = example(place, "life_times.py", 3).splitlines()
    assert lines and all(re.match(r"up to +[\d.,]+ ms +\d+ #*$", line) for line in lines)
    assert sum(int(line.split()[4]) for line in lines) >= 8


@pytest.mark.live
def test_sqlite_export(place: Daemon, tmp_path: Path) -> None:
    example(place, "sqlite_export.py", tmp_path / "events.db", 3)
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        rows = database.execute("SELECT argv FROM events WHERE event = 'exec' AND path LIKE '%/nginx'").fetchall()
        codes = database.execute("SELECT count(*) FROM events WHERE event = 'exit' AND exit_code = 3 << 8").fetchone()
    assert ["-c", "sh -c 'id > /dev/null'; true"] in [json.loads(argv)[1:] for (argv,) in rows]
    assert codes[0] >= 2


@pytest.mark.live
def test_wait_for_tree_also_waits_for_a_daemon(place: Daemon) -> None:
    found = example(place, "wait_for_tree.py", "sh", "-c", "(sleep 1 && exit 0) > /dev/null & exit 3")
    assert re.match(r"\d+ sh 0:00:\S+ exit code 3 signal None\n", found)
    assert re.search(r"^\d+ sleep 0:00:0[1-9]\S+ exit code 0 signal None$", found, re.MULTILINE)


@pytest.mark.live
def test_who_killed(place: Daemon) -> None:
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.5):
            victim = subprocess.Popen(["sleep", "60"])
            victim.terminate()
            victim.wait()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found = example(place, "who_killed.py", 4)
    finally:
        over.set()
        thread.join()
    killed = rf"^\w+\(\d+\) was killed by Terminated, sent by .+\({os.getpid()}\) of user 0 < .+\({os.getppid()}\)"
    assert re.search(killed, found, re.MULTILINE), found


@pytest.mark.parametrize("name", chosen((path.name for path in sorted((CHECKOUT / "examples").glob("*.py"))), 3))
def test_an_example_says_how_to_use_it(name: str) -> None:
    done = subprocess.run(
        [sys.executable, CHECKOUT / "examples" / name, "--help"],
        env=dict(os.environ, PYTHONPATH=str(CHECKOUT)), capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert name in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def _is_connected(pid: int) -> bool:
    """Whether a process has the tables of an instance, or a socket."""
    targets = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            targets.append(str(descriptor.readlink()))
    return any(target.startswith("socket:") for target in targets) or "/hot" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.live
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("top_spawners.py", ["60"]), ("life_times.py", ["60"]), ("who_killed.py", []), ("web_shell_alert.py", []),
        ("log_lineage.py", []), ("sqlite_export.py", ["events.db"]), ("wait_for_tree.py", ["sleep", "60"]),
    ],
)  # fmt: skip
def test_ctrl_c_ends_an_example_without_a_traceback(
    place: Daemon, tmp_path: Path, name: str, arguments: list[str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, CHECKOUT / "examples" / name, *arguments],
        env=place.environment, cwd=tmp_path, text=True, process_group=0,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    # Before that it may still be importing.
    assert eventually(lambda: _is_connected(process.pid), LIMIT_S)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert "Traceback" not in errors
    assert process.returncode == (1 if name == "wait_for_tree.py" else 0), errors


@pytest.mark.live
def test_build_timeline(place: Daemon, tmp_path: Path) -> None:
    example(place, "build_timeline.py", tmp_path / "x.svg", "sh", "-c", "sleep 1 & sleep 0.1; echo '<&>'; wait")
    drawing = ElementTree.parse(tmp_path / "x.svg").getroot()
    bars = {bar[0].text: bar for bar in drawing}
    assert bars.keys() >= {"['sleep', '1']", "['sleep', '0.1']"} and len(drawing) == 3
    lengths = [float(bars[f"['sleep', '{seconds}']"].get("width")) for seconds in ("0.1", "1")]
    assert 1.3 < lengths[1] / lengths[0] < 15  # ten times as long, or less if other programs delay the short one
    assert bars["['sleep', '0.1']"].get("y") != bars["['sleep', '1']"].get("y")


@pytest.mark.live
@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_processes_frame(place: Daemon) -> None:
    assert re.search(r"/\S+ +\d+ ", example(place, "processes_frame.py"))
