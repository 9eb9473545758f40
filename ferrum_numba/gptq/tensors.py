"""The tensors of one GPTQ 4-bit layer in their on-disk layout, checked, and their reference."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .dequantise import dequantize_words
from .packing import NIBBLES
from .zeros import ZeroFormat, check_zero_format, decode_zeros, kernel_words

Array = npt.NDArray[Any]

Axis = Literal["N", "K"]

_MAX_GROUP_SIZE = 2**31 - 1  # kernels take it as 32 bits, and g_idx counts so


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
        _check_array("qweight", self.qweight, 2, "int32")
        if 0 in self.qweight.shape or self.N % NIBBLES:
            raise CheckpointError(
                "qweight",
                f"shape [K/8, N] with N a multiple of {NIBBLES} and neither empty",
                list(self.qweight.shape),
                code="tensor-shape",
            )
        object.__setattr__(self, "group_size", effective_group_size(self.group_size, self.K))
        self._check_groups()
        if self.g_idx is not None:
            _check_array("g_idx", self.g_idx, 1, "int32")
            _check_shape("g_idx", self.g_idx, (self.K,), f"[K], K={self.K} from qweight")
            check_g_idx("g_idx", self.g_idx, self.groups)
        if self.bias is not None:
            _check_array("bias", self.bias, 1, "float16", "bfloat16", "float32")
            _check_shape("bias", self.bias, (self.N,), f"[N], N={self.N} from qweight")
            check_finite("bias", self.bias)

    def _check_groups(self) -> None:
        source = (
            f"K={self.K} and N={self.N} from qweight, group_size={self.group_size}; "
            "check group_size"
        )
        _check_array("qzeros", self.qzeros, 2, "int32")
        shape = (self.groups, self.N // NIBBLES)
        _check_shape("qzeros", self.qzeros, shape, f"[ceil(K/group_size), N/8], {source}")
        _check_array("scales", self.scales, 2, "float16", "bfloat16")
        shape = (self.groups, self.N)
        _check_shape("scales", self.scales, shape, f"[ceil(K/group_size), N], {source}")
        check_finite("scales", self.scales)

    def __repr__(self) -> str:
        more = ["activation order"] * self.act_order + ["bias"] * (self.bias is not None)
        own = "".join(f", {name}" for name in more)
        return (
            f"<GptqTensors K={self.K} N={self.N} group_size={self.group_size}, "
            f"{self.scales.dtype.name} scales, zeros {self.zero_format}{own}>"
        )

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
        """True if `g_idx` orders the rows otherwise than k // group_size."""
        return self.g_idx is not None and is_act_order(self.g_idx, self.group_size)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.qweight, self.qzeros, self.scales, self.g_idx, self.bias)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def zero_bias(self) -> int:
        """Number that a kernel adds to a stored nibble to get the true zero: 1 for v1, 0 for v2.

        Raises CheckpointError where no constant does (a producer's v1 with a zero of 0).
        """
        words, zero_bias = kernel_words(self.qzeros, self.zero_format)
        if words is not self.qzeros:
            raise CheckpointError(
                "qzeros",
                f"{self.zero_format} words with a zero of 0, which no kernel reads as they are",
                remedy="GptqLinear re-encodes them",
            )
        return zero_bias

    def zeros(self) -> npt.NDArray[np.uint8]:
        """True zeros, uint8 [groups, N]: 1..16 for v1, 0..15 otherwise."""
        return decode_zeros(self.qzeros, self.zero_format)

    def dequantize(self, dtype: npt.DTypeLike = np.float16) -> Array:
        """The weight [K, N], C order: the reference, act-order included.

        dtype: float16, bfloat16 or float32. Each weight is scale * (level - zero), rounded once to
        `dtype`: the bits that a reader computes whose model has that dtype. float32 holds every
        product exactly. A bfloat16 reader of asymmetric zeros needs dtype=bfloat16: rounded to
        float16 first, its products of 12 bits would be rounded twice.

        Raises CheckpointError where a weight is beyond `dtype`: for float16 (65504), only scales
        above 4094 can make it so.
        """
        return dequantize_words(
            self.qweight,
            self.zeros(),
            self.scales,
            self.g_idx,
            bits=4,
            group_size=self.group_size,
            dtype=dtype,
        )

    def shard(self, rank: int, world: int, axis: Axis) -> GptqTensors:
        """Part `rank` of `world` equal parts, for tensor parallelism; copies, none shared.

        axis "N" splits the columns (column-parallel): y is the concatenation of the parts' y.
        axis "K" splits the rows (row-parallel): y is the sum of the parts' y, each given its own
        columns of x; so that the bias counts once, rank 0 alone keeps it.

        The dequantised part is the slice of the whole, bit for bit. Along K, rows in order get a
        group size that divides both the part and the old group, and scales repeated where that is
        smaller; with act-order the rows keep their group's number, and every part all groups.

        Raises CheckpointError for a split into parts that are no multiple of 8, or, with
        act-order, whose groups no group size counts.
        """
        if not 0 <= rank < world:
            raise CheckpointError("rank", f"0..{world - 1} (world={world})", rank)
        if axis == "N":
            return self._columns(*_part("N", self.N, rank, world))
        if axis == "K":
            return self._rows(*_part("K", self.K, rank, world))
        raise CheckpointError("axis", "'N' (columns) or 'K' (rows)", f"{axis!r}")

    def _columns(self, first: int, last: int) -> GptqTensors:
        return replace(
            self,
            qweight=self.qweight[:, first:last].copy(),
            qzeros=self.qzeros[:, first // NIBBLES : last // NIBBLES].copy(),
            scales=self.scales[:, first:last].copy(),
            g_idx=None if self.g_idx is None else self.g_idx.copy(),
            bias=None if self.bias is None else self.bias[first:last].copy(),
        )

    def _rows(self, first: int, last: int) -> GptqTensors:
        rows = last - first
        if self.act_order:
            group_size = self._group_size_of_part(rows)
            groups = np.arange(self.groups)
        elif self.groups == 1:
            group_size, groups = rows, np.arange(1)
        else:
            group_size = math.gcd(rows, self.group_size)
            groups = np.arange(first, last, group_size) // self.group_size
        g_idx = None
        if self.g_idx is not None:
            g_idx = self.g_idx[first:last].copy()
            if not self.act_order:
                g_idx = np.arange(rows, dtype=np.int32) // np.int32(group_size)
        return replace(
            self,
            qweight=self.qweight[first // NIBBLES : last // NIBBLES].copy(),
            qzeros=self.qzeros[groups],
            scales=self.scales[groups],
            g_idx=g_idx,
            bias=None if self.bias is None or first else self.bias.copy(),
            group_size=group_size,
        )

    def _group_size_of_part(self, rows: int) -> int:
        """The group size by which `rows` rows make as many groups as the whole layer has.

        With act-order a part's rows can be of any group, so it keeps the scales of all of them,
        and the shape of `scales` is what its group size has to agree with.
        """
        group_size = -(-rows // self.groups)
        if -(-rows // group_size) != self.groups:
            raise CheckpointError(
                "K",
                (
                    f"parts whose rows make {self.groups} groups, as all groups of an act-order "
                    "layer go with every part"
                ),
                f"{rows} rows, which no group size divides so",
                (
                    f"split into a number of parts that divides group_size ({self.group_size}), or "
                    "along N"
                ),
            )
        return group_size


def effective_group_size(group_size: int, K: int) -> int:
    """Rows in a group, with -1 resolved to K. Raises CheckpointError for anything else."""
    if isinstance(group_size, bool) or not isinstance(group_size, (int, np.integer)):
        raise CheckpointError(
            "group_size", "an integer", f"{group_size!r}", code="configuration-wrong"
        )
    if group_size == -1:
        return K
    if not 1 <= group_size <= _MAX_GROUP_SIZE:
        raise CheckpointError(
            "group_size",
            "a positive number of rows that 32 bits hold, or -1 for one group of all rows",
            group_size,
            code="configuration-wrong",
        )
    return int(group_size)


def _part(name: str, size: int, rank: int, world: int) -> tuple[int, int]:
    """(first, last) of part `rank` of `size` rows or columns."""
    part = size // world
    if part * world != size or part % NIBBLES:
        fitting = [n for n in range(2, size // NIBBLES + 1) if size % (n * NIBBLES) == 0]
        raise CheckpointError(
            name,
            f"{world} equal parts of whole words, so multiples of {NIBBLES}",
            f"{name}={size}",
            "it splits into " + (", ".join(map(str, fitting[:12])) or "no such parts"),
        )
    return rank * part, (rank + 1) * part


def is_act_order(g_idx: npt.NDArray[np.int32], group_size: int) -> bool:
    """True if g_idx, int32 [K], differs from arange(K) // group_size."""
    return not np.array_equal(g_idx, in_order(g_idx.size, group_size))


@lru_cache(maxsize=16)
def in_order(K: int, group_size: int) -> npt.NDArray[np.int32]:
    """arange(K) // group_size, int32 [K], read-only: a checkpoint has few such."""
    groups: npt.NDArray[np.int32] = np.arange(K, dtype=np.int32) // np.int32(group_size)
    groups.flags.writeable = False
    return groups


def check_g_idx(name: str, g_idx: npt.NDArray[np.int32], groups: int) -> None:
    """Refuse a g_idx, int32 [K], that names a group outside 0..groups-1."""
    low, high = int(g_idx.min()), int(g_idx.max())
    if low < 0 or high >= groups:
        raise CheckpointError(
            name,
            f"groups 0..{groups - 1}, as many as scales has rows",
            f"{low}..{high}",
            "the tensor is damaged, or group_size is wrong",
            code="tensor-values",
        )


def check_groups_used(name: str, g_idx: npt.NDArray[np.int32], groups: int) -> None:
    """Refuse a g_idx, int32 [K], that leaves groups of the file without a row.

    Producers give each group group_size rows, in any order.  Zeros all over, which some files
    have, mean a tensor that was never filled in, and would read as one group.
    """
    check_g_idx(name, g_idx, groups)
    empty = np.flatnonzero(np.bincount(g_idx, minlength=groups) == 0)
    if empty.size:
        raise CheckpointError(
            name,
            f"rows in each of the groups 0..{groups - 1}",
            f"none in {empty.size} of them, the first is group {empty[0]}",
            (
                "the tensor is damaged or was never filled in: get the whole checkpoint, or, "
                'if the rows are in order, open it with Checkpoint.open(path, g_idx="ignore")'
            ),
            code="tensor-values",
        )


def _check_array(name: str, array: object, ndim: int, *dtypes: str) -> None:
    if not isinstance(array, np.ndarray):
        raise CheckpointError(
            name, "a NumPy array", type(array).__name__, "copy it to the host first"
        )
    if str(array.dtype) not in dtypes:  # whose text names another order of bytes, too
        expected = f"dtype {' or '.join(dtypes)}"
        raise CheckpointError(name, expected, array.dtype, "convert it before", code="tensor-type")
    if array.ndim != ndim:
        raise CheckpointError(
            name,
            f"{ndim} dimension{('s' if ndim > 1 else '')}",
            f"shape {list(array.shape)}",
            code="tensor-shape",
        )
    if not array.flags.c_contiguous:
        raise CheckpointError(
            name,
            "a C-contiguous array",
            f"strides {array.strides}",
            "pass np.ascontiguousarray(...)",
        )


def _check_shape(name: str, array: Array, shape: tuple[int, ...], source: str) -> None:
    if array.shape != shape:
        raise CheckpointError(
            name, f"shape {list(shape)} = {source}", list(array.shape), code="tensor-shape"
        )


# Of halves, whose exponent is all ones where the number is not finite; NumPy converts each.
_NOT_FINITE = {"float16": np.uint16(0x7C00), "bfloat16": np.uint16(0x7F80)}


def _is_finite(array: Array) -> bool:
    limit = _NOT_FINITE.get(str(array.dtype))
    if limit is None or not array.size:
        return bool(np.isfinite(array).all())
    return bool((array.view(np.uint16) & np.uint16(0x7FFF)).max() < limit)


def check_finite(name: str, array: Array) -> None:
    if not _is_finite(array):
        finite = np.isfinite(array)
        where = np.argwhere(~finite)
        index = [int(i) for i in where[0]]
        raise CheckpointError(
            name,
            "finite numbers",
            f"{len(where)} that are not, the first at {index}",
            "the file is damaged or was quantised from a damaged model",
            code="tensor-values",
        )
