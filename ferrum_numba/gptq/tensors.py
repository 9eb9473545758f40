"""The tensors of one GPTQ 4-bit layer in their on-disk layout, checked, and their reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .packing import NIBBLES, unpack_rows
from .zeros import ZeroFormat, check_zero_format, decode_zeros

Array = npt.NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOAT16, _FLOAT32, _INT32 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.int32)

_BLOCK_ELEMENTS = 1 << 19  # dequantised at a time: 2 MiB of float32, which a core's L2 holds


@dataclass(frozen=True, eq=False, kw_only=True)
class GptqTensors:
    """One layer: weight[k, n] = scales[g, n] * (level[k, n] - zero[g, n]), g the group of row k.

    qweight      int32 [K/8, N], C order: eight 4-bit levels a word along K, low nibble first
    qzeros       int32 [ceil(K/G), N/8], C order: eight zeros a word along N, low nibble first
    scales       float16 or bfloat16 (ml_dtypes) [ceil(K/G), N], C order
    g_idx        int32 [K], the group of each row; None means row k is in group k // G
    bias         float16, bfloat16 or float32 [N], or None
    group_size   rows in a group, G; -1 (one group of all rows) is kept as K
    zero_format  what the nibbles of `qzeros` mean, see `ZeroFormat`

    The last group is short where G does not divide K. Raises CheckpointError that names the
    tensor, what was expected and what was found. The arrays are kept as they are, not copied.
    """

    qweight: npt.NDArray[np.int32]
    qzeros: npt.NDArray[np.int32]
    scales: Array
    g_idx: npt.NDArray[np.int32] | None = None
    bias: Array | None = None
    group_size: int
    zero_format: ZeroFormat = "v1"

    def __post_init__(self) -> None:
        check_zero_format(self.zero_format)
        _check_array("qweight", self.qweight, 2, _INT32)
        if 0 in self.qweight.shape or self.N % NIBBLES:
            raise CheckpointError(
                f"qweight: expected shape [K/8, N] with N a multiple of {NIBBLES} and neither "
                f"empty, found {list(self.qweight.shape)}"
            )
        object.__setattr__(self, "group_size", effective_group_size(self.group_size, self.K))
        self._check_groups()
        if self.g_idx is not None:
            _check_array("g_idx", self.g_idx, 1, _INT32)
            _check_shape("g_idx", self.g_idx, (self.K,), f"[K], K={self.K} from qweight")
            check_g_idx("g_idx", self.g_idx, self.groups)
        if self.bias is not None:
            _check_array("bias", self.bias, 1, _FLOAT16, BFLOAT16, _FLOAT32)
            _check_shape("bias", self.bias, (self.N,), f"[N], N={self.N} from qweight")
            _check_finite("bias", self.bias)

    def _check_groups(self) -> None:
        source = (
            f"K={self.K} and N={self.N} from qweight, group_size={self.group_size}; "
            "check group_size"
        )
        _check_array("qzeros", self.qzeros, 2, _INT32)
        shape = (self.groups, self.N // NIBBLES)
        _check_shape("qzeros", self.qzeros, shape, f"[ceil(K/group_size), N/8], {source}")
        _check_array("scales", self.scales, 2, _FLOAT16, BFLOAT16)
        shape = (self.groups, self.N)
        _check_shape("scales", self.scales, shape, f"[ceil(K/group_size), N], {source}")
        _check_finite("scales", self.scales)

    @property
    def K(self) -> int:  # noqa: N802  the field's own name
        """Input features: rows of the weight."""
        return int(self.qweight.shape[0]) * NIBBLES

    @property
    def N(self) -> int:  # noqa: N802  the field's own name
        """Output features: columns of the weight."""
        return int(self.qweight.shape[1])

    @property
    def groups(self) -> int:
        """Groups of rows, ceil(K / group_size)."""
        return -(-self.K // self.group_size)

    @cached_property
    def act_order(self) -> bool:
        """Whether `g_idx` orders the rows otherwise than k // group_size."""
        return self.g_idx is not None and is_act_order(self.g_idx, self.group_size)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.qweight, self.qzeros, self.scales, self.g_idx, self.bias)
        return sum(array.nbytes for array in arrays if array is not None)

    def zeros(self) -> npt.NDArray[np.uint8]:
        """True zeros, uint8 [groups, N]: 1..16 for v1, 0..15 otherwise."""
        return decode_zeros(self.qzeros, self.zero_format)

    def dequantize(self) -> npt.NDArray[np.float16]:
        """The weight, float16 [K, N], C order: the reference, act-order included.

        The product `scale * (level - zero)` has at most 16 significant bits, so float32 holds it
        exactly, and it is rounded once, to float16: the bits that the producers' own float16
        readers compute. Bfloat16 scales give a product of at most 12 bits, and of 11, which
        float16 holds exactly, where |level - zero| <= 8, as in symmetric files; rounding that to
        bfloat16 gives the bits of a bfloat16 reader. Raises CheckpointError where a weight is
        beyond float16 (65504), as only scales above 4094 can make it.
        """
        weight = np.empty((self.K, self.N), np.float16)
        scales = self.scales.astype(np.float32)
        zeros = self.zeros().view(np.int8)  # at most 16, so differences fit in int8
        block = max(NIBBLES, _BLOCK_ELEMENTS // self.N // NIBBLES * NIBBLES)
        product = np.empty((min(block, self.K), self.N), np.float32)
        for start in range(0, self.K, block):
            levels = unpack_rows(self.qweight[start // NIBBLES : (start + block) // NIBBLES])
            signed = levels.view(np.int8)
            for first, last, group in self._runs(start, start + signed.shape[0]):
                rows = signed[first - start : last - start]
                rows -= zeros[group]
                np.multiply(rows, scales[group], out=product[first - start : last - start])
            try:
                with np.errstate(over="raise"):
                    weight[start : start + block] = product[: signed.shape[0]]
            except FloatingPointError:
                raise CheckpointError(
                    "scales: expected scale * (level - zero) within float16 (65504), found a "
                    f"larger weight in rows {start}..{start + signed.shape[0] - 1}; the scales "
                    "are not those of a float16 model"
                ) from None
        return weight

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(first, last, group): rows [first, last) of [start, stop) that share a group."""
        group_of_row: Array
        if self.g_idx is None:
            group_of_row = np.arange(start, stop) // self.group_size
        else:
            group_of_row = self.g_idx[start:stop]
        edges = np.flatnonzero(group_of_row[1:] != group_of_row[:-1]) + 1
        bounds = [0, *edges.tolist(), stop - start]
        for first, last in pairwise(bounds):
            yield start + first, start + last, int(group_of_row[first])


def effective_group_size(group_size: int, K: int) -> int:
    """Rows in a group, with -1 resolved to K. Raises CheckpointError for anything else below 1."""
    if isinstance(group_size, bool) or not isinstance(group_size, (int, np.integer)):
        raise CheckpointError(f"group_size: expected an integer, found {group_size!r}")
    if group_size == -1:
        return K
    if group_size < 1:
        raise CheckpointError(
            f"group_size: expected a positive number of rows, or -1 for one group of all rows, "
            f"found {group_size}"
        )
    return int(group_size)


def is_act_order(g_idx: npt.NDArray[np.int32], group_size: int) -> bool:
    """Whether g_idx, int32 [K], differs from arange(K) // group_size."""
    return not np.array_equal(g_idx, np.arange(g_idx.size, dtype=np.int32) // group_size)


def check_g_idx(name: str, g_idx: npt.NDArray[np.int32], groups: int) -> None:
    """Refuse a g_idx, int32 [K], that names a group outside 0..groups-1."""
    low, high = int(g_idx.min()), int(g_idx.max())
    if low < 0 or high >= groups:
        raise CheckpointError(
            f"{name}: expected groups 0..{groups - 1}, as many as scales has rows, found "
            f"{low}..{high}; the tensor is damaged, or group_size is wrong"
        )


def _check_array(name: str, array: object, ndim: int, *dtypes: np.dtype[Any]) -> None:
    if not isinstance(array, np.ndarray):
        raise CheckpointError(
            f"{name}: expected a NumPy array, found {type(array).__name__}; "
            "copy it to the host first"
        )
    if array.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise CheckpointError(
            f"{name}: expected dtype {expected}, found {array.dtype}; convert it before"
        )
    if array.ndim != ndim:
        raise CheckpointError(
            f"{name}: expected {ndim} dimension{'s' if ndim > 1 else ''}, found shape "
            f"{list(array.shape)}"
        )
    if not array.flags.c_contiguous:
        raise CheckpointError(
            f"{name}: expected a C-contiguous array, found strides {array.strides}; "
            "pass np.ascontiguousarray(...)"
        )


def _check_shape(name: str, array: Array, shape: tuple[int, ...], source: str) -> None:
    if array.shape != shape:
        raise CheckpointError(
            f"{name}: expected shape {list(shape)} = {source}; found {list(array.shape)}"
        )


def _check_finite(name: str, array: Array) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        where = np.argwhere(~finite)
        index = [int(i) for i in where[0]]
        raise CheckpointError(
            f"{name}: expected finite numbers, found {len(where)} that are not, the first at "
            f"{index}; the file is damaged or was quantised from a damaged model"
        )
