"""The fixtures of this directory."""

from __future__ import annotations

from tests.procfs.roots import root as root
