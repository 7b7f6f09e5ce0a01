"""The screen itself, without a terminal: what is drawn, and what keys and the mouse do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("textual")

from textual.pilot import Pilot

from pipeline.shm.layout import layout
from pipeline.top.app import Top
from pipeline.top.model import Model, Settings
from tests.top.host import Host
from tests.top.screens import quick_screen, show, shown


def test_the_screen_has_figures_processes_and_keys(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        lines = shown(app)
        assert lines[0] == "procline made-up  3 live"
        assert "ev/s" in lines[1] and "lost 0" in lines[1]
        assert lines[2].split() == ["PID", "USER", "AGE", "COMMAND"]
        assert [line.split()[0] for line in lines[3:6]] == ["1", "40", "41"]
        assert lines[5].endswith("└─sleep 100")
        assert not any(lines[6:23])
        assert lines[23].startswith("? help")

    show(host, steps)


def test_keys_move_and_fold(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        assert app.processes.cursor == 0
        await pilot.press("down", "down")
        assert app.processes.cursor == 2
        await pilot.press("left")
        assert app.processes.cursor == 1, "a process without children goes to its parent"
        await pilot.press("left")
        await pilot.pause()
        assert "└─[+1] bash" in shown(app)[4] and not shown(app)[5]
        await pilot.press("right", "end")
        assert app.processes.cursor == 2
        await pilot.press("_")
        assert len(app.model.lines or ()) == 2
        await pilot.press("*", "home")
        assert len(app.model.lines or ()) == 3 and app.processes.cursor == 0

    show(host, steps)


def test_the_selected_process_stays_selected_when_lines_move(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("end")
        host.start(39, "date", parent=1, ago=600)
        app.step()
        await pilot.pause()
        assert [line.split()[0] for line in shown(app)[3:7]] == ["1", "39", "40", "41"]
        assert app.model.identity(app.processes.cursor) == (host.ago(400), 41)

    show(host, steps)


def test_a_long_list_scrolls_and_only_its_lines_are_made(host: Host) -> None:
    for pid in range(100, 250):
        host.start(pid, "sh", parent=1, ago=300 - pid)

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        assert len(app.model.facts) <= 21
        await pilot.press("pagedown")
        assert app.processes.cursor == 20 and app.processes.top == 1
        await pilot._post_mouse_events([__import__("textual.events", fromlist=["x"]).MouseScrollDown], app.processes)
        assert app.processes.top == 4
        await pilot.press("end")
        await pilot.pause()
        assert shown(app)[22].split()[0] == "249"
        assert len(app.model.facts) < 80

    show(host, steps)


def test_new_ended_and_changed_processes_are_drawn(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        host.start(50, "date", parent=40, ago=0.1)
        host.execute(40, "zsh", ago=0.1)
        host.end(41, code=256, ago=0.1)
        app.step()
        await pilot.pause()
        lines = shown(app)
        assert "1 just ended" in lines[0]
        assert [line[0] for line in lines[4:7]] == [">", "-", "+"]
        assert lines[5].endswith("6m   ├─sleep 100  [code 1]")

    show(host, steps)


def test_only_lines_that_differ_are_drawn(host: Host) -> None:
    for pid in range(100, 200):
        host.start(pid, "sh", parent=1, ago=930 - pid / 1000)

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        drawn: list[Any] = []
        refresh = app.processes.refresh
        app.processes.refresh = lambda *regions, **options: (drawn.extend(regions), refresh(*regions, **options))[1]  # type: ignore[method-assign, assignment, misc]
        app.step()
        assert not drawn
        await pilot.press("down")
        assert {region.y for region in drawn} == {1, 2}

    show(host, steps)


def test_search_and_the_next_match(host: Host) -> None:
    host.start(60, "sleep 7", parent=1, ago=5)

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("/", *"sleep", "enter")
        assert app.processes.cursor == 2
        await pilot.press("n")
        assert app.processes.cursor == 3
        await pilot.press("N")
        assert app.processes.cursor == 2
        await pilot.press("/", *"nowhere", "enter")
        await pilot.pause()
        assert "no process on the screen contains nowhere" in shown(app)[23]
        await pilot.press("/", "escape")
        assert app.processes.has_focus and not app.prompt.display

    show(host, steps)


def test_a_filter_is_typed_shown_and_removed(host: Host) -> None:
    host.start(60, "sleep 7", parent=1, ago=5)

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("f", *"user=1000", "enter")
        await pilot.pause()
        assert "filter user=1000 (1)" in shown(app)[0]
        assert [line.split()[0] for line in shown(app)[3:6]] == ["1", "40", "41"] and not shown(app)[6]
        await pilot.press("f")
        assert app.prompt.value == "user=1000"
        await pilot.press(*" under=x", "enter")
        await pilot.pause()
        assert "under= needs a pid" in shown(app)[23]
        await pilot.press("F")
        assert len(app.model.lines or ()) == 4
        await pilot.press("end", "w")
        assert str(app.model.settings.filter) == "under=60"
        await pilot.press("u")
        assert str(app.model.settings.filter) == "user=0"

    show(host, steps)


def test_columns_are_chosen_in_a_menu(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("c", "down", "enter")
        await pilot.pause()
        assert "[x] ppid" in "\n".join(shown(app))
        await pilot.press("escape")
        await pilot.pause()
        assert shown(app)[2].split() == ["PID", "PPID", "USER", "AGE", "COMMAND"]

    show(host, steps)


def test_sorting_by_menu_key_and_click(host: Host) -> None:
    host.start(60, "apt", parent=40, ago=5)

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("t", "s", "down", "enter")
        await pilot.pause()
        assert shown(app)[2].split()[0] == "PID▴"
        await pilot.press("r")
        await pilot.pause()
        assert [line.split()[0] for line in shown(app)[3:7]] == ["60", "41", "40", "1"]
        await pilot.click(app.processes, offset=(30, 0))
        await pilot.pause()
        assert "COMMAND▴" in shown(app)[2]
        assert shown(app)[4].split()[0] == "60"

    show(host, steps)


def test_details_follow_the_selected_process(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("end", "enter")
        await pilot.pause()
        text = "\n".join(shown(app))
        assert "command    sleep 100" in text and "argv[1]    100" in text
        await pilot.press("up")
        await pilot.pause()
        assert "command    bash" in "\n".join(shown(app))
        await pilot.press("tab", "down")
        assert app.details.top == 1
        await pilot.press("enter")
        assert not app.details.display and app.processes.has_focus

    show(host, steps)


def test_rates_show_the_spawning_programs_and_lead_to_the_processes(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        for pid in range(100, 110):
            host.fork(pid, 40, ago=0)
            host.tables.change(host._rows[pid], start_boot_ns=app.model.reading.complete_boot_ns + 1000)  # type: ignore[union-attr]
        await pilot.press("v")
        app.step()
        await pilot.pause()
        lines = shown(app)
        assert lines[2].split()[:4] == ["FORK/S", "EXEC/S", "EXIT/S", "TOTAL"]
        assert (lines[3].split()[3] == "10" and lines[3].endswith("/usr/bin/bash")) or "/usr/bin/bash" in lines[3]
        await pilot.press("enter")
        await pilot.pause()
        assert str(app.model.settings.filter) == "path=/usr/bin/bash"
        assert app.processes.display and len(app.model.lines or ()) == 12
        await pilot.press("v", "b")
        await pilot.pause()
        assert "UNIT" in shown(app)[2]

    show(host, steps)


def test_it_can_begin_with_the_rates_of_units(host: Host) -> None:
    async def run() -> None:
        app = Top(Model(host.feed(None), Settings()), interval_s=1000, rates_by="unit")
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            assert shown(app)[2].split()[-1] == "UNIT"
            await pilot.press("b")
            assert app.rate_list.grouping == "user"

    with quick_screen():
        asyncio.run(run())


def test_a_mouse_selects_and_a_double_click_opens(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.click(app.processes, offset=(10, 3))
        assert app.processes.cursor == 2 and not app.details.display
        await pilot.click(app.processes, offset=(10, 2), times=2)
        assert app.processes.cursor == 1 and app.details.display

    show(host, steps)


def test_the_help_lists_every_key(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("?")
        await pilot.pause()
        text = "\n".join(shown(app))
        assert "Who is spawning all this?" in text and "columns" in text
        await pilot.press("t", "x", "s")
        assert app.model.settings.is_tree and app.model.settings.keep_s == 3.0, "its keys do nothing behind it"
        assert len(app.screen_stack) == 2
        app.step()
        await pilot.press("escape")
        await pilot.pause()
        assert "PID" in shown(app)[2]

    show(host, steps, size=(100, 44))
    from pipeline.top.dialogs import HELP

    words = " ".join(keys for keys, _ in HELP).split()
    names = {"space": "Space", "tab": "Tab", "left": "←", "right": "→", "d": "Enter,"}
    for key in Top._actions:
        assert names.get(key, key) in words, f"the help lacks {key}"


def test_a_pause_and_the_time_line(host: Host) -> None:
    host.start(60, "date", parent=1, ago=100)
    host.end(60, ago=50)

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("space")
        await pilot.pause()
        assert "PAUSED" in shown(app)[0] and "◆" in shown(app)[22]
        await pilot.press("{")
        await pilot.pause()
        assert app.model.at_boot_ns is not None and app.model.at_boot_ns < host.ago(50)
        await pilot.click("#time", offset=(9, 0))
        await pilot.pause()
        assert app.model.at_boot_ns == app.model.span.begin_boot_ns  # type: ignore[union-attr]
        assert app.model.processes is not None and 60 not in app.model.processes.pids
        await pilot.press("p")
        await pilot.pause()
        assert app.model.at_boot_ns is None and "◆" not in shown(app)[22]

    show(host, steps)


def test_a_recording_begins_at_its_begin_and_has_a_speed(host: Host) -> None:
    host.start(60, "date", parent=1, ago=100)
    host.end(60, ago=50)

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        lines = shown(app)
        assert "RECORDING" in lines[0] and "◆" in lines[22] and "lost" not in lines[1]
        assert [line.split()[-1] for line in lines[3:6]] == ["/sbin/init", "└─bash", "└─date"] or "date" in lines[6]
        await pilot.press(">", "}")
        await pilot.pause()
        assert app.model.settings.speed == 2.0
        assert "RECORDING x2" in shown(app)[0]
        assert app.model.at_boot_ns is not None and app.model.at_boot_ns > host.ago(96)

    show(host, steps, recorded_ago=200)


def test_a_stale_instance_is_named_and_the_picture_stays(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        host.tables.control["state"] = layout.STATE_STOPPED
        app.step()
        await pilot.pause()
        assert "stale: instance 'made-up' is stopped" in shown(app)[0]
        assert shown(app)[5].endswith("└─sleep 100")
        host.tables.control["state"] = layout.STATE_READY
        app.step()
        await pilot.pause()
        assert "stale" not in shown(app)[0]

    show(host, steps)


@pytest.mark.parametrize("size", [(20, 8), (40, 12), (80, 24), (200, 60)])
def test_every_size_is_drawn(host: Host, size: tuple[int, int]) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        for key in ("enter", "v", "v", "?", "escape", "c", "escape", "space", "t", "x"):
            await pilot.press(key)
            await pilot.pause()
            lines = shown(app)
            assert len(lines) == size[1] and all(len(line) <= size[0] for line in lines)

    show(host, steps, size=size)


def test_hostile_names_reach_the_screen_as_text(host: Host) -> None:
    host.start(60, "/tmp/'\x1b[2J\x1b[31m[bold]\r\n'", parent=1, ago=5)

    async def steps(app: Top, pilot: Pilot[None]) -> None:
        line = next(line for line in shown(app) if line.split()[:1] == ["60"])
        assert "\\x1b[2J\\x1b[31m[bold]\\r\\n" in line
        for strip in app.screen._compositor.render_strips(app.size):
            assert all(segment.text.isprintable() for segment in strip)

    show(host, steps)


def test_q_ends(host: Host) -> None:
    async def steps(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("q")

    assert show(host, steps).return_code == 0
