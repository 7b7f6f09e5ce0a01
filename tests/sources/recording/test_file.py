"""Recordings: reading returns what was written; damage is reported, and everything before it is still readable."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, FrameError, WriteError
from pipeline.sources.recording.file import Recording, RecordingWriter

BOOT_ID = bytes(range(16))


def _make(path: Path, messages: list[bytes]) -> Path:
    with RecordingWriter(path, boot_id=BOOT_ID, boot_unix_ns=-5) as writer:
        for message in messages:
            writer.write(message)
        assert writer.frames == len(messages)
    return path


def _whole(path: Path) -> tuple[list[bytes], str]:
    """The readable frames, and the reason why reading stops."""
    found = []
    try:
        for message in Recording(path):
            found.append(bytes(message))
    except FrameError as error:
        return found, error.reason
    return found, ""


@given(st.lists(st.binary(max_size=200), max_size=10))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_come_back_in_order(tmp_path: Path, messages: list[bytes]) -> None:
    path = tmp_path / "recording"
    path.unlink(missing_ok=True)
    _make(path, messages)
    recording = Recording(path)
    assert [bytes(message) for message in recording] == messages == [bytes(message) for message in recording]
    assert (recording.boot_id, recording.boot_unix_ns) == (BOOT_ID, -5)
    assert recording.created_unix_ns > 0


def test_file_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = _make(tmp_path / "recording", [b"frame"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="does not overwrite"):
        RecordingWriter(path, boot_id=BOOT_ID)
    with pytest.raises(ConfigError, match="cannot create"):
        RecordingWriter(tmp_path / "none" / "recording", boot_id=BOOT_ID)


def test_a_file_cut_at_any_byte_keeps_the_complete_frames(tmp_path: Path) -> None:
    messages = [b"first", b"", b"third frame"]
    path = _make(tmp_path / "recording", messages)
    data = path.read_bytes()
    ends = [64]
    for message in messages:
        ends.append(ends[-1] + 8 + len(message))
    for length in range(len(data)):
        path.write_bytes(data[:length])
        if length < 64:
            with pytest.raises(FrameError, match="not a recording"):
                Recording(path)
            continue
        found, reason = _whole(path)
        whole = sum(end <= length for end in ends[1:])
        assert found == messages[:whole]
        assert ("" if length in ends else "cut off") in reason and bool(reason) == (length not in ends)


def test_damaged_frame_is_named(tmp_path: Path) -> None:
    path = _make(tmp_path / "recording", [b"first", b"second"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert _whole(path) == ([b"first"], "frame 1 at byte 77 is damaged: its checksum differs")
    data[77:81] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert _whole(path)[1].startswith("frame 1 at byte 77 is damaged")


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [(0, b"X", "not a recording"), (8, b"\2", "version 2"), (12, b"\1", "header"), (12, b"\xff\xff", "header")],
)
def test_other_files_are_refused(tmp_path: Path, at: int, value: bytes, reason: str) -> None:
    path = _make(tmp_path / "recording", [b"frame"])
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(FrameError, match=reason):
        Recording(path)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Recording(tmp_path / "none")
    with pytest.raises(ConfigError, match="Is a directory"):
        Recording(tmp_path)


def test_full_file_system_leaves_whole_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RecordingWriter(tmp_path / "recording", boot_id=BOOT_ID) as writer:
        writer.write(b"first")
        real = os.writev

        def partly(fd: int, parts: list[memoryview]) -> int:
            if parts[0].nbytes == 8:
                return real(fd, [parts[0][:5]])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "writev", partly)
        with pytest.raises(WriteError, match=r"No space left on device; the 1 frames before .* free some space"):
            writer.write(b"second")
        monkeypatch.undo()
        writer.write(b"third")
    assert _whole(tmp_path / "recording") == ([b"first", b"third"], "")


def on_full_tmpfs(script: str, *arguments: object) -> str:
    """Run a Python script with a tmpfs of 64 KiB at /mnt that has one page free; return the script's output."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    mount = 'mount -t tmpfs -o size=64k none /mnt && head -c 61440 /dev/zero > /mnt/filler && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[3])),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_file_system_keeps_the_written_frames() -> None:
    said = on_full_tmpfs(
        "from pathlib import Path\n"
        "from pipeline.errors import WriteError\n"
        "from pipeline.sources.recording.file import Recording, RecordingWriter\n"
        "path = Path('/mnt/storm.rec')\n"
        "try:\n"
        "    with RecordingWriter(path, boot_id=bytes(16), is_draft=True) as writer:\n"
        "        writer.keep()\n"
        "        for number in range(100):\n"
        "            writer.write(b'x' * 1000)\n"
        "except WriteError as error:\n"
        "    print(error)\n"
        "print(sum(1 for frame in Recording(path) if bytes(frame) == b'x' * 1000))\n"
    )
    message, count = said.splitlines()
    assert message == (
        "cannot write /mnt/storm.rec: No space left on device; the 4 frames before are in it and can be replayed; "
        "free some space, or choose a file on another file system"
    )
    assert count == "4"


def test_a_full_file_system_leaves_no_file_without_a_frame() -> None:
    said = on_full_tmpfs(
        "from pathlib import Path\n"
        "from pipeline.errors import WriteError\n"
        "from pipeline.sources.recording.file import RecordingWriter\n"
        "open('/mnt/rest', 'wb').write(bytes(4096))\n"
        "try:\n"
        "    RecordingWriter(Path('/mnt/storm.rec'), boot_id=bytes(16))\n"
        "except WriteError as error:\n"
        "    print(error)\n"
        "print(Path('/mnt/storm.rec').exists())\n"
    )
    message, exists = said.splitlines()
    assert "No space left on device; nothing was recorded" in message and exists == "False"


@pytest.mark.parametrize("left", [b"", b"PROC", b"header"])
def test_a_file_without_a_frame_of_a_killed_recorder_is_replaced(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "recording"
    if left == b"header":
        _make(path, [])
    else:
        path.write_bytes(left)
        path.chmod(0o600)
    assert _whole(_make(path, [b"frame"])) == ([b"frame"], "")


def test_a_file_of_another_user_or_recorder_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    with RecordingWriter(path, boot_id=BOOT_ID), pytest.raises(ConfigError, match="does not overwrite"):
        RecordingWriter(path, boot_id=BOOT_ID)
    for content, mode in ((b"note", 0o600), (b"", 0o644)):
        path.write_bytes(content)
        path.chmod(mode)
        with pytest.raises(ConfigError, match="does not overwrite"):
            RecordingWriter(path, boot_id=BOOT_ID)
        assert path.read_bytes() == content
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="does not overwrite"):
        RecordingWriter(path, boot_id=BOOT_ID)


def test_a_draft_is_removed_unless_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    with pytest.raises(KeyboardInterrupt), RecordingWriter(path, boot_id=BOOT_ID, is_draft=True) as writer:
        writer.write(b"snapshot")
        raise KeyboardInterrupt
    assert not path.exists()
    with RecordingWriter(path, boot_id=BOOT_ID, is_draft=True) as writer:
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"
