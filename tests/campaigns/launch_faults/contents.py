"""Faults of the arrays: where they lie, of what type they are, what they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np

from ferrum_numba.debug.case import Case

from .fault import Fault, pack, unpack, w4a16

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def _array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        launch = w4a16(shape)
        return launch.with_array(name, change(launch.arrays[name].copy())).case()

    return make


def _elsewhere(name: str, device: str) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        case = w4a16(shape).case()
        arrays = {**case.arrays, name: replace(case.arrays[name], device=device)}
        return replace(case, arrays=arrays)

    return make


def _over(one: str, two: str) -> Callable[[int], Case]:
    """`one` begins in the middle of `two`."""

    def make(shape: int) -> Case:
        case = w4a16(shape).case()
        middle = case.arrays[two].address + (case.arrays[two].nbytes // 4) * 2
        arrays = {**case.arrays, one: replace(case.arrays[one], address=middle)}
        return replace(case, arrays=arrays).with_values(**{one: middle})

    return make


def _poison(values: np.ndarray) -> np.ndarray:
    values[len(values) // 2, 3] = np.nan
    return values


def _infinite(values: np.ndarray) -> np.ndarray:
    values[-1, -1] = np.inf
    return values


def _content_transposed(values: np.ndarray) -> np.ndarray:
    """The transpose's bytes under the right shape."""
    return np.ascontiguousarray(values.T).reshape(values.shape)


def _along_n(order: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda words: pack(unpack(words)[..., list(order)])


def _of_another_layer(
    change: Callable[[np.ndarray], np.ndarray], *, strides: bool = True
) -> Callable[[int], Case]:
    """Zeros of another layer; strides: the launch has those of this array, not of the right one."""

    def make(shape: int) -> Case:
        launch = w4a16(shape)
        words = launch.arrays["qzeros"]
        other = np.random.default_rng(99).integers(0, 1 << 31, words.shape, dtype=np.int32)
        other = np.ascontiguousarray(change(other))
        launch = launch.with_array("qzeros", other)
        if strides:
            launch = launch.with_values(stride_qzk=other.shape[1])
        return launch.case()

    return make


def _mixed(shape: int, zeros: str, kernel: str, symmetric: bool) -> Case:
    return w4a16(shape, zeros=zeros, kernel=kernel, symmetric=symmetric).case()


FAULTS = [
    Fault(
        "array-on-other-gpu",
        "wrong-device",
        "scales lies on cuda:1",
        _elsewhere("scales", "cuda:1"),
    ),
    Fault("array-on-host", "wrong-device", "a lies in host memory", _elsewhere("a", "cpu")),
    Fault("c-too-short", "array-too-short", "c has a row less", _array("c", lambda c: c[:-1])),
    Fault(
        "scales-too-short",
        "array-too-short",
        "scales has a group less",
        _array("scales", lambda s: s[:-1]),
    ),
    Fault("c-over-a", "arrays-overlap", "c begins within a", _over("c", "a")),
    Fault("c-over-qweight", "arrays-overlap", "c begins within qweight", _over("c", "qweight")),
    Fault(
        "scales-float32",
        "dtype-wrong",
        "scales of 32 bits",
        _array("scales", lambda s: s.astype(np.float32)),
    ),
    Fault(
        "a-bfloat16",
        "dtype-wrong",
        "a is bfloat16",
        _array("a", lambda a: a.astype(ml_dtypes.bfloat16)),
    ),
    Fault(
        "qweight-int64",
        "dtype-wrong",
        "qweight of 64 bits",
        _array("qweight", lambda q: q.astype(np.int64)),
    ),
    Fault(
        "qweight-transposed",
        "operand-transposed",
        "qweight stored as [N, K/8]",
        _array("qweight", lambda q: np.ascontiguousarray(q.T)),
    ),
    Fault(
        "a-transposed",
        "operand-transposed",
        "a stored as [K, M]",
        _array("a", lambda a: np.ascontiguousarray(a.T)),
    ),
    Fault(
        "scales-transposed-within",
        "operand-transposed",
        "scales transposed under the right shape",
        _array("scales", _content_transposed),
    ),
    Fault(
        "v2-zeros-in-v1-kernel",
        "zero-convention",
        "asymmetric zeros of v2, kernel for v1",
        lambda shape: _mixed(shape, "v2", "v1", False),
    ),
    Fault(
        "v1-zeros-in-v2-kernel",
        "zero-convention",
        "asymmetric zeros of v1, kernel for v2",
        lambda shape: _mixed(shape, "v1", "v2", False),
    ),
    Fault(
        "v2-symmetric-in-v1-kernel",
        "zero-convention",
        "symmetric zeros of v2, kernel for v1",
        lambda shape: _mixed(shape, "v2", "v1", True),
    ),
    Fault(
        "v2-zeros-of-0-v1-kernel",
        "zero-convention",
        "zeros of v2 down to 0, kernel for v1",
        lambda shape: w4a16(shape, zeros="v2", between=(0, 15)).case(),
    ),
    Fault(
        "v1-zeros-of-16-v2-kernel",
        "zero-convention",
        "zeros of v1 up to 16, kernel for v2",
        lambda shape: w4a16(shape, kernel="v2", between=(1, 16)).case(),
    ),
    Fault(
        "borrowing-zeros-v1-kernel",
        "zero-convention",
        "GPTQModel's v1 words with zeros of 0, as they are in the file",
        lambda shape: w4a16(shape, zeros="gptqmodel", between=(0, 15)).case(),
    ),
    Fault(
        "qzeros-of-a-like-layer",
        "array-of-another-layer",
        "qzeros of a layer of the same shape",
        _of_another_layer(lambda words: words[::-1]),
    ),
    Fault(
        "qzeros-of-a-narrower-layer",
        "array-of-another-layer",
        "qzeros of a layer with fewer columns",
        _of_another_layer(lambda words: words[:, :-2]),
    ),
    Fault(
        "qzeros-of-a-wider-layer",
        "array-of-another-layer",
        "qzeros of a layer with more columns",
        _of_another_layer(
            lambda words: np.concatenate([words, words[:, :3]], axis=1), strides=False
        ),
    ),
    Fault(
        "qzeros-of-a-deeper-layer",
        "array-of-another-layer",
        "qzeros of a layer with more groups",
        _of_another_layer(lambda words: np.concatenate([words[::-1], words])),
    ),
    Fault(
        "qweight-awq-order",
        "nibble-order",
        "levels in AWQ's order",
        _array("qweight", _along_n(_AWQ_ORDER)),
    ),
    Fault(
        "qweight-high-first",
        "nibble-order",
        "levels high nibble first",
        _array("qweight", _along_n(tuple(range(7, -1, -1)))),
    ),
    Fault(
        "qzeros-awq-order",
        "nibble-order",
        "zeros in AWQ's order",
        _array("qzeros", _along_n(_AWQ_ORDER)),
    ),
    Fault(
        "scales-shifted",
        "groups-shifted",
        "each group has its neighbour's scales",
        _array("scales", lambda s: np.roll(s, 1, axis=0)),
    ),
    Fault("nan-in-a", "input-not-finite", "a NaN in a", _array("a", _poison)),
    Fault("infinite-scale", "input-not-finite", "an infinite scale", _array("scales", _infinite)),
]
