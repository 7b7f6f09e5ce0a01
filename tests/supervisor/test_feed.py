"""Sources as the supervisor opens them; the tests of the live kernel open the eBPF source."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bus.frames.frame import decode_frames
from pipeline.config.loading import load
from pipeline.errors import ConfigError, FrameError
from pipeline.records.capture_fds import CaptureFds
from pipeline.records.declared import KIND_EXIT, KIND_FORK
from pipeline.sources.recording.file import Recording, RecordingWriter
from pipeline.supervisor.feed import Feed, open_feed
from tests.synthetic.storm import make_storm

BOOT_ID = bytes(range(16))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "storm.rec"
    with RecordingWriter(path, boot_id=BOOT_ID) as writer:
        for message in make_storm(3, 20, frame_records=10, variants=3):
            writer.write(message)
    return path


def test_a_recording_has_its_own_boot_and_as_many_rings_as_occur_in_it(recording: Path) -> None:
    feed = open_feed(load(None, {"source": f"replay:{recording}"}, {}))
    assert (feed.ring_count, feed.boot_id, feed.fds.rings, feed.shard_count) == (3, BOOT_ID, {}, 1)
    assert feed.source == f"replay:{recording}"
    ends = [
        int(frame.header["time_boot_ns"][place])
        for message in Recording(recording) for frame in decode_frames(message)
        for place, kind in enumerate(frame.header["kind"].tolist()) if kind in {KIND_FORK, KIND_EXIT}
    ]  # fmt: skip
    assert feed.recorded_from_boot_ns == min(ends)
    feed.close()


def test_a_truncated_recording_is_accepted(recording: Path) -> None:
    recording.write_bytes(recording.read_bytes()[:-7])
    assert open_feed(load(None, {"source": f"replay:{recording}"}, {})).ring_count == 3


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, recording: Path) -> None:
    with pytest.raises(ConfigError, match="gone"):
        open_feed(load(None, {"source": f"replay:{tmp_path}/gone"}, {}))
    other = tmp_path / "other"
    other.write_bytes(b"not a recording" * 100)
    with pytest.raises(FrameError):
        open_feed(load(None, {"source": f"replay:{other}"}, {}))
    other.write_bytes(recording.read_bytes()[:64])
    with pytest.raises(FrameError, match="no readable frame"):
        open_feed(load(None, {"source": f"replay:{other}"}, {}))


def test_rings_are_shared_out_evenly() -> None:
    feed = Feed(source="ebpf", fds=CaptureFds({0: 10, 1: 11, 2: 12, 5: 15, 7: 17}), shard_count=2)
    assert feed.shard_of(2) == {0: 0, 1: 1, 2: 0, 5: 1, 7: 0}
    assert feed.shard_of(3) == {0: 0, 1: 1, 2: 2, 5: 0, 7: 1}


def test_captures_have_different_ids() -> None:
    ids = {Feed(source="ebpf").capture_id for _ in range(50)}
    assert len(ids) == 50 and 0 not in ids
