"""`procline doctor`: its checks, and its advice if something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.bpf import probe
from pipeline.cli.operate import doctor
from pipeline.config import methods
from pipeline.config.schema import Config
from pipeline.host import pid_namespace, unit
from pipeline.shm.layout.control_header import COSTS_BYTES, ROW_BYTES
from tests.cli.conftest import Command

#: The stub of the fixture below replaces it.
REAL_FINDINGS = probe.findings


def findings(*settings: str, **changes: bool | None) -> list[probe.Finding]:
    names = ("kernel", "btf", "capabilities", "attach tp_btf", "attach fentry", "programs", "cpus")
    return [probe.Finding(name, changes.get(name.replace(" ", "_"), True), "seen", f"do {name}") for name in names]


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "findings", findings)
    monkeypatch.setattr(pid_namespace, "fault", lambda scope: None)
    monkeypatch.setattr(unit, "state", lambda service: None)


def test_a_host_that_has_everything(procline: Command) -> None:
    done = procline("doctor", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["can_run"]
    checks = {check["name"]: check for check in report["checks"]}
    assert {"python", "packages", "runtime directory", "memory", "pid namespace", "instance"} <= set(checks)
    assert "tmpfs" in checks["runtime directory"]["detail"]
    assert checks["BTF"]["needed"] and not checks["attach fentry"]["needed"]
    assert checks["instance"]["ok"] is False and "procline run" in checks["instance"]["hint"]


@pytest.mark.parametrize("name", ["programs", "btf", "capabilities", "attach_tp_btf"])
def test_a_missing_feature_is_reported_with_a_remedy(
    procline: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(probe, "findings", lambda *settings: findings(**{name: False}))
    done = procline("doctor")
    assert done.code == 1
    assert "missing" in done.out and f"-> do {name.replace('_', ' ', 1)}" in done.out
    assert "see what is missing above." in done.out.splitlines()[-1]
    # Without the capability to load BPF the process connector is not permitted either.
    assert ("proc-connector" in done.out) == (name != "capabilities")


def test_another_pid_namespace_is_needed_and_missing(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid_namespace, "fault", lambda scope: ("not the initial one", "use the initial one"))
    done = procline("doctor", "--json")
    (check,) = [check for check in json.loads(done.out)["checks"] if check["name"] == "pid namespace"]
    assert done.code == 1 and check["needed"]
    assert (check["ok"], check["detail"], check["hint"]) == (False, "not the initial one", "use the initial one")


def test_an_inner_pid_namespace_is_enough_for_the_scope_namespace(
    procline: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "procline.toml"
    file.write_text('[capture]\nscope = "namespace"\n')
    monkeypatch.setenv("PROCLINE_CONFIG", str(file))
    monkeypatch.setattr(pid_namespace, "fault", lambda scope: None if scope == "namespace" else ("inner", "leave it"))
    monkeypatch.setattr(pid_namespace, "is_inner", lambda: True)
    done = procline("doctor", "--json")
    (check,) = [check for check in json.loads(done.out)["checks"] if check["name"] == "pid namespace"]
    assert done.code == 0 and check["ok"] and "an inner one" in check["detail"]


def test_what_is_fine_is_named_on_one_line_unless_everything_is_asked_for(procline: Command) -> None:
    lines = procline("doctor").out.splitlines()
    (fine,) = [line for line in lines if line.startswith("ok ")]
    assert {"kernel", "BTF", "attach fentry"} <= set(fine.removeprefix("ok").strip().split(", "))
    assert "seen" not in procline("doctor").out
    verbose = procline("doctor", "-v").out.splitlines()
    assert "ok       kernel: seen" in verbose and "ok       attach fentry: seen" in verbose


def test_a_fact_is_said_once(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [
        probe.Finding("attach fentry", False, "refused"), probe.Finding("attach kprobe", False, "refused"),
        probe.Finding("attach tp/syscalls", True, "works"),
        probe.Finding("credentials", True, "by iter: later (fentry refused; kprobe refused)", "name syscalls"),
    ]  # fmt: skip
    tiers = [
        doctor.Check("tier cred_fentry", False, "cannot be loaded"),
        doctor.Check("tier cred_sampled", True, "changes"),
        doctor.Check("tier capability", False, 'capture.capabilities_usage is "off"'),
        doctor.Check("tier context", False, "refused"),
    ]  # fmt: skip
    monkeypatch.setattr(probe, "findings", lambda *settings: [*findings()[:4], *refused])
    monkeypatch.setattr(doctor, "_tiers", lambda name: iter(tiers))
    out = procline("doctor").out
    for once in ("by iter: later", "-> name syscalls", "tier context: refused"):
        assert out.count(once) == 1, out
    for beside_the_point in ("attach fentry", "cred_fentry", "capabilities_usage"):
        assert beside_the_point not in out
    assert "tier cred_fentry: cannot be loaded" in procline("doctor", "-v").out


@pytest.fixture
def attach_kinds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that stubs the attach kinds: those in its arguments do not work."""

    def stub(*refused: str) -> None:
        def attach_kind(kind: str) -> probe.Finding:
            is_refused = kind in refused
            return probe.Finding(f"attach {kind}", not is_refused, "rejected" if is_refused else "works")

        monkeypatch.setattr(probe, "findings", REAL_FINDINGS)
        monkeypatch.setattr(probe.host, "missing_capabilities", list)
        monkeypatch.setattr(probe, "attach_kind", attach_kind)
        monkeypatch.setattr(probe, "programs", lambda: probe.Finding("programs", True, "the newer set"))
        monkeypatch.setattr(probe, "seen_late", lambda method, task_iterator: "")
        monkeypatch.setattr(probe, "preempt_setting", lambda: "voluntary")

    return stub


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that sets `capture.credentials` in the file of the settings."""

    def choose(method: str) -> None:
        file = tmp_path / "procline.toml"
        file.write_text(f'[capture]\ncredentials = "{method}"\n')
        monkeypatch.setenv("PROCLINE_CONFIG", str(file))

    return choose


def test_the_complete_report_has_the_limits_of_methods_that_are_not_used(
    procline: Command, attach_kinds: Callable[..., None]
) -> None:
    attach_kinds()
    complete = " ".join(procline("doctor", "-v").out.split())
    checks = {check["name"]: check["detail"] for check in json.loads(procline("doctor", "--json").out)["checks"]}
    assert checks["credentials"] == "by fentry: seen at once, at no cost to others"
    for method in ("sampled", "syscalls"):
        assert f"method {method}: {methods.SEES[method]}" in complete
        assert checks[f"method {method}"] == methods.SEES[method]
    brief = procline("doctor").out
    assert methods.SYSCALLS_COST not in brief and methods.SAMPLED_MISSES not in brief


@pytest.mark.parametrize("method", ["sampled", "syscalls"])
def test_the_brief_report_has_the_limits_of_the_configured_method(
    procline: Command, attach_kinds: Callable[..., None], credentials: Callable[[str], None], method: str
) -> None:
    attach_kinds()
    credentials(method)
    (note,) = (line for line in procline("doctor").out.splitlines() if line.startswith("note"))
    assert methods.SEES[method] in note


def test_the_brief_report_has_what_a_method_sees_late_on_this_kernel(
    procline: Command, attach_kinds: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_kinds()
    monkeypatch.setattr(probe, "seen_late", lambda method, task_iterator: f"late by {method}: the login uid")
    done = procline("doctor")
    (note,) = (line for line in done.out.splitlines() if line.startswith("note"))
    assert note.endswith("by fentry: seen at once, at no cost to others; late by fentry: the login uid")
    assert done.code == 0


@pytest.mark.parametrize("also", [(), ("tp/syscalls",)])
def test_the_brief_report_has_the_limits_of_the_method_that_auto_uses(
    procline: Command, attach_kinds: Callable[..., None], also: tuple[str, ...]
) -> None:
    attach_kinds("fentry", "kprobe", *also)
    (note,) = (line for line in procline("doctor").out.splitlines() if line.startswith("note"))
    assert "by iter" in note and methods.SEES["sampled"] in note


@pytest.mark.parametrize(("method", "code"), [("kprobe", 1), ("fentry", 0), ("auto", 0)])
def test_a_method_that_is_set_by_name_must_work(
    procline: Command, attach_kinds: Callable[..., None], credentials: Callable[[str], None], method: str, code: int
) -> None:
    attach_kinds("kprobe")
    credentials(method)
    done = procline("doctor")
    assert done.code == code
    assert ('missing  credentials: capture.credentials is "kprobe"' in done.out) == bool(code)


def test_checks_that_need_rights_are_named_together(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    untried = [
        probe.Finding(f"attach {kind}", None, "not tried: CAP_BPF missing", "root") for kind in ("iter", "fentry")
    ]
    rights = probe.Finding("capabilities", False, "CAP_BPF missing", "be root")
    monkeypatch.setattr(probe, "findings", lambda *settings: [rights, *untried])
    lines = procline("doctor").out.splitlines()
    assert "missing  capabilities: CAP_BPF missing" in lines
    assert "unknown  attach iter, attach fentry: not tried without these capabilities" in lines
    assert sum("root" in line for line in lines) == 1
    assert lines[-1] == "You cannot start an instance: see what is missing above."


@pytest.mark.parametrize("outcome", [False, None])
def test_a_missing_feature_with_an_alternative_does_not_fail(
    procline: Command, monkeypatch: pytest.MonkeyPatch, outcome: bool | None
) -> None:
    monkeypatch.setattr(probe, "findings", lambda *settings: findings(attach_fentry=outcome))
    done = procline("doctor")
    assert done.code == 0
    assert ("without" if outcome is False else "unknown") in done.out


def test_a_kernel_that_preempts_programs_is_a_note(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    preemption = probe.Finding("preemption", True, "full: events are skipped", "see the documents")
    monkeypatch.setattr(probe, "findings", lambda *settings: [*findings(), preemption])
    done = procline("doctor")
    assert done.code == 0 and "note     preemption: full: events are skipped" in done.out.splitlines()
    assert "-> see the documents" in done.out


def test_an_unknown_feature_is_not_reported_as_missing(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "findings", lambda *settings: findings(attach_tp_btf=None))
    assert procline("doctor").code == 0


def test_a_directory_on_disk_and_a_missing_package_are_found(
    procline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCLINE_RUNTIME_DIR", "/proc/x")
    monkeypatch.setattr(doctor, "PACKAGES", ("no_such_package",))
    done = procline("doctor")
    assert done.code == 1
    assert "not on tmpfs" in done.out and "no_such_package not installed" in done.out


def test_too_little_memory_is_reported_with_the_settings_to_change(
    procline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_available_bytes", lambda: 1 << 20)
    done = procline("doctor")
    assert done.code == 0 and "lower tables.max_entries" in done.out


def test_the_memory_of_full_tables_is_that_of_rows_and_strings() -> None:
    tables = Config().tables
    ceiling = tables.max_entries * (ROW_BYTES + COSTS_BYTES) + tables.names_bytes + tables.args_bytes
    assert f"tables up to {ceiling >> 20} MiB" in doctor._memory().detail


def test_a_package_that_only_some_instances_need_is_no_reason_not_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_OF_SOME", {"prometheus_": "needed for metrics"})
    found = {check.name: check for check in doctor._packages()}
    assert found["packages"].ok
    assert found["package prometheus_"].ok is False and "needed for metrics" in found["package prometheus_"].detail
    assert "package prometheus_client" not in doctor.NEEDED
    assert "libbpf" in doctor.NEEDED and "libbpf" in doctor._OF_EBPF


def test_a_unit_that_failed_is_explained_but_does_not_mean_that_the_host_cannot(
    procline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit, "state", lambda service: unit.UnitState(False, f"{service.unit} has failed", "raise it"))
    done = procline("doctor")
    lines = done.out.splitlines()
    for name in ("", " procline-forward", " procline-fleet-ingest"):
        assert f"failed   unit{name}: {name.strip() or 'procline'}.service has failed" in lines
    assert f"{' ' * 9}-> raise it" in lines
    assert done.code == 0
    report = json.loads(procline("doctor", "--json").out)
    forwarder = next(check for check in report["checks"] if check["name"] == "unit procline-forward")
    assert forwarder == {
        "name": "unit procline-forward", "ok": False, "detail": "procline-forward.service has failed",
        "hint": "raise it", "needed": False,
    }  # fmt: skip
    # The units are for the default instance.
    assert ".service" not in procline("doctor", "--name", "other").out


def test_a_unit_that_is_not_enabled_is_in_the_complete_report_only(
    procline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = {"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead", "UnitFileState": "disabled"}
    monkeypatch.setattr(unit, "state", lambda service: unit.explain(service, off))
    brief, complete = procline("doctor").out, procline("doctor", "-v").out
    assert "off      unit: procline.service is inactive (dead)" in brief
    assert "procline-forward" not in brief
    assert "off      unit procline-forward: procline-forward.service is not enabled" in complete
