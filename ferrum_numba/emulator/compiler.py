"""LLVM: the machine that this process runs on, IR made object code, and object code made to run.

Importing this module loads LLVM, so those who may do without import it where they need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import llvmlite.binding as llvm

from ..errors import PtxError

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


class Target(Protocol):
    """A CPU in LLVM's terms (host.py)."""

    @property
    def triple(self) -> str: ...
    @property
    def cpu(self) -> str: ...
    @property
    def features(self) -> str: ...


class Detected(NamedTuple):
    """The machine that this process runs on."""

    cpu: str
    features: dict[str, bool]
    triple: str


def detect() -> Detected:
    """Ask LLVM."""
    features = dict(llvm.get_host_cpu_features())
    return Detected(llvm.get_host_cpu_name(), features, llvm.get_process_triple())


def machine(target: Target, effort: int = 2) -> llvm.TargetMachine:
    """LLVM's code generator for a CPU. effort: its level of optimisation, from 0 to 3."""
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=effort,
        reloc="static",
        codemodel="jitdefault",
        jit=True,
    )


def object_of(ir: str, target: Target, effort: int = 2) -> bytes:
    """Object code of IR text. Raises PtxError where the text is not valid."""
    try:
        module = llvm.parse_assembly(ir)
        module.verify()
    except RuntimeError as error:
        raise PtxError(
            "translation", f"not valid LLVM IR, which is an internal error: {error}"
        ) from error
    code: bytes = machine(target, effort).emit_object(module)
    return code


class Linked:
    """Object code that LLVM laid into memory, as image.py has it."""

    def __init__(self, objects: Iterable[bytes], target: Target, given: Mapping[str, int]) -> None:
        """given: symbols of nobody else, which LLVM keeps for the process."""
        for name, address in given.items():
            llvm.add_symbol(name, address)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine(target))
        for content in objects:
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(content))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Address of a function."""
        return int(self._engine.get_function_address(name))
