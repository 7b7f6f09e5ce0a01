"""Both queues keep their order and their limit; the one on disk also survives kills, torn files and full disks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import ConfigError
from pipeline.forward.batches import Batch, gap
from pipeline.forward.figures import Figures
from pipeline.forward.memory import MemoryQueue, Queue
from pipeline.forward.spool import Spool
from tests.forward.world import BOOT, batch
from tests.sampling import some, times

MIB = 1 << 20
Make = Callable[[int], tuple[Queue, Figures]]


@pytest.fixture(params=["memory", "spool"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def made(max_bytes: int) -> tuple[Queue, Figures]:
        figures = Figures()
        if request.param == "memory":
            return MemoryQueue(max_bytes, figures), figures
        spool = Spool(tmp_path / "spool", max_bytes, figures)
        request.addfinalizer(spool.close)
        return spool, figures

    return made


def spool_in(directory: Path, max_bytes: int = 16 * MIB) -> Spool:
    return Spool(directory, max_bytes, Figures())


def take_all(queue: Queue) -> list[Batch]:
    found = []
    while (entry := queue.take()) is not None:
        found.append(entry.batch)
        queue.done(entry)
    return found


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.spool"))


def numbers(batches: list[Batch]) -> list[int]:
    """Return the covered numbers, in order."""
    return [number for each in batches for number in range(each.first, each.next)]


def test_batches_come_in_the_order_in_which_they_were_put(make: Make) -> None:
    queue, figures = make(MIB)
    assert queue.take() is None and queue.is_empty and figures.is_drained
    for first in range(1, 100, 3):
        queue.put(batch(first, 3))
    assert not queue.is_empty and not figures.is_drained and figures.waiting_bytes > 0
    assert numbers(take_all(queue)) == list(range(1, 100))
    assert queue.is_empty and figures.is_drained and figures.waiting_bytes == 0


def test_what_was_taken_and_is_not_done_comes_again(make: Make) -> None:
    queue, _ = make(MIB)
    for first in (1, 2, 3, 4):
        queue.put(batch(first, 1))
    entries = [queue.take() for _ in range(3)]
    assert entries[1] is not None
    queue.done(entries[1])
    queue.rewind()
    again = numbers(take_all(queue))
    # A spool counts whole segments: the server reports which part of one it has.
    assert again in ([1, 3, 4], [1, 2, 3, 4])


def test_the_oldest_become_a_gap_at_the_limit(make: Make) -> None:
    queue, figures = make(MIB)
    for first in range(1, 401):
        queue.put(batch(2 * first - 1, 2, fill=5000))
        queue.put(batch(first, 1, topic="proc.exit"))
    found = take_all(queue)
    for topic, end in (("proc.exec", 801), ("proc.exit", 401)):
        own = [each for each in found if each.topic == topic]
        assert numbers(own) == list(range(1, end))
        assert own[0].kind == "gap" and own[0].count > 100 and own[0].from_ns == 1001
        assert own[0].to_ns == 1000 + own[0].next - 1
    gaps = [each for each in found if each.kind == "gap"]
    assert sum(each.count for each in gaps) == figures.counts["dropped"]
    assert sum(len(each.data) for each in found if each.kind != "gap") < MIB


def test_what_is_being_sent_is_not_dropped(make: Make) -> None:
    queue, _ = make(MIB)
    queue.put(batch(1, 1, fill=5000))
    entry = queue.take()
    assert entry is not None
    for first in range(2, 402):
        queue.put(batch(first, 1, fill=5000))
    queue.done(entry)
    rest = take_all(queue)
    assert next(each for each in rest if each.kind == "gap").first > 1
    assert numbers(rest) == list(range(2, 402))


def test_records_of_a_begin_are_never_dropped(make: Make) -> None:
    queue, _ = make(MIB)
    queue.put(gap(BOOT, 7, "", 0, 0, 0, 5, "begin", {"proc.exec": 1}))
    for first in range(1, 601):
        queue.put(batch(first, 1, fill=5000))
    queue.put(gap(BOOT, 8, "", 0, 0, 5, 6, "restart"))
    for first in range(1, 601):
        queue.put(batch(first, 1, stream=8, fill=5000))
    found = take_all(queue)
    assert [each.events()[0]["reason"] for each in found if each.kind == "gap" and not each.topic] == [
        "begin",
        "restart",
    ]
    order = [each.stream for each in found]
    assert order == sorted(order) and queue.streams == [7, 8]
    for stream in (7, 8):
        assert numbers([each for each in found if each.topic and each.stream == stream]) == list(range(1, 601))


# -- on disk ----------------------------------------------------------------------------------------------------------


def test_a_spool_goes_on_where_the_last_one_was_killed(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    assert spool.position is None
    spool.put(gap(BOOT, 7, "", 0, 0, 0, 5, "begin", {"proc.exec": 1, "proc.fork": 4}))
    spool.put(batch(1, 5))
    entry = spool.take()
    assert entry is not None
    spool.done(entry)
    os.close(spool._lock)  # as the kernel does it; nothing else happens at a kill
    again = spool_in(tmp_path)
    assert again.position is not None and again.position.stream == 7 and again.boot == BOOT
    assert again.position.next == {"proc.exec": 6, "proc.fork": 4}
    again.put(batch(6, 2))
    assert numbers([each for each in take_all(again) if each.topic]) == [1, 2, 3, 4, 5, 6, 7]
    again.close()
    third = spool_in(tmp_path)
    assert third.position is not None and third.position.next["proc.exec"] == 8 and len(segments(tmp_path)) <= 2
    third.close()


def test_the_position_stays_when_all_batches_are_done(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, MIB)
    for first in range(1, 200):
        spool.put(batch(first, 1, fill=5000))
        take_all(spool)
    assert len(segments(tmp_path)) == 1
    spool.close()
    for _ in range(3):
        again = spool_in(tmp_path, MIB)
        assert again.position is not None and again.position.next == {"proc.exec": 200} and again.streams == [7]
        take_all(again)
        again.close()


@pytest.mark.parametrize("cut", [1, 7, 9, 40, 300])
def test_a_torn_end_is_cut(tmp_path: Path, cut: int) -> None:
    spool = spool_in(tmp_path)
    for first in range(1, 11):
        spool.put(batch(first, 1, fill=100))
    spool.close()
    [file] = segments(tmp_path)
    os.truncate(file, file.stat().st_size - cut)
    figures = Figures()
    again = Spool(tmp_path, MIB, figures)
    found = numbers(take_all(again))
    assert found == list(range(1, len(found) + 1)) and 7 <= len(found) < 10 and figures.counts["damaged"] == 1
    assert again.position is not None and again.position.next["proc.exec"] == found[-1] + 1
    again.close()


def test_every_torn_length_of_a_file_is_survived(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.put(batch(1, 1))
    spool.put(batch(2, 1))
    spool.close()
    [file] = segments(tmp_path)
    whole = file.read_bytes()
    for length in some(range(len(whole)), times(100, 40)):
        for other in segments(tmp_path):
            other.unlink()
        file.write_bytes(whole[:length])
        again = spool_in(tmp_path)
        assert numbers(take_all(again)) in ([], [1])
        again.close()


@pytest.mark.parametrize("at", [30, 200, 500, 900])
def test_a_changed_byte_ends_a_segment_and_not_the_spool(tmp_path: Path, at: int) -> None:
    spool = spool_in(tmp_path, MIB)
    for first in range(1, 60):
        spool.put(batch(first, 1, fill=5000))
    spool.close()
    files = segments(tmp_path)
    assert len(files) > 3
    data = bytearray(files[1].read_bytes())
    data[at] ^= 0x40
    files[1].write_bytes(data)
    again = spool_in(tmp_path, MIB)
    found = numbers(take_all(again))
    assert found == sorted(set(found)) and found[0] == 1 and found[-1] == 59 and 40 < len(found) < 59
    again.close()


def test_a_file_that_changes_while_it_is_read_is_survived(tmp_path: Path) -> None:
    figures = Figures()
    spool = Spool(tmp_path, MIB, figures)
    for first in range(1, 60):
        spool.put(batch(first, 1, fill=5000))
    file = segments(tmp_path)[0]
    data = bytearray(file.read_bytes())
    data[20_000] ^= 1
    file.write_bytes(data)
    found = numbers(take_all(spool))
    assert found[-1] == 59 and 40 < len(found) < 59 and figures.counts["damaged"] == 1 and spool.is_empty
    spool.close()


def test_the_files_are_for_the_forwarder_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "spool"
    spool = spool_in(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in segments(directory)} == {0o600}
    with pytest.raises(ConfigError, match="is in use"):
        spool_in(directory)
    spool.close()
    directory.chmod(0o770)
    with pytest.raises(ConfigError, match="other users could change"):
        spool_in(directory)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be opened"):
        spool_in(tmp_path / "file")


def test_a_foreign_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "000000000001.spool").write_bytes(b"something else")
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="not a segment of a spool of this version"):
        spool_in(tmp_path)
    assert (tmp_path / "000000000001.spool").exists()


def test_a_full_disk_drops_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Figures()
    spool = Spool(tmp_path, MIB, figures)
    real, room = os.write, [300_000]

    def write(descriptor: int, data: bytes) -> int:
        if descriptor != spool._writing:
            return real(descriptor, data)
        room[0] = 300_000 - sum(file.stat().st_size for file in segments(tmp_path))
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: room[0]])

    monkeypatch.setattr(os, "write", write)
    for first in range(1, 120):
        spool.put(batch(first, 1, fill=5000))
    monkeypatch.undo()
    found = take_all(spool)
    assert numbers(found) == list(range(1, 120)) and found[0].kind == "gap"
    assert figures.counts["dropped"] == found[0].count > 50
    spool.close()


def test_a_disk_without_any_room_does_not_stop_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Figures()
    spool = Spool(tmp_path, MIB, figures)
    spool.put(batch(1, 1))
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: write(0, data))
    warnings: list[dict[str, object]] = []
    monkeypatch.setattr(spool, "_log", SimpleNamespace(warning=lambda _, **fields: warnings.append(fields)))
    for first in range(2, 40):
        spool.put(batch(first, 1, fill=5000))
    monkeypatch.setattr(os, "write", real)
    monkeypatch.undo()
    assert figures.counts["dropped"] == 38
    assert [each["reason"] for each in warnings] == ["No space left on device"], "a minute may have one warning"
    spool.put(batch(40, 1))
    assert numbers(take_all(spool)) == [1, 40]
    spool.close()


def test_a_file_that_somebody_removes_is_survived(tmp_path: Path) -> None:
    figures = Figures()
    spool = Spool(tmp_path, MIB, figures)
    for first in range(1, 60):
        spool.put(batch(first, 1, fill=5000))
    segments(tmp_path)[1].unlink()
    found = numbers(take_all(spool))
    assert found[0] == 1 and found[-1] == 59 and len(found) < 59 and figures.counts["damaged"] == 1
    spool.close()
