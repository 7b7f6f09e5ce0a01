"""Every option of the role nats gives settings that nats-server accepts, and that say what the option means."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent
ROLE = HERE.parents[2] / "roles" / "nats"
SERVER = shutil.which("nats-server", path="/usr/local/sbin:/usr/sbin:/usr/bin:/usr/local/bin")

#: Options that do not get into the settings: what is installed, and how long the role waits.
NOT_SETTINGS = {"nats_packages", "nats_health_timeout_s"}

NKEY = "UDXAZLRAOB3AOITBALTF5JOZDMXNJJAXEGPEGNWN47FP7V2VYEMRTXYF"
BCRYPT = "$2b$04$TaLng9Bs5lzHb6pKFVKkHupwn0NNjAFiNotJlvJuFNJP/PigVdPCm"
FILES = {"nats_tls_cert": "server.pem", "nats_tls_key": "server.key"}
LEAF = {"nats_mode": "leaf", "nats_hub_urls": ["tls://hub.example.com:7422", "nats://10.0.0.1:7422"]}

#: By name: the variables, and texts that the settings must have and must not have.
CASES = {
    "defaults": (
        {},
        [
            'server_name: "web-1"',
            'listen: "0.0.0.0:4222"',
            "jetstream {",
            'domain: "hub"',
            "10240MiB",
            "leafnodes {",
            "0.0.0.0:7422",
        ],
        ["tls {", "authorization", "remotes"],
    ),
    "names and places": (
        {
            "nats_name": 'a "name"',
            "nats_address": "127.0.0.1",
            "nats_port": 4333,
            "nats_leaf_port": 7433,
            "nats_domain": "rack7",
            "nats_store": "/srv/a directory",
            "nats_store_max_mib": 256,
            "nats_config": "max_connections: 100\ndebug: true",
        },
        [
            'server_name: "a \\"name\\""',
            '"127.0.0.1:4333"',
            '"127.0.0.1:7433"',
            'domain: "rack7"',
            'store_dir: "/srv/a directory"',
            "256MiB",
            "max_connections: 100\ndebug: true",
        ],
        [],
    ),
    "a hub without leaf nodes": ({"nats_leaf_port": 0}, [], ["leafnodes"]),
    "a hub without JetStream": ({"nats_jetstream": False}, [], ["jetstream", "default_js_domain"]),
    "a hub without a domain": ({"nats_domain": ""}, ["jetstream {"], ["domain"]),
    "TLS": (
        FILES,
        ['cert_file: "{secrets}/server.pem"', 'key_file: "{secrets}/server.key"', "verify: false"],
        ["ca_file"],
    ),
    "TLS with certificates of clients": (
        {**FILES, "nats_tls_ca": "clients.pem", "nats_tls_verify": True},
        ['ca_file: "{secrets}/clients.pem"', "verify: true"],
        ["verify: false"],
    ),
    "users": (
        {
            "nats_users": [
                {"nkey": NKEY, "publish": ["procline.web-1.*", "$JS.API.>"], "subscribe": ["_INBOX.>"]},
                {"user": 'a "user"', "password": BCRYPT, "publish": ["a.>"]},
                {"user": "b", "password": BCRYPT, "subscribe": ["b.*"]},
            ]
        },
        [
            f'nkey: "{NKEY}"',
            'publish: ["procline.web-1.*", "$JS.API.>"]',
            'subscribe: ["_INBOX.>"]',
            'user: "a \\"user\\""',
            BCRYPT,
        ],
        [],
    ),
    "a user that may do everything": ({"nats_users": [{"nkey": NKEY}]}, [f'nkey: "{NKEY}"'], ["permissions"]),
    "users of leaf nodes": (
        {"nats_leaf_users": [{"user": "rack7", "password": BCRYPT}]},
        ['user: "rack7"', BCRYPT],
        ["nkey"],
    ),
    "accounts": (
        {"nats_accounts": str(HERE / "accounts.conf")},
        ["operator: eyJ", "resolver: MEMORY"],
        ["authorization"],
    ),
    "a leaf": (
        LEAF,
        ['listen: "127.0.0.1:4222"', '"tls://hub.example.com:7422"', 'default_js_domain: { "$G": "hub" }'],
        ["jetstream {", "0.0.0.0", "credentials", "ca_file"],
    ),
    "a leaf of another domain": ({**LEAF, "nats_hub_domain": "main"}, ['default_js_domain: { "$G": "main" }'], []),
    "a leaf with a user": (
        {**LEAF, "nats_hub_ca": "hub.pem", "nats_hub_user": {"user": "rack7", "password": "p@ss:word/%"}},
        ['ca_file: "{secrets}/hub.pem"', "tls://rack7:p%40ss%3Aword%2F%25@hub", "nats://rack7:"],
        ["p@ss"],
    ),
    "a leaf with credentials": (
        {**LEAF, "nats_hub_credentials": "rack7.creds"},
        ['credentials: "{secrets}/hub.creds"'],
        [],
    ),
    "a leaf that stores messages": (
        {**LEAF, "nats_jetstream": True, "nats_domain": "rack7"},
        ["jetstream {", 'domain: "rack7"'],
        ["default_js_domain"],
    ),
    "a leaf with TLS and users": (
        {**LEAF, **FILES, "nats_users": [{"user": "host", "password": BCRYPT}]},
        ["tls {", 'user: "host"'],
        [],
    ),
}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """Make the files that the role copies to the host, by their names there."""
    directory = tmp_path_factory.mktemp("secrets")
    for name in ("server", "clients", "hub"):
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=test",
                "-keyout",
                f"{directory}/{name}.key",
                "-out",
                f"{directory}/{name}.pem",
            ],
            check=True,
            capture_output=True,
        )
    (directory / "hub.creds").write_text("-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n")
    return directory


@pytest.fixture(scope="module")
def texts(secrets):
    """Return the file that the role writes, by the name of the case."""
    every = [{**case[0], "__nats_secrets": str(secrets)} for case in CASES.values()]
    done = subprocess.run(
        [sys.executable, HERE / "render.py", ROLE],
        input=json.dumps(every),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_server_accepts_the_settings(name, texts, secrets, tmp_path):
    wanted, unwanted = CASES[name][1:]
    text = texts[name]
    for part in wanted:
        assert part.replace("{secrets}", str(secrets)) in text
    for part in unwanted:
        assert part not in text
    if SERVER is None:
        pytest.skip("NOT TESTED, because nats-server is not installed: that it accepts the settings")
    path = tmp_path / "nats-server.conf"
    path.write_text(text)
    done = subprocess.run([SERVER, "-t", "-c", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + text


@pytest.mark.skipif(SERVER is None, reason="nats-server is not installed")
def test_the_server_refuses_what_is_wrong(texts, tmp_path):
    path = tmp_path / "nats-server.conf"
    path.write_text(texts["defaults"] + "max_conections: 100\n")
    done = subprocess.run([SERVER, "-t", "-c", path], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "max_conections" in done.stderr + done.stdout


def test_every_option_is_in_a_case():
    options = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    used = {option for case in CASES.values() for option in case[0]}
    assert set(options) - NOT_SETTINGS - used == set()
    assert used <= set(options)
