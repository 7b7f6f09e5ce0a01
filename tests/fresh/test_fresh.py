"""The fresh root itself: a failure in it is a failure outside, and nothing is left of it."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from tests.sampling import chosen

HERE = Path(__file__).parent

#: A root with a shell and little else, in place of debootstrap's.
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import fresh
fresh.CACHE = Path(sys.argv[2])
fresh.cached_root = lambda suite, max_age_days, archive=Path(sys.argv[3]): archive
fresh.configure = lambda root: None
fresh.PATIENCE_S = 1
fresh.copy_checkout = lambda target: target.mkdir(parents=True)
sys.argv = ["fresh", *sys.argv[4:]]
sys.exit(fresh.main())
"""


@pytest.fixture
def arm64(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("arm64")


@pytest.fixture
def archive(tmp_path: Path, missing: Callable[[str], NoReturn]) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can make a root directory")
    for name in ("debootstrap", "unshare", "ldd", "tar"):
        if shutil.which(name) is None:
            missing(f"{name} is not installed")
    root = tmp_path / "tree"
    for name in ("bin", "usr", "proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("sh", "sleep"):
        program = shutil.which(name)
        assert program
        shutil.copy(program, root / "bin" / name)
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in {word for word in listed.split() if word.startswith("/")}:
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
    archive = tmp_path / "root.tar"
    subprocess.run(["tar", "-cf", archive, "-C", root, "."], check=True)
    return archive


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    cache = tmp_path / "cache"
    yield cache
    assert list(cache.iterdir()) == []
    assert str(cache) not in Path("/proc/self/mountinfo").read_text()
    assert Path("/dev/null").is_char_device() and Path("/sys/kernel").is_dir()


def command(cache: Path, archive: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", DRIVER, str(HERE), str(cache), str(archive), *arguments]


@pytest.mark.parametrize("code", chosen([0, 3]))
def test_the_exit_code_comes_back(archive: Path, cache: Path, code: int) -> None:
    done = subprocess.run(
        command(cache, archive, "--", "sh", "-c", f"[ -d /proc/self ] && [ -e /dev/null ] && exit {code}; exit 90"),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.parametrize("number", chosen([signal.SIGINT, signal.SIGTERM]))
@pytest.mark.slow
def test_started_processes_end_with_the_run(archive: Path, cache: Path, number: int) -> None:
    """Also a process in a session of its own, as an instance may be."""
    script = "echo started; sleep 4711 & trap '' TERM INT; sleep 4712; sleep 4713"
    process = subprocess.Popen(
        command(cache, archive, "--", "sh", "-c", script), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    assert "started\n" in iter(process.stdout.readline, "")
    (work,) = [path for path in cache.iterdir() if path.name.startswith("run-")]
    root = (work / "root").stat()
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(60) == 99
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                assert not os.path.samestat((entry / "root").stat(), root), (entry / "cmdline").read_bytes()
            except OSError:
                continue


def test_remains_of_a_killed_run_are_removed_by_the_next(archive: Path, cache: Path) -> None:
    abandoned = cache / "run-trixie-left" / "root"
    abandoned.mkdir(parents=True)
    done = subprocess.run(command(cache, archive, "--", "sh", "-c", "exit 0"), capture_output=True, timeout=120)
    assert done.returncode == 0 and not abandoned.exists()


def test_without_root_the_run_fails_with_a_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [HERE / "run", "--python", "/no/such/python"], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 77 and "NO ROOT: /no/such/python does not run" in done.stderr


def test_the_readmes_commands_are_those_that_ci_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one by tests/fresh/run, as the last one of the tutorial's; the second one in parts by .ci/run."""
    monkeypatch.syspath_prepend(str(HERE))
    fresh = importlib.import_module("fresh")
    first, second = fresh.documented("README.md")
    assert fresh.documented("docs/tutorial.md")[1] == first == "script/run"
    text = (HERE.parents[1] / ".ci" / "run").read_text()
    parts = re.findall(rf"\s{re.escape(second)} --again (.*) \|\| status=", text)
    assert parts == [
        "--sampled --shared --ignore tests/docs",  # script/lint runs those
        '--alone --ignore "$idle" -m "alone and not tolerant and not vm"',
        '--alone -m "alone and tolerant and not vm"',
        '--alone "$idle"',
    ]


def test_what_arm64_needs_is_named(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a root directory")
    command = [sys.executable, HERE / "fresh.py", "--arch", "arm64"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 77
    assert "NO ROOT: qemu-aarch64 is not installed: apt-get install --no-install-recommends qemu-user" in done.stderr


def test_arm64_gets_the_locked_versions_by_hash(arm64: ModuleType) -> None:
    running = arm64.requirements("host.txt", None)
    names = [entry.partition("==")[0] for entry in running]
    assert {"numpy", "pyzmq", "msgpack"} <= set(names)
    assert not {"pylibbpf", *arm64.LEFT_OUT} & set(names)
    tools = arm64.requirements("dev.txt", arm64.TOOLS)
    assert {entry.partition("==")[0] for entry in tools} == set(arm64.TOOLS)
    assert all("--hash=sha256:" in entry for entry in [*running, *tools])


def test_tests_that_are_left_out_exist(arm64: ModuleType) -> None:
    for test in arm64.LEFT_OUT_TESTS:
        path, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (HERE.parents[1] / path).read_text(), test
        assert f"--deselect={test}" in arm64.TESTS


@pytest.fixture
def emulated(arm64: ModuleType) -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    """Return a function that runs a command where programs for arm64 are emulated."""
    for program in (arm64.EMULATOR, arm64.COMPILER):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    try:
        arm64.require()
    except arm64.NotPossibleError as error:
        pytest.skip(str(error))
    environment = {**os.environ, **arm64.ENVIRONMENT}
    return lambda command: subprocess.run(
        arm64.entering(command), env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_emulator_is_registered_for_the_command_alone(
    arm64: ModuleType, emulated: Callable[[list[str]], subprocess.CompletedProcess[str]]
) -> None:
    """binfmt_misc of this machine is not changed."""
    before = sorted(Path("/proc/sys/fs/binfmt_misc").iterdir())
    done = emulated(["sh", "-c", f"cat /proc/sys/fs/binfmt_misc/{arm64.EMULATOR}"])
    assert done.returncode == 0 and "enabled" in done.stdout and "flags: OCF" in done.stdout, done.stderr
    assert sorted(Path("/proc/sys/fs/binfmt_misc").iterdir()) == before


def test_a_program_for_arm64_runs(
    tmp_path: Path, arm64: ModuleType, emulated: Callable[[list[str]], subprocess.CompletedProcess[str]]
) -> None:
    """It runs on the oldest processor, where a char is not negative and an ordered access must be aligned."""
    (tmp_path / "program.c").write_text(
        "int main(int n, char **v) { char c = (char)-1; long w[2] = {0}; "
        "long *at = (long *)((char *)w + (n > 1 ? 4 : 0)); return c > 0 ? 7 + __atomic_load_n(at, 2) : 1; }"
    )
    program = str(tmp_path / "program")
    subprocess.run([arm64.COMPILER, "-static", "-o", program, tmp_path / "program.c"], check=True, timeout=60)
    assert emulated([program]).returncode == 7
    assert emulated(["sh", "-c", f"{program} unaligned"]).returncode == 128 + signal.SIGBUS
