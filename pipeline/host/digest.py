"""BLAKE2 without OpenSSL.

hashlib has it from CPython's own `_blake2`, and imports OpenSSL first for other functions: 4 MB of a process. Where an
interpreter has no such module, it is hashlib's.
"""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

__all__ = ["blake2b"]
