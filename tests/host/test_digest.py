"""`blake2b` is hashlib's, without the library that hashlib imports."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "program",
    [
        "from pipeline.host.digest import blake2b; assert '_hashlib' not in sys.modules; import hashlib",
        "import hashlib; sys.modules['_blake2'] = None; from pipeline.host.digest import blake2b",
    ],
)
def test_it_is_hashlibs_blake2(program: str) -> None:
    checked = f"import sys; {program}; assert blake2b is hashlib.blake2b"
    subprocess.run([sys.executable, "-c", checked], check=True, timeout=60)


@pytest.mark.parametrize("missing", ["", "_sha2", "_sha256"])
def test_its_sha256_is_hashlibs_and_needs_no_hashlib_where_the_interpreter_has_its_own(missing: str) -> None:
    checked = (
        f"import sys; sys.modules[{missing!r}] = None; from pipeline.host.digest import sha256; "
        f"assert {missing!r} == own or '_hashlib' not in sys.modules; "
        "import hashlib; assert sha256(b'x').digest() == hashlib.sha256(b'x').digest()"
    )
    own = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
    subprocess.run([sys.executable, "-c", f"own = {own!r}; {checked}"], check=True, timeout=60)
