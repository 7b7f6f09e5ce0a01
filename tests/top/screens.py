"""The screen of `procline top`, run without a terminal, and what it shows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias
from unittest import mock

from textual.pilot import Pilot

from pipeline.top.app import Top
from pipeline.top.model import Model, Settings
from tests.top.host import Host
from tests.waiting import WAIT_S

#: Textual draws at most once in this time. A test waits for the next time, so here it is shorter than for a person.
REDRAW_S = 0.001
#: Timers that end later, such as that of a blinking cursor, start nothing that a test waits for.
SOON_S = 0.1
Steps: TypeAlias = Callable[[Top, Pilot[None]], Awaitable[None]]


def shown(app: Top) -> list[str]:
    """Return the lines of the screen as text."""
    width, height = app.size
    strips = app.screen._compositor.render_strips(app.size)
    return ["".join(segment.text for segment in strip)[:width].rstrip() for strip in strips[:height]]


def show(
    host: Host, steps: Steps, size: tuple[int, int] = (80, 24), *, recorded_ago: float | None = None, **settings: Any
) -> Top:
    """Run the screen, and do some steps in it."""
    app = Top(Model(host.feed(recorded_ago), Settings(**settings)), interval_s=1000)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    with quick_screen():
        asyncio.run(run())
    return app


@contextlib.contextmanager
def quick_screen() -> Iterator[None]:
    """Let a pilot wait for the effects of a key instead of for a time."""
    with (
        mock.patch("textual.app.wait_for_idle", _rest),
        mock.patch("textual.pilot.wait_for_idle", _rest),
        mock.patch("textual.screen.UPDATE_PERIOD", REDRAW_S),
    ):
        yield


async def _rest(*_: float) -> None:
    """Wait until no task of the event loop can continue, now or soon.

    Textual itself waits after each key until the process has used little CPU time for 20 ms. The screen of `top` has no
    threads. So the effects of a key are complete when nothing is ready, and no timer, such as that of a redraw, is due.
    """
    loop: Any = asyncio.get_running_loop()
    deadline = loop.time() + WAIT_S
    rounds = 0
    while rounds < 2:  # the first one may have been the last step of something that continues
        assert loop.time() < deadline, "the screen does not come to rest"
        await asyncio.sleep(0)
        timers = [each.when() - loop.time() for each in loop._scheduled if not each.cancelled()]
        soon = min(timers, default=SOON_S)
        if soon < SOON_S:
            await asyncio.sleep(soon)
        rounds = 0 if loop._ready or soon < SOON_S else rounds + 1
