"""Run a command under another kernel: one of Debian's, in QEMU, with this machine's own files as its root.

The tests need it for what the running kernel rejects, often trampolines and kprobes, and for what older kernels do
differently. Nothing is installed, and nothing outside the cache directory is written: the guest sees the host's root
read-only, through virtiofs, and writes to memory. QEMU emulates the processor and never uses KVM, because it hangs
where nested virtualisation is incomplete.

Covers the machine, its output and its exit code; kernels are from debian.py, what runs there is the caller's. The
standard library only. Needs: qemu-system-x86 and virtiofsd, root, x86-64, a Debian whose apt sources are set up.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import itertools
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import debian
from debian import NotPossibleError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "vm"

#: More CPUs than these take turns in one thread: in threads of their own they wait for each other's locks.
CPUS_APART = 8

#: The tests of a guest that may run beside others, in two halves that take about as long. Each half is a process of its
#: own, which is cheaper than workers that import everything. To load a tier takes 10 s there, so modules that load the
#: same programs are in one half.
SHARED = (
    ("tests/bpf/test_cred_tiers.py", "tests/bpf/test_calls.py"),
    ("tests/bpf/test_records.py", "tests/bpf/test_exec_shapes.py", "tests/live/test_calls.py"),
)
#: The modules that have others.
ALONE = ("tests/bpf/test_records.py", "tests/live/test_changes.py")

#: How long a guest may take until its first program starts: seconds of this machine's CPUs for each two CPUs of the
#: guest, and seconds in all. A start takes less than a tenth of that. A guest that takes longer is started once more,
#: because nothing of Procline has run yet.
START_CPU_S, START_S = 120.0, 480.0

#: Nothing came back from the guest: it hung, panicked or was ended.
NO_CODE = 99
#: Something that a guest needs is not here.
NOT_POSSIBLE = 77


def find(program: str, *others: str, package: str) -> str:
    """Return the path of a program.

    Raises:
        NotPossibleError: it is not installed.
    """
    for candidate in (program, *others):
        if path := shutil.which(candidate):
            return path
    raise NotPossibleError(f"{program} is not installed: apt-get install --no-install-recommends {package}")


@contextlib.contextmanager
def shared_root(work: Path) -> Iterator[Path]:
    """Yield the socket of a virtiofsd that shows the host's root, read-only, while the context lasts."""
    daemon = find("virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", package="virtiofsd")
    socket = work / "fs.sock"
    log = (work / "virtiofsd.log").open("wb")
    # No sandbox: it would pivot_root, which an initramfs cannot. The cache makes the tests twice as fast.
    process = subprocess.Popen(
        [daemon, f"--socket-path={socket}", "--shared-dir=/", "--sandbox=none", "--readonly", "--cache=always",
         "--rlimit-nofile=0", "--no-announce-submounts"],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotPossibleError(f"virtiofsd does not start: {(work / 'virtiofsd.log').read_text().strip()}")
            time.sleep(0.02)
        yield socket
    finally:
        process.kill()
        process.wait()
        log.close()


def machine(
    directory: Path,
    work: Path,
    socket: Path,
    script: str,
    cpus: int,
    memory_mib: int,
    has_virtual_time: bool,
    parameters: Sequence[str],
) -> list[str]:
    """Return QEMU's command line; `script` may have arguments of init behind it, `parameters` are the kernel's."""
    emulator = find("qemu-system-x86_64", package="qemu-system-x86")
    initramfs = directory / "initramfs"
    # The kernel starts /init of an initramfs, which gets the next program as an argument, or init= of the root.
    first, then = ("", f"{HERE / 'init'} ") if initramfs.exists() else (f"init={HERE / 'init'} ", "")
    # Mitigations and a fifth level of page tables (la57) cost a tenth of the time and protect nothing here. The check
    # of the timer fails on a busy host, and then the kernel does not come up.
    boot = "rootfstype=virtiofs root=rootfs ro console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"
    processor = "max,la57=off"
    if has_virtual_time:
        # Otherwise the kernel distrusts this clock, and reads a slower one.
        boot += " tsc=reliable"
        # With a clock that counts instructions, QEMU leaves its translated code after each step of a repeated string
        # instruction (rep movsb). So the kernel and the C library must not prefer them: 112 is the kernel's rep_good.
        # To load the BPF programs then takes less than half the time.
        processor += ",erms=off,fsrm=off"
        boot += " clearcpuid=112"
    append = f"{' '.join([boot, *parameters])} {first}-- {then}{directory} {script}"
    if len(append) > 2000:
        raise NotPossibleError("the kernel's command line is too long: a shorter path for the checkout is needed")
    return [
        emulator, "-accel", f"tcg,thread={'multi' if cpus <= CPUS_APART and not has_virtual_time else 'single'}",
        # Each instruction takes a nanosecond, and where all CPUs wait, the time of the next timer comes at once.
        *(("-icount", "shift=0,sleep=off") if has_virtual_time else ()),
        "-machine", "q35", "-cpu", processor,
        "-smp", str(cpus),
        "-m", str(memory_mib), "-nodefaults", "-display", "none", "-no-reboot",
        "-object", f"memory-backend-memfd,id=mem,size={memory_mib}M,share=on", "-numa", "node,memdev=mem",
        "-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-pci,chardev=fs,tag=rootfs",
        "-serial", f"file:{work / 'console'}", "-device", "virtio-serial-pci",
        "-chardev", f"file,id=out,path={work / 'out'}", "-device", "virtserialport,chardev=out,name=procline.out",
        "-chardev", f"file,id=code,path={work / 'code'}", "-device", "virtserialport,chardev=code,name=procline.code",
        "-kernel", str(directory / "vmlinuz"), "-append", append,
        *(("-initrd", str(initramfs)) if initramfs.exists() else ()),
    ]  # fmt: skip


def run(
    directory: Path,
    command: Sequence[str],
    *,
    timeout_s: float,
    cpus: int = 2,
    memory_mib: int = 3072,
    has_systemd: bool = False,
    has_virtual_time: bool = False,
    parameters: Sequence[str] = (),
    watch: Callable[[bytes, float], bool] | None = None,
) -> int:
    """Run `command` in a guest, its output on stdout as it comes; return its exit code, NO_CODE if none came back.

    Args:
        directory: of the kernel, see `debian.kernel`.
        has_systemd: the host's systemd is the first process, and the command a service of it.
        has_virtual_time: the guest's clock counts its instructions, so the load of this machine does not matter there.
        parameters: further parameters of the guest's kernel, such as "preempt=full".
        watch: called with each piece of output, or with none, and with the seconds of this machine's CPUs that the
            guest has used; true ends the guest.

    Raises:
        NotPossibleError: there can be no guest here.
    """

    def machine_of(work: Path, socket: Path) -> list[str]:
        script = work / "command"
        script.write_text(script_of(command))
        first = f"{script}{' systemd' if has_systemd else ''}"
        return machine(directory, work, socket, first, cpus, memory_mib, has_virtual_time, parameters)

    deadline = time.monotonic() + timeout_s
    end, code = boot(machine_of, cpus, deadline, watch)
    if end is End.NOT_STARTED:
        print("vm: the guest's kernel HAS NOT STARTED the first program; its console is above. Once more:", flush=True)
        end, code = boot(machine_of, cpus, deadline, watch)
    if code == NO_CODE and end is not End.ENOUGH:
        print(f"vm: no exit code came back{f' within {timeout_s:g} s' if end is End.LATE else ''}")
    return code


def boot(
    machine_of: Callable[[Path, Path], list[str]],
    cpus: int,
    deadline: float,
    watch: Callable[[bytes, float], bool] | None,
) -> tuple[End, int]:
    """Start a machine and follow it; return why that ended, and the exit code or NO_CODE."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as name:
        work = Path(name)
        for port in "out", "code":
            (work / port).touch()
        with shared_root(work) as socket:
            process = subprocess.Popen(machine_of(work, socket), stdin=subprocess.DEVNULL)
            try:
                with (work / "out").open("rb") as out:
                    end = follow(process, out, deadline, Start(work / "code", cpus), watch)
            finally:
                process.kill()
                process.wait()
        code = (work / "code").read_text().removeprefix(Start.SIGN).strip()
        if code.isdecimal():
            return end, int(code)
        if end is not End.ENOUGH:
            print(*(work / "console").read_text(errors="replace").splitlines()[-30:], sep="\n")
        return end, NO_CODE


class Start:
    """Whether a guest has come as far as its first program, or never will.

    Args:
        code: the file with what the guest writes to the port of its exit code.
        cpus: of the guest.
    """

    #: What `init` writes when it begins.
    SIGN = "started\n"

    def __init__(self, code: Path, cpus: int) -> None:
        self._code, self._cpu_limit_s = code, START_CPU_S * max(1, cpus / 2)
        self._deadline = time.monotonic() + START_S
        self._is_over = False

    def is_hopeless(self, cpu_s: float) -> bool:
        """Return whether it has not started within its time; `cpu_s` is the time of CPUs that it has used."""
        self._is_over = self._is_over or self._code.stat().st_size > 0
        return not self._is_over and (cpu_s > self._cpu_limit_s or time.monotonic() > self._deadline)


def script_of(command: Sequence[str]) -> str:
    """Return the script that runs `command` in a guest."""
    return (
        f"cd {shlex.quote(str(ROOT))} || exit 97\n"
        # /tmp is an overlay there, on which executables look otherwise; /dev/shm is a file system like any.
        "export HOME=/root LANG=C.UTF-8 TMPDIR=/dev/shm OPENBLAS_NUM_THREADS=1 PROCLINE_REQUIRE_LIVE=1\n"
        # Workers start without the working directory on their path, and an interpreter may be another checkout's.
        f"export PYTHONPATH={shlex.quote(str(ROOT))}\n"
        # Some tests would harm another machine: they set its clock.
        "export PROCLINE_GUEST=1\n"
        f"exec {shlex.join(command)}\n"
    )


class End(enum.Enum):
    """Why `follow` returned."""

    ENDED = enum.auto()
    LATE = enum.auto()
    ENOUGH = enum.auto()
    NOT_STARTED = enum.auto()


def follow(
    process: subprocess.Popen[bytes],
    out: BinaryIO,
    deadline: float,
    start: Start,
    watch: Callable[[bytes, float], bool] | None,
) -> End:
    """Copy the output of a guest to stdout until it ends, or a time is over, or `watch` says that it is enough."""
    while True:
        cpu_s = cpu_seconds(process.pid)  # before it is waited for
        has_ended = process.poll() is not None
        is_late = time.monotonic() > deadline
        piece = out.read()
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        if watch is not None and watch(piece, cpu_s):
            return End.ENOUGH
        if is_late:
            return End.LATE
        if start.is_hopeless(cpu_s):
            return End.NOT_STARTED
        if has_ended:
            return End.ENDED
        time.sleep(0.1)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Run the tests that need another kernel, or the given command, in a guest of each suite and flavour."""
    parser = argparse.ArgumentParser(prog="tests/vm/run", description="Run tests under Debian's kernels, in QEMU.")
    parser.add_argument(
        "--flavour", action="append", choices=debian.FLAVOURS, help="may be given again; default: cloud"
    )
    parser.add_argument(
        "--suite", action="append", metavar="NAME[=SERIES]", default=[],
        help="take the kernel from this suite of Debian's, such as sid, or trixie-backports=6.18 for its newest of "
        "that series; may be given again; default: this machine's apt sources",
    )  # fmt: skip
    parser.add_argument("--fetch", action="store_true", help="get the kernels, and run nothing")
    parser.add_argument("--timeout", type=float, default=280, help="seconds for each guest; default: %(default)g")
    parser.add_argument("--cpus", type=int, default=2, help="of the guest; default: %(default)d")
    parser.add_argument(
        "--virtual-time", action="store_true",
        help="the guest's clock counts instructions: 10^9 are a second, and nothing waits; takes one CPU of the host",
    )  # fmt: skip
    parser.add_argument(
        "--boot", action="append", metavar="PARAMETER", default=[],
        help="a parameter of the guest's kernel, such as preempt=full; may be given again",
    )  # fmt: skip
    parser.add_argument("--systemd", action="store_true", help="the command is a service of systemd, as process 1")
    parser.add_argument(
        "--only", choices=("shared", "alone"), help="those tests that may run beside others, or those that may not"
    )
    parser.add_argument("command", nargs="*", help="what to run in the checkout; default: the tests")
    options = parser.parse_args()
    # So that what was started is ended when a caller's patience is over.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NO_CODE))
    status = 0
    for suite, flavour in itertools.product(options.suite or [""], options.flavour or ["cloud"]):
        name = f"{suite} {flavour}".lstrip()
        began = time.monotonic()
        try:
            require()
            directory = debian.kernel(CACHE, flavour, *debian.parse_suite(suite))
            print(f"vm: {name}: {directory.name.removeprefix('linux-image-')}", flush=True)
            if options.fetch:
                continue
            command = options.command or tests(options.cpus, options.only)
            code = run(
                directory, command, timeout_s=options.timeout, cpus=options.cpus,
                has_systemd=options.systemd, has_virtual_time=options.virtual_time, parameters=options.boot,
            )  # fmt: skip
        except NotPossibleError as error:
            print(f"vm: NO GUEST: {error}", file=sys.stderr)
            return status or NOT_POSSIBLE
        print(f"vm: {name}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
        status = status or code
    return status


def require() -> None:
    """Raise NotPossibleError where no kernel is of use."""
    if platform.machine() != "x86_64":
        raise NotPossibleError(f"guests are x86-64, this machine is {platform.machine()}")
    if os.geteuid() != 0:
        raise NotPossibleError("only root can show its whole root directory to a guest")


def tests(cpus: int, only: str | None) -> list[str]:
    """Return the command that runs the tests which need another kernel: first those that may run beside others.

    Args:
        cpus: with more than one, the two halves of these run at the same time.
        only: "shared" for these and "alone" for the others; None: all.
    """
    own = ROOT / ".venv" / "bin" / "python"
    python = os.environ.get("PROCLINE_VM_PYTHON") or (str(own) if own.exists() else sys.executable)
    # Emulated, a test takes some fifteen times as long, so these are chosen: the tiers that other kernels refuse, each
    # field of the records, and a whole daemon that uses the best tier, with what that tier reports. The host runs those
    # about what tracepoints report alike everywhere (cgroups, names, links), and long ones.
    chosen = (
        "fentry or kprobe or test_records or test_calls"
        " or (test_exec_shapes and not environment_that and (not sshd or environment0))"
        " or (test_changes and not cgroup and not container and not names and not clone_flags and not symbolic"
        " and not parent and not storm and not programs)"
    )
    pytest = [
        python, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist", "-k", chosen
    ]  # fmt: skip
    halves = [shlex.join([*pytest, "-m", "(vm or live) and not alone", *half]) for half in SHARED]
    alone = shlex.join([*pytest, "-m", "alone", *ALONE])
    shared = f"{halves[0]} & {halves[1]}; status=$?; wait $! || status=$?"
    if cpus == 1:
        shared = f"{halves[0]}; status=$?; {halves[1]} || status=$?"
    script = {"shared": f"{shared}; exit $status", "alone": f"exec {alone}", None: f"{shared}; {alone} && exit $status"}
    return ["sh", "-c", script[only]]


if __name__ == "__main__":
    sys.exit(main())
