"""Changes of user: what the credentials prove, whatever the programs call themselves."""

from __future__ import annotations

import pytest

from pipeline.why import users
from pipeline.why.proof import Proof
from tests.why.world import forked, image, lineage, summary_of, told


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


def test_root_gives_up_its_rights() -> None:
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


def test_a_change_without_a_reason_is_told_as_unknown() -> None:
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


def test_a_command_line_is_told_once() -> None:
    """sudo gains root by its file, and its child gives the command its user; both have sudo's arguments."""
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
