"""Which set of objects a machine and a kernel get, and what is said of the one that the kernel rejects."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.bpf import build, features, libbpf
from pipeline.errors import LoadError, UnsupportedError

NEWER, OLDER = "newer.bpf.o", "older.bpf.o"
LOOP = "bpf_loop (Linux 5.17)"


def refusal(name: str, code: int) -> LoadError:
    return libbpf.load_error(Path(name), "cannot be loaded", ["prog 'pl_bad'"], code)


@pytest.fixture(autouse=True)
def machine_with_both_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.uname().machine
    monkeypatch.setitem(features.OLD_MACHINES, machine, features.OLD_MACHINES.get(machine, ".old.bpf.o"))
    monkeypatch.delenv(features.FORCE, raising=False)


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


def test_a_function_that_the_compiler_divided() -> None:
    """A kernel has hundreds of second parts, and the name of each begins with that of its function."""
    names = [line.split()[2] for line in Path("/proc/kallsyms").read_text().splitlines()]
    divided = [name.partition(".part.")[0] for name in names if ".part." in name and not name.startswith("__pfx_")]
    if not divided:
        pytest.skip("NOT TESTED: the compiler of this kernel divided no function")
    assert features.is_split(divided[0]) and features.is_split(divided[-1])
    assert not features.is_split(divided[0][:-1]) and not features.is_split("no_such_function")


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


def refuse_trials(monkeypatch: pytest.MonkeyPatch, codes: dict[str, int]) -> None:
    """Let the kernel answer to the trial of a need, by its name; it accepts the others."""

    class Trial:
        def __init__(self, path: Path, shared: dict[str, int], *, only: str) -> None:
            if code := codes.get(features.NEWER_NEEDS[only]):
                raise refusal(path.name, code)

        def close(self) -> None:
            pass

    monkeypatch.setattr(libbpf, "TierObject", Trial)


def load(**codes: int) -> Any:
    """Return a function that loads a set, and raises the error of that name: `newer` or `older`."""

    def load_one(is_old: bool) -> str:
        name, code = (OLDER, codes.get("older")) if is_old else (NEWER, codes.get("newer"))
        if code:
            raise refusal(name, code)
        return name

    return load_one


def test_the_newer_set_is_loaded_if_the_kernel_accepts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "needs", None)  # nothing is tried
    assert features.choose(load()) == (NEWER, ())


def test_what_the_kernel_lacks_is_the_reason_for_the_older_set(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_trials(monkeypatch, {LOOP: errno.EINVAL})
    assert features.needs() == ((LOOP,), {})
    assert features.choose(load(newer=errno.EINVAL)) == (OLDER, (LOOP,))


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR, errno.EPERM])
def test_a_trial_that_had_no_chance_shows_nothing_about_the_kernel(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refuse_trials(monkeypatch, {LOOP: code})
    assert features.needs() == ((), {LOOP: os.strerror(code)})
    with pytest.raises(LoadError) as caught:
        features.choose(load(newer=code, older=code))
    message = str(caught.value)
    assert f"not known whether the kernel has {LOOP}: {os.strerror(code)}" in message and "too old" not in message
    assert features.errno_of(caught.value) == code


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOMEM, errno.EPERM])
def test_the_older_set_is_tried_after_any_refusal(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refuse_trials(monkeypatch, {})
    loaded, (reason,) = features.choose(load(newer=code))
    assert loaded == OLDER
    assert f"{NEWER}: cannot be loaded: {os.strerror(code)} (program pl_bad)" in reason


def test_both_refusals_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_trials(monkeypatch, {})
    with pytest.raises(LoadError) as caught:
        features.choose(load(newer=errno.EINVAL, older=errno.E2BIG))
    for name, code in ((NEWER, errno.EINVAL), (OLDER, errno.E2BIG)):
        assert f"{name}: cannot be loaded: {os.strerror(code)}" in str(caught.value)
    assert (caught.value.program, caught.value.log_tail) == ("pl_bad", "prog 'pl_bad'")
    assert features.errno_of(caught.value) == errno.EINVAL


def test_a_kernel_that_is_too_old_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_trials(monkeypatch, {LOOP: errno.EINVAL, "bpf_rdonly_cast (Linux 6.2)": errno.ENOMEM})
    with pytest.raises(UnsupportedError, match="too old") as caught:
        features.choose(load(newer=errno.EINVAL, older=errno.E2BIG))
    assert f"it lacks {LOOP} (it is not known whether the kernel has bpf_rdonly_cast" in str(caught.value)
    assert f"{OLDER}: cannot be loaded: {os.strerror(errno.E2BIG)}" in str(caught.value)


@pytest.mark.parametrize("lacks", [True, False])
def test_a_machine_with_the_newer_set_only(monkeypatch: pytest.MonkeyPatch, lacks: bool) -> None:
    refuse_trials(monkeypatch, {LOOP: errno.EINVAL if lacks else errno.EPERM})
    monkeypatch.setattr(features, "OLD_MACHINES", {})
    with pytest.raises(UnsupportedError if lacks else LoadError) as caught:
        features.choose(load(newer=errno.EPERM))
    assert ("too old" in str(caught.value)) == lacks
    assert NEWER in str(caught.value.__cause__ if lacks else caught.value)


def in_a_process(code: str) -> str:
    """Return what code prints that runs in a new interpreter, with what it needs of the modules."""
    begin = "import os, resource\nfrom pipeline import errors\nfrom pipeline.bpf import features, loader, probe\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return done.stdout


@pytest.mark.live
@pytest.mark.usefixtures("live_kernel")
def test_a_user_namespace_is_no_old_kernel() -> None:
    """Its root has all capabilities, and the kernel permits none of these programs to it."""
    said = in_a_process(
        "os.unshare(os.CLONE_NEWUSER)\n"
        "print(features.needs().lacking, list(features.needs().unknown) == list(features.NEWER_NEEDS.values()))\n"
        "print(probe.programs().ok)\n"
        "try: loader.Capture(ring_bytes=4096)\n"
        "except errors.LoadError as error: print(error)\n"
    )
    needs, programs, message = said.splitlines()
    assert (needs, programs) == ("() True", "None")
    assert "Operation not permitted" in message and "too old" not in message
    assert ("procline.old.bpf.o" in message) == (os.uname().machine == "x86_64")


@pytest.mark.live
@pytest.mark.usefixtures("live_kernel")
def test_too_few_descriptors_are_no_old_kernel() -> None:
    """At most limits, one of the trials fails, and none says that the kernel lacks what it has."""
    said = in_a_process(
        "lacking = set(features.needs().lacking)\n"
        "unknown, used = set(), max(map(int, os.listdir('/proc/self/fd')))\n"
        "for more in range(1, 12):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, 1024))\n"
        "    found = features.needs()\n"
        "    assert set(found.lacking) <= lacking, found\n"
        "    unknown |= set(found.unknown.values())\n"
        "print(unknown)\n"
    )
    assert said == "{'Too many open files'}\n"
