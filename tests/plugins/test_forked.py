"""Tests in forked processes: each runs once, and nothing that goes wrong is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parents[2]
#: Fails in each way in which a test or its process can.
FAULTS = """
import os, time, warnings
import pytest

@pytest.fixture(scope="session")
def torn():
    yield
    assert 0, "at the end"

def test_fails():
    print("its output")
    assert 1 == 2

def test_warns():
    class Own(UserWarning):
        pass
    warnings.warn("be careful", Own)

@pytest.mark.timeout(0.1)
def test_hangs():
    time.sleep(60)

def test_leaves_what_another_needs(torn):
    pass

def test_ends_its_process():
    child = os.fork()  # which keeps all files of its parent open
    if child:
        with open("left", "w") as file:
            file.write(str(child))
        os._exit(0)
    time.sleep(60)
"""


def command(tmp_path: Path, text: str, *arguments: str) -> list[str]:
    (tmp_path / "test_example.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    own = ["-p", "no:cacheprovider", "-p", "tests.plugins.forked", "--processes", "3", f"--basetemp={tmp_path}/made"]
    return [sys.executable, "-m", "pytest", *own, *arguments, str(tmp_path)]


def run(tmp_path: Path, text: str, *arguments: str) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "output").open("w+") as output:
        done = subprocess.run(
            command(tmp_path, text, *arguments), cwd=tmp_path, env=environment, stdout=output, stderr=output, timeout=60
        )
        output.seek(0)
        return done.returncode, output.read()


def test_each_test_runs_once_and_not_all_in_one_process(tmp_path: Path) -> None:
    text = (
        "import os, pytest, time\n@pytest.mark.parametrize('number', range(100))\n"
        "def test_one(number, tmp_path):\n    time.sleep(0.01)\n    assert tmp_path.is_dir()\n"
        f"    open('{tmp_path}/ran', 'a').write(f'{{number}} {{os.getpid()}}\\n')\n"
    )
    code, output = run(tmp_path, text)
    assert code == 0 and "100 passed" in output
    lines = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert sorted(int(number) for number, _ in lines) == list(range(100))
    assert len({pid for _, pid in lines}) > 1


def test_whatever_goes_wrong_is_reported(tmp_path: Path) -> None:
    code, output = run(tmp_path, FAULTS)
    os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)
    assert code == 1 and "3 failed, 2 passed, 1 warning" in output
    assert "its output" in output and "assert 1 == 2" in output
    assert "Own: be careful" in output
    assert "Timeout (>0.1s)" in output
    assert "this test ended its process with 0; up to 32 tests that follow it did not run" in output


def test_what_is_torn_down_at_the_end_can_fail(tmp_path: Path) -> None:
    code, output = run(tmp_path, FAULTS, "-k", "leaves")
    assert code == 1 and "1 passed, " in output and ", 1 error" in output and "at the end" in output


def test_after_the_first_failure_no_other_part_begins(tmp_path: Path) -> None:
    text = (
        "import pytest, time\n@pytest.mark.parametrize('number', range(1000))\n"
        "def test_one(number):\n    time.sleep(0.01)\n    assert number\n"
    )
    code, output = run(tmp_path, text, "-x")
    assert code == 1 and "stopping after 1 failures" in output
    assert int(output.rpartition(" failed, ")[2].split()[0]) < 500


def test_an_interrupt_ends_all_processes(tmp_path: Path) -> None:
    text = (
        "import os, time\ndef test_one():\n"
        f"    open('{tmp_path}/pid', 'w').write(f'{{os.getpid()}}\\n')\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        command(tmp_path, text), cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    pid_file = tmp_path / "pid"
    while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and b"KeyboardInterrupt" in output
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()
