"""`procline doctor`: check the features of this host, and report what to do about missing ones.

`pipeline.bpf.probe` checks BPF. This module checks the rest of the host and the instance, and prints the report. The
result of a check (`ok`) is true (present), false (missing) or null (unknown).
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from pipeline import paths
from pipeline.cli import common
from pipeline.cli.operate.run import PACKAGES, daemon_parts
from pipeline.errors import ProclineError
from pipeline.host import pid_namespace, tiers, unit
from pipeline.screen.lines import Line
from pipeline.screen.progress import Progress
from pipeline.screen.styles import Style
from pipeline.screen.terminal import Screen
from pipeline.shm.layout.control_header import ROW_BYTES

#: An instance does not start without these. For everything else there is an alternative.
NEEDED = frozenset({
    "packages", "libbpf", "runtime directory", "programs", "BTF", "capabilities", "attach tp_btf", "cpus",
    "pid namespace",
})  # fmt: skip

#: The needed ones that a source without eBPF does not need.
_OF_EBPF = frozenset({"libbpf", "programs", "BTF", "attach tp_btf"})

#: Packages that only some instances need.
_OF_SOME = {"prometheus_client": "needed if metrics.listen is set"}
_INSTALL = "pip install 'procline[daemon]'"
_OK, _MISSING, _WITHOUT, _UNKNOWN, _FAILED, _OFF = "ok", "missing", "without", "unknown", "failed", "off"
_NOTE = "note"  # works, at a price that can be avoided
#: In the order of the report.
_STYLES = {
    _MISSING: Style.FAILED, _FAILED: Style.FAILED, _WITHOUT: Style.WARNING, _NOTE: Style.CHANGED,
    _UNKNOWN: Style.FAINT, _OFF: Style.FAINT, _OK: Style.BORN,
}  # fmt: skip
#: Ways to the same end, of which an instance needs one; the finding of this name says whether there is one.
_WAYS = "credentials"
_ALTERNATIVES = frozenset({"attach fentry", "attach kprobe", "attach tp/syscalls"})
_TIERS_OF_WAYS = "tier cred_"
#: What the names of findings about single methods begin with. `_WAYS` has those of the method that an instance uses.
_METHOD = "method "
#: What `tiers` shows for a part of the capture that a setting switches off, as in ``capture.credentials is "off"``.
_SWITCHED_OFF = re.compile(r"[a-z_]+\.[a-z_]+ is ")
#: What `unit` reports for an optional unit that this host does not use.
_UNWANTED = re.compile(r" is (not enabled|masked)$")
#: The finding about kernels that preempt BPF programs.
_PREEMPTION = "preemption"
_INDENT = 9
#: Name of the finding about the daemon's unit, and what the names of those about optional units begin with.
_UNIT = "unit"
#: Spelling in the report of the probe's names.
_NAMES = {"btf": "BTF"}
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: the fields of pipeline.bpf.probe.Finding, and whether an instance needs the feature."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""
    needed: bool = False


@click.command(
    epilog="""\b
Examples:
  procline doctor                    run it as root; otherwise most checks are skipped
  procline doctor -v                 all checks, with what was found
  procline doctor --json | jq '.checks[] | select(.ok == false)'
"""
)
@common.verbose_option
@common.name_option
@common.json_option
def command(is_verbose: bool, name: str, as_json: bool) -> int:
    """Check every feature of this host that Procline needs or can use.

    The command tries each feature if it has the permission. For each problem it prints a line, with the remedy below.
    The line `ok` names the checks without a problem. Exits with 0 if an instance can run on this host, and with 1 if a
    needed feature is missing.
    """
    checks = []
    with Progress("checking this host") as progress:
        for check in examine(name):
            checks.append(check)
            progress.show(check.name)
    missing = {check.name for check in checks if check.needed and check.ok is False}
    can_run = not missing
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps({"can_run": can_run, "checks": [asdict(check) for check in checks]}))
        return 0 if can_run else 1
    screen = Screen()
    screen.wrap(_complete(checks) if is_verbose else _brief(checks), _INDENT)
    if can_run:
        verdict = Line(("An instance can run here.", Style.HEADING))
    elif missing == {"capabilities"}:
        verdict = Line(("You cannot start an instance", Style.FAILED), ": see what is missing above.")
    else:
        verdict = Line(("An instance cannot run here", Style.FAILED))
        if missing <= _OF_EBPF:
            verdict.add(" with eBPF: see what is missing above. Try --source proc-connector.")
        else:
            verdict.add(": see what is missing above.")
    screen.wrap([verdict])
    return 0 if can_run else 1


def _mark(check: Check) -> str:
    if _is_unit(check):
        return {True: _OK, False: _FAILED, None: _OFF}[check.ok]
    if check.ok is False:
        return _MISSING if check.needed else _WITHOUT
    if check.ok and check.hint and check.name in {_WAYS, _PREEMPTION}:
        return _NOTE
    return _OK if check.ok else _UNKNOWN


def _is_unit(check: Check) -> bool:
    return check.name.split(" ")[0] == _UNIT


def _complete(checks: Sequence[Check]) -> Iterator[Line]:
    """Yield every check with what was found."""
    for check in checks:
        mark = _mark(check)
        yield from _finding(mark, check.name, check.detail, "" if mark == _OK else check.hint)


def _brief(checks: Sequence[Check]) -> Iterator[Line]:
    """Yield the checks that are not fine, each once and with its remedy; then the names of the others."""
    by_name = {check.name: check for check in checks}
    folded: list[str] = []
    groups: dict[tuple[str, str, str], list[str]] = {}
    rights = by_name.get("capabilities")
    for check in checks:
        mark, detail, hint = _mark(check), check.detail, check.hint
        if mark == _OK:
            folded.append(check.name)
        elif not _is_beside_the_point(check, by_name):
            if rights is not None and rights.ok is False and detail.startswith("not tried: CAP_"):
                detail, hint = "not tried without these capabilities", ""
            groups.setdefault((mark, detail, hint), []).append(check.name)
    said: set[str] = set()
    for (mark, detail, hint), names in sorted(groups.items(), key=lambda item: list(_STYLES).index(item[0][0])):
        yield from _finding(mark, ", ".join(names), detail, "" if hint in said else hint)
        said.add(hint)
    if folded:
        yield Line((f"{_OK:{_INDENT}}", _STYLES[_OK]), (", ".join(folded), Style.FAINT))


def _is_beside_the_point(check: Check, by_name: dict[str, Check]) -> bool:
    """Whether a check that is not fine says nothing that another finding or a setting does not say."""
    if _is_unit(check):
        return check.name != _UNIT and check.ok is None and _UNWANTED.search(check.detail) is not None
    if check.name.startswith(_METHOD):
        return True
    way = by_name.get(_WAYS)
    if check.name in _ALTERNATIVES:
        return way is not None and way.ok is not None
    if check.name == _WAYS:
        return check.ok is None and any(by_name[name].ok is None for name in _ALTERNATIVES & by_name.keys())
    if check.name.startswith(_TIERS_OF_WAYS) and any(
        other.ok for name, other in by_name.items() if name.startswith(_TIERS_OF_WAYS)
    ):
        return True
    return check.name.startswith("tier ") and _SWITCHED_OFF.match(check.detail) is not None


def _finding(mark: str, names: str, detail: str, hint: str) -> Iterator[Line]:
    yield Line((f"{mark:{_INDENT}}", _STYLES[mark]), (names, Style.HEADING), f": {detail}")
    if hint:
        yield Line(" " * _INDENT, ("-> ", Style.FAINT), hint)


def examine(name: str) -> Iterator[Check]:
    """Yield all checks; those of BPF come last."""
    checks = [_python(), *_packages(), _namespace()]
    # The other checks read /proc/self, which does not exist in a /proc of another pid namespace.
    is_readable = Path("/proc/self/status").exists()
    if is_readable:
        checks += [_runtime_directory(name), _memory(), *_units(name), _instance(name)]
    for check in checks:
        yield Check(check.name, check.ok, check.detail, check.hint, check.name in NEEDED)
    if not is_readable:
        return
    yield from _tiers(name)
    yield from _bpf()


def _bpf() -> Iterator[Check]:
    try:
        from pipeline.bpf import probe

        choice = _setting("credentials", "auto")
        found = probe.findings(choice, _setting("task_iterator", "auto"))
    except (ImportError, ProclineError) as error:
        yield Check("BPF", None, f"not checked: {error}", _INSTALL)
        return
    for finding in found:
        name = _NAMES.get(finding.name, finding.name)
        # A method that is set by name must work, or the start fails.
        is_needed = name in NEEDED or (name == _WAYS and choice not in {"auto", "off"})
        yield Check(name, finding.ok, finding.detail, finding.hint, is_needed)


def _setting(name: str, default: str) -> str:
    """Return a setting of the capture; the default if the settings cannot be read, which `_memory` reports."""
    with suppress(ProclineError), daemon_parts():
        from pipeline.config.loading import load

        return str(getattr(load().capture, name))
    return default


def _tiers(name: str) -> Iterator[Check]:
    """Yield the capture methods of the running instance and why others are off; nothing if no instance is running."""
    for tier, detail in tiers.read(paths.instance_dir(name)).items():
        yield Check(f"tier {tier}", tiers.is_on(detail), tiers.reason(detail))


def _python() -> Check:
    return Check("python", True, f"{sys.version.split()[0]} ({sys.executable})")


def _packages() -> Iterator[Check]:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield Check("packages", False, f"{', '.join(missing)} not installed", _INSTALL)
    else:
        yield Check("packages", True, "all packages of the daemon are installed")
    for name, what_for in _OF_SOME.items():
        if importlib.util.find_spec(name) is None:
            yield Check(f"package {name}", False, f"not installed; {what_for}", _INSTALL)


def _runtime_directory(name: str) -> Check:
    directory = paths.instance_dir(name)
    try:
        paths.check_in_memory(directory)
        paths.endpoint(paths.requests_socket(directory))
    except ProclineError as error:
        return Check("runtime directory", False, str(error))
    place = directory
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    detail = f"{directory} on {paths.file_system(directory)}, {free // MIB} MiB free"
    if free < _least_bytes():
        return Check(
            "runtime directory", False, detail, f"make {_least_bytes() // MIB + 1} MiB available for the tables"
        )
    return Check("runtime directory", True, detail)


def _least_bytes() -> int:
    """Return the initial size of the tables: the pid index, the first rows, the first part of each arena."""
    pids = int(Path("/proc/sys/kernel/pid_max").read_text())
    return 4 * pids + 4096 * ROW_BYTES + 3 * (256 << 10) + (1 << 16)


def _memory() -> Check:
    try:
        with daemon_parts():
            from pipeline.bpf.host import online_cpus, possible_cpus
            from pipeline.config.loading import load
            from pipeline.supervisor.footprint import estimate
        need = estimate(load(), len(online_cpus()), len(possible_cpus()))
    except ProclineError as error:
        return Check("memory", None, str(error))
    available = _available_bytes()
    detail = (
        f"at the start about {need.start_bytes // MIB} MiB: kernel {need.kernel_bytes // MIB} MiB (rings: "
        f"{need.ring_count} x {need.ring_bytes // KIB} KiB), processes {need.processes_bytes // MIB} MiB; "
        f"tables up to {need.tables_bytes // MIB} MiB; {available // MIB} MiB available"
    )
    if need.start_bytes + need.tables_bytes > available:
        return Check("memory", False, detail, "lower tables.max_entries, tables.args_bytes or capture.rings_bytes")
    return Check("memory", True, detail)


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _namespace() -> Check:
    try:
        found = pid_namespace.fault(scope=_setting("scope", pid_namespace.HOST))
    except ProclineError as error:
        return Check("pid namespace", None, str(error))
    if found is not None:
        return Check("pid namespace", False, *found)
    if pid_namespace.is_inner():
        return Check("pid namespace", True, 'an inner one; its processes are recorded (capture.scope = "namespace")')
    return Check("pid namespace", True, "the initial one, and /proc shows its pids")


def _units(name: str) -> Iterator[Check]:
    """Yield the state of each systemd unit that exists. They are for the default instance."""
    if name != paths.DEFAULT_INSTANCE:
        return
    for service in unit.SERVICES:
        found = unit.state(service)
        if found is not None:
            yield Check(name_of(service), found.ok, found.detail, found.hint)


def name_of(service: unit.Service) -> str:
    """Return the name of the finding about a unit."""
    return f"{_UNIT} {service.unit.removesuffix('.service')}" if service.is_optional else _UNIT


def _instance(name: str) -> Check:
    from pipeline.cli.operate.wait import behind, is_ready

    directory = paths.instance_dir(name)
    try:
        if is_ready(directory):
            return Check("instance", True, f"{name!r} is running and ready")
        behind_ns = behind(name)
        if behind_ns:
            return Check(
                "instance", False, f"{name!r} is running, behind by {behind_ns / 1e9:.1f} s",
                "its resolver gets too little CPU time or hangs: see its log",
            )  # fmt: skip
    except (ProclineError, ImportError) as error:
        return Check("instance", None, str(error))
    if directory.exists():
        return Check("instance", False, f"{name!r} is not ready, or was killed", f"procline wait --name {name}")
    return Check("instance", False, f"{name!r} is not running", "procline run")
