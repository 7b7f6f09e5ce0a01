"""Time without a capture: the supervisor's conclusions from left-over tables and from its predecessor's note."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.shm.layout import layout
from pipeline.supervisor.unwatched import HOLES_MAX, WatchRecord

BOOT = bytes(range(16))


@pytest.fixture
def directory() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    (root / "a").mkdir()
    yield root / "a"
    shutil.rmtree(root)


def tables(directory: Path, watermark_boot_ns: int, boot_id: bytes = BOOT) -> None:
    """Write a control segment; its valid commit, the second one, has this watermark."""
    _, offset, length, size = layout.control_bytes(2)
    data = np.zeros(size, np.uint8)
    header = data[: layout.CONTROL.itemsize].view(layout.CONTROL)[0]
    header["magic"], header["layout_version"], header["boot_id"] = layout.MAGIC, layout.LAYOUT_VERSION, np.void(boot_id)
    header["commit_offset"], header["commit_bytes"], header["commit_index"] = offset, length, 1
    data[offset + length :][: layout.COMMIT.itemsize].view(layout.COMMIT)["watermark_boot_ns"] = watermark_boot_ns
    (directory / "control").write_bytes(data.tobytes())


def start(directory: Path, now_boot_ns: int) -> tuple[tuple[tuple[int, int], ...], WatchRecord]:
    record = WatchRecord(directory, BOOT)
    return record.begin(now_boot_ns), record


def note(directory: Path) -> Path:
    return directory.parent / ".a~watched"


def test_the_first_start_knows_of_no_time_before(directory: Path) -> None:
    assert start(directory, 100)[0] == ()
    assert note(directory).stat().st_mode & 0o777 == 0o600


def test_a_killed_daemon_has_watched_up_to_the_watermark_of_its_tables(directory: Path) -> None:
    start(directory, 100)
    tables(directory, 500)
    assert start(directory, 900)[0] == ((500, 900),)


def test_a_killed_daemon_without_a_note_has_too(directory: Path) -> None:
    tables(directory, 500)
    assert start(directory, 900)[0] == ((500, 900),)


def test_a_daemon_that_stopped_in_order_has_left_a_note(directory: Path) -> None:
    _, record = start(directory, 100)
    tables(directory, 500)
    record.end()
    (directory / "control").unlink()
    assert start(directory, 900)[0] == ((500, 900),)


def test_a_daemon_that_applied_nothing_makes_the_hole_longer(directory: Path) -> None:
    tables(directory, 500)
    _, record = start(directory, 900)
    record.end()
    (directory / "control").unlink()
    assert start(directory, 1500)[0] == ((500, 1500),)
    assert start(directory, 1700)[0] == ((500, 1700),), "and so does one that is killed"


def test_a_failed_start_keeps_the_known_times_and_leaves_nothing_else(directory: Path) -> None:
    WatchRecord(directory, BOOT).end()
    assert not note(directory).exists()
    tables(directory, 500)
    WatchRecord(directory, BOOT).end()
    (directory / "control").unlink()
    assert start(directory, 900)[0] == ((500, 900),)


def test_several_are_kept_for_subscribers_that_were_away(directory: Path) -> None:
    for number in range(1, 21):
        tables(directory, 1000 * number)
        holes, _ = start(directory, 1000 * number + 500)
    assert holes == tuple((1000 * n, 1000 * n + 500) for n in range(21 - HOLES_MAX, 21))


def test_tables_and_notes_of_another_boot_are_ignored(directory: Path) -> None:
    tables(directory, 500, boot_id=bytes(16))
    assert start(directory, 900)[0] == ()
    (directory / "control").unlink()
    note(directory).write_text(note(directory).read_text().replace(BOOT.hex(), "00" * 16))
    assert start(directory, 1900)[0] == ()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "[" * 4000, json.dumps({"boot_id": BOOT.hex()}),
        *(
            json.dumps({"boot_id": BOOT.hex(), "began_boot_ns": 1, "until_boot_ns": until, "holes": holes})
            for until, holes in ((-1, []), (1.5, []), (True, []), (1 << 64, []), (5, 7), (5, [[1]]), (5, [[1, "2"]]))
        ),
    ],
)  # fmt: skip
def test_a_note_that_no_daemon_wrote_is_ignored(directory: Path, text: str) -> None:
    note(directory).write_text(text)
    assert start(directory, 900)[0] == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
@pytest.mark.parametrize("trick", ["owner", "mode", "symlink", "fifo", "control"])
def test_files_that_others_could_have_planted_are_ignored(directory: Path, trick: str) -> None:
    tables(directory, 500)
    _, record = start(directory, 100)
    record.end()
    if trick == "control":
        os.chown(directory / "control", 65534, 65534)
        note(directory).unlink()
    else:
        (directory / "control").unlink()
    if trick == "owner":
        os.chown(note(directory), 65534, 65534)
    elif trick == "mode":
        note(directory).chmod(0o666)
    elif trick in {"symlink", "fifo"}:
        note(directory).rename(directory / "elsewhere")
        if trick == "symlink":
            note(directory).symlink_to(directory / "elsewhere")
        else:
            os.mkfifo(note(directory))
    assert start(directory, 900)[0] == ()
