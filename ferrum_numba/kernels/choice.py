"""The choice among the shipped builds: the canonical ones, and the fastest for a shape."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache

from ..devices import Device
from ..errors import AbiError
from .catalogue import Artefact, artefact, contiguous_sizes, find, folder
from .cost import CostModel, of_largest_groups, worth_trying

_DTYPES = ("float16", "bfloat16")
_ACT_ORDER = "w4a16_gptq_gemm_act_order_mma"
# The rows of the tile of the GEMM for activation order, by the rows of c up to which it is the
# fastest on an H200; and the tile that has room for the most groups.
_ACT_ORDER_ROWS = {8: 8, 32: 16, sys.maxsize: 64}
_FEW_GROUPS, _MANY_GROUPS = 256, {"BLOCK_M": 16, "CAPACITY": 1024, "SYMMETRIC": 0}
ACT_ORDER_BOUNDS = tuple(_ACT_ORDER_ROWS)
# Rows are told apart in steps of so many, up to a number of them.
_ROW_STEPS = ((8, 256), (64, 1024), (256, sys.maxsize))
# On the CPU device the other GEMMs' weights in bfloat16 take longer to make than their tiles save,
# and lose digits where they are rounded once they are scaled.
_BFLOAT16_ON_CPU = "w4a16_gptq_gemm_decode"


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
def cost_model() -> CostModel:
    """The model that ships with the artefacts."""
    return CostModel.read(folder() / "w4a16_tuning.json")


def m_class(m: int) -> int:
    """The largest number of rows for which the same build is chosen as for m."""
    step = next((step for step, last in _ROW_STEPS if m <= last), _ROW_STEPS[-1][0])
    return -(-m // step) * step


@dataclass(frozen=True)
class Candidate:
    """A build that takes a launch, and how long it does by the model."""

    build: Artefact
    seconds: float


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
    """The fastest GEMM for arrays in C order on this device, by the cost model (kernels/cost.py).

    Where no tuned kernel's constraints hold it is the canonical one.  wide: whether its result has
    to be float32, which the canonical one does not give; then a tuned one goes first.  The choice
    is the same for all M of an `m_class`.  Raises AbiError for a dtype that no artefact computes
    in.
    """
    shape = (device, m_class(M), N, K, group_size, zero_bias, dtype)
    found = candidates(*shape)
    if wide:  # a tile that is not worth trying, before none
        found += candidates(*shape, any_tile=True)
        found = tuple(candidate for candidate in found if candidate.build.takes_wide)
    return found[0].build if found else canonical(zero_bias, dtype)


@lru_cache(maxsize=4096)
def candidates(
    device: Device,
    M: int,
    N: int,
    K: int,
    group_size: int,
    zero_bias: int,
    dtype: str = "float16",
    any_tile: bool = False,
) -> tuple[Candidate, ...]:
    """The builds that take this launch, the fastest first; a build's like in bfloat16 is taken to
    be as fast, but for the CPU device.  any_tile: those, too, that are not worth trying for M rows.
    Raises AbiError."""
    sizes = contiguous_sizes(M, N, K, group_size) | {"zero_bias": zero_bias, "adds": 0}
    model, name, chip = cost_model(), device_name(device), getattr(device, "chip", None)
    only = _BFLOAT16_ON_CPU if (name, dtype) == ("cpu", "bfloat16") else None
    times = {}
    for build in map(artefact, model.names(name)):
        its = of_dtype(build, dtype, zero_bias)
        tried = its.fields["kernel"] == only if only else any_tile or worth_trying(its, M)
        if tried and its.takes(device, sizes):
            times[its] = model.seconds(name, chip, build, sizes)
    found = [Candidate(build, times[build]) for build in of_largest_groups(times)]
    return tuple(sorted(found, key=lambda candidate: candidate.seconds))


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

    symmetric: whether every true zero is 8.  The choice is the same for all M of an `m_class`.
    Raises AbiError for a dtype that no artefact computes in.
    """
    sizes = contiguous_sizes(M, N, K, K) | {"groups": groups, "zero_bias": zero_bias, "adds": 0}
    rows = next(rows for bound, rows in _ACT_ORDER_ROWS.items() if bound >= M)
    fastest = {"BLOCK_M": rows, "CAPACITY": _FEW_GROUPS, "SYMMETRIC": int(symmetric)}
    for tile in (fastest, _MANY_GROUPS):
        tuned = find(kernel=_ACT_ORDER, dtype=_checked(dtype), **tile)
        if tuned.takes(device, sizes):
            return tuned
    return act_order(zero_bias, dtype)


def of_dtype(build: Artefact, dtype: str, zero_bias: int = 1) -> Artefact:
    """The build of the same kernel, target and tile that computes in another dtype; of a canonical
    one, that for this format of zeros.

    Raises AbiError for a dtype that no artefact computes in.
    """
    if "ZERO_BIAS" in build.fields:
        return _reference(build.fields["kernel"], zero_bias, dtype)
    same = {name: build.fields[name] for name in ("kernel", "target", "num_warps")}
    return find(**same, **(build.sidecar.tile or {}), dtype=_checked(dtype))


def device_name(device: Device) -> str:
    """A device's name in the cost model: the GPU's product name, or "cpu"."""
    return str(getattr(device, "product", device.name))
