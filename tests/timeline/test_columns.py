"""Columns: places, times, cycles, costs and bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.timeline.columns import COSTS, IMAGES_MAX, STRINGS_BYTES_MAX, Image, Process, _Strings, columns
from tests.sampling import times
from tests.timeline.processes import BEGIN_NS, HOSTILE, MS, build, failed, killed, process


def made(*processes: Process) -> dict[str, Any]:
    return columns(processes, BEGIN_NS, BEGIN_NS + 100 * MS)


def texts(found: dict[str, Any], name: str) -> list[str | None]:
    return [None if number < 0 else found["strings"][number] for number in found[name]]


def test_processes_are_in_order_of_their_start_and_know_their_lineage() -> None:
    found = made(process(9, 5, 8, 7), process(7, 1, None), process(8, 2, 3, 7))
    assert found["pid"] == [7, 8, 9]
    assert found["start"] == [1000, 2000, 5000] and found["end"] == [None, 3000, 8000]
    assert found["creator"] == found["parent"] == [-1, 0, 0]
    assert (found["from_ns"], found["duration"]) == (str(BEGIN_NS), 100_000)


def test_creator_and_parent_may_differ() -> None:
    found = made(process(1, 0, None), process(7, 1, 3), process(8, 2, None, 7, parent_entity_id="e1"))
    assert found["creator"] == [-1, -1, 1] and found["parent"] == [-1, -1, 0]


def test_a_process_before_the_timeline_has_a_negative_start() -> None:
    assert made(process(7, -500, None))["start"] == [-500_000]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_cycle_is_cut_once(size: int) -> None:
    ring = [process(number, number, None, number % size + 1) for number in range(1, size + 1)]
    tail = process(50, 50, None, 1)
    above = made(*ring, tail)["creator"]
    assert above.count(-1) == 1
    for place in range(size + 1):
        steps = 0
        while place >= 0:
            place, steps = above[place], steps + 1
            assert steps <= size + 1


def test_images_follow_each_other() -> None:
    found = made(process(7, 1, 9, path="/usr/bin/python3", argv=["python3", "/srv/x.py"], before="/usr/bin/make"))
    assert found["images"] == [2] and found["images_left"] == [0]
    assert found["image_start"] == [1000, 2000]
    assert texts(found, "image_path") == ["/usr/bin/make", "/usr/bin/python3"]
    assert texts(found, "image_name") == ["make", "x.py"]
    assert texts(found, "image_command") == ["/usr/bin/make", "python3 /srv/x.py"]


def test_of_many_images_the_first_and_the_latest_are_kept() -> None:
    many = process(7, 0, 9)
    many.images = [Image(BEGIN_NS + n, {"path": f"/bin/{n}", "argv": None, "comm": "x"}) for n in range(100)]
    found = made(many)
    assert found["images"] == [IMAGES_MAX] and found["images_left"] == [100 - IMAGES_MAX]
    paths = texts(found, "image_path")
    assert paths[0] == "/bin/0" and paths[1] == f"/bin/{100 - IMAGES_MAX + 1}" and paths[-1] == "/bin/99"


def test_an_image_never_begins_before_its_process() -> None:
    early = process(7, 5, 9)
    early.images.append(Image(BEGIN_NS, early.entry))
    early.images.append(Image(None, early.entry))
    assert made(early)["image_start"] == [5000, 5000, 5000]


def test_ends_are_described() -> None:
    found = made(process(1, 0, 1, **failed(3)), process(2, 0, 1, **killed(9)), process(3, 0, None), process(4, 0, 1))
    assert texts(found, "ending") == ["code 3", "signal 9 (SIGKILL)", None, None]
    assert found["failed"] == [1, 1, 0, 0]


def test_costs_are_there_if_any_process_has_them() -> None:
    assert not set(COSTS) & set(made(process(1, 0, 1)))
    found = made(process(1, 0, 1), process(2, 1, 2, cpu_user_ns=5, max_rss_bytes=0))
    assert found["cpu_user_ns"] == [None, 5] and found["max_rss_bytes"] == [None, 0]
    assert "read_bytes" not in found


def test_units_and_containers() -> None:
    found = made(
        process(1, 0, 1, container_id="0123456789abcdef" * 4),
        process(2, 1, 2, cgroup="/user.slice/user-7.slice/user@7.service/app.slice/x\\x2dy.scope", user=None, uid=7),
        process(3, 2, 3, cgroup=None, user=None, uid=None),
        process(4, 3, 4, container_id="fedcba9876543210" * 4, container_trust="user"),
    )
    assert texts(found, "unit") == ["ssh.service", "user@7.service / x-y.scope", None, "ssh.service"]
    assert texts(found, "container") == ["0123456789ab", None, None, "fedcba987654 (named by a user?)"]
    assert texts(found, "user") == ["root", "7", None, "root"]


def test_text_of_processes_has_no_control_characters() -> None:
    found = made(process(1, 0, 1, path="/tmp/" + HOSTILE, argv=[HOSTILE], user=HOSTILE, cgroup=f"/{HOSTILE}.service"))
    assert len(found["strings"]) >= 4
    for text in found["strings"]:
        assert text.isprintable() and "\u202e" not in text
        text.encode()


def test_all_text_together_is_bounded() -> None:
    processes = [process(n, n, None, argv=[f"{n}" + "ä" * 3000]) for n in range(1, 3001)]
    found = made(*processes)
    assert sum(map(len, found["strings"])) <= STRINGS_BYTES_MAX
    commands = texts(found, "image_command")
    assert len(set(commands)) == 3000, "cut strings still differ"
    assert all(text and text.endswith("…") for text in commands)
    assert texts(made(processes[0]), "image_command") == [f"'1{'ä' * 1997}…"], "one alone is nearly whole"


@pytest.mark.slow
def test_a_page_of_20_000_processes_stays_small() -> None:
    processes = build(times(5000, 1500))
    for number, each in enumerate(processes):
        each.entry["argv"] = ["cc1", f"{number}", "-I/usr/include/some/long/directory" * 40]
    size = len(json.dumps(columns(processes, BEGIN_NS, BEGIN_NS + 10**12), separators=(",", ":")))
    assert len(processes) >= times(20_000, 6000) and size < times(5_000_000, 3_200_000)
    assert size > STRINGS_BYTES_MAX, "the bound was reached"


def test_a_command_line_is_kept_no_longer_than_it_is_shown() -> None:
    strings = _Strings()
    assert strings.number("x" * 200_000) == 0 and len(strings.texts[0]) <= 2001
    assert strings.cut() == ["x" * 1999 + "…"]
