"""BLAKE2 and SHA-256 of little data without OpenSSL.

hashlib offers the `blake2b` of CPython's own `_blake2` module, but also imports OpenSSL for its other functions. That
adds 4.5 MB of resident memory to a process, of which 0.75 MB is private, and 3 ms to its start (CPython 3.13, OpenSSL
3.5); `_blake2` alone adds 0.3 MB. OpenSSL's SHA-256 is faster than that of `_sha2` where the data are many. In an
interpreter without these modules, the functions are hashlib's.
"""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

try:
    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found] # before Python 3.12
    except ImportError:
        from hashlib import sha256

__all__ = ["blake2b", "sha256"]
