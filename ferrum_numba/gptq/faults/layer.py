"""Tensors of one layer that are missing, of another kind, or hold what cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .editing import Array, Fault, Target, configuration_fault, replace_tensor, tensor_fault


def _set(index: Any, value: Any) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array[index] = value
        return array

    return change


def _add_bias(make: Callable[[int], Array]) -> Callable[[Target], None]:
    """Put a bias beside the scales: make(N); in place of one that is there."""

    def apply(target: Target) -> None:
        name, N = f"{target.layer}.bias", target.shards.find(target.tensor).shape[1]
        file = target.file_of("bias") if name in target.shards.tensors else target.file
        replace_tensor(file, name, lambda _: make(N))

    return apply


def _opposite(words: Array) -> Array:
    """All zeros of the other format's symmetric value."""
    v1 = np.uint32(0x77777777)
    other = 0x88888888 if words.view(np.uint32).flat[0] == v1 else 0x77777777
    return np.full(words.shape, other, np.uint32).view(np.int32)


def _flip(words: Array) -> Array:
    words.view(np.uint32)[-1, -1] ^= np.uint32(1 << 9)
    return words


def _lose_the_order(target: Target) -> None:
    """Say that rows are in activation order, and take out what tells that order."""
    configuration_fault("", desc_act=True).apply(target)
    replace_tensor(target.file_of("g_idx"), f"{target.layer}.g_idx", lambda _: None)


LAYER_FAULTS: Mapping[str, Fault] = {
    "missing-qweight": tensor_fault("no qweight", "qweight", lambda _: None),
    "missing-qzeros": tensor_fault("no qzeros", "qzeros", lambda _: None),
    "missing-scales": tensor_fault("no scales", "scales", lambda _: None),
    "qweight-int64": tensor_fault(
        "qweight of 64 bits", "qweight", lambda words: words.astype(np.int64)
    ),
    "qweight-flat": tensor_fault(
        "qweight of one dimension", "qweight", lambda words: words.reshape(-1)
    ),
    "qweight-transposed": tensor_fault("qweight transposed", "qweight", lambda words: words.T),
    "qweight-row-less": tensor_fault("qweight a row short", "qweight", lambda words: words[:-1]),
    "qweight-empty": tensor_fault("qweight of no rows", "qweight", lambda words: words[:0]),
    "qzeros-uint32": tensor_fault(
        "qzeros without sign", "qzeros", lambda words: words.view(np.uint32)
    ),
    "qzeros-row-less": tensor_fault("qzeros a group short", "qzeros", lambda words: words[:-1]),
    "qzeros-unpacked": tensor_fault(
        "qzeros of a word for each column", "qzeros", lambda words: np.repeat(words, 8, axis=1)
    ),
    "qzeros-mislabelled": tensor_fault(
        "the other format's zeros under this one's label", "qzeros", _opposite
    ),
    "qzeros-flipped-bit": tensor_fault("a bit of a symmetric zero flipped", "qzeros", _flip),
    "scales-float32": tensor_fault(
        "scales of 32 bits", "scales", lambda scales: scales.astype(np.float32)
    ),
    "scales-row-less": tensor_fault("scales a group short", "scales", lambda scales: scales[:-1]),
    "scales-transposed": tensor_fault("scales transposed", "scales", lambda scales: scales.T),
    "scales-empty": tensor_fault("scales of no groups", "scales", lambda scales: scales[:0]),
    "scales-nan": tensor_fault("a scale that is no number", "scales", _set((0, 3), np.nan)),
    "scales-infinite": tensor_fault("an infinite scale", "scales", _set((0, 3), np.inf)),
    "scales-too-large": tensor_fault(
        "a scale whose weights float16 does not hold", "scales", _set((0, 3), 65504)
    ),
    "g-idx-missing": Fault("no g_idx where desc_act is true", _lose_the_order),
    "g-idx-int64": tensor_fault("g_idx of 64 bits", "g_idx", lambda g_idx: g_idx.astype(np.int64)),
    "g-idx-short": tensor_fault("g_idx a row short", "g_idx", lambda g_idx: g_idx[:-1]),
    "g-idx-beyond": tensor_fault("a g_idx beyond the groups", "g_idx", _set(-1, 10_000)),
    "g-idx-zeros": tensor_fault("a g_idx that was never filled in", "g_idx", np.zeros_like),
    "g-idx-negative": tensor_fault("a negative g_idx", "g_idx", _set(0, -1)),
    "bias-long": Fault("a bias of another length", _add_bias(lambda N: np.ones(N + 8, np.float16))),
    "bias-int32": Fault("a bias of integers", _add_bias(lambda N: np.ones(N, np.int32))),
    "bias-nan": Fault("a bias that is no number", _add_bias(lambda N: np.full(N, np.nan, "f2"))),
}
