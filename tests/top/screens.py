"""The screen of `procline top`, run without a terminal, and what it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from textual.pilot import Pilot

from pipeline.top.app import Top
from pipeline.top.model import Model, Settings
from tests.top.host import Host

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

    asyncio.run(run())
    return app
