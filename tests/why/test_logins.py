"""Logins: ssh sessions, the login uid, and what a user could have made up."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.why.findings import find
from pipeline.why.host import NoHost
from pipeline.why.logins import fingerprint_of
from pipeline.why.proof import Proof
from tests.why.world import forked, image, lineage, missing, summary_of, told

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"


def session(**changes: Any) -> dict[str, Any]:
    made = {
        "id": 9, "username": "alice", "client_ip": "203.0.113.7", "client_port": 51234, "client_source": "exec",
        "auth_method": "publickey", "public_key": KEY,
    }  # fmt: skip
    return made | changes


def ssh(**changes: Any) -> Any:
    found = session(**changes)
    return lineage(
        [image(10, "/usr/sbin/sshd")],
        [forked(11, "/usr/sbin/sshd"), image(11, "/usr/lib/openssh/sshd-session")],
        [forked(12, "/usr/lib/openssh/sshd-session", uid=1000)],
        [
            forked(13, "/usr/lib/openssh/sshd-session", uid=1000, ssh_session=found),
            image(13, uid=1000, ssh_session=found),
        ],
        [forked(14, uid=1000, ssh_session=found), image(14, "/usr/bin/sleep", uid=1000, ssh_session=found)],
    )


def test_the_address_that_sshd_passed_is_proven_by_root() -> None:
    facts = ssh()
    found = told(facts)
    (login,) = found["ssh_session"]
    assert (login.proof, login.pid) == (Proof.ROOT, 13)
    assert "alice logged in by ssh from 203.0.113.7 port 51234" in login.text
    assert "in the ssh session of alice from 203.0.113.7" in summary_of(facts)
    # The login is reported before the change of user that sshd made for it.
    kinds = [each.kind for each in find(facts, NoHost())[0]]
    assert kinds.index("ssh_session") < kinds.index("user_change")


def test_an_address_that_was_read_later_is_a_claim() -> None:
    facts = ssh(client_source="environ", client_ip='1.1.1.1" root')
    (login,) = told(facts)["ssh_session"]
    assert login.proof is Proof.CLAIMED and 'from "1.1.1.1\\" root"' in login.text
    assert "(unverified)" in summary_of(facts)


def test_the_authentication_is_always_a_claim() -> None:
    (login,) = told(ssh())["ssh_authentication"]
    assert login.proof is Proof.CLAIMED and str(login.facts["fingerprint"]).startswith("SHA256:")
    assert "ssh_authentication" not in told(ssh(auth_method=None))


def test_fingerprints() -> None:
    assert (
        fingerprint_of("ssh-ed25519 not-base64!") is None
        and fingerprint_of(None) is None
        and fingerprint_of("x") is None
    )


def test_an_sshd_without_a_session_is_in_the_story() -> None:
    facts = lineage([image(10, "/usr/sbin/sshd")], [image(11)])
    assert "ssh_session" in missing(facts)
    assert "ssh_session" not in missing(ssh())
    assert "ssh_session" not in missing(lineage([image(10, "/usr/sbin/sshd")]))  # sshd itself


def test_a_login_uid_that_root_set() -> None:
    facts = lineage(
        [image(10, "/usr/bin/login")], [forked(11, "/usr/bin/login", auid=1000)], [image(12, uid=1000, auid=1000)]
    )
    (login,) = told(facts)["login_user"]
    assert (login.proof, login.pid) == (Proof.ROOT, 11) and "alice (uid 1000)" in login.text


def test_a_process_without_a_login_uid_can_choose_its_own() -> None:
    facts = lineage([image(10, uid=1001)], [image(11, uid=1001, auid=0)])
    (login,) = told(facts)["login_user"]
    assert login.proof is Proof.CLAIMED and "could choose any user" in login.text


def test_a_worker_that_gave_up_roots_rights_may_have_chosen_its_login_uid() -> None:
    """The ids of an image are those at its end: php-fpm forks as root, and an intruder in the worker is not root."""
    pool = "/usr/sbin/php-fpm8.4"
    facts = lineage([image(10, pool)], [forked(11, pool, uid=33, auid=1000)], [image(12, uid=33, auid=1000)])
    (login,) = told(facts)["login_user"]
    assert login.proof is Proof.INFERRED and login.facts["is_set_by_root"] is None
    assert "with the rights of root." not in login.text


def test_cron_sets_the_login_uid_before_it_drops_the_rights_of_root() -> None:
    cron = "/usr/sbin/cron"
    facts = lineage([image(10, cron)], [forked(11, cron, uid=1000, auid=1000), image(11, uid=1000, auid=1000)])
    assert told(facts)["login_user"][0].proof is Proof.ROOT


def test_sshd_set_the_login_uid_that_the_exec_of_the_shell_shows() -> None:
    """The instance finds changes of credentials later: here by the exec of the login shell, which could have set it."""
    sshd = "/usr/lib/openssh/sshd-session"
    chain = [[image(10, sshd)], [forked(11, sshd), image(11, uid=1000, auid=1000)]]
    (login,) = told(lineage(*chain, sees_each_change=False))["login_user"]
    assert login.proof is Proof.INFERRED and login.facts["is_set_by_root"] is None
    assert f"Pid 11 ran {sshd} and then /usr/bin/bash. This is inferred: {sshd} set it;" in login.text
    (login,) = told(lineage(*chain))["login_user"]
    assert login.proof is Proof.INFERRED and "Pid 11, /usr/bin/bash, set it." in login.text


@pytest.mark.parametrize("program", ["/usr/bin/su", "/usr/sbin/cron", "/usr/lib/systemd/systemd-executor"])
def test_a_program_that_su_ran_may_have_set_its_login_uid_itself(program: str) -> None:
    """A service has no login uid, and su sets none; the instance finds the program's own with its next record."""
    chain = [[image(10)], [forked(11, program), image(11, "/usr/bin/id", uid=33, auid=1000)]]
    (login,) = told(lineage(*chain, sees_each_change=False))["login_user"]
    assert login.proof is Proof.INFERRED and login.facts["is_set_by_root"] is None
    assert "with the rights of root" not in login.text


def test_a_login_uid_from_before_the_history() -> None:
    facts = lineage([image(11, auid=1000)])
    facts.lineage.clear()
    (login,) = told(facts)["login_user"]
    assert login.proof is Proof.INFERRED


def test_a_login_uid_is_not_compared_with_that_of_a_parent_that_is_no_creator() -> None:
    facts = lineage([image(10)], [image(11, auid=1000)], links="cp")
    assert told(facts)["login_user"][0].proof is Proof.INFERRED
