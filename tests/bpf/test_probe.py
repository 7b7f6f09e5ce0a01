"""The facts about the host that `doctor` reports."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from pipeline.bpf import features, host, libbpf, probe
from pipeline.bpf.loader import Capture
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
        (False, True, True, True, "by kprobe: seen at once, at no cost to others (fentry refused)"),
        (False, False, True, True, "(fentry refused; kprobe refused)"),
        (False, False, False, False, "seen at the next fork"),
        (None, None, None, None, "refused"),
    ],
)
@pytest.mark.parametrize("syscalls", [True, False])
def test_the_method_for_credentials(
    fentry: bool | None, kprobe: bool | None, sampled: bool | None, ok: bool | None, words: str, syscalls: bool
) -> None:
    outcomes = {"fentry": fentry, "kprobe": kprobe, "iter": sampled, "tp/syscalls": syscalls}
    found = probe.credentials(
        {kind: probe.Finding(kind, works, "refused; so what", "root") for kind, works in outcomes.items()}
    )
    assert found.ok is ok
    assert words in found.detail
    if not ok:
        assert found.hint
    # Without a method that sees each change, the one that slows every system call is mentioned, if it works.
    names_the_costly_one = 'capture.credentials = "syscalls"' in found.hint
    assert names_the_costly_one == (syscalls and not fentry and not kprobe and ok is not None)
    assert ("not seen: a change that is reverted" in found.detail) == bool(sampled and not fentry and not kprobe)


def test_what_a_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "missing_capabilities", list)
    monkeypatch.setattr(features, "lacking", lambda: ["bpf_loop (Linux 5.17)"])
    monkeypatch.setattr(features, "OLD_MACHINES", (os.uname().machine,))
    found = probe.programs()
    assert found.ok is True and "bpf_loop (Linux 5.17)" in found.detail
    monkeypatch.setattr(features, "OLD_MACHINES", ())
    found = probe.programs()
    assert found.ok is False and "proc-connector" in found.hint


def test_without_capabilities_attach_kinds_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "effective_capabilities", frozenset)
    found = by_name()
    assert found["capabilities"].ok is False
    assert found["capabilities"].hint
    assert found["attach tp_btf"].ok is None
    assert found["attach tp_btf"].hint


def test_no_type_information(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "BTF", tmp_path / "none")
    assert by_name()["btf"].ok is False


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


def test_shortage_is_no_answer() -> None:
    error = LoadError("no memory")
    error.__cause__ = OSError(12, "Cannot allocate memory")
    assert probe._refused("attach iter", "load", error, "", "").ok is None
    error.__cause__ = OSError(1, "Operation not permitted")
    assert probe._refused("attach iter", "load", error, "", "").ok is False
