"""Layers with random weights, for tests and benchmarks."""

from __future__ import annotations

import numpy as np

from ferrum_numba.gptq.tensors import GptqTensors
from ferrum_numba.gptq.zeros import ZeroFormat


def random_tensors(
    K: int,
    N: int,
    group_size: int,
    *,
    zero_format: ZeroFormat = "v1",
    bias: bool = False,
    seed: int = 0,
    symmetric: bool = False,
) -> GptqTensors:
    """A layer of K rows and N columns, both multiples of 8, with float16 scales.

    All nibbles occur, in the levels and, unless symmetric (true zero 8), in the zeros. The scales
    are such that inputs of unit variance give outputs of about unit variance.
    """
    rng = np.random.default_rng(seed)
    groups = 1 if group_size == -1 else -(-K // group_size)
    lowest, beyond = np.iinfo(np.int32).min, np.iinfo(np.int32).max + 1
    if symmetric:
        word = 0x88888888 if zero_format == "v2" else 0x77777777
        qzeros = np.full((groups, N // 8), word, np.uint32).view(np.int32)
    else:
        qzeros = rng.integers(lowest, beyond, (groups, N // 8), dtype=np.int32)
    level_spread = 4.6 if symmetric else 6.5  # standard deviation of level - zero
    scales = rng.uniform(0.5, 1.5, (groups, N)) / (level_spread * np.sqrt(K))
    return GptqTensors(
        qweight=rng.integers(lowest, beyond, (K // 8, N), dtype=np.int32),
        qzeros=qzeros,
        scales=scales.astype(np.float16),
        bias=rng.standard_normal(N).astype(np.float16) if bias else None,
        group_size=group_size,
        zero_format=zero_format,
    )
