"""`ProcessTable.open`: a recording answers like an instance, which ends with the table, and a wrong file is named."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import ConfigError, FrameError, TooOldError, WaitTimeoutError
from pipeline.shm.reader.table import ProcessTable
from pipeline.sources.recording.file import RecordingWriter
from tests.resolver.story import BOOT_ID, Story, message_of
from tests.resolver.story import Event as Record
from tests.sampling import chosen

BOOT_UNIX_NS = 1_700_000_000_000_000_000
SECOND = 10**9
#: For a busy machine.
LONG_S = 60


def write(file: Path, *parts: list[Record]) -> Path:
    position = seq = 0
    with RecordingWriter(file, boot_id=BOOT_ID, boot_unix_ns=BOOT_UNIX_NS) as writer:
        for part in parts:
            writer.write(message_of(part, ring=0, from_pos=position, seq=seq))
            position += sum(8 + (int(event.header["record_bytes"][0]) + 7 & ~7) for event in part)
            seq += len(part)
    return file


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pid 10 runs from 2 s, executes make at 3 s, forks pid 11 at 4 s, which ends at 6 s; the last event is at 8 s."""
    story = Story(now=SECOND)
    story.begin(1)
    steps = [
        (2, lambda: story.fork(1, 10)), (3, lambda: story.exec(10, b"/usr/bin/make", args=[b"make", b"-j8"])),
        (4, lambda: story.fork(10, 11)), (5, lambda: story.exec(11, b"/usr/bin/cc", args=[b"cc", b"a.c"])),
        (6, lambda: story.exit(11, 256)), (7, lambda: story.fork(10, 12)), (8, lambda: story.fork(1, 13)),
    ]  # fmt: skip
    made = []
    for at, step in steps:
        story.now = at * SECOND
        made.append(step())
    return write(tmp_path_factory.mktemp("recording") / "story.rec", made[:4], made[4:])


@pytest.fixture(scope="module")
def table(recording: Path) -> Iterator[ProcessTable]:
    with ProcessTable.open(recording) as table:
        yield table


@pytest.mark.expensive
def test_a_recording_answers_like_an_instance(table: ProcessTable, recording: Path) -> None:
    assert [entry.pid for entry in table] == [10, 12, 13] and len(table) == 3
    assert [entry.pid for entry in table.walk()] == [10, 11, 12, 13]
    assert [entry.pid for entry in table.find(name="make")] == [10, 12]  # and its child, before an exec
    assert [entry.pid for entry in table.find(argv="a.c", exited=True)] == [11]
    assert [entry.path for entry in table.ancestors(11)][:2] == ["/usr/bin/make", "/usr/bin/make"]
    assert table.columns(["pid", "path"], running=False)["path"].tolist()[:2] == ["/usr/bin/make", "/usr/bin/cc"]
    assert repr(table) == f"<ProcessTable of '{recording}'>"
    assert table.recorded_until_ns is not None
    assert 0 <= table.recorded_until_ns - (BOOT_UNIX_NS + 8 * SECOND) < SECOND


@pytest.mark.expensive
def test_it_is_as_of_a_time(table: ProcessTable) -> None:
    def at(seconds: float) -> datetime:
        return datetime.fromtimestamp(BOOT_UNIX_NS // SECOND, UTC) + timedelta(seconds=seconds)

    found = {seconds: table.resolve(11, at=at(seconds)) for seconds in (4.5, 5.5, 6.5)}
    before, running, after = found.values()
    assert before is not None and before.path == "/usr/bin/make"
    assert running is not None and running.path == "/usr/bin/cc" and running.exit_code == 256
    assert after is None
    assert table.resolve(12, at=at(6.5)) is None and table.resolve(99, at=at(7)) is None
    with pytest.raises(TooOldError, match="may lack processes that ended before 2023-11-14"):
        table.resolve(99, at=at(1.5))
    make = table.resolve(10, at=BOOT_UNIX_NS + 7 * SECOND)
    assert make is not None and make.argv == ["make", "-j8"]


@pytest.mark.expensive
@pytest.mark.slow
def test_waiting_in_a_recording_takes_no_time(table: ProcessTable) -> None:
    ended = table.wait_exit(11)
    assert ended is not None and ended.exit_code == 256
    with pytest.raises(WaitTimeoutError, match="pid 10 is still running"):
        table.wait_exit(10)
    with pytest.raises(WaitTimeoutError, match="pid 10 is still running"):
        table.wait_tree(10, timeout=3600)


def is_gone(directory: Path) -> bool:
    end_s = time.monotonic() + LONG_S
    while directory.parent.exists() and time.monotonic() < end_s:
        time.sleep(0.05)
    return not directory.parent.exists()


@pytest.mark.expensive
@pytest.mark.slow
def test_the_instance_ends_with_the_table(recording: Path) -> None:
    table = ProcessTable.open(recording)
    directory = Path(table.directory)
    assert paths.is_in_memory(directory) and directory.parent.stat().st_mode & 0o077 == 0
    entry = table.resolve(11)
    table.close()
    table.close()
    assert not directory.parent.exists() and entry is not None and entry.path == "/usr/bin/cc"
    assert table.closed and "closed" in repr(table)
    with pytest.raises(ValueError, match="closed"):
        len(table)


@pytest.mark.expensive
@pytest.mark.slow
def test_a_table_that_is_dropped_ends_its_instance(recording: Path) -> None:
    directory = Path(ProcessTable.open(recording).directory)
    gc.collect()
    assert is_gone(directory)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.expensive
@pytest.mark.slow
def test_nothing_is_left_of_a_killed_program(recording: Path, number: int) -> None:
    program = (
        "import sys, time; from pipeline import ProcessTable; table = ProcessTable.open(sys.argv[1])\n"
        "print(table.directory, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, recording], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        assert directory.is_dir()
        process.send_signal(number)
    assert is_gone(directory)


# -- files that cannot be opened -----------------------------------------------------------------------------------


@pytest.mark.expensive
@pytest.mark.slow
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, recording: Path) -> None:
    text, nothing, version, missing = (tmp_path / name for name in ("text", "nothing", "version", "missing"))
    text.write_text("not a recording, but a text that is long enough for a header\n" * 9)
    nothing.touch()
    empty = write(tmp_path / "empty")
    other = bytearray(recording.read_bytes())
    other[8] = 99
    version.write_bytes(other)
    cases = [
        (text, FrameError, f"{text}: .*not a recording"), (nothing, FrameError, f"{nothing}: .*too short"),
        (empty, FrameError, f"{empty}: .*empty"), (version, FrameError, "it has version 99"),
        (missing, ConfigError, f"cannot read the recording {missing}"),
        (tmp_path, ConfigError, f"cannot read the recording {tmp_path}"),
    ]  # fmt: skip
    for file, error, said in chosen(cases, 2):
        with pytest.raises(error, match=said):
            ProcessTable.open(file)
    for wrong in (5, None, True, b"x"):
        with pytest.raises(TypeError):
            ProcessTable.open(wrong)  # type: ignore[arg-type]


@pytest.mark.expensive
@pytest.mark.slow
def test_a_recording_that_is_cut_is_opened_only_on_request(tmp_path: Path, recording: Path) -> None:
    cut = tmp_path / "cut.rec"
    cut.write_bytes(recording.read_bytes()[:-10])
    with pytest.raises(FrameError, match=r"cut off in frame 1, .*partial=True") as caught:
        ProcessTable.open(cut)
    assert caught.value.reason.startswith("it is cut off")
    with ProcessTable.open(os.fspath(cut), partial=True) as table:
        assert [entry.pid for entry in table] == [10, 11]
