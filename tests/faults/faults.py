"""The faults: what can happen to the processes of an instance from outside."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pipeline.host import processes
from tests.faults import cgroups, stores
from tests.live.harness import Daemon
from tests.live.storms import busy

#: Shorter than the time after which the watchdog replaces a worker, so a frozen worker is never replaced.
FREEZE_MAX_S = 2.0
STARVE_S = 3.0
COMPETITORS = 60
_QUOTA_S = 2.0
#: The resolver makes that many stores within this time: a process of a storm takes some three hundred.
STORES_MAX = 20_000
STORES_S = 60.0


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: as the table shows it.
        make: makes the fault, and returns when it is over.
    """

    name: str
    make: Callable[[Daemon, random.Random], None]


def pids(daemon: Daemon, role: str) -> list[int]:
    """Return the live processes with a role that begins with `role`."""
    found = processes.listed(daemon.directory)
    return [each.pid for each in found if each.role.startswith(role) and each.is_live]


def send(daemon: Daemon, roles: Sequence[str], number: int) -> list[int]:
    """Send a signal to one process of each of the roles that is alive now; return their pids."""
    sent = []
    for role in roles:
        for pid in pids(daemon, role)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                sent.append(pid)
    return sent


def kill(*roles: str) -> Callable[[Daemon, random.Random], None]:
    def make(daemon: Daemon, rng: random.Random) -> None:
        send(daemon, roles, signal.SIGKILL)

    return make


def kill_successor(role: str) -> Callable[[Daemon, random.Random], None]:
    """Kill a worker, and its successor while it starts or takes over."""

    def make(daemon: Daemon, rng: random.Random) -> None:
        before = set(send(daemon, [role], signal.SIGKILL))
        deadline = time.monotonic() + 60
        while not (new := set(pids(daemon, role)) - before):
            if time.monotonic() > deadline:
                raise AssertionError(f"no new {role} within 60 s")
            time.sleep(0.001)
        time.sleep(rng.choice([0.0, 0.02, 0.1, 0.3]))
        for pid in new:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return make


def freeze(*roles: str) -> Callable[[Daemon, random.Random], None]:
    def make(daemon: Daemon, rng: random.Random) -> None:
        stopped = send(daemon, roles, signal.SIGSTOP)
        try:
            time.sleep(rng.uniform(0.01, FREEZE_MAX_S))
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    return make


def freeze_and_kill(frozen: str, killed: str) -> Callable[[Daemon, random.Random], None]:
    """Freeze one process, kill another meanwhile, and let the first one continue."""

    def make(daemon: Daemon, rng: random.Random) -> None:
        stopped = send(daemon, [frozen], signal.SIGSTOP)
        try:
            time.sleep(rng.uniform(0.01, 0.5))
            send(daemon, [killed], signal.SIGKILL)
            time.sleep(rng.uniform(0.01, 0.5))
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    return make


def starve(daemon: Daemon, rng: random.Random) -> None:
    with busy(COMPETITORS):
        time.sleep(STARVE_S)


def limit(daemon: Daemon, rng: random.Random) -> None:
    """The whole instance may use a twentieth of a CPU for a while."""
    with cgroups.limited("cpu", pids(daemon, ""), cgroups.CPU_TWENTIETH):
        time.sleep(_QUOTA_S)


def freeze_all(daemon: Daemon, rng: random.Random) -> None:
    """The whole instance stands still for a while, as a container that is paused."""
    with cgroups.limited("freezer", pids(daemon, ""), cgroups.FROZEN) as group:
        time.sleep(rng.uniform(0.1, FREEZE_MAX_S))
        cgroups.set_limit(group, cgroups.THAWED)


def kill_between_stores(daemon: Daemon, rng: random.Random) -> None:
    """Kill the resolver between two of its stores to the tables."""
    pid = stores.writer(daemon, STORES_S)
    stores.kill_before(pid, int(STORES_MAX ** rng.random()))
    stores.writer(daemon, STORES_S, pid)


def kill_take_over_between_stores(daemon: Daemon, rng: random.Random) -> None:
    """Kill the resolver, and its successor between two of its stores to the tables; its take-over makes the first."""
    pid = stores.writer(daemon, STORES_S)
    os.kill(pid, signal.SIGKILL)
    successor = stores.writer(daemon, STORES_S, pid)
    stores.kill_before(successor, int(STORES_MAX ** rng.random()))
    stores.writer(daemon, STORES_S, pid, successor)


#: Faults of which the instance recovers by itself, with all events applied or counted.
IN_A_STORM = (
    Fault("kill a shard", kill("shard")),
    Fault("kill the resolver", kill("resolver")),
    Fault("kill a shard and the resolver", kill("shard", "resolver")),
    Fault("kill a shard and its successor", kill_successor("shard")),
    Fault("kill the resolver and its successor", kill_successor("resolver")),
    Fault("freeze a shard", freeze("shard")),
    Fault("freeze the resolver", freeze("resolver")),
    Fault("freeze a shard and the resolver", freeze("shard", "resolver")),
    Fault("freeze the supervisor", freeze("supervisor")),
    Fault("freeze the supervisor, kill the resolver", freeze_and_kill("supervisor", "resolver")),
    Fault("freeze the resolver, kill a shard", freeze_and_kill("resolver", "shard")),
    Fault("freeze a shard, kill the resolver", freeze_and_kill("shard", "resolver")),
    Fault(f"{COMPETITORS} busy processes", starve),
    *((Fault("a twentieth of a CPU for the instance", limit),) if cgroups.is_possible("cpu") else ()),
    *((Fault("freeze the whole instance (cgroup)", freeze_all),) if cgroups.is_possible("freezer") else ()),
    *(
        (
            Fault("kill the resolver between two stores", kill_between_stores),
            Fault("kill the resolver, and its successor between two stores", kill_take_over_between_stores),
        )
        if stores.is_possible()
        else ()
    ),
)


def kill_supervisor(daemon: Daemon) -> None:
    """Kill the supervisor, wait until its workers have ended, and start a new one."""
    daemon.kill()
    daemon.start()


def kill_while_starting(role: str) -> Callable[[Daemon, random.Random], None]:
    """Start the instance again, and kill one of its processes before it is ready."""

    def make(daemon: Daemon, rng: random.Random) -> None:
        assert daemon.stop() == 0
        daemon.start(wait=False)
        process = daemon.process
        assert process is not None
        deadline = time.monotonic() + 120  # beside other work, a start may take half a minute
        while not pids(daemon, role):
            assert process.poll() is None and time.monotonic() < deadline, daemon.log.read_text()[-2000:]
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.6))
        if role == "supervisor":
            process.kill()
            process.wait()
            daemon.start()  # waits for the workers of the one before, as far as there are any
        else:
            send(daemon, [role], signal.SIGKILL)
            done = daemon.cli("wait", "--timeout", "120", timeout=180)
            assert done.returncode == 0, done.stderr

    return make


#: Faults after which another instance begins, so that no daemon watched in between. They end when it is ready.
BETWEEN_STORMS = (
    Fault("kill the supervisor", lambda daemon, rng: kill_supervisor(daemon)),
    Fault("kill the supervisor while it starts", kill_while_starting("supervisor")),
    Fault("kill the resolver while it starts", kill_while_starting("resolver")),
    Fault("kill a shard while it starts", kill_while_starting("shard")),
)
