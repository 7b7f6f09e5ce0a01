"""Keys, certificates and JWTs for servers of tests, as `nsc` and `openssl` make them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nkeys


class Key:
    """An NKey of NATS."""

    def __init__(self, prefix: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def jwt(self, subject: str, name: str, claims: dict[str, Any]) -> str:
        """Return a JWT that this key has signed."""
        payload = {"iat": 1, "iss": self.public, "sub": subject, "name": name, "nats": {**claims, "version": 2}}
        payload["jti"] = base64.b32encode(hashlib.sha256(json.dumps(payload).encode()).digest()).decode().rstrip("=")
        parts = [_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, payload)]
        signature = self._pair.sign(".".join(parts).encode())
        return ".".join([*parts, _encoded(signature)])


def user_key() -> Key:
    return Key(nkeys.PREFIX_BYTE_USER)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Operator:
    """An operator with one account that may use JetStream, and users in it."""

    def __init__(self) -> None:
        self._operator, self._system, self._account = (
            Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_ACCOUNT), Key(nkeys.PREFIX_BYTE_ACCOUNT),
        )  # fmt: skip
        limits = dict.fromkeys(
            ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams",
             "consumer"), -1,
        )  # fmt: skip
        claims: dict[str, Any] = {"type": "account", "limits": {**limits, "wildcards": True}}
        system = {"type": "account", "limits": {"subs": -1, "conn": -1, "data": -1, "payload": -1}}
        operator = {"type": "operator", "system_account": self._system.public}
        self.config = (
            f"operator: {self._operator.jwt(self._operator.public, 'operator', operator)}\n"
            f"system_account: {self._system.public}\nresolver: MEMORY\nresolver_preload: {{\n"
            f"  {self._account.public}: {self._operator.jwt(self._account.public, 'fleet', claims)}\n"
            f"  {self._system.public}: {self._operator.jwt(self._system.public, 'system', system)}\n}}\n"
        )

    def credentials(self, path: Path, *, publish: list[str] | None = None, subscribe: list[str] | None = None) -> Path:
        """Write the credentials of a new user, who may do this; None: everything."""
        key = user_key()
        claims: dict[str, Any] = {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        if publish is not None:
            claims["pub"] = {"allow": publish}
        if subscribe is not None:
            claims["sub"] = {"allow": subscribe}
        jwt = self._account.jwt(key.public, "host", claims)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        path.chmod(0o600)
        return path


def certificates(directory: Path) -> None:
    """Write ca.pem, and for server and client NAME.pem and NAME.key."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        "req",
        "-x509",
        *new,
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=test authority",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )
    for name in ("server", "client"):
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (directory / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:hub\n")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2", "-extfile",
            f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
