"""A reader survives a file that is truncated under its mapping: it gets an error, no SIGBUS, and no wrong answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.shm.layout import layout
from tests.sampling import chosen
from tests.shm.handmade import Tables

ROOT = str(Path(__file__).parents[3])
KNOWN = layout.KNOWN_FILE | layout.KNOWN_COMM | layout.KNOWN_ARGS | layout.KNOWN_ENVS | layout.KNOWN_CREDS
HEAD = "import os, signal, sys; sys.path.insert(0, sys.argv[2])\nfrom pipeline.errors import *\n"

#: Makes all kinds of reads until an error occurs, and checks every answer before it.
LOOKS = (
    HEAD
    + """
from pipeline.shm.reader._reader import TableReader
reader = TableReader(sys.argv[1])
looks = {
    "resolve": lambda: reader.resolve(7).ppid == 3,
    "absent": lambda: reader.resolve(9) is None,
    "load": lambda: (e := reader.resolve(7).load()).path == "/bin/sh" and e.argv == ["sh", "-c"] and e.euid == 5,
    "credentials": lambda: reader.resolve(7).euid == 5,
    "environment": lambda: reader.resolve(7).envs == ["A=1"],
    "many": lambda: reader.resolve_many([7, 3])["tgid"].tolist() == [7, 3],
    "chain": lambda: [e.pid for e in reader.ancestors(7)] == [3],
    "chains": lambda: reader.ancestors_many([7])[0]["tgid"].tolist() == [3],
    "children": lambda: [e.pid for e in reader.children(3)] == [7],
    "walk": lambda: [e.pid for e in reader.walk()] == [3, 7],
    "running": lambda: [e.pid for e in reader.walk(exited=False)] == [3, 7],
    "descendants": lambda: [e.pid for e in reader._descendants(reader.resolve(3), "parent", True)] == [7],
    "rows": lambda: reader.rows()["tgid"].tolist() == [3, 7],
    "commit": lambda: len(reader.commit()) > 0,
    "status": lambda: len(reader.status()[0].header()) == 512,
    "used": lambda: reader.resolve(7).cpu_user_ns == 5,
    "key": lambda: reader.resolve(5, pid_ns=77) is None,
}
look = looks[sys.argv[3]]
assert look()
print("ready", flush=True)
try:
    while True:
        assert look(), "a wrong answer"
except LayoutError as error:
    print("LayoutError", error, flush=True)
"""
)
#: Which reads touch the pages of which segment.
TOUCHES = {
    "control": ("resolve", "absent", "commit", "status", "walk", "load"),
    "index": ("resolve", "absent", "many", "chain", "chains", "children", "walk", "rows", "running"),
    "hot": ("resolve", "load", "many", "chain", "chains", "children", "walk", "rows", "running", "descendants"),
    "cold": ("load", "credentials"),
    "costs": ("load", "used"),
    "names": ("load",),  # only the path is cached for as long as the row does not change
    "args": ("load",),
    "envs": ("environment",),
    "keys": ("key",),
}


@pytest.fixture
def tables(shm_dir: Path) -> Tables:
    """Two processes with all their strings on later pages than the first, so that one page of a file can be cut off."""
    tables = Tables(shm_dir)
    for name, skipped in (("names", b"n"), ("args", b"a"), ("envs", b"e")):
        tables.intern(name, skipped * 5000)
    tables.next_row = 70
    parent = tables.row(3)
    tables.row(
        7, ppid=3, euid=5, known=KNOWN | layout.KNOWN_COST, cpu_user_ns=5,
        file_ref=tables.file(b"/bin/sh"), args_ref=tables.strings("args", b"sh", b"-c"),
        envs_ref=tables.strings("envs", b"A=1"), ancestor=tables.link(parent), parent=tables.link(parent),
    )  # fmt: skip
    tables.commit(1, watermark_boot_ns=5)
    return tables


def run(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, arguments[0], ROOT, *arguments[1:]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "look"), chosen([(name, look) for name, looks in TOUCHES.items() for look in looks], 4)
)
def test_a_file_that_is_cut_short_is_an_error(tables: Tables, name: str, look: str) -> None:
    with run(LOOKS, tables.directory, look) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n", reader.stderr.read()
        time.sleep(0.02)
        os.truncate(tables.directory / name, 0 if name in {"control", "index", "keys"} else 4096)
        output, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, (reader.returncode, errors)
    assert output.startswith("LayoutError") and str(tables.directory) in output


def test_a_reader_works_again_when_the_file_is_restored(tables: Tables) -> None:
    program = (
        HEAD
        + """
from pipeline.shm.reader._reader import TableReader
reader = TableReader(sys.argv[1])
kept = reader.resolve(7).load()
old = reader.resolve(7)
data = open(sys.argv[1] + "/names", "rb").read()
os.truncate(sys.argv[1] + "/names", 4096)
for look in (lambda: old.path, lambda: reader.resolve(9), lambda: reader.resolve(9)):
    try:
        look()
    except LayoutError as error:
        print(str(error)[:6])
assert kept.path == "/bin/sh"
open(sys.argv[1] + "/names", "r+b").write(data)
assert reader.resolve(9) is None and reader.resolve(7).path == "/bin/sh"
"""
    )
    with run(program, tables.directory) as reader:
        output, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert output.splitlines() == ["a file", "/dev/s", "/dev/s"], output


def test_threads_that_read_at_the_moment_get_an_error_each(tables: Tables) -> None:
    program = (
        HEAD
        + """
import threading
from pipeline.shm.reader._reader import TableReader
readers = [TableReader(sys.argv[1]) for _ in range(2)]
seen = []
def read(reader):
    try:
        while True:
            assert reader.resolve(7).load().path == "/bin/sh"
            reader.resolve_many([7, 3] * 1000)
    except LayoutError:
        seen.append("LayoutError")
threads = [threading.Thread(target=read, args=(reader,)) for reader in readers * 2]
for thread in threads: thread.start()
os.truncate(sys.argv[1] + "/hot", 4096)
for thread in threads: thread.join()
print(*seen)
"""
    )
    with run(program, tables.directory) as reader:
        output, errors = reader.communicate(timeout=60)
    assert (reader.returncode, output.split()) == (0, ["LayoutError"] * 4), errors


OTHER_FAULT = """
import mmap
file = open(sys.argv[1] + "/other", "w+b")
file.truncate(8192)
other = mmap.mmap(file.fileno(), 8192)
file.truncate(0)
"""


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("other[5000]", -signal.SIGBUS),
        ("os.kill(os.getpid(), signal.SIGBUS)", -signal.SIGBUS),
        # A handler that was installed before is called, and one that is installed later too.
        ("signal.signal(signal.SIGBUS, lambda *_: os._exit(7)); os.kill(os.getpid(), signal.SIGBUS)", 7),
    ],
)
def test_any_other_sigbus_ends_the_process_as_before(tables: Tables, action: str, code: int) -> None:
    attach = "from pipeline.shm.reader._reader import TableReader\nreader = TableReader(sys.argv[1])\n"
    with run(HEAD + attach + OTHER_FAULT + action, tables.directory) as reader:
        reader.communicate(timeout=60)
    assert reader.returncode == code


def test_a_handler_that_was_there_before_is_called(tables: Tables) -> None:
    program = (
        HEAD
        + "signal.signal(signal.SIGBUS, lambda *_: print('called', flush=True))\n"
        + "from pipeline.shm.reader._reader import TableReader\nreader = TableReader(sys.argv[1])\n"
        + "os.kill(os.getpid(), signal.SIGBUS)\nprint('alive')\n"
    )
    with run(program, tables.directory) as reader:
        assert reader.communicate(timeout=60)[0].split() == ["called", "alive"]
    assert reader.returncode == 0


def test_faulthandler_does_not_interfere(tables: Tables) -> None:
    """It installs a SIGBUS handler of its own, as Python does with -X faulthandler."""
    program = "import faulthandler; faulthandler.enable()\n" + LOOKS
    with run(program, tables.directory, "resolve") as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        os.truncate(tables.directory / "hot", 4096)
        output, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0 and output.startswith("LayoutError"), errors
