"""`procline doctor`: its checks, and its advice if something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.bpf import probe
from pipeline.cli import doctor
from pipeline.host import pid_namespace, unit
from tests.cli.conftest import Command


def findings(**changes: bool | None) -> list[probe.Finding]:
    names = ("kernel", "btf", "capabilities", "attach tp_btf", "attach fentry", "cpus")
    return [probe.Finding(name, changes.get(name.replace(" ", "_"), True), "seen", f"do {name}") for name in names]


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "findings", findings)
    monkeypatch.setattr(pid_namespace, "fault", lambda scope: None)
    monkeypatch.setattr(unit, "state", lambda: None)


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


@pytest.mark.parametrize("name", ["kernel", "btf", "capabilities", "attach_tp_btf"])
def test_a_missing_feature_is_reported_with_a_remedy(
    procline: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(probe, "findings", lambda: findings(**{name: False}))
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


def test_details_stand_below_each_other(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_tiers", lambda name: iter([doctor.Check("tier of the longest name", True, "seen")]))
    lines = procline("doctor").out.splitlines()[:-1]
    details = [line for line in lines if line.endswith(" seen")]
    assert len(details) > 3 and len({line.index(" seen") for line in details}) == 1


@pytest.mark.parametrize("outcome", [False, None])
def test_a_missing_feature_with_an_alternative_does_not_fail(
    procline: Command, monkeypatch: pytest.MonkeyPatch, outcome: bool | None
) -> None:
    monkeypatch.setattr(probe, "findings", lambda: findings(attach_fentry=outcome))
    done = procline("doctor")
    assert done.code == 0
    assert ("without" if outcome is False else "unknown") in done.out


def test_an_unknown_feature_is_not_reported_as_missing(procline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "findings", lambda: findings(attach_tp_btf=None))
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
    monkeypatch.setattr(unit, "state", lambda: unit.UnitState(False, "procline.service has failed: oom", "raise it"))
    done = procline("doctor")
    lines = done.out.splitlines()
    (number,) = [number for number, line in enumerate(lines) if "procline.service" in line]
    assert lines[number].startswith("failed   unit ") and lines[number + 1].endswith("-> raise it")
    assert done.code == 0
    # The unit runs the default instance.
    assert "procline.service" not in procline("doctor", "--name", "other").out
