"""Loading, what is left after closing, and the errors when the kernel or the host refuses."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pipeline.bpf import build, features, host, libbpf, loader, maps, misses, probe, syscall
from pipeline.errors import LoadError, UnsupportedError
from pipeline.host.boot import now_boot_ns
from pipeline.records.capture_fds import NO_FD
from tests import older_programs
from tests.bpf.copied_objects import use_copied_objects
from tests.bpf.run_time import run_time_measured
from tests.linux import SKIPS_RUNS


def live_test(function: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.live(pytest.mark.usefixtures("live_kernel")(function))


def descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except OSError:
            continue
    return found


@live_test
def test_closing_leaves_no_descriptor() -> None:
    with loader.Capture(ring_bytes=4096):  # imports and BTF are loaded once
        pass
    before = descriptors()
    capture = loader.Capture(ring_bytes=4096)
    assert len(descriptors()) > len(before)
    capture.close()
    capture.close()
    assert descriptors() == before
    assert capture.fds.rings == {} and capture.fds.iter_link == -1


@live_test
@pytest.mark.slow
def test_many_cpus_get_larger_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each CPU keeps free elements of an LRU map for itself, so their number follows that of the CPUs."""

    def elements(of: loader.Capture, name: str) -> int:
        return int.from_bytes(syscall.info(of._map_fds[name])[16:20], sys.byteorder)  # struct bpf_map_info

    monkeypatch.setattr(loader, "_LRU_ELEMENTS_OF_CPU", 10_000)
    with loader.Capture(ring_bytes=4096, credentials="off", task_iterator="off") as capture:
        cpus = len(host.online_cpus())
        assert elements(capture, "pl_senders") == 10_000 * cpus
        assert elements(capture, "proc_cache") == max(16384, 10_000 * cpus)
        assert elements(capture, "pl_settings") == 1


@live_test
def test_closing_leaves_no_descriptor_where_the_newer_set_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before the next garbage collection."""
    real = libbpf.CoreObject

    def core(path: Path, *arguments: Any) -> libbpf.CoreObject:
        if ".old." not in path.name:
            raise LoadError(f"{path.name}: cannot be loaded")
        return real(path, *arguments)

    monkeypatch.delenv(features.FORCE, raising=False)
    monkeypatch.setattr(libbpf, "CoreObject", core)
    monkeypatch.setattr(features, "needs", lambda: features.Needs(("a function",), {}))
    gc.disable()
    try:
        test_closing_leaves_no_descriptor()
    finally:
        gc.enable()


@live_test
def test_the_tiers_that_are_in_use() -> None:
    """Credential changes have several tiers: test_cred_tiers.py tests those."""
    sizes = {"ring_bytes": 8192, "args_bytes": 100, "envs_bytes": 200, "wakeup_fill_bytes": 300}
    before = now_boot_ns()
    with loader.Capture(**sizes, credentials="off") as capture:
        assert set(capture.fds.rings) == set(host.online_cpus()) | ({capture.spare_ring} - {None})
        assert capture.ring_count == max(host.possible_cpus()) + 1
        settings = maps.settings(capture.fds.settings)[0]
        limits = (settings["args_bytes"], settings["envs_bytes"], settings["wakeup_fill_bytes"], settings["flags"])
        assert limits == (100, 200, 300, maps.CAPTURE_ON)
        assert settings["root_dentry"]
        assert settings["page_bytes"] == mmap.PAGESIZE
        assert before < settings["began_boot_ns"] < now_boot_ns()
        assert {tier.name for tier in capture.tiers if tier.is_on} == {"core", "context", "iter"}
        names = {program.name for program in capture.programs}
        assert names == {
            "pl_on_fork", "pl_on_exec", "pl_on_exit", "pl_on_wakeup", "pl_on_rename", "pl_on_cgroup", "pl_on_mkdir",
            "pl_on_signal", "pl_each_task",
        } | ({"pl_exchange"} if capture.lacks and features.has_locks() else set())  # fmt: skip
        for fd in (*capture.fds.rings.values(), capture.fds.shared, capture.fds.iter_link):
            assert not os.get_inheritable(fd)


@live_test
def test_run_time_is_measured_and_small_beside_the_work(actions: Path) -> None:
    """Targets are 1.5 us a fork or exit, 8 us an exec (bench/). The test uses a ratio, which also holds if emulated."""
    with loader.Capture(ring_bytes=8 << 20, envs_bytes=4096) as capture, run_time_measured():
        before = {p.name: p for p in capture.programs}
        begin = time.monotonic_ns()
        subprocess.run([actions, "storm", "1009", "199"], check=True)
        took_ns = time.monotonic_ns() - begin
        after = {p.name: p for p in capture.programs}
    for name, least in (("pl_on_fork", 1208), ("pl_on_exit", 1208), ("pl_on_exec", 199)):
        assert after[name].runs - before[name].runs + after[name].recursion_misses >= least
        assert SKIPS_RUNS or after[name].recursion_misses == 0
    spent_ns = sum(p.run_ns - before[p.name].run_ns for p in after.values())
    assert spent_ns < took_ns / 5


@live_test
@pytest.mark.parametrize(("credentials", "runs"), [("sampled", False), ("off", True)])
def test_a_signal_runs_no_program_where_comparison_finds_hangups(credentials: str, runs: bool) -> None:
    with loader.Capture(ring_bytes=8192, credentials=credentials) as capture:
        with run_time_measured():
            for _ in range(100):
                os.kill(os.getpid(), signal.SIGWINCH)  # is ignored
            (program,) = [each for each in capture.programs if each.name == "pl_on_signal"]
        assert (program.runs >= 100) == runs and (runs or program.runs == 0)
        (context,) = [tier for tier in capture.tiers if tier.name == "context"]
        assert ("hangups" in context.detail) == runs


@live_test
def test_two_captures_do_not_disturb_each_other() -> None:
    with loader.Capture(ring_bytes=4096) as one, loader.Capture(ring_bytes=8192) as two:
        assert one.fds.shared != two.fds.shared
        one.close()
        assert two.programs


@live_test
def test_rings_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with loader.Capture(ring_bytes=4096):
        pass
    create, before = libbpf.create_ring, descriptors()

    def no_memory(name: str, ring_bytes: int) -> int:
        if name != "pl_ring_0":
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return create(name, ring_bytes)

    monkeypatch.setattr(libbpf, "create_ring", no_memory)
    monkeypatch.setattr(host, "online_cpus", lambda: [0, 1])
    with pytest.raises(LoadError, match=r"Cannot allocate memory; lower capture\.rings_bytes or"):
        loader.Capture(ring_bytes=1 << 20)
    assert descriptors() == before


@live_test
def test_a_size_that_is_no_ring() -> None:
    with pytest.raises(LoadError, match="Invalid argument"):
        loader.Capture(ring_bytes=5000)


BAD = """
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "Dual BSD/GPL";
SEC("tp_btf/sched_process_exec")
int pl_bad(u64 *ctx) { return *(int *)(ctx[0] << 3); }
"""


@pytest.fixture
def bad_object(tmp_path: Path, missing: Callable[[str], NoReturn]) -> Path:
    source = tmp_path / "bad.bpf.c"
    source.write_text(BAD)
    (tmp_path / "vmlinux_min.h").write_bytes((build.PROGRAMS / "vmlinux_min.h").read_bytes())
    try:
        build.compile_object(source, tmp_path / "bad.bpf.o")
    except build.BuildError as error:
        missing(str(error))
    return tmp_path / "bad.bpf.o"


@live_test
def test_the_verifiers_log_is_in_the_error(bad_object: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for load in (libbpf.CoreObject, lambda path: libbpf.TierObject(path, {})):
        with pytest.raises(LoadError) as caught:
            load(bad_object)
        assert caught.value.program == "pl_bad"
        assert "bad.bpf.o" in str(caught.value)
        assert "prohibited" in caught.value.log_tail or "invalid mem access" in caught.value.log_tail
        assert isinstance(caught.value.__cause__, OSError)
    assert capfd.readouterr() == ("", "")


@live_test
def test_each_thread_gets_the_log_of_its_own_object(bad_object: Path, capfd: pytest.CaptureFixture[str]) -> None:
    absent = bad_object.with_name("absent.bpf.o")

    def words(path: Path) -> str:
        with pytest.raises(LoadError) as caught:
            libbpf.TierObject(path, {})
        return caught.value.log_tail

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(words, [bad_object, absent] * 5))
    assert all("pl_bad" in tail and "absent" not in tail for tail in found[::2])
    assert all("pl_bad" not in tail and "absent" in tail for tail in found[1::2])
    assert capfd.readouterr() == ("", "")


@live_test
@pytest.mark.parametrize("key", ["kprobe", "syscalls"])
def test_a_tier_with_a_refused_trial_is_not_loaded(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service may not attach these, and their verification would take most of the time of its restart."""
    kind = loader.CREDENTIALS[key]
    loaded = []
    whole = libbpf.TierObject

    class Refused(whole):  # type: ignore[misc,valid-type]
        def __init__(self, path: Path, *args: Any, **options: Any) -> None:
            loaded.append(path.name)
            super().__init__(path, *args, **options)

        def attach(self) -> None:
            raise LoadError("the kernel says no", program=kind.trial, log_tail="")

    with loader.Capture(ring_bytes=4096, credentials="off") as capture, monkeypatch.context() as patch:
        patch.setattr(libbpf, "TierObject", Refused)
        tier = capture._load_tier(kind)
    assert (tier.is_on, tier.detail) == (False, "the kernel says no")
    assert loaded == ["probe.bpf.o"]


@live_test
def test_a_file_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "x.o").write_text("not an object")
    for load in (libbpf.CoreObject, lambda path: libbpf.TierObject(path, {})):
        with pytest.raises(LoadError, match=r"x\.o"):
            load(tmp_path / "x.o")


@live_test
def test_a_tier_that_is_refused_is_reported_and_the_rest_works(
    bad_object: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_copied_objects(monkeypatch, bad_object.parent, "bad")
    bad_object.replace(features.object_path("bad", bool(older_programs.why())))
    monkeypatch.setattr(loader, "TIERS", (loader.TierKind("bad", "tp_btf", "nothing"), *loader.TIERS))
    with loader.Capture(ring_bytes=4096, credentials="off") as capture:
        assert bool(capture.lacks) == bool(older_programs.why())
        assert {tier.name for tier in capture.tiers if tier.is_on} == {"core", "context", "iter"}
        assert "pl_bad" in next(tier.detail for tier in capture.tiers if tier.name == "bad")


def test_a_kernel_without_type_information(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "BTF", tmp_path / "vmlinux")
    with pytest.raises(UnsupportedError, match="no type information") as caught:
        loader.Capture(ring_bytes=4096)
    assert caught.value.feature == "btf"
    assert "proc-connector" in str(caught.value)


@pytest.fixture
def lacking(bad_object: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel that rejects the newer core object because it lacks something; returns the directory of the objects."""
    for path in features.OBJECTS.glob("*.old.*"):
        shutil.copy(path, bad_object.parent)
    bad_object.rename(bad_object.with_name("procline.bpf.o"))
    monkeypatch.setattr(features, "OBJECTS", bad_object.parent)
    monkeypatch.setattr(features, "needs", lambda: features.Needs(("bpf_rdonly_cast",), {}))
    monkeypatch.delenv(features.FORCE, raising=False)
    return bad_object.parent


@live_test
@pytest.mark.skipif(os.uname().machine not in features.OLD_MACHINES, reason="no older set for this machine")
def test_a_kernel_that_lacks_something_gets_the_older_programs(lacking: Path) -> None:
    with loader.Capture(ring_bytes=4096, capabilities_usage="on", calls="on") as capture:
        assert capture.lacks == ("bpf_rdonly_cast",)
        details = {tier.name: tier.detail for tier in capture.tiers if tier.is_on}
        # Without probe.bpf.o in that directory, neither fentry nor kprobe is tried.
        assert {"core", "context", "iter", "cred_sampled"} <= set(details)
        assert "missing: bpf_rdonly_cast" in details["core"]
        refused = {tier.name: tier.detail for tier in capture.tiers if not tier.is_on}
        assert refused["capability"].endswith("not among the programs for older kernels")
        assert "calls" in details or features.object_path("calls", True).name in refused["calls"]


@live_test
def test_programs_that_would_share_a_buffer_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PREEMPT_RT, before the kernel skips a program that is running already."""
    system = types.SimpleNamespace(version="#1 SMP PREEMPT_RT", machine=os.uname().machine, release=os.uname().release)
    monkeypatch.setattr(os, "uname", lambda: system)
    monkeypatch.setattr(syscall, "info_bytes", lambda fd: 208)
    with loader.Capture(ring_bytes=4096, calls="on") as capture:
        details = {tier.name: tier.detail for tier in capture.tiers if not tier.is_on}
        assert details["cred_fentry"] == details["calls"] == features.SHARED_BUFFERS
        fd = capture._program_fds[0]
        assert features.share_buffers(fd)
        system.version = "#1 SMP PREEMPT_DYNAMIC"
        assert not features.share_buffers(fd)
    monkeypatch.undo()
    with loader.Capture(ring_bytes=4096) as capture:
        counts = syscall.info_bytes(capture._program_fds[0]) >= misses.COUNTING_INFO_BYTES
        assert counts or os.uname().release.startswith("5.10."), "kernels since Linux 5.12 count them"
        assert features.share_buffers(capture._program_fds[0]) == (not counts and "PREEMPT_RT" in os.uname().version)


@live_test
def test_a_kernel_that_rejects_both_sets(lacking: Path) -> None:
    (lacking / "procline.bpf.o").replace(features.object_path("procline", True))
    with pytest.raises(UnsupportedError, match="too old for the BPF programs: it lacks bpf_rdonly_cast") as caught:
        loader.Capture(ring_bytes=4096)
    assert caught.value.needs == host.OLDEST
    assert "proc-connector" in str(caught.value)


@live_test
def test_a_machine_without_older_programs(lacking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "OLD_MACHINES", {})
    with pytest.raises(UnsupportedError, match="there are none for older kernels on"):
        loader.Capture(ring_bytes=4096)


@live_test
def test_an_error_of_the_newer_programs_is_not_hidden(lacking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "needs", lambda: features.Needs((), {}))
    if os.uname().machine in features.OLD_MACHINES:
        with loader.Capture(ring_bytes=4096, credentials="off", task_iterator="off") as capture:
            assert "pl_bad" in capture.tiers[0].detail and "for older kernels" in capture.tiers[0].detail
    monkeypatch.setattr(features, "OLD_MACHINES", {})
    with pytest.raises(LoadError, match="pl_bad"):
        loader.Capture(ring_bytes=4096)


@live_test
@pytest.mark.skipif(os.uname().machine not in features.OLD_MACHINES, reason="the older set is for x86-64")
def test_the_refusals_of_both_sets_are_reported(lacking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "needs", lambda: features.Needs((), {}))
    shutil.copy(lacking / "procline.bpf.o", features.object_path("procline", True))
    with pytest.raises(LoadError, match=r"procline\.bpf\.o: cannot.* procline\.old\.bpf\.o: cannot") as caught:
        loader.Capture(ring_bytes=4096)
    assert caught.value.program == "pl_bad" and caught.value.log_tail


@live_test
def test_this_kernel_is_asked_for_each_need(live_kernel: None) -> None:
    with loader.Capture(ring_bytes=4096, credentials="off", task_iterator="off") as capture:
        if not features.is_forced():
            assert capture.lacks == features.needs().lacking


def test_missing_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "effective_capabilities", lambda: frozenset({"CAP_BPF"}))
    with pytest.raises(UnsupportedError, match="CAP_PERFMON missing"):
        loader.Capture(ring_bytes=4096)


@live_test
def test_two_capabilities_are_enough() -> None:
    """CAP_BPF and CAP_PERFMON, without others and without root."""
    program = (
        "import ctypes, os\n"
        "from pipeline.bpf.loader import Capture\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.prctl(8, 1, 0, 0, 0)\n"  # PR_SET_KEEPCAPS
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "caps = 1 << 38 | 1 << 39\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "data = (ctypes.c_uint32 * 6)(0, 0, 0, caps >> 32, caps >> 32, 0)\n"
        "assert libc.capset(header, data) == 0\n"
        "libc.prctl(38, 1, 0, 0, 0)\n"  # PR_SET_NO_NEW_PRIVS
        "with Capture(ring_bytes=4096) as capture:\n"
        "    print([tier.name for tier in capture.tiers if tier.is_on])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    tiers = ["core", "context", "iter", "cred_fentry" if probe.attach_kind("fentry").ok else "cred_sampled"]
    assert result.stdout.strip() in {str(tiers), str([*tiers, "cred_sampled"])}, result.stderr


@live_test
def test_recorded_calls_need_fentry_and_nothing_else_does() -> None:
    with loader.Capture(ring_bytes=4096, credentials="off", task_iterator="off", calls="on") as capture:
        (calls,) = [tier for tier in capture.tiers if tier.name == "calls"]
        assert calls.is_on == (capture.fds.calls != NO_FD) == (capture.fds.calls_dropped != NO_FD)
        assert calls.is_on or features.object_path("calls", bool(capture.lacks)).name in calls.detail
        assert (capture.fds.for_shard([]).calls, capture.fds.for_resolver().calls) == (NO_FD, capture.fds.calls)
    with loader.Capture(ring_bytes=4096, credentials="off", task_iterator="off") as capture:
        assert [tier.detail for tier in capture.tiers if tier.name == "calls"] == ['capture.calls is "off"']
