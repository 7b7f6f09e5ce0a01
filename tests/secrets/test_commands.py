"""Secret values of known programs, in arguments and in scripts."""

from __future__ import annotations

import pytest

from tests.secrets.scrubbing import M, scrub


@pytest.mark.parametrize(
    ("argv0", "args", "expected"),
    [
        ("mysql", ["-uroot", "-psecret", "-P3306", "-h", "db"], ["-uroot", f"-p{M}", "-P3306", "-h", "db"]),
        ("/usr/bin/mysqldump", ["-psecret", "--port=3", "-p"], [f"-p{M}", "--port=3", "-p"]),
        ("sudo", ["-u", "x", "/usr/bin/mysql", "-psecret"], ["-u", "x", "/usr/bin/mysql", f"-p{M}"]),
        ("sh", ["-c", "mysql -uroot -psecret db; ls -p"], ["-c", f"mysql -uroot -p{M} db; ls -p"]),
        ("sshpass", ["-p", "x", "ssh", "h"], ["-p", M, "ssh", "h"]),
        ("sshpass", ["-px", "ssh", "h"], [f"-p{M}", "ssh", "h"]),
        ("redis-cli", ["-a", "x", "PING"], ["-a", M, "PING"]),
        ("curl", ["-u", "me:x", "--user=me:x", "-ume:x", "-U", "p:x"],
         ["-u", f"me:{M}", f"--user=me:{M}", f"-ume:{M}", "-U", f"p:{M}"]),
        ("curl", ["-u", "me", "-sS", "https://h"], ["-u", "me", "-sS", "https://h"]),
        ("docker", ["login", "-u", "me", "-p", "x", "reg"], ["login", "-u", "me", "-p", M, "reg"]),
        ("docker", ["run", "-p", "80:80", "img"], ["run", "-p", "80:80", "img"]),
        ("ldapsearch", ["-D", "cn=a", "-w", "x"], ["-D", "cn=a", "-w", M]),
        ("smbclient", ["-U", "u%x", "//h/s"], ["-U", f"u%{M}", "//h/s"]),
        ("7z", ["a", "-px", "o.7z"], ["a", f"-p{M}", "o.7z"]),
        ("unzip", ["-P", "x", "a.zip"], ["-P", M, "a.zip"]),
        ("sqlplus", ["-S", "scott/x@orcl", "@run.sql"], ["-S", f"scott/{M}", "@run.sql"]),
        ("lftp", ["-u", "u,x", "h"], ["-u", f"u,{M}", "h"]),
        ("openssl", ["enc", "-k", "x"], ["enc", "-k", M]),
        ("kubectl", ["create", "--from-literal=k=x"], ["create", f"--from-literal=k={M}"]),
        ("ls", ["-pfoo", "-p", "x"], ["-pfoo", "-p", "x"]),
        ("mysql", ["-p", "db"], ["-p", "db"]),
        # Several short options in one token.
        ("curl", ["-su", "bob:x"], ["-su", f"bob:{M}"]),
        ("curl", ["-fsSu", "bob:x", "-vubob:x", "-sSLb", "a=x"],
         ["-fsSu", f"bob:{M}", f"-vubob:{M}", "-sSLb", f"a={M}"]),
        ("mysql", ["-vpx", "-BNpx"], [f"-vp{M}", f"-BNp{M}"]),
        ("ldapsearch", ["-xLLLw", "x"], ["-xLLLw", M]),
        ("mysql", ["-uphilip", "-hpdb", "-Dprod", "-eselect p", "-vp"],
         ["-uphilip", "-hpdb", "-Dprod", "-eselect p", "-vp"]),
        ("curl", ["-Xput", "-dauth:x", "-osu", "a:b", "-HA:u"], ["-Xput", "-dauth:x", "-osu", "a:b", "-HA:u"]),
        # Less known programs.
        ("redis-cli", ["-h", "h", "-ax", "PING"], ["-h", "h", f"-a{M}", "PING"]),
        ("useradd", ["-m", "-p", "x", "-G", "a,b", "bob"], ["-m", "-p", M, "-G", "a,b", "bob"]),
        ("usermod", ["-px", "-lpeter", "bob"], [f"-p{M}", "-lpeter", "bob"]),
        ("htpasswd", ["-b", "/etc/f", "u", "x"], ["-b", "/etc/f", "u", M]),
        ("htpasswd", ["-cbB", "f", "u", "x"], ["-cbB", "f", "u", M]),
        ("htpasswd", ["-nb", "u", "x"], ["-nb", "u", M]),
        ("htpasswd", ["-c", "/etc/f", "u"], ["-c", "/etc/f", "u"]),
        ("ldappasswd", ["-xs", "x", "cn=a"], ["-xs", M, "cn=a"]),
    ],
)  # fmt: skip
def test_short_options_of_known_programs(argv0: str, args: list[str], expected: list[str]) -> None:
    assert scrub(*args, argv0=argv0) == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("set -e\nmysql -uroot -pSECRET db", f"set -e\nmysql -uroot -p{M} db"),
        ("cd /x;mysql -pSECRET", f"cd /x;mysql -p{M}"),
        ("foo|mysql -pSECRET", f"foo|mysql -p{M}"),
        ("a&&mysql -pSECRET&&b", f"a&&mysql -p{M}&&b"),
        ("x=$(mysql -pSECRET)", f"x=$(mysql -p{M})"),
        ("`mysql -pSECRET`", f"`mysql -p{M}`"),
        ("mysql\t-pSECRET\tdb", f"mysql\t-p{M}\tdb"),
        ("mysql \\\n  -pSECRET db", f"mysql \\\n  -p{M} db"),
        ("mysql 2>&1 -pSECRET", f"mysql 2>&1 -p{M}"),
        ("curl -u 'bob:SECRET' h", f"curl -u 'bob:{M}' h"),
        ("curl -u 'bob:SEC RET' h", f"curl -u 'bob:{M}' h"),
        ("curl -fsSu bob:SECRET h", f"curl -fsSu bob:{M} h"),
        ("mysql -p'SEC RET' db", f"mysql -p{M} db"),
        ("mysql '-pSEC RET' db", f"mysql '-p{M}' db"),
        ("ssh h 'mysql -pSECRET' && echo 'it is done'", f"ssh h 'mysql -p{M}' && echo 'it is done'"),
        ("sshpass -p 'SEC RET' ssh h", f"sshpass -p {M} ssh h"),
        ("# don't\nmysql -h'x' -pSECRET", f"# don't\nmysql -h'x' -p{M}"),
        ("htpasswd -b f u SECRET; ls a b c d", f"htpasswd -b f u {M}; ls a b c d"),
        # What follows a command is not an option of it.
        ("sshpass -p SECRET ssh h; mkdir -p /a", f"sshpass -p {M} ssh h; mkdir -p /a"),
        ("redis-cli -a SECRET ping | grep -a b", f"redis-cli -a {M} ping | grep -a b"),
        ("PASSWORD=SECRET psql -h db", f"PASSWORD={M} psql -h db"),
        ("PASSWORD='SEC RET' psql -h db", f"PASSWORD={M} psql -h db"),
        ("password='a'SECRET b", f"password={M} b"),
        ("password='SEC'\"'\"'RET RET' b", f"password={M} b"),
        ("print('token \"HIDDEN\"') % {'a': 'b'}", f"print('token {M}') % {{'a': 'b'}}"),
        ('curl -d "{\\"password\\":\\"SEC RET\\"}" h', f'curl -d "{{\\"password\\":{M}}}" h'),
    ],
)  # fmt: skip
def test_secret_in_a_script_is_hidden_and_the_rest_is_not(script: str, expected: str) -> None:
    assert scrub("-c", script, argv0="sh") == ["-c", expected]
    if not script.startswith(("PASS", "pass")):
        assert scrub(script, argv0="ssh") == [expected]
