"""The choice among the shipped builds: the canonical ones, and the fastest for a shape."""

from __future__ import annotations

import sys
from functools import lru_cache

from ..devices import Device
from ..errors import AbiError
from .catalogue import Artefact, artefact, contiguous_sizes, find, folder
from .tuning import CANONICAL, PORTABLE, Tuning

_DTYPES = ("float16", "bfloat16")
_ACT_ORDER = "w4a16_gptq_gemm_act_order_mma"
# The rows of the tile of the GEMM for activation order, by the rows of c up to which it is the
# fastest on an H200; and the tile that has room for the most groups.
_ACT_ORDER_ROWS = {8: 8, 32: 16, sys.maxsize: 64}
_FEW_GROUPS, _MANY_GROUPS = 256, {"BLOCK_M": 16, "CAPACITY": 1024, "SYMMETRIC": 0}
ACT_ORDER_BOUNDS = tuple(_ACT_ORDER_ROWS)


def canonical(zero_bias: int, dtype: str = "float16") -> Artefact:
    """The canonical GEMM whose zero is the stored nibble + `zero_bias` (1: GPTQ v1, 0: v2)."""
    return _reference("w4a16_gptq_gemm_typed", zero_bias, dtype)


def act_order(zero_bias: int, dtype: str = "float16") -> Artefact:
    """The canonical GEMM for layers whose rows name their groups in `g_idx`."""
    return _reference("w4a16_gptq_gemm_act_order", zero_bias, dtype)


def add_bias_artefact(dtype: str = "float16") -> Artefact:
    """The kernel that adds a bias to a GEMM's result."""
    return find(kernel="add_bias", dtype=_checked(dtype))


def _reference(kernel: str, zero_bias: int, dtype: str) -> Artefact:
    if zero_bias not in (0, 1):
        raise AbiError("zero_bias", "1 (GPTQ v1) or 0 (GPTQ v2)", zero_bias)
    return find(kernel=kernel, dtype=_checked(dtype), ZERO_BIAS=zero_bias)


def _checked(dtype: str) -> str:
    if dtype not in _DTYPES:
        raise AbiError("dtype", " or ".join(_DTYPES), dtype)
    return dtype


@lru_cache(maxsize=1)
def tuning() -> Tuning:
    """The measured table that ships with the artefacts."""
    return Tuning.read(folder() / "w4a16_tuning.json")


@lru_cache(maxsize=4096)
def choose(
    device: Device,
    M: int,
    N: int,
    K: int,
    group_size: int,
    zero_bias: int,
    dtype: str = "float16",
    wide: bool = False,
) -> Artefact:
    """The fastest GEMM for arrays in C order on this device, by the measured table.

    Between shapes that were measured it takes the nearest; where no tuned kernel's constraints
    hold, the canonical one.  wide: whether its result has to be float32, which the canonical one
    does not give; then a tuned one goes first.  Raises AbiError for a dtype that no artefact
    computes in.
    """
    sizes = contiguous_sizes(M, N, K, group_size) | {"zero_bias": zero_bias, "adds": 0}
    for table in (device_name(device), PORTABLE):
        for group in tuning().groups(table):
            if sizes["group_size"] % group and sizes["group_size"] < K:
                continue
            build = tuning().build(table, M, N, K, group)
            if build == CANONICAL and wide:
                continue
            if build is None or build == CANONICAL:
                return canonical(zero_bias, dtype)
            tuned = of_dtype(artefact(build), dtype)
            if tuned.takes(device, sizes):
                return tuned
    return canonical(zero_bias, dtype)


@lru_cache(maxsize=4096)
def choose_act_order(
    device: Device,
    M: int,
    N: int,
    K: int,
    groups: int,
    zero_bias: int,
    dtype: str = "float16",
    symmetric: bool = False,
) -> Artefact:
    """The fastest GEMM for layers whose rows name their groups, for arrays in C order.

    symmetric: whether every true zero is 8.  The choice is the same for all M between two of
    ACT_ORDER_BOUNDS.  Raises AbiError for a dtype that no artefact computes in.
    """
    sizes = contiguous_sizes(M, N, K, K) | {"groups": groups, "zero_bias": zero_bias, "adds": 0}
    rows = next(rows for bound, rows in _ACT_ORDER_ROWS.items() if bound >= M)
    fastest = {"BLOCK_M": rows, "CAPACITY": _FEW_GROUPS, "SYMMETRIC": int(symmetric)}
    for tile in (fastest, _MANY_GROUPS):
        tuned = find(kernel=_ACT_ORDER, dtype=_checked(dtype), **tile)
        if tuned.takes(device, sizes):
            return tuned
    return act_order(zero_bias, dtype)


def of_dtype(build: Artefact, dtype: str) -> Artefact:
    """The build of the same kernel, target and tile that computes in another dtype.

    Raises AbiError for a dtype that no artefact computes in.
    """
    same = {name: build.fields[name] for name in ("kernel", "target", "num_warps")}
    return find(**same, **(build.sidecar.tile or {}), dtype=_checked(dtype))


def device_name(device: Device) -> str:
    """A device's name in the measured table: the GPU's product name, or "cpu"."""
    return str(getattr(device, "product", device.name))
