"""SHA-256 for what is small: hashlib would load OpenSSL, which takes 3.6 MB of a process.

Python's own code takes 3.3 ms a megabyte, 6 times as long.  Its module has another name before
Python 3.12, and is not part of every build; the standard library's `random` finds it this way, too.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256 as sha256
else:
    _names = ("_sha2", "_sha256", "hashlib")
    sha256 = import_module(next(name for name in _names if find_spec(name))).sha256
