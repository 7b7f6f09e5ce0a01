"""One capture for all tests of a pytest worker that read only the records of their own processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf.loader import Capture
from tests.actor import Actor, Actors
from tests.bpf.ring_reader import RING_BYTES, Reader
from tests.bpf.tiers import ALL, Tier
from tests.hierarchy import named_hierarchy


@pytest.fixture(scope="session")
def actions(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], NoReturn]) -> Path:
    """The compiled workload."""
    return compiled("actions", tmp_path_factory.mktemp("actions"), missing)


@pytest.fixture(scope="session")
def spender(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], NoReturn]) -> Path:
    return compiled("spender", tmp_path_factory.mktemp("spender"), missing)


def compiled(name: str, directory: Path, missing: Callable[[str], NoReturn]) -> Path:
    """Compile a program of this directory: a static one, so that it runs in an empty chroot too."""
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None:
        missing("no C compiler (gcc)")
    program, source = directory / name, Path(__file__).with_name(f"{name}.c")
    subprocess.run(
        [gcc, "-static", "-O1", "-Wall", "-Wno-nonnull", "-Werror", "-pthread", source, "-o", program], check=True
    )
    return program


@pytest.fixture(scope="session")
def capture(live_kernel: None) -> Iterator[Capture]:
    with Capture(ring_bytes=RING_BYTES, args_bytes=32768, envs_bytes=32768) as running:
        yield running


@pytest.fixture(scope="session")
def session_reader(capture: Capture) -> Reader:
    return Reader(capture)


@pytest.fixture
def reader(session_reader: Reader) -> Reader:
    """The rings, from their current positions on."""
    session_reader.poll()
    session_reader.records.clear()
    return session_reader


@pytest.fixture
def v1(missing: Callable[[str], NoReturn]) -> Iterator[Path]:
    """A cgroup hierarchy of version 1 for this test, with a name and no controllers, mounted until the test ends."""
    yield from named_hierarchy(missing)


@pytest.fixture(scope="module", params=ALL)
def tier(request: pytest.FixtureRequest, live_kernel: None) -> Iterator[Tier]:
    one = Tier(request.param)
    yield one
    one.capture.close()


@pytest.fixture
def actor(actors: Actors) -> Iterator[Actor]:
    with actors() as running:
        yield running
