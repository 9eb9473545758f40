"""PTX text -> native code, and running it.

What translates is loaded by the first entry whose code is not in the cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..abi.signature import Signature
from ..errors import LaunchError, PtxError
from .cache import Cache
from .host import Host
from .job import Job
from .layout import LANES, State
from .native import Code, Function, Needs, key_of_code
from .notice import notice
from .seat import LARGEST_STATIC, StoppedError, aligned
from .worker import WORKSPACE, Launch

if TYPE_CHECKING:
    from .builder import Builder
    from .hooks import Hooks
    from .ptx import Body


class Program:
    """One entry of a PTX text as native code for this machine.

    entry: its name.  signature: its parameters, as `run` takes them in the parameter block.
    cached: whether the code came from the disk.
    """

    def __init__(
        self, text: str, signature: Signature, host: Host, hooks: Hooks[Builder] | None = None
    ) -> None:
        """hooks: those of the checks that the code carries (checks/program.py)."""
        self.entry = signature.entry
        self.signature = signature
        self.cached = True
        self._text = text
        self._host = host
        self._hooks = hooks
        self._cache = Cache.of_user()
        self._lock = threading.Lock()
        self._functions: dict[bool, Function] = {}
        self._function(partial=False)

    @classmethod
    def compile(cls, text: str, entry: str, host: Host | None = None) -> Program:
        """Make native code of `entry`, for this machine where `host` names no other.

        Code that was made before comes from the user's cache (cache.py).
        Raises PtxError, with line and opcode, for what cannot be read or is not supported.
        """
        return cls(text, Signature.from_ptx(text, entry), host or Host.this())

    def run(
        self,
        job: Job,
        *,
        attach: Callable[[State], None] | None = None,
        only: Sequence[int] | None = None,
        silent: bool = False,
        workspace: NDArray[np.uint8] | None = None,
        windows: NDArray[np.uint8] | None = None,
    ) -> None:
        """Run all CTAs of a grid; return when they are done.

        attach, only, silent, workspace, windows: see Launch; for code that carries checks.

        Raises LaunchError for what does not fit the entry, and for a CTA that does not end.
        """
        block = job.block
        if min(*job.grid, *block) < 1 or job.warps > 32:
            raise LaunchError(
                "block", "1 to 1024 threads in each CTA", f"block {block} of grid {job.grid}"
            )
        if len(job.parameter_block) != self.signature.nbytes:
            raise LaunchError(
                "parameter block",
                f"{self.signature.nbytes} bytes for {self.entry}",
                len(job.parameter_block),
            )
        demanded = self.signature.reqntid
        if demanded is not None and (*demanded, 1, 1)[:3] != block:
            raise LaunchError(
                "block", f"{demanded} threads, as the .reqntid of {self.entry} demands", block
            )
        partial = bool(block[0] * block[1] * block[2] % LANES)
        function = self._functions.get(partial) or self._function(partial)
        workspace = workspace if workspace is not None else aligned(WORKSPACE, 64)
        try:
            Launch(function, job, attach, only, silent, workspace, windows).run()
        except StoppedError as stopped:
            from .explanation import explain

            raise explain(stopped, job, self._body(), self._text, self.signature) from None

    def _function(self, partial: bool) -> Function:
        """The code; for blocks with a partial warp in the form that masks lanes."""
        with self._lock:
            if partial not in self._functions:
                function = Function(self._code(partial), self.entry, self._host, self._cache)
                self._functions[partial] = function
                if function.needs.masked:  # it masks lanes anyway, and does for both
                    self._functions.setdefault(True, function)
            return self._functions[partial]

    def _code(self, partial: bool) -> Code:
        key = key_of_code(self._text, self.entry, self._host, f"masked {partial} {self._hooks}")
        code = Code.load(self._cache, key)
        if code is None:
            self.cached = False
            lines = self._text.count("\n")
            with notice(f"making {self.entry} ready for the CPU, {lines:,} lines of PTX …"):
                code = self._translate(partial)
            code.save(self._cache, key)
        return code

    def _translate(self, partial: bool) -> Code:
        from .translate import Module

        body = self._body()
        module = Module(body, self.signature, self._host, partial, self._hooks)
        needs = Needs(
            context_bytes=module.layout.nbytes,
            scratch_bytes=module.builder.scratch_bytes,
            static_shared=body.static_shared,
            masked=module.flow.divergent,
            functions=list(module.library.used),
            talks=module.talks,
        )
        checked = self._hooks is not None
        return Code.compile(module.text, needs, self._host, module.length, checked)

    def _body(self) -> Body:
        from .parse import parse_entry

        # Not kept: it takes a hundred times the memory of the text, and is seldom needed again.
        body = parse_entry(self._text, self.entry)
        if body.static_shared > LARGEST_STATIC:
            raise PtxError(
                self.entry,
                f"at most {LARGEST_STATIC} bytes of shared memory with a size, as on any GPU",
                body.static_shared,
                remedy="declare it .extern, and give its size to the launch",
            )
        return body
