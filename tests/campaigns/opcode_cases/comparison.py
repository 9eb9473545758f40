"""Results of a case, and how they differ from others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import ferrum_numba as fe

from .case import BLOCK, EXACT, HELD, Array, Case, Rule, seen


def run(device: fe.Device, case: Case, inputs: Sequence[Array], n: int) -> list[Array]:
    """The results of n cases (a multiple of a CTA's threads)."""
    kernel = device.load_module(case.text).get_kernel("k")
    read = len(inputs) - (len(case.results) if case.accumulates else 0)
    arrays = [device.to_device(x.copy()) for x in inputs[:read]]
    for i, (ptx_type, count) in enumerate(case.results):
        if case.accumulates:
            start = inputs[read + i].copy()
        else:
            start = np.zeros(int(n * count), HELD[ptx_type])
        arrays.append(device.to_device(start))
    config = fe.LaunchConfig(grid=n // BLOCK, block=BLOCK, shared_bytes=case.shared_bytes)
    kernel.launch(config, *arrays)
    device.synchronize()
    return [np.asarray(device.to_host(x)) for x in arrays[read:]]


def differing(
    found: Array, expected: Array, ptx_type: str, rule: Rule
) -> tuple[int, int, list[int]]:
    """Counts of results that differ and of NaN that differ in bits alone, and the first places."""
    found = np.ascontiguousarray(found).reshape(-1)
    expected = np.ascontiguousarray(expected).reshape(-1)
    x, y = seen(found.view(HELD[ptx_type]), ptx_type), seen(expected.view(HELD[ptx_type]), ptx_type)
    bits = f"u{x.itemsize}"
    same = x.view(bits) == y.view(bits)
    payloads = 0
    if x.dtype.kind not in "iub":
        with np.errstate(invalid="ignore"):
            wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
        nan = np.isnan(wide_x) & np.isnan(wide_y)
        payloads = int((nan & ~same).sum())
        same |= nan
        if rule != EXACT:
            with np.errstate(invalid="ignore"):
                distance = abs(wide_x - wide_y)
                same |= distance <= rule.absolute + rule.relative * abs(wide_y)
    wrong = np.flatnonzero(~same)
    return len(wrong), payloads, wrong[:3].tolist()
