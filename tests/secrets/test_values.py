"""Where a secret value begins and ends."""

from __future__ import annotations

import pytest

from tests.secrets.scrubbing import M, scrub


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--password=hun ter2x"], [f"--password={M}"]),
        (["--passphrase=correct horse battery", "-d"], [f"--passphrase={M}", "-d"]),
        (["--env=DB_PASSWORD=hun ter2x"], [f"--env=DB_PASSWORD={M}"]),
        (["-e", "DB_PASSWORD=hun ter2x"], ["-e", f"DB_PASSWORD={M}"]),
        (["--pass=hun ter2x"], [f"--pass={M}"]),
        (["", "--password=hun ter2x", ""], ["", f"--password={M}", ""]),
        (["password=x host=h dbname=d"], [f"password={M} host=h dbname=d"]),
        (["password := x"], [f"password := {M}"]),
        (["--token-text", "/x y/z"], ["--token-text", M]),
        # Up to the end of the value, and no further.
        (['{"password":"hun\\"ter2x","u":"b c"}'], [f'{{"password":{M},"u":"b c"}}']),
        (['{"u":1,"password": "hun\\\\", "a": "b"}'], [f'{{"u":1,"password": {M}, "a": "b"}}']),
        (["password='a'hunter2x"], [f"password={M}"]),
        (["x password='a''b c'd e"], [f"x password={M} e"]),
        # Further names.
        (["--pwd", "x", "--pwd=x"], ["--pwd", M, f"--pwd={M}"]),
        (["--user-pwd", "two words"], ["--user-pwd", M]),
        (["--pwd", "/srv", "--pwd=./x", "--pwd", "--x"], ["--pwd", "/srv", "--pwd=./x", "--pwd", "--x"]),
        (["--private-key", "hunter2x", "--private_key=0xabcdef"], ["--private-key", M, f"--private_key={M}"]),
        (["PRIVATE_KEY=0xabcdef"], [f"PRIVATE_KEY={M}"]),
        (["--private-key", "~/.ssh/id_rsa", "--private-key=k.pem", "--private-key", "id_ed25519"],) * 2,
        (["pass=x", "-o", "user=u,pass=x,rw", "h/?user=u&pass=x&c=d"],
         [f"pass={M}", "-o", f"user=u,pass={M},rw", f"h/?user=u&pass={M}&c=d"]),
        (["-pass", "1", "pass=2", "--x264-params", "pass=1:stats=f", "bypass=yes"],) * 2,
        (['{"user":"u","pass":"x y"}'], [f'{{"user":"u","pass":"{M}"}}']),
        (["-e", "CREATE USER u IDENTIFIED BY 'x y'"], ["-e", f"CREATE USER u IDENTIFIED BY '{M}'"]),
    ],
)  # fmt: skip
def test_value_is_hidden_whole_and_alone(args: list[str], expected: list[str]) -> None:
    assert scrub(*args) == expected
