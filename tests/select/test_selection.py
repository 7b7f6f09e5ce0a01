"""Which processes are selected."""

from __future__ import annotations

import pwd

import pytest

from pipeline.select.selection import Selection, descendants

NGINX = {
    "pid": 10, "entity_id": "a", "uid": 33, "user": "web", "path": "/usr/sbin/nginx",
    "cgroup": "/system.slice/nginx.service", "exit_code": None,
}  # fmt: skip
SHELL = {
    "pid": 11, "entity_id": "b", "parent_entity_id": "a", "creator_entity_id": "a", "uid": 33, "euid": 0,
    "path": "/usr/bin/dash", "script_path": "/srv/run.sh", "container_id": "0123456789ab", "exit_code": 256,
}  # fmt: skip
ORPHAN = {"pid": 12, "entity_id": "c", "parent_entity_id": "init", "creator_entity_id": "b", "exit_code": 0}
ALL = [NGINX, SHELL, ORPHAN]


@pytest.mark.parametrize(
    ("selection", "pids"),
    [
        (Selection(), [10, 11, 12]),
        (Selection(users=["web"]), [10]),
        (Selection(users=["33"]), [10, 11]),
        (Selection(users=["0"]), [11]),
        (Selection(units=["nginx"]), [10]),
        (Selection(units=["ngin*.service"]), [10]),
        (Selection(containers=["0123"]), [11]),
        (Selection(paths=["nginx"]), [10]),
        (Selection(paths=["/usr/*"]), [10, 11]),
        (Selection(paths=["*.sh"]), [11]),
        (Selection(paths=["/srv/nginx"]), []),
        (Selection(under=[10]), [10, 11, 12]),
        (Selection(under=[11]), [11, 12]),
        (Selection(under=[11], paths=["dash"]), [11]),
        (Selection(is_failed=True), [11]),
    ],
)
def test_everything_that_is_given_must_hold(selection: Selection, pids: list[int]) -> None:
    assert [entry["pid"] for entry in selection.of(ALL)] == pids
    assert bool(selection) is (selection != Selection())


@pytest.mark.parametrize(
    "selection",
    [
        Selection(users=["www-data"]), Selection(users=["0"]), Selection(units=["nginx"]),
        Selection(containers=["0123"]), Selection(paths=["*.sh"]), Selection(under=[10], paths=["dash"]),
        Selection(is_failed=True),
    ],
)  # fmt: skip
def test_the_named_fields_suffice(selection: Selection) -> None:
    parts = [{name: entry.get(name) for name in ("pid", *selection.fields)} for entry in ALL]
    assert [entry["pid"] for entry in selection.of(parts)] == [entry["pid"] for entry in selection.of(ALL)]


@pytest.mark.parametrize(
    ("asked", "pids"),
    [
        ("/sys/fs/cgroup/system.slice/nginx.service", [10]),
        ("/sys/fs/cgroup/unified/system.slice/nginx.service/", [10]),
        ("/sys/fs/cgroup/system.slice", [10]),
        ("/sys/fs/cgroup/system.slice/ngin*", [10]),
        ("/sys/fs/cgroup", [10]),
        ("/sys/fs/cgroup/user.slice", []),
        ("/sys/fs/cgroups/system.slice", []),
    ],
)
def test_a_directory_of_the_cgroup_file_system_is_its_cgroup(asked: str, pids: list[int]) -> None:
    selection = Selection(units=[asked])
    assert [entry["pid"] for entry in selection.of(ALL)] == pids
    literals = dict(selection.publisher_filters()).get(b"cgroup", (b"",))
    assert b"/sys/fs/cgroup/" not in literals[0]
    assert not pids or literals[0] in b"/system.slice/nginx.service"


@pytest.mark.parametrize(
    ("unit", "asked", "is_selected"),
    [
        ("php8.2-fpm.service", "php8.2-fpm", True),
        ("php8.2-fpm.service", "php8.*", True),
        ("php8.2-fpm.service", "php8.2", False),
        ("session-1.scope", "session-1", False),
        ("session-1.scope", "session-*.scope", True),
        (r"mnt-a\x2db.mount", r"mnt-a\x2db.mount", True),
        (r"mnt-a\x2db.mount", "mnt-a-b.mount", True),
    ],
)
def test_units_are_chosen_with_or_without_suffix_and_escapes(unit: str, asked: str, is_selected: bool) -> None:
    assert Selection(units=[asked]).matches({"cgroup": f"/system.slice/{unit}"}) is is_selected


@pytest.mark.parametrize(
    ("cgroup", "asked", "is_selected"),
    [
        ("/jobs/a", "/jobs/a", True),
        ("/jobs/a/b", "/jobs/a/", True),
        ("/jobs/ab", "/jobs/a", False),
        ("/jobs/ab", "/jobs/a*", True),
        ("/system.slice/ssh.service", "/system.slice", True),
        ("/system.slice/ssh.service", "/user.slice", False),
        ("/", "/", True),
        (None, "/", False),
        (None, "/jobs", False),
    ],
)
def test_a_unit_with_a_slash_is_the_path_of_a_cgroup(cgroup: str | None, asked: str, is_selected: bool) -> None:
    assert Selection(units=[asked]).matches({"cgroup": cgroup}) is is_selected


def test_a_name_selects_by_its_number_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of a process may not have been read yet."""
    monkeypatch.setattr("pwd.getpwnam", lambda name: pwd.struct_passwd((name, "x", 33, 33, "", "/", "/bin/sh")))
    assert [each["pid"] for each in Selection(users=["httpd"]).of(ALL)] == [10, 11]
    assert Selection(users=["httpd"]).matches({"uid": 1, "euid": 33})
    assert not Selection(users=["httpd"]).matches({"uid": 1, "user": "x"})


def test_a_process_that_was_adopted_still_descends_from_its_creator() -> None:
    assert descendants(ALL, [10]) == {"a", "b", "c"}


def test_a_pid_means_its_last_owner() -> None:
    owners = [{"pid": 7, "entity_id": name, "start_time_ns": start} for name, start in (("a", 5), ("c", 9), ("b", 7))]
    children = [{"pid": 8, "entity_id": f"child of {name}", "parent_entity_id": name} for name in "abc"]
    assert descendants([*owners, *children], [7]) == {"c", "child of c"}


def test_a_cycle_ends() -> None:
    assert descendants([{"pid": 1, "entity_id": "x", "parent_entity_id": "x"}], [1]) == {"x"}


def test_a_short_id_of_a_container_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 characters"):
        Selection(containers=["012"])
