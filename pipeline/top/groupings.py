"""Groupings of the rates. Apart from `rates`, so that the help of the command does not import numpy."""

from __future__ import annotations

GROUPINGS = ("executable", "unit", "user", "spawner")
