"""Archives of PTX: the texts of one family of builds in one xz file.

Unpacked, the first line is JSON, the characters of each text by its build's name; the texts follow
one after the other, in that order.  So `xz -dc FILE` is readable, and equal texts make equal files.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping

from ..errors import AbiError

# All that decides how the same texts are packed.
_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 2**24,
        "lc": 4,
        "lp": 0,
        "pb": 0,  # for text, whose bytes have no alignment
    }
]


def pack(texts: Mapping[str, str]) -> bytes:
    """The archive of these texts (ASCII), sorted by name."""
    names = sorted(texts)
    index = json.dumps({name: len(texts[name]) for name in names})
    content = "".join([index, "\n", *(texts[name] for name in names)])
    return lzma.compress(content.encode("ascii"), lzma.FORMAT_XZ, lzma.CHECK_CRC32, None, _FILTERS)


def unpack(archive: bytes, where: str) -> dict[str, str]:
    """The texts by name.  Raises AbiError; `where` is the file's name in its message."""
    try:
        index, _, content = lzma.decompress(archive).decode("ascii").partition("\n")
        texts, start = {}, 0
        for name, length in json.loads(index).items():
            texts[name] = content[start : start + length]
            start += length
    except (lzma.LZMAError, ValueError, AttributeError, TypeError) as error:
        raise AbiError(
            where, f"cannot be unpacked: {error}", remedy="reinstall ferrum-numba"
        ) from None
    if start != len(content):
        raise AbiError(where, f"{start} characters of PTX", len(content), "reinstall ferrum-numba")
    return texts
