"""ssh sessions as a reader sees them."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.shm.names import ssh, usernames
from tests.shm.full_row import resolve
from tests.shm.handmade import Tables


def test_a_number_stands_for_a_session(tmp_path: Path) -> None:
    known = {"7": {"username": "gr\u00fc\u00df", "client_ip": "192.0.2.7", "client_port": 50022}}
    told = {"auth_method": "publickey,password", "public_key": "ssh-ed25519 AAAA"}
    (tmp_path / ssh.FILE).write_text(json.dumps(known))
    assert ssh.session(str(tmp_path), 7) == {
        "id": 7, "username": "gr\u00fc\u00df", "client_ip": "192.0.2.7", "client_port": 50022,
        "client_source": None, "auth_method": None, "public_key": None,
    }  # fmt: skip
    assert ssh.session(str(tmp_path), 0) is None
    assert ssh.session(str(tmp_path), 8) is None
    new = tmp_path / "new"
    new.write_text(json.dumps(known | {"8": {"username": None, "client_ip": "2001:db8::1", "client_port": 1}}))
    new.rename(tmp_path / ssh.FILE)
    found = ssh.session(str(tmp_path), 8)
    assert found is not None and found["client_ip"] == "2001:db8::1"
    new.write_text(json.dumps({"7": known["7"] | told}))
    new.rename(tmp_path / ssh.FILE)
    assert ssh.session(str(tmp_path), 7) == {"id": 7, **known["7"], "client_source": None, **told}


def test_a_user_with_a_later_name_is_named_by_the_hosts_names(tmp_path: Path) -> None:
    (tmp_path / ssh.FILE).write_text(json.dumps({"7": {"username": None, "uid": 1000}, "8": {"uid": 1001}}))
    found = ssh.session(str(tmp_path), 7)
    assert found is not None and found["username"] is None
    users = tmp_path / usernames.DIRECTORY
    users.mkdir()
    (users / usernames.HOST_FILE).write_text(
        json.dumps({"mnt_ns": 1, "user_ns": 2, "user": {"1000": "alice"}, "group": {}})
    )
    usernames.names_of(str(tmp_path))._files.clear()  # a reader caches the files for a second
    for number, name in ((7, "alice"), (8, None)):
        found = ssh.session(str(tmp_path), number)
        assert found is not None and found["username"] == name


def test_no_file_or_half_of_one_is_no_session(tmp_path: Path) -> None:
    assert ssh.session(str(tmp_path), 7) is None
    (tmp_path / ssh.FILE).write_text('{"7": {"user')
    assert ssh.session(str(tmp_path), 7) is None


def test_an_entry_shows_its_session(shm_dir: Path) -> None:
    tables = Tables(shm_dir)
    tables.row(7, user_session=(1 << 64) - 1)
    assert resolve(tables, 7).ssh_session is None
    (shm_dir / ssh.FILE).write_text(json.dumps({str((1 << 64) - 1): {"username": "alice"}}))
    entry = resolve(tables, 7)
    assert entry.ssh_session is not None and entry.ssh_session["username"] == "alice"
    assert entry.ssh_session["id"] == entry.user_session
