"""One launch of a GEMM with NaN all around its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba import kernels

GUARD = 512  # elements on either side


def guarded(device: fe.Device, values: np.ndarray) -> tuple[Any, Any]:
    """A buffer of the device that is poisoned but for `values` in its middle, and the middle."""
    poison = np.nan if values.dtype.kind in "fV" else -1  # V: bfloat16
    buffer = np.full(values.size + 2 * GUARD, poison, values.dtype)
    buffer[GUARD:-GUARD] = values.ravel()
    placed = device.to_device(buffer)
    return placed, placed[GUARD : GUARD + values.size].reshape(values.shape)


def launch_guarded(
    device: fe.Device, artefact: kernels.Artefact, tensors: fe.GptqTensors, a: np.ndarray
) -> np.ndarray:
    """c[M, N] of one launch, after checking that nothing around it was written."""
    poison = np.full((a.shape[0], tensors.N), np.nan, a.dtype)
    around, c = guarded(device, poison)
    placed = [guarded(device, v) for v in (tensors.qweight, tensors.scales, tensors.qzeros, a)]
    qweight, scales, qzeros, x = (middle for _, middle in placed)
    sizes = (tensors.K, tensors.N, tensors.group_size, tensors.zero_bias)
    weight = fe.W4A16Weight(qweight, scales, qzeros, *sizes)
    fe.launch_w4a16_gptq(None, artefact.kernel(device), x, weight, c, a.shape[0])
    device.synchronize()
    result = device.to_host(around)
    assert np.isnan(result[:GUARD]).all(), "written before c"
    assert np.isnan(result[-GUARD:]).all(), "written past c"
    return result[GUARD:-GUARD].reshape(poison.shape)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Frobenius norms; a NaN gives a NaN, which no bound holds for."""
    exact = found.astype(np.float64)
    return float(np.linalg.norm(exact - expected) / np.linalg.norm(expected))
