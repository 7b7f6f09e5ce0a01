"""The program that a process runs, and its systemd unit."""

from __future__ import annotations

import pytest

from pipeline.select.programs import Kind, program_of
from pipeline.select.selection import Selection
from pipeline.select.units import readable, shown_unit, unit_of, user_unit_of


@pytest.mark.parametrize(
    ("path", "command", "name", "kind"),
    [
        ("/usr/bin/python3.13", "python3 x.py --a b", "x.py", Kind.SCRIPT),
        ("/usr/bin/python3.13", "python3 -W error -u /srv/x.py", "x.py", Kind.SCRIPT),
        ("/usr/bin/python3.13", "python3 -m http.server 80", "http.server", Kind.SCRIPT),
        ("/usr/bin/python3.13", "python3 -c pass", "python3.13", Kind.INTERPRETER),
        ("/usr/bin/python3.13", "python3", "python3.13", Kind.INTERPRETER),
        ("/usr/bin/python3.13t", "python3.13t -c print(1/2)", "python3.13t", Kind.INTERPRETER),
        ("/usr/bin/pypy3", "pypy3 -W error x.py", "x.py", Kind.SCRIPT),
        ("/usr/bin/nodejs", "nodejs -e 1/2", "nodejs", Kind.INTERPRETER),
        ("/usr/bin/perl", "perl -w -I lib run.pl", "run.pl", Kind.SCRIPT),
        ("/usr/bin/perl", "perl -ne print", "perl", Kind.INTERPRETER),
        ("/usr/bin/node", "node --inspect /srv/app.js", "app.js", Kind.SCRIPT),
        ("/usr/bin/dash", "sh -c ls", "dash", Kind.SHELL),
        ("/usr/bin/dash", "sh /etc/init.d/x start", "x", Kind.SCRIPT),
        ("/usr/bin/bash", "-bash", "bash", Kind.SHELL),
        ("/usr/bin/bash", "bash /dev/fd/63", "bash", Kind.SHELL),
        ("/usr/bin/python3.13", "python3 /proc/self/fd/9 x", "python3.13", Kind.INTERPRETER),
        ("/usr/sbin/sshd", "sshd: root@pts/0", "sshd", Kind.MANAGER),
        ("/usr/bin/sleep", "sleep 5", "sleep", Kind.OTHER),
    ],
)
def test_a_program_is_named_as_people_name_it(path: str, command: str, name: str, kind: Kind) -> None:
    program = program_of({"path": path, "argv": command.split()})
    assert (program.name, program.kind) == (name, kind)


def test_the_kernel_names_the_script() -> None:
    program = program_of({"path": "/usr/bin/dash", "script_path": "/opt/run", "argv": ["/bin/sh", "-e", "/opt/run"]})
    assert (program.name, program.interpreter, program.script) == ("run", "dash", "/opt/run")


def test_a_descriptor_names_no_script() -> None:
    program = program_of({"path": "/usr/bin/dash", "script_path": "/dev/fd/3", "argv": ["/bin/sh", "/dev/fd/3", "x"]})
    assert (program.name, program.kind, program.script) == ("dash", Kind.SHELL, None)


def test_without_facts_the_task_name_is_used() -> None:
    assert program_of({"comm": "sh"}).name == "sh"
    assert program_of({}).name == "?"
    assert program_of({"comm": "kworker/0:1", "is_kworker": True}).kind is Kind.KERNEL


@pytest.mark.parametrize(
    ("cgroup", "unit", "user_unit"),
    [
        ("/system.slice/ssh.service", "ssh.service", None),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None),
        ("/user.slice/user-0.slice/session-3.scope", "session-3.scope", None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope", "user@1000.service", "x.scope"),
        ("/system.slice/a.service/evil.service", "a.service", None),
        ("/user.slice", None, None),
        ("/", None, None),
        (None, None, None),
    ],
)
def test_a_unit_comes_from_the_part_of_the_path_that_systemd_wrote(
    cgroup: str | None, unit: str | None, user_unit: str | None
) -> None:
    assert (unit_of(cgroup), user_unit_of(cgroup)) == (unit, user_unit)
    shown = f"user@1000/{user_unit}" if user_unit else unit
    assert shown_unit(cgroup) == shown
    assert shown is None or Selection(units=[shown]).matches({"cgroup": cgroup}), "what a screen shows can be asked for"


def test_escapes_of_systemd_are_readable() -> None:
    assert readable(r"dev-disk-by\x2dlabel.swap") == "dev-disk-by-label.swap"
    assert readable(r"caf\xc3\xa9.service") == "café.service"
    assert readable(r"x\xff.service") == "x\udcff.service"  # a byte that is not UTF-8
