"""Faults of launches of kernels as tutorials have them: no sidecar, only the expected result.

Written by somebody who had not read the explainer, as a person bringing up a launch makes them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from ferrum_numba.debug.case import Case

from .fault import Fault, stranger

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Sound:
    """A right launch.  values: by parameter, in the PTX's order; an array stands for its address.

    layout: of the block, as `struct` has it, the two scratch pointers included.
    """

    kernel: str
    values: Mapping[str, Any]
    layout: str
    grid: tuple[int, int, int]
    output: str
    expected: np.ndarray

    def case(
        self,
        *,
        layout: str | None = None,
        order: str | None = None,
        grid: tuple[int, int, int] | None = None,
        expected: np.ndarray | None = None,
        **changes: Any,
    ) -> Case:
        """The case, with some values replaced; order: whose addresses or numbers are written."""
        values = {**self.values, **changes}
        arrays = {n: v for n, v in values.items() if isinstance(v, np.ndarray)}
        numbers = tuple(v for v in values.values() if not isinstance(v, np.ndarray))
        case = stranger(
            f"{self.kernel}.sm_80",
            self.layout,
            f"{' '.join(values)} s1 s2",
            (*(n if isinstance(n, float) else 0 for n in numbers), 0, 0),
            arrays,
            {self.output: self.expected if expected is None else expected},
            grid or self.grid,
        )
        places = {n: struct.unpack_from("<Q", case.block, 8 * i)[0] for i, n in enumerate(arrays)}
        written = {**values, **places, "s1": 0, "s2": 0}
        names = order.split() if order else [*values, "s1", "s2"]
        return replace(case, block=struct.pack(layout or self.layout, *map(written.get, names)))


def _random(shape: int) -> np.random.Generator:
    return np.random.default_rng(100 + shape)


def add(shape: int, dtype: Any = np.float32) -> Sound:
    """out (n) = x (n) + y (n), 256 a CTA."""
    n = (900, 1300, 700)[shape % 3]
    x, y = (_random(shape).standard_normal((2, n))).astype(dtype)
    values = {"x": x, "y": y, "out": np.zeros(n, dtype), "n": n}
    return Sound("vector_add", values, "<3Qi4x2Q", (-(-n // 256), 1, 1), "out", x + y)


def softmax(shape: int) -> Sound:
    """out (rows, n) = softmax of x (rows, n), a row a CTA, at most 256 columns."""
    rows, n = ((6, 200), (5, 144), (9, 250))[shape % 3]
    x = _random(shape).standard_normal((rows, n)).astype(np.float32)
    raised = np.exp(x - x.max(axis=1, keepdims=True))
    values = {"out": np.zeros_like(x), "x": x, "out_stride": n, "x_stride": n, "n": n}
    expected = raised / raised.sum(axis=1, keepdims=True)
    return Sound("strided_softmax", values, "<2Q3i4x2Q", (rows, 1, 1), "out", expected)


def gemm(shape: int) -> Sound:
    """c (M, N) = a (M, K) b (K, N), 32 x 32 a CTA."""
    M, N, K = ((50, 72, 96), (40, 104, 80), (90, 56, 112))[shape % 3]
    random = _random(shape)
    a, b = (random.standard_normal(s).astype(np.float16) for s in ((M, K), (K, N)))
    strides = {"a_m": K, "a_k": 1, "b_k": N, "b_n": 1, "c_m": N, "c_n": 1}
    c = np.zeros((M, N), np.float16)
    expected = (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16)
    values = {"a": a, "b": b, "c": c, "M": M, "N": N, "K": K, **strides}
    grid = (-(-M // 32) * -(-N // 32), 1, 1)
    return Sound("strided_gemm", values, "<3Q9i4x2Q", grid, "c", expected)


def take(shape: int) -> Sound:
    """out (rows, width) = scale * table[indices], 64 columns a CTA."""
    rows, width, many = ((9, 150, 40), (7, 170, 50), (11, 130, 30))[shape % 3]
    random = _random(shape)
    table = random.standard_normal((many, width)).astype(np.float16)
    indices = random.integers(0, many, rows)
    values = {"table": table, "indices": indices, "out": np.zeros((rows, width), np.float16)}
    values |= {"rows": many, "width": width, "scale": 0.5}
    expected = table[indices] * np.float16(0.5)
    return Sound("take_rows", values, "<3Q2if4x2Q", (rows, -(-width // 64), 1), "out", expected)


def rotary(shape: int) -> Sound:
    """out = x (positions, heads, width) turned by cos and sin (positions, width / 2)."""
    positions, heads, width = ((7, 3, 40), (5, 2, 48), (6, 4, 56))[shape % 3]
    random = _random(shape)
    x = random.standard_normal((positions, heads, width)).astype(np.float16)
    angles = random.uniform(0, 3, (positions, width // 2)).astype(np.float32)
    left, right = np.split(x.astype(np.float32), 2, axis=2)
    cos, sin = np.cos(angles), np.sin(angles)
    c, s = cos[:, None], sin[:, None]
    expected = np.concatenate([left * c - right * s, right * c + left * s], axis=2)
    values = {"x": x, "cos": cos, "sin": sin, "out": np.zeros_like(x)}
    values |= {"positions": positions, "heads": heads, "width": width}
    grid = (positions, heads, 1)
    return Sound("rotary", values, "<4Q3i4x2Q", grid, "out", expected.astype(np.float16))


def _of(
    sound: Callable[[int], Sound], change: Callable[[Sound], Mapping[str, Any]]
) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        right = sound(shape)
        return right.case(**change(right))

    return make


def _each(sound: Callable[[int], Sound], **factors: float) -> Callable[[int], Case]:
    """Integers multiplied."""
    return _of(sound, lambda s: {n: int(s.values[n] * f) for n, f in factors.items()})


def _array(
    sound: Callable[[int], Sound], change: Callable[[np.ndarray], np.ndarray], *names: str
) -> Callable[[int], Case]:
    return _of(sound, lambda s: {n: change(s.values[n]) for n in names})


def _ordered(
    sound: Callable[[int], Sound], order: str, layout: str | None = None
) -> Callable[[int], Case]:
    return _of(sound, lambda s: {"order": order, "layout": layout})


def _as(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values.astype(dtype)


def _poisoned(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.size).reshape(values.shape) == 7, np.nan, values)


def _above(values: np.ndarray) -> np.ndarray:
    """Copy with eight rows of something else before it."""
    return np.concatenate([np.ones((8, values.shape[1]), values.dtype), values])


def _beside(values: np.ndarray) -> np.ndarray:
    """Copy with columns of something else behind it."""
    return np.concatenate([values, np.full_like(values, 3)], axis=1)


def _wide_row(shape: int) -> Case:
    """More columns than one CTA covers."""
    x = _random(shape).standard_normal((4, 400)).astype(np.float32)
    raised = np.exp(x - x.max(axis=1, keepdims=True))
    expected = raised / raised.sum(axis=1, keepdims=True)
    sizes = dict.fromkeys(("out_stride", "x_stride", "n"), 400)
    arrays = {"x": x, "out": np.zeros_like(x)}
    return softmax(shape).case(**arrays, **sizes, grid=(4, 1, 1), expected=expected)


_ADD, _GEMM = "n s1 s2", "M N K a_m a_k b_k b_n c_m c_n s1 s2"
_STRIDES = ("a_m", "a_k", "b_k", "b_n", "c_m", "c_n")

FAULTS = [
    Fault("add-out-first", "pointers-swapped", "out, x, y", _ordered(add, f"out x y {_ADD}")),
    Fault("add-n-in-bytes", "strides-in-bytes", "4 n for n", _each(add, n=4)),
    Fault("add-n-in-blocks", "size-wrong", "CTAs for n", _each(add, n=1 / 256)),
    Fault(
        "add-packed", "padding-missing", "no padding behind n",
        _ordered(add, f"x y out {_ADD}", "<3Qi2Q"),
    ),
    Fault("add-no-n", "parameter-missing", "n left out", _ordered(add, "x y out s1 s2", "<3Q2Q")),
    Fault("add-no-scratch", "scratch-missing", "ends behind n", _ordered(add, "x y out n", "<3Qi")),
    Fault(
        "add-n-as-float", "number-bits", "n written as a float",
        _ordered(add, f"x y out {_ADD}", "<3Qf4x2Q"),
    ),
    Fault("add-grid-half", "grid-wrong", "CTAs of 512", _of(add, lambda s: {"grid": (2, 1, 1)})),
    Fault(
        "add-float64", "dtype-wrong", "arrays of float64",
        _array(add, _as(np.float64), "x", "y", "out"),
    ),
    Fault(
        "add-float16", "dtype-wrong", "arrays of float16",
        _array(add, _as(np.float16), "x", "y", "out"),
    ),
    Fault("add-y-short", "out-of-bounds", "y ends early", _array(add, lambda y: y[:-300], "y")),
    Fault("add-nan", "input-not-finite", "a NaN in x", _array(add, _poisoned, "x")),
    Fault("add-y-zero", "input-zero", "y never copied", _array(add, np.zeros_like, "y")),
    Fault("softmax-in-out", "pointers-swapped", "x, out",
          _ordered(softmax, "x out out_stride x_stride n s1 s2")),
    Fault("softmax-strides-bytes", "strides-in-bytes", "both strides times 4",
          _each(softmax, out_stride=4, x_stride=4)),
    Fault("softmax-rows-for-n", "size-wrong", "rows for n and both strides",
          _of(softmax, lambda s: dict.fromkeys(("n", "x_stride", "out_stride"), s.grid[0]))),
    Fault("softmax-x-slice", "size-wrong", "x is a slice of twice as many columns",
          _array(softmax, _beside, "x")),
    Fault("softmax-grid-columns", "grid-wrong", "a CTA a column",
          _of(softmax, lambda s: {"grid": (s.values["n"], 1, 1)})),
    Fault("softmax-wide-row", "output-unwritten", "400 columns, a CTA covers 256", _wide_row),
    Fault("softmax-residual", "result-shifted", "x is expected to be added",
          _of(softmax, lambda s: {"expected": s.expected + s.values["x"]})),
    Fault("gemm-a-b", "pointers-swapped", "b, a, c", _ordered(gemm, f"b a c {_GEMM}")),
    Fault("gemm-strides-bytes", "strides-in-bytes", "all six strides times 2",
          _each(gemm, **dict.fromkeys(_STRIDES, 2))),
    Fault("gemm-one-stride-bytes", "strides-in-bytes", "a_m times 2", _each(gemm, a_m=2)),
    Fault("gemm-b-strides", "sizes-swapped", "b_k and b_n",
          _ordered(gemm, "a b c M N K a_m a_k b_n b_k c_m c_n s1 s2")),
    Fault("gemm-n-for-k", "sizes-swapped", "N and K",
          _ordered(gemm, "a b c M K N a_m a_k b_k b_n c_m c_n s1 s2")),
    Fault("gemm-specialised", "parameter-missing", "the strides that are 1 left out",
          _ordered(gemm, "a b c M N K a_m b_k c_m s1 s2", "<3Q6i2Q")),
    Fault("gemm-specialised-one", "parameter-missing", "a_k left out",
          _ordered(gemm, "a b c M N K a_m b_k b_n c_m c_n s1 s2", "<3Q8i2Q")),
    Fault("gemm-b-turned", "operand-transposed", "b stored as [N, K]",
          _array(gemm, lambda b: np.ascontiguousarray(b.T), "b")),
    Fault("gemm-grid-64", "grid-wrong", "CTAs of 64 x 32",
          _of(gemm, lambda s: {"grid": (s.grid[0] // 2, 1, 1)})),
    Fault("gemm-bfloat16", "dtype-wrong", "arrays of bfloat16",
          _array(gemm, _as(ml_dtypes.bfloat16), "a", "b", "c")),
    Fault("gemm-bfloat16-bits", "input-mislabelled", "bfloat16 bits as float16",
          _array(gemm, lambda a: a.astype(ml_dtypes.bfloat16).view(np.float16), "a")),
    Fault("gemm-a-below", "pointer-offset", "a begins 8 rows into its array",
          _array(gemm, _above, "a")),
    Fault("gemm-a-short", "out-of-bounds", "a has a row less", _array(gemm, lambda a: a[:-1], "a")),
    Fault("take-int32", "dtype-wrong", "indices of int32", _array(take, _as(np.int32), "indices")),
    Fault("take-minus-one", "out-of-bounds", "an index of -1",
          _array(take, lambda i: np.where(np.arange(len(i)) == 4, -1, i), "indices")),
    Fault("take-double", "number-bits", "scale written as a double",
          _ordered(take, "table indices out rows width scale s1 s2", "<3Q2id2Q")),
    Fault("take-scale-int", "number-bits", "scale written as the integer 1",
          _of(lambda s: replace(take(s), layout="<3Q3i4x2Q"), lambda s: {"scale": 1})),
    Fault("take-rows-width", "sizes-swapped", "width and rows",
          _ordered(take, "table indices out width rows scale s1 s2")),
    Fault("take-grid-flat", "grid-wrong", "no second axis",
          _of(take, lambda s: {"grid": (s.grid[0], 1, 1)})),
    Fault("take-scale-wrong", "number-wrong", "-scale for scale",
          _of(take, lambda s: {"scale": -0.5})),
    Fault("rotary-cos-sin", "pointers-swapped", "sin, cos",
          _ordered(rotary, "x sin cos out positions heads width s1 s2")),
    Fault("rotary-heads", "sizes-swapped", "heads and positions",
          _ordered(rotary, "x cos sin out heads positions width s1 s2")),
    Fault("rotary-grid", "grid-wrong", "heads and positions of the grid",
          _of(rotary, lambda s: {"grid": (s.grid[1], s.grid[0], 1)})),
    Fault("rotary-half", "size-wrong", "half the width", _each(rotary, width=0.5)),
    Fault("rotary-cos-half", "dtype-wrong", "cos of float16",
          _array(rotary, _as(np.float16), "cos")),
    Fault("rotary-cos-short", "out-of-bounds", "cos of fewer positions",
          _array(rotary, lambda c: c[:3], "cos")),
    Fault("rotary-no-tables", "parameter-missing", "cos and sin left out",
          _ordered(rotary, "x out positions heads width s1 s2", "<2Q3i4x2Q")),
]  # fmt: skip
