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
