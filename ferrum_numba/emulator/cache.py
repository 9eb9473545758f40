"""Compiled code on disk, so that a kernel is translated once for a machine and not once a process.

    <directory>/cpu/<key>.code: 32 bytes of SHA-256 over key and content, then the content

The key is a digest of everything that the code depends on.  A file is written under another name
and then moved into place, so a reader sees all of it or nothing; one whose digest is wrong counts
as missing and is replaced.  The cache never makes anything fail: a directory that cannot be
written, or that others may write to, is one without entries.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from ..digest import sha256

MAX_BYTES = 256 << 20  # a few thousand kernels
# A process takes this part of the room that it saw before it looks again; and where there was none,
# it makes room for this part of the whole.
_SHARE = 8
_SUFFIX = ".code"
_DIGEST_BYTES = 32
_ABANDONED_SECONDS = 3600.0  # a temporary file that old belongs to a process that has died

_unasked: dict[tuple[Path, int], int] = {}
"""Bytes that this process may still write into a cache before it looks at the directory again."""


class Cache:
    """Entries in a directory; the least recently used are dropped beyond `max_bytes` in all."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        self.directory = directory
        self.max_bytes = max_bytes

    @staticmethod
    def of_user() -> Cache | None:
        """The cache of this user: $FERRUM_CACHE_DIR, else where the platform keeps such files.

        None where $FERRUM_CACHE_DIR is set to nothing, which switches the cache off.
        """
        chosen = os.environ.get("FERRUM_CACHE_DIR")
        if chosen is None:
            with suppress(RuntimeError):  # no home directory
                return Cache(_platform_directory() / "ferrum_numba" / "cpu")
        return Cache(Path(chosen) / "cpu") if chosen else None

    def load(self, key: str) -> bytes | None:
        """The content of an entry, or None where there is none that is whole."""
        path = self.directory / (key + _SUFFIX)
        if not self._is_private():
            return None
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if digest != _digest(key, content):
            return None
        with suppress(OSError):
            os.utime(path)  # recently used
        return content

    def store(self, key: str, content: bytes) -> None:
        """Write an entry, or leave it where that cannot be done."""
        import tempfile

        temporary = None
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_private():
                return
            nbytes, cache = len(content) + _DIGEST_BYTES, (self.directory, self.max_bytes)
            if _unasked.get(cache, 0) < nbytes:
                _unasked[cache] = nbytes + self._make_room(nbytes) // _SHARE
            _unasked[cache] -= nbytes
            handle, temporary = tempfile.mkstemp(dir=self.directory)  # readable by its owner only
            with os.fdopen(handle, "wb") as file:
                file.write(_digest(key, content) + content)
            Path(temporary).replace(self.directory / (key + _SUFFIX))
        except OSError:
            if temporary is not None:
                with suppress(OSError):
                    Path(temporary).unlink()

    def _is_private(self) -> bool:
        """True if nobody but this user can have written here: entries are code that will run."""
        if sys.platform == "win32":
            return True  # LOCALAPPDATA is below the user's profile
        try:
            status = self.directory.stat()
        except OSError:
            return False
        return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def _make_room(self, nbytes: int) -> int:
        """Have `nbytes` more fit, or drop what was not used for longest; the bytes left then."""
        files = []
        for path in self.directory.iterdir():
            with suppress(OSError):  # another process may have dropped it
                status = path.stat()
                if path.suffix == _SUFFIX:
                    files.append((status.st_mtime, status.st_size, path))
                elif status.st_mtime < time.time() - _ABANDONED_SECONDS:
                    path.unlink()
        excess = sum(size for _, size, _ in files) + nbytes - self.max_bytes
        if excess > 0:
            excess += self.max_bytes // _SHARE
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            with suppress(OSError):
                path.unlink()
            excess -= size
        return max(0, -excess)


def key_of(*parts: str) -> str:
    """The key of what depends on these texts, in this order, and on this version of the sources."""
    digest = sha256(_sources())
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _sources() -> bytes:
    """Digest of the translator's own sources: code made by another version is never used."""
    here = Path(__file__).parent
    digest = sha256()
    for path in [*sorted(here.rglob("*.py")), here.parent / "abi" / "signature.py"]:
        digest.update(path.relative_to(here.parent).as_posix().encode() + b"\0")
        digest.update(sha256(path.read_bytes()).digest())
    return digest.digest()


def _digest(key: str, content: bytes) -> bytes:
    return sha256(key.encode() + content).digest()


def _platform_directory() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache"
