"""Archives of PTX: the texts of one family of builds in one xz file.

Unpacked, the first line is JSON, the characters of each text by its build's name; the texts follow
one after the other, in that order.  So `xz -dc FILE` is readable, and equal texts make equal files.

The number of a register or label stands in them as its distance from the first one of its kind in
the line, and the first one as its distance from the line's before: behind a line of %r7, "%r9, %r8"
is "%r+2, %r-1".  Code that is alike but for the registers is alike then, and packs into half.
"""

from __future__ import annotations

import json
import lzma
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping

from ..errors import AbiError
from ..host_memory import trim

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
_KIND = r"\n|(%[a-z]+|\$L__tmp|\$L__BB\d+_)"  # a line's end; or a register, a label
_NUMBERED = re.compile(_KIND + r"(\d+)")
_DISTANT = re.compile(_KIND + r"([+-]\d+)")


def _with_numbers(text: str) -> str:
    return _DISTANT.sub(_Places().number, text)


class _Places:
    """The number that the next of each kind is told from: the first one in the line, once there is
    one, or in the last line that has one."""

    def __init__(self) -> None:
        self._first: defaultdict[str, int] = defaultdict(int)
        self._in_line: set[str] = set()

    def distance(self, found: re.Match[str]) -> str:
        kind, number = found.groups()
        if kind is None:
            return self._end_of_line()
        return f"{kind}{int(number) - self._pass(kind, int(number)):+d}"

    def number(self, found: re.Match[str]) -> str:
        kind, distance = found.groups()
        if kind is None:
            return self._end_of_line()
        number = self._first[kind] + int(distance)
        self._pass(kind, number)
        return f"{kind}{number}"

    def _pass(self, kind: str, number: int) -> int:
        before = self._first[kind]
        if kind not in self._in_line:
            self._in_line.add(kind)
            self._first[kind] = number
        return before

    def _end_of_line(self) -> str:
        self._in_line.clear()
        return "\n"


class _Texts(Mapping[str, str]):
    """Texts of an archive by name, numbered when one is asked for.

    Until then each is deflated: a model's kernels are a few of an archive, which unpacked takes
    4 to 7 MB.
    """

    def __init__(self, content: bytes, spans: dict[str, slice]) -> None:
        self._deflated = {name: zlib.compress(content[span], 1) for name, span in spans.items()}
        self._numbered: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._numbered:
            packed = zlib.decompress(self._deflated[name])
            self._numbered[name] = _with_numbers(packed.decode("ascii"))
        return self._numbered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._deflated)

    def __len__(self) -> int:
        return len(self._deflated)


def pack(texts: Mapping[str, str]) -> bytes:
    """The archive of these texts (ASCII), sorted by name.

    Raises AbiError for a text that it would not give back.
    """
    packed = {name: _NUMBERED.sub(_Places().distance, texts[name]) for name in sorted(texts)}
    for name, text in packed.items():
        if _with_numbers(text) != texts[name]:
            raise AbiError(name, "registers such as %r12", "one that reads like %r+12")
    index = json.dumps({name: len(text) for name, text in packed.items()})
    content = "".join([index, "\n", *packed.values()])
    return lzma.compress(content.encode("ascii"), lzma.FORMAT_XZ, lzma.CHECK_CRC32, None, _FILTERS)


def unpack(archive: bytes, where: str) -> Mapping[str, str]:
    """The texts by name.  Raises AbiError; `where` is the file's name in its message."""
    try:
        content = lzma.decompress(archive)
        first, spans = content.find(b"\n") + 1, {}
        start = first
        for name, length in json.loads(content[:first]).items():
            spans[name] = slice(start, start + length)
            start += length
        if not content.isascii():
            raise ValueError("it is not ASCII")
    except (lzma.LZMAError, ValueError, AttributeError, TypeError) as error:
        raise AbiError(
            where, f"cannot be unpacked: {error}", remedy="reinstall ferrum-numba"
        ) from None
    if start != len(content):
        expected, found = f"{start - first} characters of PTX", len(content) - first
        raise AbiError(where, expected, found, "reinstall ferrum-numba")
    texts = _Texts(content, spans)
    del content
    trim()
    return texts
