"""LLVM IR -> object code -> a function in this process's memory."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .cache import Cache, key_of
from .host import Host, compiler_version
from .image import image
from .library import write

# LLVM's level of optimisation for an entry.  The next one schedules once more for some CPUs (AMD
# Zen), which takes as long as the rest and gains nothing; the library's functions get it.
_EFFORT = 1
# Instructions beyond which an entry gets none, as the scheduler looks at pairs of accesses to
# memory.  The builds that are chosen on the CPU device have fewer.  With checks an entry makes many
# more of each, and spends its time in the library: the builds of few rows have fewer.
_LONG, _LONG_CHECKED = 4000, 2000


@dataclass(frozen=True)
class Needs:
    """Requirements of native code: memory, and the blocks that it is for.

    context_bytes: size of a warp's context.  scratch_bytes: what a worker lends to the warp that
    runs.  static_shared: bytes of shared memory that the entry declares.
    masked: whether it masks lanes, so that it takes blocks with a partial warp.
    functions: those of the library that it calls.
    talks: whether CTAs may wait for each other: it reads what others may write meanwhile.
    """

    context_bytes: int
    scratch_bytes: int
    static_shared: int
    masked: bool
    functions: Sequence[str]
    talks: bool = False


def _object(ir: str, host: Host, effort: int = 2) -> bytes:
    """Object code of IR text. Raises PtxError where the text is not valid."""
    from .compiler import object_of  # which loads LLVM

    return object_of(ir, host, effort)


@dataclass(frozen=True)
class Code:
    """Object code of one entry for one CPU."""

    needs: Needs
    object: bytes

    @classmethod
    def compile(cls, ir: str, needs: Needs, host: Host, length: int, checked: bool) -> Code:
        """Object code of IR text. Raises PtxError where the text is not valid.

        length: number of PTX instructions; many of them are compiled without effort.
        checked: whether it has checks.
        """
        long = length > (_LONG_CHECKED if checked else _LONG)
        return cls(needs, _object(ir, host, 0 if long else _EFFORT))

    @classmethod
    def load(cls, cache: Cache | None, key: str) -> Code | None:
        """The code that `save` stored under a key, or None."""
        content = cache.load(key) if cache else None
        if content is None:
            return None
        header, _, code = content.partition(b"\n")
        return cls(Needs(**json.loads(header)), code)

    def save(self, cache: Cache | None, key: str) -> None:
        if cache:
            cache.store(key, json.dumps(asdict(self.needs)).encode() + b"\n" + self.object)


def key_of_code(text: str, entry: str, host: Host, variant: str) -> str:
    """The key of an entry's code. variant: what else the translation was asked for."""
    return key_of(compiler_version(), host.triple, host.cpu, host.features, entry, variant, text)


@dataclass(frozen=True)
class _Piece:
    """Object code of one function of the library, and the names of those that it calls."""

    calls: Sequence[str]
    object: bytes


_pieces: dict[tuple[Host, str], _Piece] = {}


def _piece(name: str, host: Host, cache: Cache | None) -> _Piece:
    """A function of the library, which is compiled once for a machine."""
    found = _pieces.get((host, name))
    if found is None:
        key = key_of_code("", name, host, "library")
        content = cache.load(key) if cache else None
        if content is None:
            from . import opcodes as opcodes  # which fill the library
            from . import runtime as runtime

            ir, calls = write(name, host)
            found = _Piece(calls, _object(ir, host))
            if cache:
                cache.store(key, json.dumps(calls).encode() + b"\n" + found.object)
        else:
            header, _, code = content.partition(b"\n")
            found = _Piece(json.loads(header), code)
        _pieces[host, name] = found
    return found


def closure(names: Sequence[str], host: Host, cache: Cache | None) -> Iterator[bytes]:
    """Object code of functions of the library, and of all that they call."""
    todo, seen = list(names), set(names)
    while todo:
        piece = _piece(todo.pop(), host, cache)
        new = set(piece.calls) - seen
        seen |= new
        todo += new
        yield piece.object


class Function:
    """Code in memory, ready to be called: `call(state)` as translate.py has it.

    name: of the entry.
    """

    def __init__(self, code: Code, name: str, host: Host, cache: Cache | None) -> None:
        self.needs, self.name = code.needs, name.encode()
        self.idle: dict[object, list[Any]] = {}  # workers that its launches have left; see worker
        objects = (code.object, *closure(code.needs.functions, host, cache))
        self._image = image(objects, host)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
        self.call = prototype(self._image.address("run"))
