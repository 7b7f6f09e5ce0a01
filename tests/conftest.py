"""Helpers for all tests: whether this host can load eBPF, and how a test reports what it needs."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests import sampling
from tests.actor import Actors

sampling.load_profile()

# After glibc has released a large array once, it takes later ones from its heap and clears them. The private memory of
# an applier is 2 MB, of which most tests use a few pages, so a thousand tests would clear 2 MB each. With a threshold
# that is set, large arrays always are fresh pages. Then what the heap keeps must be set too: smaller arrays would
# otherwise return their pages each time.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 256 << 10)
ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 64 << 20)

# A shell starts a job in the background with SIGINT and SIGQUIT ignored. Programs of tests would inherit that, and
# nothing would end them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# Debian has nats-server, sshd and others in a directory that only root's PATH contains.
os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/sbin"

# A failed expectation of a scenario shows the values that it compared. This precedes any import of these modules.
pytest.register_assert_rewrite(
    "tests.resolver.api.scenario_happens", "tests.resolver.api.scenario_checks", "tests.resolver.api.keyed"
)


#: What a module has that can have tests marked `alone`: such a mark, or the tests of another module.
_ALONE = re.compile(r"mark\.alone\b|^from tests[.\w]* import .*\btest_", re.MULTILINE)


#: The marks that all tests of a module have.
_MODULE_MARKS = re.compile(r"^pytestmark = (\[.*?\]$|.*?$)", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"\bmark\.(\w+)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out modules of which no test can be selected: to import all of them takes seconds in each worker."""
    terms = config.option.markexpr.split(" and ")
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_") or terms == [""]:
        return None
    text = collection_path.read_text()
    marks = _MODULE_MARKS.search(text)
    if marks and any(f"not {mark}" in terms for mark in _MARK.findall(marks[1])):
        return True
    return True if terms[0] == "alone" and not _ALONE.search(text) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Check that no test marked `alone` would be left out."""
    root = Path(__file__).parent
    for path in {item.path for item in items if item.get_closest_marker("alone")}:
        if not _ALONE.search(path.read_text()):
            raise pytest.UsageError(f"{path.relative_to(root)} has tests marked alone that no search would find")


def pytest_collection() -> None:
    """Collections of garbage would take a fifth of the time in which the tests are collected."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep the thousands of collected tests, and what garbage is among them, out of collections of 0.1 s each."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what only the newer BPF programs can do where the older ones are used."""
    marker = item.get_closest_marker("newer_programs")
    if marker is not None:
        from tests import older_programs

        if reason := older_programs.why():
            pytest.skip(f"the older programs lack {marker.args[0]} ({reason})")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("PROCLINE_REQUIRE_LIVE") == "1":
        pytest.fail(f"PROCLINE_REQUIRE_LIVE=1, but {reason}", pytrace=False)
    pytest.skip(f"not on this host: {reason}")


@pytest.fixture(scope="module")
def actors() -> Iterator[Actors]:
    """Makes processes that execute statements on demand."""
    with Actors() as making:
        yield making


@pytest.fixture(scope="session")
def missing() -> Callable[[str], NoReturn]:
    """Return a function to call with what is missing: it skips the test, or fails it if PROCLINE_REQUIRE_LIVE=1."""
    return _missing


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory on tmpfs, as tables need it, with a short path, as sockets do."""
    path = Path(tempfile.mkdtemp(prefix="procline-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def live_kernel() -> None:
    """Required by every test that loads eBPF into the running kernel (marker `live`)."""
    from pipeline.bpf import host, libbpf
    from pipeline.errors import UnsupportedError

    try:
        host.require()
        libbpf.library()
    except UnsupportedError as error:
        _missing(str(error))
