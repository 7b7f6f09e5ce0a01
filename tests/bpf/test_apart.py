"""Loading in a child process: its maps and programs arrive, its messages are reported, and it leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.bpf import apart
from pipeline.errors import LoadError, ProclineError, UnsupportedError
from pipeline.records.capture_fds import CaptureFds

# Test runners have threads; the child does not use them.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from pipeline.bpf.apart import load_apart
from pipeline.sources.ring._ring import Ring
assert not [name for name in sys.modules if "pylibbpf" in name or name == "pipeline.bpf.loader"]
def links():
    found = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return sum("bpf" in name or "perf_event" in name for name in found)
with_none = links()
capture = load_apart(ring_bytes=1 << 20)
assert not [name for name in sys.modules if "pylibbpf" in name or name == "pipeline.bpf.loader"]
assert not any(os.get_inheritable(fd) for fd in capture.open_fds)
rings = [Ring(fd, number=number, data_bytes=capture.ring_bytes) for number, fd in capture.fds.rings.items()]
def positions():
    return [ring.producer_pos for ring in rings]
try:
    os.waitpid(-1, os.WNOHANG)
    raise AssertionError("the process that loaded was not waited for")
except ChildProcessError:
    pass
before = positions()
for _ in range(7):
    subprocess.run(["/bin/true"], check=True)
assert sum(positions()) > sum(before), "no records: the programs went with the process that loaded them"
assert capture.tiers["core"].startswith("fork, exec and exit"), capture.tiers
assert min(capture.fds.shared, capture.fds.settings, capture.fds.pid_owners) >= 0
assert min(capture.fds.pid_cache, capture.fds.proc_cache) >= 0
assert (capture.fds.iter_link >= 0) == (not capture.tiers["iter"].startswith("off"))
assert capture.ring_count > max(capture.fds.rings)
capture.close()
capture.close()
assert links() == with_none
after = positions()
for _ in range(7):
    subprocess.run(["/bin/true"], check=True)
assert positions() == after, "the programs are still attached"
print("fine")
"""


@pytest.mark.live
def test_a_capture_outlives_the_process_that_loaded_it(live_kernel: None) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def maps(count: int) -> list[int]:
    """Descriptors like those that are kept; to the parent, a ring is only a descriptor."""
    from pipeline.bpf import libbpf

    return [libbpf.create_ring(f"t{number}", 4096) for number in range(count)]


@pytest.mark.live
@pytest.mark.parametrize("count", [1, 199, 200, 201, 450])
def test_any_number_of_rings_comes_through(live_kernel: None, count: int) -> None:
    """More descriptors than the kernel allows in one message."""

    def make() -> Any:
        fds = maps(count)
        return SimpleNamespace(
            ring_bytes=4096, ring_count=count, tiers=(),
            fds=CaptureFds(
                dict(enumerate(fds)), shared=fds[0], settings=fds[-1], pid_owners=fds[0], pid_cache=fds[0],
                proc_cache=fds[0],
            ),
        )  # fmt: skip

    held = apart.hold(make)
    try:
        assert sorted(held.fds.rings) == list(range(count)) and len(set(held.fds.rings.values())) == count
        assert held.fds.shared == held.fds.rings[0] and held.fds.settings == held.fds.rings[count - 1]
        assert held.fds.iter_link == -1
        for fd in held.fds.rings.values():
            assert Path(f"/proc/self/fd/{fd}").readlink() == Path("anon_inode:bpf-map")
    finally:
        held.close()
    assert not held.open_fds


def test_a_refusal_is_reported_with_its_facts() -> None:
    def refuse() -> Any:
        raise LoadError("no such program", program="pl_on_fork", log_tail="R1 !read_ok\n") from OSError(22, "no")

    with pytest.raises(LoadError, match=r"^no such program$") as caught:
        apart.hold(refuse)
    assert (caught.value.program, caught.value.log_tail) == ("pl_on_fork", "R1 !read_ok\n")
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == 22

    def lack() -> Any:
        raise UnsupportedError("no BTF", feature="btf", needs="a kernel with it", hint="take another one")

    with pytest.raises(UnsupportedError, match=r"^no BTF; take another one$") as other:
        apart.hold(lack)
    assert (other.value.feature, other.value.needs, other.value.hint) == ("btf", "a kernel with it", "take another one")
    assert other.value.__cause__ is None


def test_a_child_that_ends_without_a_word_is_no_capture(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[int] = []
    fork = os.fork

    def noted() -> int:
        pid = fork()
        children.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", noted)

    def fail() -> Any:
        raise ValueError("nobody expected this")

    with pytest.raises(LoadError, match="exited with code 1"):
        apart.hold(fail)
    assert "nobody expected this" in capfd.readouterr().err

    def die() -> Any:
        os.kill(os.getpid(), 9)

    with pytest.raises(ProclineError, match="killed by signal 9"):
        apart.hold(die)
    assert len(children) == 2
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
