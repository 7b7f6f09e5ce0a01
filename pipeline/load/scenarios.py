"""The scenarios: what a load makes, and what it needs.

`programs/load.c` implements them, with the same names and numbers of events.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline import proc_text
from pipeline.errors import ConfigError, UnsupportedError
from pipeline.load.declared import WORKERS_MAX
from pipeline.records.capabilities import CAP_CHECKPOINT_RESTORE, CAP_SETUID, CAP_SYS_ADMIN

RATE_DEFAULT, RATE_MAX = 2000, 10_000_000
DURATION_DEFAULT_S, DURATION_MAX_S = 10.0, 3600.0
CONCURRENCY_MAX = WORKERS_MAX


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario.

    Attributes:
        name: its name for the command.
        what: what one unit is, the smallest part of the scenario.
        events: events of a unit: forks, execs, exits, changes of credentials, and threads.
        capabilities: numbers and names of capabilities of which it needs one; none: it needs no privileges.
        parts: for `mix`, the scenarios that it consists of.
    """

    name: str
    what: str
    events: int
    capabilities: tuple[tuple[int, str], ...] = ()
    parts: tuple[str, ...] = ()


_SYS_ADMIN = (CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
_SET_TID = ((CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE"), _SYS_ADMIN)
_SET_UID = ((CAP_SETUID, "CAP_SETUID"),)

SCENARIOS: dict[str, Scenario] = {
    each.name: each
    for each in (
        Scenario("forks", "a process that exits at once", 2),
        Scenario("execs", "a process that calls exec twice and exits", 4),
        Scenario("build", "make, two compilers with cc1 and as, a linker: 8 processes with an exec each", 24),
        Scenario("deep", "a chain of 16 processes, each the child of the one before", 32),
        Scenario("daemons", "a double fork: the daemon lives on when its parent has exited", 4),
        Scenario("threads", "a process with 8 threads, one after another", 10),
        Scenario(
            "namespaces", "a process in new pid, mount, UTS and IPC namespaces, with an exec", 3, (_SYS_ADMIN,),
        ),
        Scenario("pid-reuse", "a process with an exec, always with the same pid", 3, _SET_TID),
        Scenario("credentials", "a process that changes its user 8 times", 10, _SET_UID),
        Scenario(
            "mix", "forks, execs, a build, a chain, a daemon and threads in turn", 0,
            parts=("forks", "execs", "forks", "build", "deep", "daemons", "threads"),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """The load to make.

    Attributes:
        scenario: a name of SCENARIOS.
        rate_events_per_s: events a second of all workers together; None: as fast as possible.
        duration_s: how long.
        concurrency: number of workers.
        cpus: CPUs that the load may use; empty: all.
    """

    scenario: str
    rate_events_per_s: float | None
    duration_s: float
    concurrency: int
    cpus: tuple[int, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Names that the program knows."""
        return SCENARIOS[self.scenario].parts or (self.scenario,)


def check(settings: Settings) -> None:
    """Check that this host and user can make the load.

    Raises:
        ConfigError: a value is out of range.
        UnsupportedError: a privilege is missing.
    """
    scenario = SCENARIOS[settings.scenario]
    beyond = set(settings.cpus) - os.sched_getaffinity(0)
    if beyond:
        usable = cpu_list(sorted(os.sched_getaffinity(0)))
        raise ConfigError(
            f"--cpus {cpu_list(settings.cpus)}: this process may not use CPU {min(beyond)}; use some of {usable}",
            key="cpus",
            value=cpu_list(settings.cpus),
        )
    effective = effective_capabilities()
    if scenario.capabilities and not any(effective >> number & 1 for number, _ in scenario.capabilities):
        names = " or ".join(name for _, name in scenario.capabilities)
        raise UnsupportedError(
            f"the scenario {scenario.name!r} needs {names}",
            feature=scenario.name,
            needs=names,
            hint="run it as root, or choose another scenario such as mix",
        )


def effective_capabilities() -> int:
    """Return the mask of this thread's effective capabilities."""
    return proc_text.effective_capabilities(Path("/proc/thread-self/status").read_bytes())


def parse_cpus(text: str) -> tuple[int, ...]:
    """Return the CPUs of a list such as ``0,2-5``, ascending.

    Raises:
        ValueError: it is not such a list.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers or numbers.start < 0 or numbers.stop > 1 << 16:
            raise ValueError(part)
        found.update(numbers)
    return tuple(sorted(found))


def cpu_list(cpus: tuple[int, ...] | list[int]) -> str:
    """Return CPUs as a list such as ``0,2-5``."""
    parts: list[str] = []
    first = last = None
    for cpu in [*sorted(cpus), None]:
        if first is not None and cpu != (last or 0) + 1:
            parts.append(str(first) if first == last else f"{first}-{last}")
            first = None
        if first is None:
            first = cpu
        last = cpu
    return ",".join(parts)
