"""CI fails with each of its steps that run elsewhere, and reports loudly what it could not test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.client import languages
from tests.sampling import chosen

#: Minutes on a busy machine where something runs with SCHED_IDLE.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process its priority back")

#: What runs in other environments, beside all but the last of this checkout's own steps.
OTHERS = ["fresh --suite trixie", "fresh --python python3.12"]
SETUP = "setup"
#: The tests that need the machine alone: those that compare all of its processes, those beside which the package is
#: tested, and one that needs a CPU with nothing to do.
ALONE = "test --again --alone --ignore tests/live/test_home.py -m alone and not tolerant and not vm"
TOLERANT = "test --again --alone -m alone and tolerant and not vm"
IDLE = "test --again --alone tests/live/test_home.py"
#: What runs beside the tests that share the machine, one after another.
CHECKS = ["collection setup", "lint", "docs"]
SHARED = "test --again --sampled --shared --ignore tests/docs"
OWN = {SETUP, *CHECKS, SHARED, ALONE, TOLERANT, IDLE}

#: What runs on hosts that boot systemd.
HOSTS = "hosts install documents purge"

SCRIPTS = {step.split()[0] for step in OWN}

#: A step that passes if another step, which passes likewise, runs at the same time.
MEET = "touch {}; for i in $(seq 6000); do [ ! -e {} ] || exit 0; sleep 0.1; done; exit 9"


def ci(
    directory: Path,
    fresh: str,
    *,
    alone: str = "",
    tolerant: str = "",
    own: str = "",
    fetch: str = "exit 0",
    hosts: str = "exit 0",
    guests: str = "",
    user: int = 0,
    has_older: bool = True,
    has_emulator: bool = True,
    apt: str = "",
    is_idle: bool = False,
) -> tuple[int, str, list[str]]:
    """Run .ci/run with everything that it calls replaced; return its code, its output, and what it called.

    Each script of the checkout runs `own`, with its name and arguments in `$call`. With `apt` the packages of the tests
    are missing, and `apt-get install` runs that. Without `guests` the machine is one that can have none. Only with
    `is_idle` the priorities are those of .ci/run; then a script may wait for minutes on a busy machine.
    """
    called = directory / "called"
    tools = directory / "tools"
    absent = f"*qemu*) {'' if has_emulator else 'exit 1'} ;; *clang-19*) {'exit 1' if apt else ''} ;;"
    for path, body in {
        directory / "tests/fresh/run": f'echo "fresh $*" >> {called}\n{fresh}',
        directory / "tests/hosts/run": f'[ "$1" != --fetch ] || {{ {fetch}; }}\necho "hosts $*" >> {called}\n{hosts}',
        **{directory / "script" / name: f'call="{name} $*"\necho $call >> {called}\n{own}' for name in SCRIPTS},
        directory / "script/test": f'call="test $*"\necho $call >> {called}\n{own}\n'
        f'case "$call" in "{ALONE}") {alone or ":"} ;; "{TOLERANT}") {tolerant or ":"} ;; esac',
        tools / "id": f"echo {user}",
        directory / "tests/vm/run": guests,
        directory / "tests/vm/kernels": guests,
        tools / "apt-get": f'[ "$1" = install ] || exit 0\n{apt or f"exit {0 if has_emulator else 100}"}',
        tools / "chrt": '[ "$1" != --idle ] || { shift 2; exec "$@"; }',
        tools / "uname": "echo x86_64" if guests else "echo none",
        tools / "dpkg-query": f'shift 3; case $* in {absent} esac; printf " %s install ok installed " "$@"',
        tools / "python3.12": f"exit {0 if has_older else 1}",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    if is_idle:
        (tools / "chrt").unlink()
    (directory / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", directory / ".ci" / "run")
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(directory)}
    done = subprocess.run(
        [directory / ".ci" / "run"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
    )
    return done.returncode, done.stdout + done.stderr, called.read_text().splitlines() if called.exists() else []


def parts_alone(called: list[str]) -> list[str]:
    """Return the parts of the tests that need the machine alone, in their order."""
    return [call for call in called if call in {ALONE, TOLERANT, IDLE}]


@pytest.mark.parametrize("code", chosen([1, 77, 99]))
def test_a_failure_in_the_fresh_root_fails_it(tmp_path: Path, code: int) -> None:
    """Also that there can be no root: a release that was never built on a fresh machine is not proven."""
    result, output, called = ci(tmp_path, f"exit {code}")
    assert result == 1 and f"the fresh root FAILED with exit code {code}" in output
    assert "fresh --suite trixie" in called and "fresh --python python3.12" not in called
    assert ALONE not in called


def test_a_failure_with_the_older_python_fails_it(tmp_path: Path) -> None:
    result, output, called = ci(tmp_path, '[ "$1" != --python ] || exit 1')
    assert result == 1 and "Python 3.12 FAILED" in output
    assert [call for call in called if call.startswith("fresh")] == OTHERS
    assert ALONE not in called


@pytest.mark.parametrize("step", chosen(CHECKS))
def test_a_check_that_fails_fails_it(tmp_path: Path, step: str) -> None:
    """The tests that run beside it end first."""
    result, output, called = ci(tmp_path, "exit 0", own=f'case $call in "{step}"*) echo "the reason"; exit 3 ;; esac')
    assert result == 1 and output.index("the reason") < output.index(f"ci: script/{step} FAILED")
    assert SHARED in called and ALONE not in called


@pytest.mark.parametrize("step", chosen([SHARED, ALONE, TOLERANT, IDLE]))
def test_a_test_that_fails_fails_it(tmp_path: Path, step: str) -> None:
    # The step fails when the last check has ended, however slow this machine is.
    ended = tmp_path / "ended"
    fails = f'"{step}") until [ -e {ended} ]; do sleep 0.1; done; exit 3 ;;'
    own = f'case $call in {fails} esac\necho "$call"\ncase $call in "{CHECKS[-1]}"*) touch {ended} ;; esac'
    result, output, called = ci(tmp_path, "exit 0", own=own)
    assert result == 3 and (step in {TOLERANT, IDLE} or HOSTS not in called)
    assert set(CHECKS) <= set(map(str.strip, output.splitlines())), "the output of the checks is lost"


def test_checks_run_beside_the_tests_that_share_the_machine(tmp_path: Path) -> None:
    checks, tests = tmp_path / "checks", tmp_path / "tests"
    meet = f"case $call in lint*) {MEET.format(checks, tests)} ;; test*--shared*) {MEET.format(tests, checks)} ;; esac"
    assert ci(tmp_path, "exit 0", own=meet)[0] == 0


def test_checks_end_before_the_tests_that_need_the_machine_alone(tmp_path: Path) -> None:
    """These wait until nothing else starts a process. The packages of the hosts are among the checks."""
    shared, ended = tmp_path / "shared", tmp_path / "ended"
    own = f'case $call in "{SHARED}") touch {shared} ;; esac'
    fetch = f"until [ -e {shared} ]; do sleep 0.1; done; sleep 1; touch {ended}; exit 0"
    assert ci(tmp_path, "exit 0", own=own, fetch=fetch, alone=f"[ -e {ended} ]")[0] == 0


def test_builds_share_what_they_made_except_that_of_the_fresh_root(tmp_path: Path) -> None:
    """A fresh root that found this machine's objects would not show that Debian's compiler can make them."""
    caches = tmp_path / "caches"
    seen = f'echo "${{1:-setup}} ${{CYTHON_CACHE_DIR:-}} ${{CCACHE_DIR:-}} ${{CC:-}}" >> {caches}'
    result, _, _ = ci(tmp_path, seen, own=f'[ "$call" != "setup " ] || {{ set --; {seen}; }}', hosts=seen)
    found = dict(line.split(" ", 1) for line in caches.read_text().splitlines())
    shared = "/var/cache/procline-fresh/cython /var/cache/procline-fresh/ccache ccache gcc"
    assert result == 0
    assert found == {"setup": shared, "--suite": "  ", "--python": shared, "install": shared}


def test_checks_alone_use_tools_that_other_checkouts_keep(tmp_path: Path) -> None:
    """A fresh root that found them would not show that they can be installed."""
    kept = tmp_path / "kept"
    seen = f'echo "${{1:-}}=${{PROCLINE_TOOLS_DIR:-}} ${{MYPY_CACHE_DIR:-}}" >> {kept}'
    result, _, _ = ci(tmp_path, seen, own=f'set -- "$call"; {seen}')
    found = dict(line.split("=", 1) for line in kept.read_text().splitlines())
    users = {call.strip() for call, directories in found.items() if directories != " "}
    assert result == 0
    assert {"setup ", SHARED, ALONE, "--suite", "--python"} <= set(found)
    assert users == set(CHECKS)
    assert found["collection setup"] == "/var/cache/procline-fresh/tools /var/cache/procline-fresh/mypy"


def test_the_tests_follow(tmp_path: Path) -> None:
    result, output, called = ci(tmp_path, "exit 0")
    assert result == 0 and "Python 3.12" in output and "NOT TESTED: Python" not in output
    assert [call for call in called if call.startswith("fresh")] == OTHERS
    assert [call for call in called if call in CHECKS] == CHECKS
    assert sorted(call for call in called if not call.startswith("fresh")) == sorted([*OWN, HOSTS])
    assert called.index(SETUP) < min(map(called.index, [SHARED, *CHECKS, OTHERS[1]]))
    assert parts_alone(called) == [ALONE, TOLERANT, IDLE]
    assert max(map(called.index, OTHERS)) < called.index(ALONE), "these tests wait for the other environments"
    assert "NOT TESTED: the Debian package" not in output


def test_what_is_required_is_installed() -> None:
    """Otherwise the tests of subscribers in other languages would fail, or never run."""
    text = (ROOT / ".ci" / "run").read_text()
    installed = " ".join(re.findall(r'^(?:first|packages)="(.*)"$', text, re.MULTILINE)).split()
    required = re.search(r'PROCLINE_REQUIRE_LANGUAGES="(.*?)"', text)
    assert "gcc" in installed and required
    for language in required[1].split():
        assert set(languages.PACKAGES[language].split()) <= set(installed), language


def test_packages_of_the_tests_are_installed_beside_the_set_up(tmp_path: Path) -> None:
    setup, packages = tmp_path / "setup-began", tmp_path / "packages"
    own = f'[ "$call" != "setup " ] || {{ {MEET.format(setup, packages)}; }}'
    result, output, called = ci(tmp_path, "exit 0", own=own, apt=f'echo "apt $*"; {MEET.format(packages, setup)}')
    assert result == 0 and "ci: installing clang-19" in output and set(called) >= OWN


def test_packages_of_the_tests_that_cannot_be_installed_fail_it(tmp_path: Path) -> None:
    result, output, called = ci(tmp_path, "exit 0", apt="exit 100")
    assert result == 1 and "packages of the tests cannot be installed" in output
    assert not [call for call in called if call.startswith("test ")]


@pytest.mark.parametrize("code", chosen([1, 99]))
def test_a_failure_on_the_hosts_fails_it(tmp_path: Path, code: int) -> None:
    result, _, called = ci(tmp_path, "exit 0", hosts=f"exit {code}")
    assert result == code and called[-1] == IDLE and HOSTS in called


@needs_root
def test_guests_run_beside_the_tests_that_need_the_machine_alone(tmp_path: Path) -> None:
    """With what these leave of the CPUs, and no longer when they are over; the oldest and the newest in a lane."""
    alone, guest, edge, policies = (tmp_path / name for name in ("alone", "guest", "edge", "policies"))
    # A process has no autogroup if none of its ancestors began a session (the kernel's helpers, some containers).
    policy = f'echo "$(chrt --pid $$; cat /proc/$$/autogroup)." >> {policies}'
    until = "until chrt --pid $$ | grep OTHER && grep 'nice 0' /proc/$$/autogroup; do sleep 0.1; done"
    result, output, called = ci(
        tmp_path, "exit 0", alone=f"( {MEET.format(alone, guest)} ); ( {MEET.format(alone, edge)} )",
        guests='echo guest $*\n[ "$1" != --fetch ] || exit 0\n'
        f'case "$*" in *"--only shared") {policy}; ( {MEET.format(guest, alone)} ); {until}; {policy} ;; '
        f'*"--only alone --virtual-time") {policy} ;; '
        f'*"sid --timeout"*) {policy}; ( {MEET.format(edge, alone)} ) ;; esac',
        is_idle=True,
    )  # fmt: skip
    assert result == 0 and "NOT TESTED: capture of credentials" not in output
    assert "NOT TESTED: the oldest and the newest kernel" not in output
    noted = re.findall(r"(SCHED_\w+)\n[^/.]*(?:/autogroup-\d+ nice (\d+))?\.", policies.read_text())
    found = Counter((policy, nice or "0") for policy, nice in noted)
    assert found == {("SCHED_IDLE", "19"): 3, ("SCHED_OTHER", "0"): 1}, policies.read_text()
    assert parts_alone(called) == [ALONE, TOLERANT, IDLE]
    parts = ("two hosts", "--only shared", "--only alone", "guest --suite bullseye")
    assert sorted(parts, key=output.index) == list(parts)


@needs_root
def test_the_package_is_tested_beside_tests_that_it_does_not_disturb(tmp_path: Path) -> None:
    """With the lowest priority, until these tests are over."""
    tests, package, nice = (tmp_path / name for name in ("tests", "package", "nice"))
    result, _, called = ci(
        tmp_path, "exit 0", tolerant=f"( {MEET.format(tests, package)} )",
        hosts=f"nice >> {nice}; ( {MEET.format(package, tests)} ); until [ $(nice) = 0 ]; do sleep 0.1; done",
    )  # fmt: skip
    assert result == 0 and parts_alone(called) == [ALONE, TOLERANT, IDLE]
    assert int(nice.read_text()) == min(os.nice(0) + 19, 19)


@pytest.mark.parametrize(
    ("guests", "code", "said"),
    chosen([
        ('[ "$1" = --fetch ] || exit 3', 3, ""),
        ('[ "$4" != shared ] || exit 3', 3, ""),
        ('[ "$4" != alone ] || exit 3', 3, ""),
        ('[ "$1" != --suite ] || exit 4', 4, ""),
        ("kill -9 $PPID", 1, ""),
        ("exit 77", 0, "NOT TESTED: capture of credentials by fentry and by kprobe"),
        ('[ "$#" = 1 ] || [ "$1" = --timeout ] || exit 77', 0, "NOT TESTED: the oldest and the newest kernel"),
    ]),
)  # fmt: skip
def test_a_failure_in_a_guest_fails_it(tmp_path: Path, guests: str, code: int, said: str) -> None:
    result, output, _ = ci(tmp_path, "exit 0", guests=guests)
    assert result == code and said in output


def test_an_emulator_that_cannot_be_installed_is_reported(tmp_path: Path) -> None:
    result, output, called = ci(tmp_path, "exit 0", guests="exit 5", has_emulator=False)
    assert result == 0 and "qemu-system-x86 and virtiofsd cannot be installed" in output
    assert "NOT TESTED: capture of credentials by fentry and by kprobe" in output and HOSTS in called


def test_hosts_that_cannot_be_made_are_reported(tmp_path: Path) -> None:
    result, output, _ = ci(tmp_path, "exit 0", hosts="exit 77")
    assert result == 0 and "NOT TESTED: the Debian package on hosts" in output


@pytest.mark.skipif(Path("/usr/bin/python3.12").exists(), reason="this host has Python 3.12")
def test_skipped_environments_are_reported(tmp_path: Path) -> None:
    result, output, called = ci(tmp_path, "exit 1", user=1000, has_older=False)
    assert result == 0 and set(called) == OWN
    for what in ("Python 3.12", "a build in a fresh root", "the Debian package on hosts"):
        assert f"NOT TESTED: {what}" in output
