"""Fuzz decoders for as long as you like: `python -m tests.fuzz.run --help`."""

from __future__ import annotations

import argparse
import faulthandler
import math
import mmap
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.apart import Part, fuzz_apart, table

ROOT = Path(__file__).parents[2]
#: Findings and the last input of each target, for crashes that leave no exception.
FINDINGS = Path(os.environ.get("PROCLINE_FUZZ_FINDINGS") or ROOT / ".cache" / "fuzz")
#: More memory than this for one input means that a decoder believes a length that it was sent.
MEMORY_BYTES = 1 << 30
#: A thousand inputs never take this much CPU time, nor this long; if they do, the stack is printed and the run ends.
#: On a busy machine, a process of low priority can wait for minutes.
HANG_CPU_S = 120
HANG_S = 1800
_BATCH = 1000
_LAST_BYTES = 1 << 17


class LastInput:
    """The input that is being decoded, in a file, so that it is known after a crash."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(_LAST_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAST_BYTES)
        self._count = 0

    def set(self, data: bytes) -> None:
        """Store an input: its length in 4 bytes, and its bytes; at the end of the file, how many there were."""
        self._count += 1
        self._map[: 4 + len(data)] = len(data).to_bytes(4, "little") + data
        self._map[-8:] = self._count.to_bytes(8, "little")


def tried(finding: str) -> tuple[int, str]:
    """Return how many inputs a process that crashed has begun; the last one is kept in a file of this name."""
    name = finding.partition("-")[0]
    found = (FINDINGS / f"{name}.last").read_bytes()
    path = FINDINGS / finding
    path.write_bytes(found[4 : 4 + int.from_bytes(found[:4], "little")])
    return int.from_bytes(found[-8:], "little"), str(path)


def fuzz_plainly(name: str, inputs: int, seed: int, until: float = math.inf) -> Part:
    """Try inputs that are made by chance, without feedback from the code, until a time (monotonic, s).

    An input that the decoder treats wrong is saved; the first one ends the run.
    """
    from tests.fuzz.mutate import mutate
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    corpus = target.corpus()
    rng = random.Random(seed)
    last = LastInput(FINDINGS / f"{name}.last")
    part = Part()
    begin = time.monotonic()
    armed = -math.inf
    faulthandler.register(signal.SIGPROF, chain=True)  # prints the stack, and then the signal ends the process
    for number in range(inputs):
        if number % _BATCH == 0 or not target.is_cheap:
            now = time.monotonic()
            if now >= until:
                break
            if now - armed > 1:
                faulthandler.dump_traceback_later(HANG_S, exit=True)
                signal.setitimer(signal.ITIMER_PROF, HANG_CPU_S)
                armed = now
        data = mutate(rng, corpus)
        last.set(data)
        try:
            part.accepted += target.check(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            path = FINDINGS / f"{name}-{seed}-{number}"
            path.write_bytes(data)
            traceback.print_exc()
            part.findings.append(f"seed {seed}, input {number:,}: {error!r:.200} ({path})")
        part.inputs += 1
        if part.findings:
            break
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_PROF, 0)
    part.seconds = time.monotonic() - begin
    part.memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return part


#: Compiled decoders, and what they call. Others are left as they are: they get no bytes from outside.
_DECODERS = (
    "pipeline/bus/frames/_frame.pyx", "pipeline/bus/stream/_decoder.pyx", "pipeline/shm/reader/_view.pyx",
    "pipeline/shm/reader/_row_copies.pyx", "pipeline/shm/reader/_entry.pyx", "pipeline/shm/reader/_reader.pyx",
)  # fmt: skip
_SANITIZED = ("-O1", "-g1", "-w", "-fsanitize=address,fuzzer-no-link")


def start_sanitized(compiler: str) -> None:
    """Compile the decoders in a copy of the checkout, so that Atheris sees them and bad memory accesses end the run.

    This process continues there, as another.

    Raises:
        SystemExit: a module cannot be compiled.
    """
    from tests.checkout_copy import compile_module, copy_checkout

    copy = FINDINGS / "sanitized"
    stamp = copy / "compiled"
    sources = [path for suffix in ("pyx", "pxd", "pxi", "h") for path in (ROOT / "pipeline").rglob(f"*.{suffix}")]
    wanted = f"{compiler} {max(path.stat().st_mtime_ns for path in sources)}"
    is_compiled = stamp.exists() and stamp.read_text() == wanted
    copy_checkout(copy, with_compiled=not is_compiled)
    for module in () if is_compiled else _DECODERS:
        failed = compile_module(copy, module, (compiler, *_SANITIZED))
        if failed:
            raise SystemExit(f"{module}: cannot be compiled with {compiler}:\n{failed}")
    stamp.write_text(wanted)
    environment = dict(
        os.environ, LD_PRELOAD=str(FINDINGS / "packages" / "asan_with_fuzzer.so"), ASAN_OPTIONS="detect_leaks=0",
        PROCLINE_FUZZ_FINDINGS=str(FINDINGS),
    )  # fmt: skip
    arguments = [word for word in sys.argv[1:] if not word.startswith("--sanitize=")]
    os.chdir(copy)
    os.execve(sys.executable, [sys.executable, "-m", "tests.fuzz.run", *arguments], environment)


def fuzz_by_coverage(name: str, inputs: int, seed: int) -> None:
    """Try inputs that reach new code, with Atheris, which ends the process."""
    sys.path.append(str(FINDINGS / "packages"))
    import atheris

    with atheris.instrument_imports(include=["pipeline", "tomllib", "msgpack"]):
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    corpus = FINDINGS / f"{name}.corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.corpus()):
        (corpus / f"seed-{number}").write_bytes(data)
    arguments = [
        sys.argv[0], f"-runs={inputs}", f"-seed={seed}", f"-artifact_prefix={FINDINGS}/{name}-", "-max_len=4096",
        "-rss_limit_mb=1024", "-timeout=20", "-print_final_stats=1", str(corpus),
    ]  # fmt: skip
    atheris.Setup(arguments, lambda data: target.check(data) and None)
    atheris.Fuzz()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="+", help="name of a target, or `cheap` or `all`")
    parser.add_argument(
        "--inputs", type=int, default=100_000, metavar="N", help="inputs for each target (default: 100,000)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed makes the same inputs")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, metavar="M", help="maximum time for each target (default: no limit)"
    )
    parser.add_argument("--engine", choices=("plain", "atheris"), default="plain", help="atheris: one target only")
    parser.add_argument(
        "--sanitize", metavar="CLANG", help="with atheris: compile the decoders with this compiler and AddressSanitizer"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="decode only this input")
    options = parser.parse_args()
    if options.sanitize:
        start_sanitized(options.sanitize)
    if options.engine == "atheris":
        fuzz_by_coverage(options.target[0], options.inputs, options.seed)
        return
    from tests.fuzz.targets import TARGETS

    chosen = [
        name
        for name, target in TARGETS.items()
        if name in options.target or "all" in options.target or ("cheap" in options.target and target.is_cheap)
    ]
    if not chosen:
        parser.error(f"no such target; there are {', '.join(TARGETS)}")
    if options.replay:
        print(TARGETS[chosen[0]].check(options.replay.read_bytes()))
        return
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES, resource.RLIM_INFINITY))
    parts = []
    for name in chosen:
        until = time.monotonic() + 60 * options.minutes
        part = fuzz_apart(name, options.inputs, options.seed, until, fuzz_plainly, tried)
        parts.append((name, part))
        result = "; ".join(part.findings) or "nothing found"
        print(
            f"{name}: {part.inputs:,} inputs in {part.seconds:.0f} s, {part.accepted:,} accepted, at most "
            f"{part.memory_mib} MiB; {result}",
            flush=True,
        )
    if len(parts) > 1:
        print(table(parts))
    if any(part.findings for _, part in parts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
