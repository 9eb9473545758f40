"""The implementation of numba.cuda that is used: built into numba, numba-cuda, or its successor.

numba-cuda takes the place of the built-in one where it is installed; numba-cuda-mlir stands beside
them under a name of its own.  $FERRUM_NUMBA_CUDA names one; left out, `numba.cuda` is taken, and
numba-cuda-mlir where there is no other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

from ...errors import DeviceError
from ...version import version_of

VARIABLE = "FERRUM_NUMBA_CUDA"


@dataclass(frozen=True)
class Implementation:
    """name: "built-in", "numba-cuda" or "numba-cuda-mlir".  module: what is imported.

    distribution: the package on PyPI that brings it.
    """

    name: str
    module: str
    distribution: str

    @property
    def version(self) -> str | None:
        """Version of the package, where it says one."""
        return version_of(self.distribution)


_SUCCESSOR = Implementation("numba-cuda-mlir", "numba_cuda_mlir.cuda", "numba-cuda-mlir")


def find() -> Implementation | None:
    """The one that is used, found without importing it; None where there is none.

    Raises DeviceError where the variable names one that is not there.
    """
    there = {found.name: found for found in (_numba(), _successor()) if found is not None}
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return next(iter(there.values()), None)
    if wanted == "numba":  # whichever of the two `numba.cuda` is
        wanted = next((name for name in there if name != _SUCCESSOR.name), wanted)
    if wanted not in there:
        raise DeviceError(
            VARIABLE,
            f"one of {', '.join(there) or 'none, for none is installed'}",
            f"{wanted!r:.80}",
            "unset it, or install that package",
        )
    return there[wanted]


def _numba() -> Implementation | None:
    """The implementation that `import numba.cuda` gives."""
    spec = find_spec("numba.cuda")
    if spec is None:
        return None
    if "numba_cuda" in (spec.origin or ""):  # it redirects the import to a folder of its own
        return Implementation("numba-cuda", "numba.cuda", "numba-cuda")
    return Implementation("built-in", "numba.cuda", "numba")


def _successor() -> Implementation | None:
    return _SUCCESSOR if find_spec("numba_cuda_mlir") is not None else None
