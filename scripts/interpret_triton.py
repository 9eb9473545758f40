"""The canonical kernel in Triton's own interpreter, without torch: time and largest error.

    python scripts/interpret_triton.py [--size 256] [--m 64] [--group-size 128]

Prints JSON.  Needs the extra `compile`; written for Triton 3.6.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
import numpy as np
from ptx_builds.source import load
from triton.runtime import interpreter

from ferrum_numba import kernels
from tests.campaigns.layers import random_tensors


class Pointer:
    """NumPy array with all that Triton asks of a tensor."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.dtype = array, array.dtype.name

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)


def accept_numpy() -> None:
    """Leave out the copies from and to torch's devices; numbers as NumPy 2.4 wants them."""
    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched
    interpreter.GridExecutor._init_args_hst = lambda self, args, named: (args, named)
    interpreter.GridExecutor._restore_args_dev = lambda self, *args: None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="N and K")
    parser.add_argument("--m", type=int, default=64)
    parser.add_argument("--group-size", type=int, default=128)
    arguments = parser.parse_args()
    N = K = arguments.size
    M = arguments.m
    tensors = random_tensors(K, N, arguments.group_size, symmetric=True)
    a = np.random.default_rng(M).standard_normal((M, K)).astype(np.float16)
    c = np.empty((M, N), np.float16)
    arrays = [Pointer(x) for x in (a, tensors.qweight, tensors.scales, tensors.qzeros, c)]
    integers = [M, N, K, arguments.group_size, K, 1, N, 1, N, 1, N // 8, 1, N, 1]
    tile = {"BLOCK_M": kernels.BM, "BLOCK_N": kernels.BN, "BLOCK_K": kernels.BK, "ZERO_BIAS": 1}
    accept_numpy()
    grid = (-(-M // kernels.BM), -(-N // kernels.BN))
    kernel = load("w4a16_gptq_gemm_typed").w4a16_gptq_gemm_typed
    start = time.perf_counter()
    kernel[grid](*arrays, *integers, **tile)
    seconds = time.perf_counter() - start
    error = np.abs(c - a.astype(np.float32) @ tensors.dequantize().astype(np.float32)).max()
    print(json.dumps({"ms": seconds * 1e3, "largest_error": float(error)}))


if __name__ == "__main__":
    main()
