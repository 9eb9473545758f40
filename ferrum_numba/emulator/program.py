"""PTX text -> native code, and running it."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np

from ..abi.signature import Signature
from ..errors import LaunchError, PtxError
from .host import Host
from .layout import LANES, TID, VALID, WARP, State
from .parse import parse_entry
from .ptx import Body, Instruction
from .translate import Module

Triple = tuple[int, int, int]
# Reads of whole words and vectors may pass an array's end by less than this many bytes.
_MARGIN = 128

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


class Program:
    """One entry of a PTX text as native code for this machine.

    entry: its name.  signature: its parameters, as `run` takes them in the parameter block.
    compile_seconds: what it took from text to code.
    """

    compile_seconds: float

    def __init__(self, body: Body, signature: Signature, host: Host) -> None:
        self.entry = signature.entry
        self.signature = signature
        self._body = body
        self._host = host
        self._lock = threading.Lock()
        self._codes: dict[bool, _Code] = {}
        self._code(partial=False)

    @classmethod
    def compile(cls, text: str, entry: str, host: Host | None = None) -> Program:
        """Make native code of `entry`, for this machine where `host` names no other.

        Raises PtxError, with line and opcode, for what cannot be read or is not supported.
        """
        start = time.perf_counter()
        signature = Signature.from_ptx(text, entry)
        program = cls(parse_entry(text, entry), signature, host or Host.this())
        program.compile_seconds = time.perf_counter() - start
        return program

    def run(
        self,
        *,
        grid: Triple,
        block: Triple,
        shared_bytes: int,
        parameter_block: bytes,
        threads: int = 1,
    ) -> None:
        """Run all CTAs of a grid; return when they are done.

        grid, block: CTAs and threads in x, y, z.  shared_bytes: dynamic shared memory of a CTA.
        parameter_block: `signature.nbytes` bytes; pointers in it are addresses of this process.
        threads: over how many threads of the host the CTAs are spread.
        """
        warps = -(-block[0] * block[1] * block[2] // LANES)
        if min(*grid, *block) < 1 or warps > 32:
            raise LaunchError(f"grid {grid}, block {block}: expected 1 to 1024 threads in each CTA")
        if len(parameter_block) != self.signature.nbytes:
            raise LaunchError(
                f"parameter block: expected {self.signature.nbytes} bytes for {self.entry},"
                f" found {len(parameter_block)}"
            )
        demanded = self.signature.reqntid
        if demanded is not None and (*demanded, 1, 1)[:3] != block:
            raise LaunchError(f"block {block}: {self.entry} demands {demanded} threads (.reqntid)")
        code = self._code(partial=bool(block[0] * block[1] * block[2] % LANES))
        ctas = grid[0] * grid[1] * grid[2]
        threads = max(1, min(threads, ctas))
        params = ctypes.create_string_buffer(parameter_block, len(parameter_block) + 1)
        workers = [
            _Worker(code, grid, block, warps, shared_bytes, self._body.static_shared, params)
            for _ in range(threads)
        ]
        bounds = [ctas * i // threads for i in range(threads + 1)]
        if threads == 1:
            workers[0].run(*bounds)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(_Worker.run, workers, bounds, bounds[1:]))
        for worker in workers:
            self._check_fault(worker.fault)

    def _check_fault(self, fault: int) -> None:
        if fault:
            instruction = self._body.statements[fault - 1]
            assert isinstance(instruction, Instruction)
            raise instruction.refuse(
                "not all lanes that it names came to it together; the CPU device runs lanes that"
                " took different ways one after another"
            )

    def _code(self, partial: bool) -> _Code:
        """The code; for blocks with a partial warp in the form that masks lanes."""
        with self._lock:
            if partial not in self._codes:
                module = Module(self._body, self.signature, self._host, masked=partial)
                code = _Code(module, self._host)
                self._codes[partial] = code
                if module.flow.divergent:  # then it masks lanes anyway, and does for both
                    self._codes.setdefault(True, code)
            return self._codes[partial]


class _Code:
    """A module in memory, ready to be called."""

    def __init__(self, module: Module, host: Host) -> None:
        self.context_bytes = module.layout.nbytes
        target = llvm.Target.from_default_triple()
        machine = target.create_target_machine(
            cpu=host.cpu,
            features=host.features,
            opt=2,
            reloc="static",
            codemodel="jitdefault",
            jit=True,
        )
        try:
            ir = llvm.parse_assembly(module.text)
            ir.verify()
        except RuntimeError as error:
            raise PtxError(
                f"internal error: the translation is not valid LLVM IR: {error}"
            ) from error
        self._engine = llvm.create_mcjit_compiler(ir, machine)
        self._engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self.run = prototype(self._engine.get_function_address("run"))


class _Worker:
    """One host thread's state: contexts of a CTA's warps, and the CTA's shared memory."""

    def __init__(
        self,
        code: _Code,
        grid: Triple,
        block: Triple,
        warps: int,
        shared_bytes: int,
        static_shared: int,
        params: ctypes.Array[ctypes.c_char],
    ) -> None:
        self._code = code
        self._params = params
        self._contexts = _aligned(warps * code.context_bytes, 64)
        self._shared = _aligned(static_shared + shared_bytes + _MARGIN, 1024)
        _fill_contexts(self._contexts.reshape(warps, code.context_bytes), block)
        self._state = State(
            nctaid=(ctypes.c_uint32 * 3)(*grid),
            ntid=(ctypes.c_uint32 * 3)(*block),
            warps=warps,
            shared_bytes=shared_bytes,
            params=ctypes.addressof(params),
            shared=self._shared.ctypes.data,
            contexts=self._contexts.ctypes.data,
        )

    @property
    def fault(self) -> int:
        """0, or 1 + the index of a statement that could not be run as it should."""
        return int(self._state.fault)

    def run(self, first: int, last: int) -> None:
        """Run the CTAs from first to last, counted along x, then y, then z."""
        self._code.run(ctypes.addressof(self._state), first, last)


def _aligned(nbytes: int, alignment: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Zeroed bytes at an aligned address."""
    memory = np.zeros(nbytes + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + nbytes]


def _fill_contexts(
    contexts: np.ndarray[tuple[int, int], np.dtype[np.uint8]], block: Sequence[int]
) -> None:
    """Write what a warp knows of itself: its number, its threads, which of them exist."""
    warps = len(contexts)
    thread = np.arange(warps * LANES, dtype=np.uint32).reshape(warps, LANES)
    x, y, z = block
    tid = np.stack([thread % x, thread // x % y, thread // (x * y)], axis=1)
    words = contexts.view(np.uint32)
    words[:, WARP // 4] = np.arange(warps)
    valid = (thread < x * y * z).astype(np.uint32) << np.arange(LANES, dtype=np.uint32)
    words[:, VALID // 4] = valid.sum(axis=1, dtype=np.uint32)
    words[:, TID // 4 : TID // 4 + 3 * LANES] = tid.reshape(warps, -1)
