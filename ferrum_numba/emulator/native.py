"""LLVM IR -> object code -> a function in this process's memory."""

from __future__ import annotations

import ctypes
import json
from dataclasses import asdict, dataclass
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from ..errors import PtxError
from .cache import Cache, key_of
from .host import Host

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


@dataclass(frozen=True)
class Needs:
    """What code needs besides itself, and which blocks it is for.

    context_bytes: size of a warp's context.  scratch_bytes: what a worker lends to the warp that
    runs.  static_shared: bytes of shared memory that the entry declares.
    masked: whether it masks lanes, so that it takes blocks with a partial warp.
    """

    context_bytes: int
    scratch_bytes: int
    static_shared: int
    masked: bool


@dataclass(frozen=True)
class Code:
    """Object code of one entry for one CPU."""

    needs: Needs
    object: bytes

    @classmethod
    def compile(cls, ir: str, needs: Needs, host: Host) -> Code:
        """Object code of IR text. Raises PtxError where the text is not valid."""
        try:
            module = llvm.parse_assembly(ir)
            module.verify()
        except RuntimeError as error:
            raise PtxError(
                f"internal error: the translation is not valid LLVM IR: {error}"
            ) from error
        return cls(needs, host.machine().emit_object(module))

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
    version = f"llvmlite {llvmlite.__version__}, LLVM {llvm.llvm_version_info}"
    return key_of(version, host.triple, host.cpu, host.features, entry, variant, text)


class Function:
    """Code in memory, ready to be called: `call(state)` as translate.py has it."""

    def __init__(self, code: Code, host: Host) -> None:
        self.needs = code.needs
        self.idle: dict[object, list[Any]] = {}  # workers that its launches have left; see worker
        empty = llvm.parse_assembly("")
        self._engine = llvm.create_mcjit_compiler(empty, host.machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code.object))
        self._engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
        self.call = prototype(self._engine.get_function_address("run"))
