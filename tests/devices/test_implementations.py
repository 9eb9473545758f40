"""Implementations of numba.cuda: the one that is taken, and arrays of each."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda import implementation
from ferrum_numba.devices.cuda.implementation import VARIABLE, Implementation

ROOT = Path(fe.__file__).parent.parent
BUILT_IN = Implementation("built-in", "numba.cuda", "numba")
CUDA = Implementation("numba-cuda", "numba.cuda", "numba-cuda")
MLIR = implementation._SUCCESSOR

# Makes an array over memory that nobody looks at, as a GPU's pool has it.
ARRAYS = """
import contextlib, copy, sys
import numpy as np
from ferrum_numba.devices.cache_keys import cache_key
from ferrum_numba.devices.cuda import implementation, numba_cuda

module = implementation.find().module
prefix = "numba.cuda" if module == "numba.cuda" else "numba_cuda_mlir.numba_cuda"
driver = __import__(f"{prefix}.cudadrv.driver", fromlist=["driver"])
arrays = __import__(f"{prefix}.cudadrv.devicearray", fromlist=["devicearray"])

class Block:
    address = 0x7000

class Pool:
    def allocate(self, nbytes):
        return Block()

def flat(address, nbytes, owner):
    import ctypes
    memory = driver.MemoryPointer(object(), ctypes.c_void_p(address), nbytes, owner=owner)
    return arrays.DeviceNDArray((nbytes,), (1,), np.dtype(np.uint8), gpu_data=memory)

numba_cuda.bytes_at = flat
maker = numba_cuda.ArrayMaker(Pool(), contextlib.nullcontext)
first, second = (maker.make((3, 4), np.float32) for _ in range(2))
assert isinstance(second, arrays.DeviceNDArray)
assert "gpu_data" not in vars(second)
assert (second.shape, second.strides, second.dtype) == ((3, 4), (16, 4), np.float32)
assert cache_key(second)[1] == 0x7000
assert second.device_ctypes_pointer.value == 0x7000
assert second.__cuda_array_interface__["data"][0] == 0x7000
view = second.reshape(4, 3)
assert cache_key(view)[1] == 0x7000 and not hasattr(view, "ferrum_address")
assert cache_key(copy.copy(second)) == cache_key(second)
print(module, numba_cuda.unusable() or "a GPU")
"""


def with_(monkeypatch: pytest.MonkeyPatch, numba: object, mlir: object, variable: str = "") -> None:
    monkeypatch.setattr(implementation, "_numba", lambda: numba)
    monkeypatch.setattr(implementation, "_successor", lambda: mlir)
    monkeypatch.setenv(VARIABLE, variable)


def test_the_one_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for numba, mlir, variable, taken in (
        (BUILT_IN, None, "", BUILT_IN),
        (CUDA, MLIR, "", CUDA),
        (None, MLIR, "", MLIR),
        (CUDA, MLIR, "numba-cuda-mlir", MLIR),
        (CUDA, MLIR, "numba", CUDA),
        (BUILT_IN, MLIR, "numba", BUILT_IN),
        (CUDA, MLIR, "numba-cuda", CUDA),
        (None, None, "", None),
    ):
        with_(monkeypatch, numba, mlir, variable)
        assert implementation.find() == taken
    with_(monkeypatch, BUILT_IN, None, "numba-cuda-mlir")
    with pytest.raises(fe.DeviceError, match="one of built-in, found 'numba-cuda-mlir'; unset it"):
        implementation.find()


def test_the_one_that_is_here() -> None:
    found = implementation.find()
    assert found is not None
    assert found.version


@pytest.mark.parametrize("name", ["numba", "numba-cuda-mlir"])
def test_arrays_of_each(name: str) -> None:
    if name != "numba" and find_spec("numba_cuda_mlir") is None:
        pytest.skip("numba-cuda-mlir is not installed")
    variables = {**os.environ, VARIABLE: name, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", ARRAYS]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("numba_cuda_mlir" if name != "numba" else "numba.cuda")
