"""Launches of the canonical GEMM that compute what nobody expected: inputs, outputs, references.

Written by somebody who had not read the explainer, as `launched` is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np

from ferrum_numba.debug.case import Case

from .blocks import values
from .fault import INTEGERS, Fault, Launch, pack, unpack, w4a16


def _expected(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        launch = w4a16(shape)
        return launch.but(expected=change(launch.expected)).case()

    return make


def _array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        launch = w4a16(shape)
        return launch.with_array(name, change(launch.arrays[name])).case()

    return make


def _bits(values: np.ndarray) -> np.ndarray:
    """bfloat16 bits that are called float16."""
    return values.astype(ml_dtypes.bfloat16).view(np.float16)


def _biased(expected: np.ndarray) -> np.ndarray:
    bias = np.random.default_rng(9).standard_normal(expected.shape[1]) * 3
    return expected.astype(np.float64) + bias


def _overflowing(shape: int) -> Case:
    launch = w4a16(shape)
    large = launch.with_array("scales", launch.arrays["scales"] * np.float16(2000))
    large = large.with_array("a", launch.arrays["a"] * np.float16(300))
    return large.but(expected=launch.expected.astype(np.float64) * 6e5).case()


def _packed_along_n(shape: int) -> Case:
    """As AWQ has it, in plain order; the words are as many."""
    launch: Launch = w4a16(shape)
    words = launch.arrays["qweight"]
    levels = unpack(words).transpose(0, 2, 1).reshape(-1, words.shape[1])
    rows = pack(levels.reshape(len(levels), -1, 8)).reshape(words.shape)
    return launch.with_array("qweight", rows).case()


def _halves(shape: int) -> Case:
    """Every address cut to its lower four bytes, as by a c_int."""
    case = w4a16(shape).case()
    addresses = struct.unpack("<5Q", case.block[:40])
    cut = struct.pack("<5Q", *(a & 0xFFFF_FFFF for a in addresses))
    return replace(case, block=cut + case.block[40:])


def _pointer(name: str, value: int) -> Callable[[int], Case]:
    return lambda shape: w4a16(shape).case().with_values(**{name: value})


_STRIDES = [n for n in INTEGERS if n.startswith("stride")]
_TURNED = {n: m for a, b in zip(_STRIDES[::2], _STRIDES[1::2], strict=True)
           for n, m in ((a, b), (b, a))}  # fmt: skip

FAULTS = [
    Fault("bias-left-out", "result-shifted", "a bias is expected", _expected(_biased)),
    Fault("alpha-left-out", "result-scaled", "half is expected", _expected(lambda e: e / 2)),
    Fault("sign", "result-scaled", "the negative is expected", _expected(np.negative)),
    Fault("rows-reversed", "result-reordered", "last row first", _expected(lambda e: e[::-1])),
    Fault("columns-rolled", "result-reordered", "columns moved by one",
          _expected(lambda e: np.roll(e, 1, axis=1))),
    Fault("reference-turned", "result-reordered", "the transpose is expected",
          _expected(lambda e: np.ascontiguousarray(e.T))),
    Fault("reference-rows", "result-shape", "three rows more are expected",
          _expected(lambda e: np.concatenate([e, e[:3]]))),
    Fault("overflow", "overflow", "beyond float16", _overflowing),
    Fault("a-zero", "input-zero", "a was never copied", _array("a", np.zeros_like)),
    Fault("scales-zero", "input-zero", "scales were never copied", _array("scales", np.zeros_like)),
    Fault("a-bits", "input-mislabelled", "bfloat16 as float16", _array("a", _bits)),
    Fault("scales-bits", "input-mislabelled", "bfloat16 as float16", _array("scales", _bits)),
    Fault("packed-along-n", "nibble-order", "eight columns a word", _packed_along_n),
    Fault("addresses-cut", "pointer-truncated", "all five to 32 bits", _halves),
    Fault("pointer-of-pointer", "array-freed", "an odd host address",
          _pointer("c", 0x7FFD_1234_ABCD)),
    Fault("strides-turned", "strides-swapped", "of every array",
          values(lambda v: {n: v[_TURNED[n]] for n in _STRIDES})),
    Fault("groups-for-size", "group-size-wrong", "how many groups there are",
          values(lambda v: {"group_size": v["K"] // v["group_size"]})),
    Fault("tile-for-n", "size-wrong", "N rounded up to tiles",
          values(lambda v: {"N": -(-v["N"] // 64) * 64})),
]  # fmt: skip
