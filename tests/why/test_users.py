"""Changes of user: the story follows the credentials, and not the names of the programs."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.why import users
from pipeline.why.facts import Facts
from pipeline.why.phrases import time_text
from pipeline.why.proof import Proof
from pipeline.why.steps import steps
from tests.why.world import BOOT_NS, forked, image, lineage, missing, summary_of, told


def test_sudo_from_a_user_to_root() -> None:
    facts = lineage(
        [forked(10, uid=1000), image(10, uid=1000)],
        [forked(11, uid=1000), image(11, "/usr/bin/sudo", uid=0, mode=0o104755, argv=["sudo", "id"])],
        [forked(12, "/usr/bin/sudo", uid=0), image(12, "/usr/bin/id", uid=0)],
    )
    first, last = told(facts)["user_change"]
    assert first.facts["how"] == users.UNKNOWN or first.facts["how"] == users.PRIVILEGED  # root's init to alice
    assert (last.proof, last.facts["how"], last.facts["program"]) == (Proof.KERNEL, users.SET_USER_ID, "sudo")
    assert "alice (uid 1000) became root" in last.text and 'Its command line: "sudo id".' in last.text


def test_root_drops_its_rights() -> None:
    facts = lineage([image(10, "/usr/bin/setpriv", uid=1000), image(10, "/usr/bin/sleep", uid=1000)])
    (change,) = told(facts)["user_change"]
    assert change.facts["how"] == users.PRIVILEGED and "ran as root and changed its user to alice" in change.text


def test_a_creator_that_gave_up_its_rights_later_grants_nothing() -> None:
    """The creator's row shows its user of today. Its child kept root's, and must not appear to have gained them."""
    facts = lineage([image(10, "/usr/sbin/daemon", uid=33)], [forked(11, "/usr/sbin/daemon", uid=0)])
    changes = told(facts)["user_change"]
    assert [(each.pid, each.facts["to"]["uid"]) for each in changes] == [(10, 33)]


def test_a_set_user_id_file_that_gave_nothing_is_not_the_reason() -> None:
    facts = lineage([image(10, "/usr/bin/sudo", uid=1000, mode=0o104755)])
    (change,) = told(facts)["user_change"]
    assert change.facts["how"] == users.PRIVILEGED


def test_a_user_returns_to_its_saved_id() -> None:
    before = image(10, "/usr/bin/at", uid=1000, suid=0)
    facts = lineage([before, image(10, "/usr/bin/sh", uid=0)])
    last = told(facts)["user_change"][-1]
    assert last.facts["how"] == users.OWN_IDS


def test_a_change_without_a_reason_is_shown_as_unknown() -> None:
    facts = lineage([image(10, "/tmp/exploit", uid=1000), image(10, "/usr/bin/sh", uid=0)])
    last = told(facts)["user_change"][-1]
    assert last.facts["how"] == users.UNKNOWN and "How it could do that is not known" in last.text


def test_a_change_of_group_alone() -> None:
    facts = lineage([image(10, "/usr/bin/sg", gid=33, mode=0o104755)])
    (change,) = told(facts)["group_change"]
    assert change.facts["how"] == users.PRIVILEGED and "changed its group to www-data (gid 33)" in change.text


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/home/eve/sudo"},
        {"mnt_ns": 5},
        {"container_id": "c" * 64},
        {"file": {"inode": 7, "uid": 1000, "mode": 0o104755}},
        {"file": {"inode": 7, "uid": 0, "mode": 0o104777}},
        {"file": {"inode": 7, "uid": 0, "mode": 0o104755, "filesystem": "fuse"}},
        {"file": {"inode": 7, "uid": 0, "mode": 0o104755, "is_fileless": True}},
        {"file": None},
    ],
    ids=["place", "mounts", "container", "owner", "writable", "fuse", "memory", "unknown"],
)
def test_a_program_is_sudo_only_if_root_alone_can_change_the_file(changes: dict[str, object]) -> None:
    real = image(10, "/usr/bin/sudo", uid=1000)
    (change,) = told(lineage([real]))["user_change"]
    assert change.facts["program"] == "sudo" and change.facts["program_proof"] == "root"
    (change,) = told(lineage([real | changes]))["user_change"]  # type: ignore[dict-item]
    assert change.facts["program"] is None and change.facts["program_proof"] == "claimed"


def test_names_inside_a_container_are_quoted() -> None:
    facts = lineage([image(10, user='x" root', uid=1000, container_id="c" * 64)])
    assert users.user_text(facts, facts.subject.image) == 'uid 1000 ("x\\" root")'


def test_the_rights_of_another_user() -> None:
    facts = lineage([image(10, uid=1000, euid=0)])
    assert users.user_text(facts, facts.subject.image) == "alice (uid 1000) with the rights of root"


def test_a_command_line_is_shown_once() -> None:
    """sudo becomes root by the mode of its file. Its child sets the user of the command. Both have sudo's arguments."""
    sudo = {"path": "/usr/bin/sudo", "argv": ["sudo", "id"]}
    facts = lineage(
        [image(10, uid=1000)], [image(11, uid=1000, euid=0, mode=0o104755, **sudo)], [forked(12, uid=0, **sudo)]
    )
    texts = [each.text for each in told(facts)["user_change"]]
    assert [("Its command line" in text) for text in texts] == [False, True, False]
    assert "alice (uid 1000) got the rights of root" in texts[1]


def test_a_parent_that_is_no_creator_is_not_compared() -> None:
    """It may have adopted the process, so a difference is no change."""
    facts = lineage([image(10, uid=1000)], [image(11, uid=0)], links="cp")
    assert [each.pid for each in told(facts)["user_change"]] == [10]


def test_a_user_that_a_container_calls_root_is_not_root() -> None:
    inside = {"container_id": "x" * 64, "euser": "root", "user": "root"}
    facts = lineage(
        [image(10, "/usr/bin/dash", uid=1000, **inside)],
        [forked(11, "/usr/bin/dash", uid=1000, **inside), image(11, "/usr/bin/x", uid=1000, euid=1001, mode=0o104755)],
    )
    facts.subject.image["file"]["uid"] = 1001
    facts.subject.image.update(inside)  # type: ignore[typeddict-item]
    last = told(facts)["user_change"][-1]
    assert last.facts["how"] == users.SET_USER_ID and "got the rights of uid 1001" in last.text
    assert "changed the user from uid 1000 to uid 1001" in summary_of(facts)


# -- instances that find changes by comparison -------------------------------------------------------------------------


def sampled(*processes: list[dict[str, Any]]) -> Facts:
    """Return facts of an instance that finds changes of credentials later, often with the next exec."""
    return lineage(*processes, sees_each_change=False)


@pytest.mark.parametrize("program", ["su", "sudo", "runuser", "setpriv"])
def test_the_program_that_changes_users_made_the_change_that_the_exec_shows(program: str) -> None:
    path = f"/usr/bin/{program}"
    facts = sampled([image(9)], [forked(10, path, argv=[program, "bob"]), image(10, "/usr/bin/dash", uid=1000)])
    (change,) = told(facts)["user_change"]
    assert (change.proof, change.facts["how"]) == (Proof.INFERRED, users.PRIVILEGED)
    assert (change.facts["program"], change.facts["program_proof"]) == (program, "root")
    assert (change.facts["path"], change.facts["candidates"]) == (path, [path])
    assert f"Pid 10, {path}, ran as root and changed its user to alice (uid 1000)." in change.text
    assert f"This is inferred: {program} makes such changes and ran just before /usr/bin/dash." in change.text
    assert f'Its command line: "{program} bob".' in change.text
    assert f"On the way, {program} changed the user from root to alice." in summary_of(facts)


def test_the_step_before_the_exec_shows_the_change_first() -> None:
    chain = [image(10, "/usr/bin/setpriv"), image(10, "/usr/bin/sleep", uid=1000)]
    parts = [step.parts for step in steps(sampled(chain), [])][-1]
    assert parts[-2:] == ["became alice (uid 1000)", "executed /usr/bin/sleep"]
    parts = [step.parts for step in steps(lineage(chain), [])][-1]
    assert parts[-2:] == ["executed /usr/bin/setpriv, then /usr/bin/sleep", "became alice (uid 1000)"]


@pytest.mark.parametrize(
    "path", ["/usr/bin/python3", "/home/eve/sudo"], ids=["another program", "a program that only calls itself sudo"]
)
def test_without_such_a_program_it_was_one_of_two(path: str) -> None:
    facts = sampled([image(9)], [image(10, path), image(10, "/usr/bin/sleep", uid=1000)])
    (change,) = told(facts)["user_change"]
    assert (change.proof, change.facts["program"], change.facts["path"]) == (Proof.KERNEL, None, None)
    assert change.facts["candidates"] == [path, "/usr/bin/sleep"]
    assert f"ran {path} and then /usr/bin/sleep: one of them ran as root and changed its user to alice" in change.text
    assert "Which of the two programs of pid 10" in missing(facts)["user_change"].text
    assert f"On the way, {path} or /usr/bin/sleep changed the user from root to alice." in summary_of(facts)


def test_a_change_that_no_right_explains_is_not_ascribed_to_a_program_that_changes_users() -> None:
    facts = sampled([image(9, uid=1000)], [image(10, "/tmp/exploit", uid=1000), image(10, "/usr/bin/setpriv", uid=0)])
    last = told(facts)["user_change"][-1]
    assert (last.proof, last.facts["how"], last.facts["program"]) == (Proof.KERNEL, users.UNKNOWN, None)
    assert last.facts["candidates"] == ["/tmp/exploit", "/usr/bin/setpriv"]
    assert "ran /tmp/exploit and then /usr/bin/setpriv: one of them went from alice (uid 1000) to root" in last.text
    assert "How pid 10 could change its user" in missing(facts)["user_change"].text


def test_a_set_user_id_file_and_a_fork_need_no_inference() -> None:
    facts = sampled(
        [forked(10, uid=1000)],
        [forked(11, uid=1000), image(11, "/usr/bin/sudo", uid=0, mode=0o104755)],
        [forked(12, "/usr/bin/sudo", uid=1001)],
    )
    changes = told(facts)["user_change"]
    assert [each.proof for each in changes] == [Proof.KERNEL] * 3
    assert [each.facts["program"] for each in changes[1:]] == ["sudo", "sudo"]
    assert "user_change" not in missing(facts)


def test_a_service_that_changed_something_later_may_have_changed_its_user_itself() -> None:
    executor = "/usr/lib/systemd/systemd-executor"
    facts = sampled([image(10, executor), image(10, "/usr/sbin/ntpd", uid=33, marks=["change_sampled"])])
    (change,) = told(facts)["user_change"]
    assert change.facts["candidates"] == [executor, "/usr/sbin/ntpd"] and change.facts["program"] is None


def test_the_limits_of_the_last_change_that_a_comparison_found_are_named() -> None:
    """It may be a later change than that of the user, of the session for example. Then only the second limit holds."""
    limits = {"changed_after_ns": BOOT_NS + 9 * 10**9, "changed_before_ns": BOOT_NS + 11 * 10**9}
    marked: dict[str, Any] = {"uid": 1000, "marks": ["change_sampled"], "extra": {"sampled_change": limits}}
    (change,) = told(sampled([image(9)], [forked(10, **marked)]))["user_change"]
    between = f"between {time_text(BOOT_NS + 9 * 10**9)} and {time_text(BOOT_NS + 11 * 10**9)}"
    assert f"A comparison found the last change of its credentials or session, which happened {between}." in change.text
    assert "The change of user was this one, or an earlier one." in change.text
    assert change.facts["changed_before_ns"] == limits["changed_before_ns"]
    assert change.facts["changed_after_ns"] is None
    marked["extra"] = {"sampled_change": limits | {"changed_after_ns": None}}
    (change,) = told(sampled([image(9)], [forked(10, **marked)]))["user_change"]
    assert f"which happened before {time_text(BOOT_NS + 11 * 10**9)}." in change.text
    assert change.facts["changed_before_ns"] == limits["changed_before_ns"]
    (change,) = told(sampled([image(9)], [forked(10, **marked | {"extra": None})]))["user_change"]
    assert "comparison" not in change.text and change.facts["changed_before_ns"] is None


def test_the_limits_are_not_those_of_a_change_that_an_exec_made() -> None:
    limits = {"changed_after_ns": None, "changed_before_ns": BOOT_NS}
    sudo = image(10, "/usr/bin/sudo", mode=0o104755, marks=["change_sampled"], extra={"sampled_change": limits})
    last = told(sampled([image(9, uid=1000)], [sudo]))["user_change"][-1]
    assert last.facts["how"] == users.SET_USER_ID and last.facts["changed_before_ns"] is None
    assert "comparison" not in last.text


def test_a_service_gets_its_user_from_the_service_manager() -> None:
    executor = "/usr/lib/systemd/systemd-executor"
    facts = sampled([image(10, executor), image(10, "/usr/sbin/nginx", uid=33)])
    (change,) = told(facts)["user_change"]
    assert change.facts["program"] == "systemd-executor" and "changed the user" not in summary_of(facts)
