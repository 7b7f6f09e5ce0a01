"""Which libbpf is used: the system's if it is recent, else the one in pylibbpf; and the error if neither exists."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.bpf import features, libbpf, probe
from pipeline.errors import LoadError, UnsupportedError

CAPTURE = """
import sys
import threading
from pipeline.bpf import libbpf
if sys.argv[1] == "system":
    libbpf.bundled = lambda: None
else:
    libbpf.SYSTEM_LIBRARY = "libbpf-no-such.so.1"
from pipeline.bpf.loader import Capture
with Capture(ring_bytes=4096) as capture:
    print(libbpf.library().path, *(tier.name for tier in capture.tiers if tier.is_on))
heavy = {"pylibbpf", "pylibbpf.pylibbpf", "llvmlite", "numba"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.live
@pytest.mark.usefixtures("live_kernel")
@pytest.mark.parametrize("which", ["bundled", "system"])
def test_programs_are_loaded_by_either_library(which: str, missing: Callable[[str], NoReturn]) -> None:
    """pylibbpf itself, which needs llvmlite, is not imported."""
    if which == "bundled" and libbpf.bundled() is None:
        if sys.version_info >= (3, 14):
            pytest.skip("pylibbpf has no wheel for this version of Python")
        missing("pylibbpf is not installed")
    if which == "system":
        try:
            ctypes.CDLL(libbpf.SYSTEM_LIBRARY)
        except OSError as error:
            missing(f"{error}: apt-get install libbpf1")
    done = subprocess.run(
        [sys.executable, "-c", CAPTURE, which], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    path, *tiers = done.stdout.split()
    assert path == (libbpf.bundled() if which == "bundled" else libbpf.SYSTEM_LIBRARY)
    assert {"core", "context", "iter"} <= set(tiers)


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "_library", None)


@pytest.mark.usefixtures("nothing_loaded")
def test_without_libbpf_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "bundled", lambda: None)
    monkeypatch.setattr(libbpf, "SYSTEM_LIBRARY", "libbpf-no-such.so.1")
    with pytest.raises(
        UnsupportedError, match=r"libbpf cannot be loaded .*install the system package libbpf1"
    ) as caught:
        libbpf.library()
    assert caught.value.feature == "libbpf"
    finding = next(found for found in probe.findings() if found.name == "libbpf")
    assert finding.ok is False and "libbpf1 (Debian, Ubuntu)" in finding.hint and finding.hint not in finding.detail


@pytest.mark.usefixtures("nothing_loaded")
def test_a_library_without_the_functions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "SYSTEM_LIBRARY", "libbpf-no-such.so.1")
    monkeypatch.setattr(libbpf, "bundled", lambda: "libc.so.6")
    with pytest.raises(UnsupportedError, match=r"libc\.so\.6 has no function libbpf_version_string; upgrade"):
        libbpf.library()


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("version", "bundled", "used"),
    [
        ((1, 5), "libm.so.6", "libc.so.6"),
        ((1, 10), "libm.so.6", "libc.so.6"),
        ((2, 0), "libm.so.6", "libc.so.6"),
        ((1, 4), "libm.so.6", "libm.so.6"),
        ((1, 4), None, "libc.so.6"),
        ((1, 4), "broken.so", "libc.so.6"),
    ],
)
def test_an_old_library_of_the_system_is_used_only_if_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: tuple[int, int], bundled: str | None, used: str
) -> None:
    (tmp_path / "broken.so").write_bytes(b"not a library")
    path = str(tmp_path / bundled) if bundled == "broken.so" else bundled
    monkeypatch.setattr(libbpf, "bundled", lambda: path)
    monkeypatch.setattr(libbpf, "SYSTEM_LIBRARY", "libc.so.6")
    monkeypatch.setattr(libbpf, "_version", lambda _: version)
    assert libbpf._open()[0] == used


def test_the_version_of_the_library() -> None:
    major, minor = libbpf._version(ctypes.CDLL(libbpf.library().path))
    assert libbpf.library().libbpf_version_string().decode() == f"v{major}.{minor}"
    assert libbpf._version(ctypes.CDLL("libc.so.6")) == (0, 0)


def test_a_warning_is_formatted_whole_and_kept_by_the_calling_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / ("x" * 200) / ("y" * 200) / "none.bpf.o"
    with pytest.raises(LoadError, match=r"none\.bpf\.o: cannot be opened: No such file") as caught:
        libbpf.TierObject(absent, {})
    assert f"failed to open {absent}: " in caught.value.log_tail
    with libbpf.messages() as lines:
        other = threading.Thread(target=libbpf.library().bpf_object__open_file, args=(b"/other", None))
        other.start()
        other.join()
    assert lines == [] and "failed to open /other" in capfd.readouterr().err


def test_a_module_that_has_no_descriptor_left_is_the_reason() -> None:
    """libbpf then says that it has not found a function, and returns EINVAL."""
    said = ["failed to get BTF object #5 FD: -24", "extern (func ksym) 'x': not found in kernel or module BTFs"]
    error = libbpf.load_error(Path("probe.bpf.o"), "cannot be loaded", said, 22)
    assert "Too many open files" in str(error) and features.says_nothing(error)
    assert not features.says_nothing(libbpf.load_error(Path("probe.bpf.o"), "cannot be loaded", said[1:], 22))
