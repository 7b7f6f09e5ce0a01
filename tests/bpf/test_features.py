"""Which set of objects a machine and a kernel get; which of them load is in test_loader.py."""

from __future__ import annotations

import os

import pytest

from pipeline.bpf import build, features


def use(monkeypatch: pytest.MonkeyPatch, machine: str, forced: str = "") -> None:
    monkeypatch.setenv(features.FORCE, forced)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6.1.0", "#1", machine)))


def test_each_set_has_its_objects() -> None:
    assert set(features.OLD_MACHINES.values()) == set(build.VARIANTS) - {build.NEWER}
    for suffix in features.OLD_MACHINES.values():
        shipped = {path.name.removesuffix(suffix) for path in build.PROGRAMS.glob(f"*{suffix}")}
        assert shipped == set(features.OLD_NAMES)
    assert {path.name for path in build.PROGRAMS.glob("*.bpf.o")} == {
        build.object_path(source, suffix).name for source, suffix in build.OBJECTS
    }


@pytest.mark.parametrize(
    ("machine", "forced", "name", "has_locks"),
    [
        ("x86_64", "", "iter.old.bpf.o", True),
        ("aarch64", "", "iter.old.aarch64.bpf.o", False),
        ("x86_64", "old", "iter.old.bpf.o", True),
        ("aarch64", "old", "iter.old.aarch64.bpf.o", False),
        ("x86_64", "old-aarch64", "iter.old.aarch64.bpf.o", False),
        ("x86_64", "old-riscv64", "iter.old.bpf.o", True),
    ],
)
def test_the_older_set_is_that_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, machine: str, forced: str, name: str, has_locks: bool
) -> None:
    use(monkeypatch, machine, forced)
    assert features.object_path("iter", True) == features.OBJECTS / name
    assert features.object_path("iter", False).name == "iter.bpf.o"
    assert features.has_locks() == has_locks
    assert features.is_forced() == (forced in {"old", "old-aarch64"})


def test_only_x86_64_needs_no_atomic_operations_that_return_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, and nowhere else, the barrier after a reservation can be an addition whose result is not used."""
    use(monkeypatch, "x86_64")
    assert not features.without_older(list(features.NEWER_NEEDS.values()))
    use(monkeypatch, "aarch64")
    fetch = features.NEWER_NEEDS["pl_try_fetch"]
    assert not features.without_older([name for name in features.NEWER_NEEDS.values() if name != fetch])
    assert "on aarch64" in features.without_older(["bpf_rdonly_cast (Linux 6.2)", fetch])
    use(monkeypatch, "riscv64")
    assert features.without_older(["bpf_rdonly_cast (Linux 6.2)"]) == "there are none for older kernels on riscv64"
