"""The facts about the host that `doctor` reports."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from pipeline.bpf import features, host, libbpf, loader, probe, syscall
from pipeline.bpf._positions import ProducerPositions
from pipeline.bpf.loader import CREDENTIALS, Capture, CredentialsTrial, Gaps, Tier
from pipeline.config import methods
from pipeline.errors import LoadError


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0-1,4,6-7\n", [0, 1, 4, 6, 7]), ("\n", [])]
)
def test_cpu_lists(text: str, numbers: list[int]) -> None:
    assert host.parse_cpus(text) == numbers


def by_name() -> dict[str, probe.Finding]:
    return {finding.name: finding for finding in probe.findings()}


@pytest.mark.live
def test_this_host_has_the_features_that_a_capture_needs(live_kernel: None) -> None:
    found = by_name()
    for name in ("kernel", "btf", "capabilities", "attach tp_btf", "attach iter", "programs", "cpus"):
        assert found[name].ok is True, found[name]


@pytest.mark.live
def test_attach_kinds_are_tried_not_guessed(live_kernel: None) -> None:
    for kind in ("fentry", "kprobe", "iter", "tp/syscalls"):
        finding = probe.attach_kind(kind)
        assert finding.ok is not None
        assert finding.ok or "rejected at" in finding.detail


@pytest.mark.live
@pytest.mark.usefixtures("live_kernel")
@pytest.mark.parametrize("method", ["sampled", "syscalls"])
def test_a_capture_states_the_limits_of_its_method(method: str) -> None:
    with Capture(ring_bytes=4096, credentials=method) as capture:
        (detail,) = (tier.detail for tier in capture.tiers if tier.name == CREDENTIALS[method].name)
        assert methods.SEES[method] in detail


@pytest.mark.live
def test_the_reported_credentials_method_is_the_one_of_a_capture(live_kernel: None) -> None:
    with Capture(ring_bytes=4096) as capture:
        chosen = next((tier.name for tier in capture.tiers if tier.is_on and tier.name.startswith("cred_")), None)
    said = {"cred_fentry": "by fentry", "cred_kprobe": "by kprobe", "cred_sampled": "by iter", None: "seen at"}
    assert by_name()["credentials"].detail.startswith(said[chosen])


def test_programs_that_would_share_a_buffer_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "missing_capabilities", list)
    monkeypatch.setattr(libbpf, "TierObject", mock.MagicMock())
    monkeypatch.setattr(features, "share_buffers", lambda fd: False)
    assert probe.attach_kind("fentry").ok is True
    monkeypatch.setattr(features, "share_buffers", lambda fd: True)
    found = probe.attach_kind("fentry")
    assert found.ok is False and features.SHARED_BUFFERS in found.detail
    assert probe.attach_kind("tp_btf").ok is True


@pytest.mark.parametrize(
    ("fentry", "kprobe", "sampled", "ok", "words"),
    [
        (True, True, True, True, "by fentry: seen at once, at no cost to others"),
        (
            False,
            True,
            True,
            True,
            "by kprobe: seen at once, at no cost to others; can be late: setpgid() of a child that another thread "
            "forked (fentry refused)",
        ),
        (False, False, True, True, "(fentry refused; kprobe refused)"),
        (False, False, False, False, "seen at the next fork"),
        (None, None, None, None, "refused"),
    ],
)
@pytest.mark.parametrize("syscalls", [True, False])
def test_the_method_for_credentials(
    fentry: bool | None, kprobe: bool | None, sampled: bool | None, ok: bool | None, words: str, syscalls: bool
) -> None:
    found = probe.credentials(kinds(fentry=fentry, kprobe=kprobe, iter=sampled, tp_syscalls=syscalls))
    assert found.ok is ok
    assert words in found.detail
    if not ok:
        assert found.hint
    # Without a method that sees each change, the one that slows every system call is mentioned, if it works.
    names_the_costly_one = 'capture.credentials = "syscalls"' in found.hint
    assert names_the_costly_one == (syscalls and not fentry and not kprobe and ok is not None)
    assert ("not seen: a change that is reverted" in found.detail) == bool(sampled and not fentry and not kprobe)
    # The brief report shows a method with limits only if there is a hint.
    assert bool(found.hint) == (ok is not True or "by iter" in found.detail)


class Trial:
    """In place of a CredentialsTrial: a kernel that sees some changes by comparison."""

    gaps: dict[str, Gaps]
    is_completed = True

    def __init__(self, method: str, task_iterator: str) -> None:
        assert task_iterator == ("auto" if self.is_completed else "off")
        self.tiers = [Tier("cred_sampled", "iter", self.is_completed, "")]

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize(
    ("method", "gaps", "words"),
    [
        ("fentry", Gaps(("pl_tty_release", "pl_set_loginuid")), ": the release of a terminal, the login uid"),
        ("fentry", Gaps(("pl_new",)), ": pl_new"),
        ("kprobe", Gaps((), True), ": what the programs miss, which this kernel does not count"),
        ("kprobe", Gaps(("pl_tty_release",), True), ": the release of a terminal; what the programs miss, which"),
        ("fentry", Gaps(), ""),
    ],
)
@pytest.mark.parametrize("is_completed", [True, False])
def test_what_a_method_does_not_see_at_once_on_this_kernel(
    monkeypatch: pytest.MonkeyPatch, method: str, gaps: Gaps, words: str, is_completed: bool
) -> None:
    monkeypatch.setattr(host, "missing_capabilities", list)
    monkeypatch.setattr(Trial, "gaps", {f"cred_{method}": gaps, "cred_sampled": Gaps()}, raising=False)
    monkeypatch.setattr(Trial, "is_completed", is_completed)
    monkeypatch.setattr(loader, "CredentialsTrial", Trial)
    late = probe.seen_late(method, "auto" if is_completed else "off")
    assert (words in late) if words else not late
    assert ("by comparison" in late) == bool(words and is_completed)
    automatic = probe.credentials(kinds(fentry=method == "fentry"), "auto", late=late)
    for found in (automatic, probe.credentials(kinds(fentry=method == "fentry"), method, late=late)):
        assert found.ok is True and f"{methods.SEES[method]}; {late}".removesuffix("; ") in found.detail
    assert bool(automatic.hint) == bool(words)


def test_nothing_is_loaded_to_find_out_what_a_comparison_sees_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "missing_capabilities", list)
    monkeypatch.setattr(loader, "CredentialsTrial", mock.Mock(side_effect=AssertionError))
    assert probe.seen_late("sampled") == probe.seen_late("off") == ""
    monkeypatch.setattr(loader, "CredentialsTrial", mock.Mock(side_effect=LoadError("refused")))
    assert probe.seen_late("fentry") == ""


@pytest.mark.parametrize(
    ("refused", "choice", "method"),
    [((), "auto", "fentry"), (("fentry",), "auto", "kprobe"), (("fentry", "kprobe"), "auto", "sampled"),
     (("fentry", "kprobe", "iter"), "auto", "off"), ((), "syscalls", "syscalls"), (("kprobe",), "kprobe", "off"),
     ((), "off", "off")],
)  # fmt: skip
def test_the_method_that_an_instance_will_use(refused: tuple[str, ...], choice: str, method: str) -> None:
    assert probe.method_of(kinds(**dict.fromkeys(refused, False)), choice) == method


@pytest.mark.live
@pytest.mark.parametrize("method", ["sampled", "syscalls"])
def test_a_trial_of_a_method_finds_what_a_capture_finds_and_records_nothing(live_kernel: None, method: str) -> None:
    with Capture(ring_bytes=4096, credentials=method) as capture:
        whole = capture.gaps[CREDENTIALS[method].name]
    with CredentialsTrial(method) as trial:
        assert trial.gaps[CREDENTIALS[method].name] == whole
        subprocess.run(["true"], check=True)
        rings = ProducerPositions(dict(trial.fds.rings), trial.ring_count)
        positions = np.zeros(trial.ring_count, np.uint64)
        rings.sample(positions)
        rings.close()
        assert not positions.any()


def kinds(**outcomes: bool | None) -> dict[str, probe.Finding]:
    """Return results of the attach kinds: `works`, or the outcome in `outcomes`."""
    return {
        kind: probe.Finding(kind, outcomes.get(kind.replace("/", "_"), True), "refused; so what", "root")
        for kind in probe.ATTACH_KINDS
    }


@pytest.mark.parametrize(("choice", "hint"), [("sampled", "fentry"), ("syscalls", "fentry"), ("off", "fentry")])
def test_a_method_that_is_set_by_name_has_its_limits_and_an_alternative(choice: str, hint: str) -> None:
    found = probe.credentials(kinds(), choice)
    assert found.ok is True and methods.SEES[choice] in found.detail
    assert found.hint == f'capture.credentials = "auto" uses {hint}: {methods.SEES[hint]}'
    assert probe.credentials(kinds(), "fentry").hint == ""


def test_a_method_that_is_set_by_name_and_does_not_work() -> None:
    found = probe.credentials(kinds(kprobe=False), "kprobe")
    assert (found.ok, found.hint) == (False, 'set it to "auto"')
    assert found.detail == 'capture.credentials is "kprobe": kprobe refused'
    assert probe.credentials(kinds(kprobe=None), "kprobe").ok is None
    # Comparison needs the task iterator.
    found = probe.credentials(kinds(), "sampled", "off")
    assert found.ok is False and 'capture.task_iterator is "off"' in found.detail


def test_without_the_task_iterator_there_is_no_comparison() -> None:
    found = probe.credentials(kinds(fentry=False, kprobe=False), "auto", "off")
    assert found.ok is False and 'iter capture.task_iterator is "off"' in found.detail
    assert "hangups of terminals by the comparison with /proc" in found.detail


def test_comparison_without_any_other_method_says_so() -> None:
    found = probe.credentials(kinds(fentry=False, kprobe=False, tp_syscalls=False))
    assert found.ok is True and found.hint == "no other method works: tp/syscalls refused"


@pytest.mark.parametrize("outcome", [True, False, None])
def test_limits_and_prices_are_reported_whichever_method_is_used(outcome: bool | None) -> None:
    sampled, syscalls = probe.limits(kinds(iter=outcome, tp_syscalls=outcome))
    assert (sampled.name, syscalls.name) == ("method sampled", "method syscalls")
    assert sampled.ok is outcome and syscalls.ok is outcome
    assert f"not seen: {methods.SAMPLED_MISSES}" in sampled.detail
    assert methods.SYSCALLS_COST in syscalls.detail and methods.SYSCALLS_DELAYS in syscalls.detail
    assert ("refused" in sampled.detail) == ("refused" in syscalls.detail) == (not outcome)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, int]], None]:
    """Return a function that lets the kernel refuse core objects, by the name of the file."""

    def refuse_files(codes: dict[str, int]) -> None:
        class Core:
            def __init__(self, path: Path) -> None:
                if path.name in codes:
                    raise libbpf.load_error(path, "cannot be loaded", [], codes[path.name])

            def close(self) -> None:
                pass

        monkeypatch.setattr(libbpf, "CoreObject", Core)

    monkeypatch.setattr(host, "missing_capabilities", list)
    monkeypatch.setattr(features, "OLD_MACHINES", {os.uname().machine: ".old.bpf.o"})
    monkeypatch.delenv(features.FORCE, raising=False)
    return refuse_files


def test_what_a_kernel_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, refuse: Callable[[dict[str, int]], None]
) -> None:
    refuse({"procline.bpf.o": errno.EINVAL})
    monkeypatch.setattr(features, "needs", lambda: features.Needs(("bpf_loop (Linux 5.17)",), {}))
    found = probe.programs()
    assert found.ok is True and "bpf_loop (Linux 5.17)" in found.detail
    monkeypatch.setattr(features, "OLD_MACHINES", {})
    found = probe.programs()
    assert found.ok is False and "proc-connector" in found.hint
    assert "bpf_loop (Linux 5.17)" in found.detail and "proc-connector" not in found.detail


def test_a_set_that_the_kernel_rejects_although_it_has_everything(
    monkeypatch: pytest.MonkeyPatch, refuse: Callable[[dict[str, int]], None]
) -> None:
    monkeypatch.setattr(features, "needs", lambda: features.Needs((), {}))
    refuse({"procline.bpf.o": errno.EACCES})
    found = probe.programs()
    assert found.ok is True and found.hint
    assert "older kernels" in found.detail and "procline.bpf.o: cannot be loaded: Permission denied" in found.detail
    refuse({"procline.bpf.o": errno.EACCES, "procline.old.bpf.o": errno.E2BIG})
    found = probe.programs()
    assert found.ok is False and "proc-connector" in found.hint
    assert "Permission denied" in found.detail and "Argument list too long" in found.detail


@pytest.mark.parametrize(("code", "hint"), [(errno.ENOMEM, "again"), (errno.EMFILE, "again"), (errno.EPERM, "root of")])
def test_programs_that_could_not_be_tried(
    monkeypatch: pytest.MonkeyPatch, refuse: Callable[[dict[str, int]], None], code: int, hint: str
) -> None:
    refuse({"procline.bpf.o": code, "procline.old.bpf.o": code})
    monkeypatch.setattr(features, "needs", lambda: features.Needs((), {"bpf_loop (Linux 5.17)": os.strerror(code)}))
    found = probe.programs()
    assert found.ok is None and hint in found.hint
    assert os.strerror(code) in found.detail and "not known whether the kernel has bpf_loop" in found.detail


def test_without_capabilities_attach_kinds_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "effective_capabilities", frozenset)
    found = by_name()
    assert found["capabilities"].ok is False
    assert found["capabilities"].hint
    assert found["attach tp_btf"].ok is None
    assert found["attach tp_btf"].hint


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """To load and attach programs takes a hundred times as long as to read what these tests are about."""
    monkeypatch.setattr(host, "missing_capabilities", lambda: ["CAP_BPF"])


@pytest.mark.usefixtures("nothing_loaded")
def test_no_type_information(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "BTF", tmp_path / "none")
    assert by_name()["btf"].ok is False


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("text", "ok"),
    [("[none] integrity confidentiality", True), ("none [integrity] confidentiality", True),
     ("none integrity [confidentiality]", False), (None, None)],
)  # fmt: skip
def test_lockdown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, ok: bool | None) -> None:
    file = tmp_path / "lockdown"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(probe, "LOCKDOWN", file)
    assert by_name()["lockdown"].ok is ok


@pytest.mark.parametrize(
    ("version", "setting", "command_line", "found"),
    [
        ("#1 SMP PREEMPT_RT Debian 6.12.118-1", None, "", "PREEMPT_RT"),
        ("#1 SMP Debian 5.10.0-32", None, "preempt=full", "voluntary or none"),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.12.118-1", "none (voluntary) full lazy \n", "preempt=full", "voluntary"),
        ("#1 SMP PREEMPT_DYNAMIC Debian 7.2.13-1", "full (lazy) \n", "", "lazy"),
        ("#1 SMP PREEMPT_DYNAMIC", None, "quiet preempt=none preempt=full ro", "full"),
        ("#1 SMP PREEMPT_DYNAMIC", None, "preempt=full preempt=none", ""),
        ("#1 SMP PREEMPT_DYNAMIC", None, "quiet", ""),
        ("#1 SMP PREEMPT", None, None, "PREEMPT"),
    ],
)
def test_how_the_kernel_preempts_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, setting: str | None, command_line: str | None,
    found: str,
) -> None:  # fmt: skip
    for name, text in (("PREEMPT", setting), ("COMMAND_LINE", command_line)):
        monkeypatch.setattr(probe, name, tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "uname", lambda: mock.Mock(version=version))
    assert probe.preempt_setting() == found
    finding = probe.preemption(kinds())
    assert finding.ok is (True if found else None)
    is_preempted = found in {"PREEMPT_RT", "PREEMPT", "lazy", "full"}
    assert ("counted as lost" in finding.detail) == bool(finding.hint) == is_preempted


def test_where_fentry_is_not_used_because_of_preemption_it_skips_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "preempt_setting", lambda: features.REAL_TIME)
    refused = {**kinds(), "fentry": probe.Finding("attach fentry", False, f"{features.SHARED_BUFFERS}; so what")}
    assert probe.preemption(refused) == probe.Finding("preemption", True, "PREEMPT_RT: fentry is not used")


INF = resource.RLIM_INFINITY


class Limits:
    """Replaces the kernel: has RLIMIT_MEMLOCK. The arguments say whether maps count, and who may raise it."""

    def __init__(self, now: tuple[int, int], is_counted: bool, may_raise: bool, is_permitted: bool = True) -> None:
        self.now = now
        self.is_counted, self.may_raise, self.is_permitted = is_counted, may_raise, is_permitted

    def get(self, number: int) -> tuple[int, int]:
        assert number == resource.RLIMIT_MEMLOCK
        return self.now

    def set(self, number: int, limits: tuple[int, int]) -> None:
        hard = self.now[1]
        if limits[1] != hard and hard != INF and (limits[1] == INF or limits[1] > hard) and not self.may_raise:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits

    def create_array(self) -> int:
        if not self.is_permitted or (self.is_counted and self.now[0] == 0):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return os.open("/dev/null", os.O_RDONLY)


@pytest.mark.parametrize(
    ("limits", "ok", "words"),
    [
        (Limits((65536, 65536), False, False), True, "65536 bytes; BPF memory does not count"),
        (Limits((65536, 65536), True, False), False, "raising it needs CAP_SYS_RESOURCE"),
        (Limits((65536, 65536), True, True), True, "the start of an instance raises it"),
        (Limits((65536, INF), True, False), True, "the start of an instance raises it"),
        (Limits((INF, INF), True, False), True, "unlimited; BPF memory counts against it on this kernel"),
        (Limits((65536, 65536), False, False, is_permitted=False), None, "not known"),
    ],
)
def test_the_limit_of_locked_memory(
    monkeypatch: pytest.MonkeyPatch, limits: Limits, ok: bool | None, words: str
) -> None:
    before = limits.now
    monkeypatch.setattr(host, "missing_capabilities", list)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    monkeypatch.setattr(syscall, "create_array", limits.create_array)
    found = probe.memlock()
    assert found.ok is ok and words in found.detail
    assert ("--ulimit=memlock=-1:-1" in found.hint) == (ok is False)
    assert limits.now == before


@pytest.mark.live
def test_this_kernel_is_asked_what_counts_as_locked_memory(live_kernel: None) -> None:
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    assert probe.memlock().ok is not None
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == before


def test_shortage_is_no_answer() -> None:
    error = LoadError("no memory")
    error.__cause__ = OSError(12, "Cannot allocate memory")
    assert probe._refused("attach iter", "load", error, "", "").ok is None
    error.__cause__ = OSError(1, "Operation not permitted")
    assert probe._refused("attach iter", "load", error, "", "").ok is False
