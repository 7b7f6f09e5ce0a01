"""The recorder's output: secrets hidden, frames whole, and a replay equal to the raw replay with secrets hidden."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus.frames.frame import Frame, FrameEncoder, decode_frame
from pipeline.config.schema import Config
from pipeline.errors import FrameError
from pipeline.secrets.conceal import Concealer, scrubber_of
from pipeline.sources.recording.recorder import ConcealedFrames
from pipeline.sources.recording.replay import ReplaySource
from tests.sources.hand_records import BOOT_ID, FakeAcks
from tests.synthetic.storm import make_storm

STORM = make_storm(3, 400, frame_records=40, variants=10, envs_bytes=60)
#: Nearly every command line becomes longer, and every environment shorter.
CONCEALER = Concealer(lambda argv: argv.replace(b"/", b"********"))


def recorded(messages: list[bytes], concealer: Concealer = CONCEALER) -> list[bytes]:
    written: list[bytes] = []
    frames = ConcealedFrames(concealer.sieve.frame, written.append)
    for message in messages:
        frames.write(message)
    return written


def told(frames: list[Frame]) -> dict[int, list[bytes]]:
    """The contents of the frames of each ring, without their place in the ring."""
    found: dict[int, list[bytes]] = {}
    for frame in frames:
        header = frame.header.copy()
        header["record_bytes"] = header["ring_pos"] = 0
        columns = (header, frame.task, frame.fork, frame.exec, frame.exit)
        mine = found.setdefault(frame.ring, [b""] * 6)
        for i, part in enumerate((*(column.tobytes() for column in columns), bytes(frame.blob))):
            mine[i] += part
    return found


def replayed(messages: list[bytes]) -> list[Frame]:
    sent: list[bytes] = []

    def send(message: bytes) -> bool:
        sent.append(message)
        return True

    source = ReplaySource(messages, boot_id=BOOT_ID, acks=FakeAcks(), send=send)
    assert source.error is None
    while source.do_work(10):
        pass
    return [decode_frame(message) for message in sent]


@pytest.mark.parametrize("together", [1, 7])
def test_hiding_before_recording_equals_hiding_at_the_replay(together: int) -> None:
    messages = [b"".join(STORM[at : at + together]) for at in range(0, len(STORM), together)]
    written = recorded(messages)
    assert len(written) == len(messages) and written != messages
    expected = told([CONCEALER.sieve.frame(frame) for frame in replayed(messages)])
    assert told(replayed(written)) == expected
    # The replaying instance hides secrets once more, and finds none.
    assert told([CONCEALER.sieve.frame(frame) for frame in replayed(written)]) == expected


def test_rings_of_a_recording_have_neither_holes_nor_overlaps() -> None:
    before = [decode_frame(message) for message in STORM]
    after = [decode_frame(message) for message in recorded(STORM)]
    for ring in range(3):
        old, new = ([frame for frame in frames if frame.ring == ring] for frames in (before, after))
        assert new[0].from_pos == old[0].from_pos
        assert all(a.to_pos == b.from_pos for a, b in itertools.pairwise(new))
        for a, b in zip(old, new, strict=True):
            assert (a.frame_seq, a.count, a.lost, a.source, a.watermark_boot_ns, a.malformed, a.boot_id) == (
                b.frame_seq, b.count, b.lost, b.source, b.watermark_boot_ns, b.malformed, b.boot_id,
            )  # fmt: skip
            grown = b.header["var_bytes"].astype(np.int64) - a.header["var_bytes"]
            assert (b.header["record_bytes"].astype(np.int64) - a.header["record_bytes"] == grown).all()
            for name in ("args_full_bytes", "envs_full_bytes", "exec_flags", "argc", "envc"):
                assert (a.exec[name] == b.exec[name]).all()
    assert any((b.header["ring_pos"] != a.header["ring_pos"]).any() for a, b in zip(before, after, strict=True))


def test_frames_without_records_move_too() -> None:
    ring = [message for message in STORM if decode_frame(message).ring == 1]
    end = decode_frame(ring[3]).to_pos
    empty = FrameEncoder(boot_id=BOOT_ID, source="ebpf").encode(
        ring=1, seq=9, from_pos=end, to_pos=end + 4096, count=0, lost={"exec": 1}, watermark_boot_ns=5
    )
    last, gap = (decode_frame(message) for message in recorded([*ring[:4], empty])[-2:])
    assert gap.from_pos == last.to_pos != end and gap.to_pos - gap.from_pos == 4096
    assert (gap.count, gap.lost, gap.source, gap.watermark_boot_ns) == (0, {"exec": 1}, "ebpf", 5)


def test_frames_without_secrets_are_passed_on_unchanged() -> None:
    plain = make_storm(2, 50, frame_records=40, variants=3, envs_bytes=0)
    nothing = Concealer(lambda argv: argv)
    for written, message in zip(recorded(plain, nothing), plain, strict=True):
        assert written is message


def test_messages_that_are_no_frames_are_refused() -> None:
    with pytest.raises(FrameError):
        recorded([b"nonsense"])


@settings(deadline=None)  # the first one compiles the scrubber's patterns
@given(
    st.lists(st.sampled_from(["p", "--password=x", "two words", "mysql", "-px", "", "curl", "-su", "a:b"]), max_size=9)
)
def test_default_settings_hide_once_for_all(args: list[str]) -> None:
    concealer = Concealer.of(Config(), scrubber_of(Config()))
    argv = b"".join(arg.encode() + b"\0" for arg in args)
    once = concealer.strings(argv, b"A=1\0=\0B\0")
    assert concealer.strings(*once) == once
    assert b"A=1" not in once[1]
