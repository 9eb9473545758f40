"""Devices and layers that compute wrong results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba.devices.cpu import CpuDevice
from ferrum_numba.gptq import packing

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


class FaultyCpu(CpuDevice):
    """A CPU device whose memory turns over bit 3 of every packed word."""

    def to_device(self, array: Any, **options: Any) -> Any:
        values = super().to_device(array, **options)
        return values ^ np.int32(8) if values.dtype == np.int32 else values


def tampered_linear(tamper: Callable[[fe.GptqTensors], fe.GptqTensors]) -> type[fe.GptqLinear]:
    """A GptqLinear that is loaded with other tensors than it was given."""

    class Tampered(fe.GptqLinear):
        def __init__(self, tensors, **options):
            super().__init__(tamper(tensors), **options)

    return Tampered


def calling_linear(call: Callable[..., None]) -> type[fe.GptqLinear]:
    """A GptqLinear whose calls are call(right, x, out); right(x, out) computes out."""

    class Calling(fe.GptqLinear):
        def __call__(self, x, *, out=None, stream=None):
            call(lambda x, out: super(Calling, self).__call__(x, out=out), x, out)
            return out

    return Calling


# Tensors read wrong; each takes GptqTensors of format v1 and gives others


def levels(tensors, change):
    """The levels, uint8 [K, N], changed."""
    return replace(tensors, qweight=packing.pack_rows(change(packing.unpack_rows(tensors.qweight))))


def zeros(tensors, change):
    """The true zeros, integers [groups, N], changed; stored as v1 where none is 0, else as v2."""
    changed = change(tensors.zeros().astype(int))
    zero_format, bias = ("v1", 1) if changed.min() > 0 else ("v2", 0)
    nibbles = np.clip(changed - bias, 0, 15).astype(np.uint8)
    return replace(tensors, qzeros=packing.pack_columns(nibbles), zero_format=zero_format)


def groups(tensors, source):
    """The tensors with a g_idx of these groups, repacked for a kernel that knows none.

    source: integers [K]. One group for each run of 8 rows, whose scales and zeros are those of the
    source's.
    """
    picked = np.asarray(source)[::8]
    return replace(
        tensors,
        scales=tensors.scales[picked],
        qzeros=tensors.qzeros[picked],
        g_idx=None,
        group_size=8,
    )


def order(values, indices, axis):
    """Each eight along an axis in another order."""
    if axis == 0:
        return values.reshape(-1, 8, values.shape[1])[:, indices].reshape(values.shape)
    return values.reshape(len(values), -1, 8)[..., indices].reshape(values.shape)


def row_groups(tensors, group_size):
    """k // group_size for each row, at most the last group."""
    return np.minimum(np.arange(tensors.K) // group_size, tensors.groups - 1)


def rolled(tensors, **by):
    """scales, qzeros or both moved on by some groups."""
    return replace(
        tensors, **{name: np.roll(getattr(tensors, name), n, axis=0) for name, n in by.items()}
    )


def without_columns(tensors, first):
    scales = tensors.scales.copy()
    scales[:, first:] = 0
    return replace(tensors, scales=scales)


TENSOR_FAULTS = {
    "zero-too-small": lambda t: replace(t, zero_format="v2"),
    "zero-too-large": lambda t: zeros(t, lambda z: z + 1),
    "zeros-dropped": lambda t: zeros(t, lambda z: 0 * z),
    "zeros-symmetric": lambda t: zeros(t, lambda z: 0 * z + 8),
    "qweight-nibbles-reversed": lambda t: levels(t, lambda q: order(q, [*range(7, -1, -1)], 0)),
    "qweight-nibbles-awq": lambda t: levels(t, lambda q: order(q, AWQ_ORDER, 0)),
    "qzeros-nibbles-reversed": lambda t: zeros(t, lambda z: order(z, [*range(7, -1, -1)], 1)),
    "qzeros-nibbles-awq": lambda t: zeros(t, lambda z: order(z, AWQ_ORDER, 1)),
    "group-size-doubled": lambda t: groups(t, row_groups(t, 2 * t.group_size)),
    "group-size-halved": lambda t: groups(t, row_groups(t, t.group_size // 2)),
    "scales-shifted+1": lambda t: rolled(t, scales=1),
    "scales-shifted-1": lambda t: rolled(t, scales=-1),
    "zeros-shifted+1": lambda t: rolled(t, qzeros=1),
    "groups-shifted-1": lambda t: rolled(t, scales=-1, qzeros=-1),
    "first-group-for-all": lambda t: groups(t, np.zeros(t.K, int)),
    "n-tail-missing": lambda t: without_columns(t, t.N // 64 * 64),
    "bias-missing": lambda t: replace(t, bias=None),
    "bias-doubled": lambda t: replace(t, bias=2 * t.bias),
}
"""Deeds of a wrong reader, by the name of the cause that should be found."""


# Calls gone wrong


def _transposed(right, x, out):
    right(x, out)
    out[:] = out.T.reshape(out.shape).copy()


def _one_row_on(right, x, out):
    right(x, out)
    out[:] = np.roll(out, 1, axis=0)


def _one_row_for_all(right, x, out):
    right(np.repeat(x[:1], len(x), axis=0), out)


def _stride(right, x, out):
    stride = -(-x.shape[1] // 64) * 64 if x.shape[1] % 64 else x.shape[1] + 8
    flat = np.zeros(len(x) * stride + x.shape[1], x.dtype)
    flat[: x.size] = x.ravel()
    rows = np.stack([flat[i * stride :][: x.shape[1]] for i in range(len(x))])
    right(rows, out)


def _last_column_left_out(right, x, out):
    kept = out[:, -1].copy()
    right(x, out)
    out[:, -1] = kept


def _last_row_left_out(right, x, out):
    right(x[:-1], out[:-1])


def _without_k_tail(right, x, out):
    rows = x.copy()
    rows[:, (x.shape[1] - 1) // 64 * 64 :] = 0
    right(rows, out)


def _coarse(right, x, out):
    right(x, out)
    out[:] = np.trunc(out.astype(np.float32) * 64) / 64


CALL_FAULTS = {
    "y-transposed": _transposed,
    "rows-mixed-up": _one_row_on,
    "rows-mixed-up for all": _one_row_for_all,
    "x-stride": _stride,
    "never-written": _last_column_left_out,
    "never-written rows": _last_row_left_out,
    "k-tail-missing": _without_k_tail,
    "imprecise-sums": _coarse,
}
"""Deeds of a wrong launch, by the cause's name and, after a blank, a word of its own."""
