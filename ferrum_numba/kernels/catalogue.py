"""The shipped artefacts, and which of them computes what."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..abi import LaunchConfig, Sidecar, cuda_for_ptx, runs_on
from ..devices import Device, Kernel
from ..errors import AbiError, did_you_mean
from .tuning import CANONICAL, PORTABLE, Tuning

_DTYPES: dict[str, tuple[str, ...]] = {"float16": (), "bfloat16": ("bf16",)}
_ZERO_FORMATS = {1: "v1", 0: "v2"}
# Tiles of the GEMM for activation order by the rows that they are the fastest for, on an H200,
# and the one that takes the most groups.
_ACT_ORDER_TILES = {8: "m8n32w8g256", 32: "m16n32w8g256", sys.maxsize: "m64n32w4g256"}
_ACT_ORDER_MANY_GROUPS = "m16n32w8g1024"
ACT_ORDER_BOUNDS = tuple(_ACT_ORDER_TILES)


@dataclass(frozen=True)
class Artefact:
    """One PTX of ptx/ with its sidecar."""

    name: str
    text: str
    sidecar: Sidecar

    def kernel(self, device: Device) -> Kernel:
        """This artefact, loaded on a device (once)."""
        return device.load_module(self.text, self.sidecar).get_kernel()

    def takes(self, device: Device, sizes: dict[str, int]) -> bool:
        """Whether device and driver run it, and its constraints hold for these integers."""
        capability = getattr(device, "capability", None)
        newest = getattr(device, "cuda_version", None)
        target, version = self.sidecar.target, self.sidecar.ptx_version
        if capability is not None and target is not None and not runs_on(target, capability):
            return False
        if newest is not None and version is not None:
            needed = cuda_for_ptx(version)
            if needed is None or needed > newest:
                return False
        return all(rule(sizes) for rule in self.sidecar.constraints)


def folder() -> Path:
    """Where the artefacts lie: beside the code in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "ptx", package.parent / "ptx"):
        if candidate.is_dir():
            return candidate
    raise AbiError(f"ptx/: expected beside or inside {package}; reinstall ferrum-numba")


def names() -> tuple[str, ...]:
    """The shipped artefacts' names, sorted."""
    return _names(folder())


@lru_cache(maxsize=4)
def _names(where: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in where.glob("*.ptx")))


@lru_cache(maxsize=64)
def artefact(name: str) -> Artefact:
    """A shipped artefact by name.  Raises AbiError for a name that is not shipped."""
    path = folder() / f"{name}.ptx"
    if name not in names():
        hint = did_you_mean(name, names(), "kernels.names() and ferrum-numba info list them")
        raise AbiError(f"kernel: expected the name of a shipped one, found {name!r}; {hint}")
    sidecar = Sidecar.read(path.with_suffix(".json"))
    return Artefact(name, path.read_text(encoding="utf-8"), sidecar)


def canonical(zero_bias: int, dtype: str = "float16") -> Artefact:
    """The canonical GEMM whose zero is the stored nibble + `zero_bias` (1: GPTQ v1, 0: v2)."""
    return _reference("w4a16_gptq_gemm_typed", dtype, _zero_format(zero_bias))


def act_order(zero_bias: int, dtype: str = "float16") -> Artefact:
    """The canonical GEMM for layers whose rows name their groups in `g_idx`."""
    return _reference("w4a16_gptq_gemm_act_order", dtype, _zero_format(zero_bias))


def add_bias_artefact(dtype: str = "float16") -> Artefact:
    """What adds a bias to a GEMM's result."""
    return _reference("add_bias", dtype)


def _reference(kernel: str, dtype: str, *variant: str) -> Artefact:
    """A kernel that is built for each dtype.  Raises AbiError for another dtype."""
    return artefact(".".join([kernel, *_infix(dtype), *variant, "sm_80"]))


def _infix(dtype: str) -> tuple[str, ...]:
    """What a dtype adds to an artefact's name."""
    if dtype not in _DTYPES:
        raise AbiError(f"dtype: expected {' or '.join(_DTYPES)}, found {dtype}")
    return _DTYPES[dtype]


def _zero_format(zero_bias: int) -> str:
    if zero_bias not in _ZERO_FORMATS:
        raise AbiError(f"zero_bias: expected 1 (GPTQ v1) or 0 (GPTQ v2), found {zero_bias}")
    return _ZERO_FORMATS[zero_bias]


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
) -> Artefact:
    """The fastest GEMM for arrays in C order on this device, by the measured table.

    Between shapes that were measured it takes the nearest; where no tuned kernel's constraints
    hold, the canonical one.  Raises AbiError for a dtype that no artefact computes in.
    """
    sizes = contiguous_sizes(M, N, K, group_size)
    for table in (device_name(device), PORTABLE):
        for group in tuning().groups(table):
            if sizes["group_size"] % group and sizes["group_size"] < K:
                continue
            build = tuning().build(table, M, N, K, group)
            if build is None or build == CANONICAL:
                return canonical(zero_bias, dtype)
            name = tuned_name(build, zero_bias, dtype)
            if name in names() and artefact(name).takes(device, sizes):
                return artefact(name)
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
    sizes = contiguous_sizes(M, N, K, K) | {"groups": groups}
    fastest = next(tile for rows, tile in _ACT_ORDER_TILES.items() if rows >= M)
    zeros = _zero_format(zero_bias)
    for variant in ((fastest, "sym" if symmetric else zeros), (_ACT_ORDER_MANY_GROUPS, zeros)):
        chosen = _reference("w4a16_gptq_gemm_act_order_mma", dtype, *variant)
        if chosen.takes(device, sizes):
            return chosen
    return act_order(zero_bias, dtype)


def tuned_name(build: str, zero_bias: int, dtype: str = "float16") -> str:
    """The artefact of a build that the measured table names: "decode.m8n32w8.g128.sm_80", say.

    Raises AbiError for another dtype or zero_bias.
    """
    family, tile, group, target = build.split(".")
    variant = [*_infix(dtype), tile, group, _zero_format(zero_bias), target]
    return ".".join([f"w4a16_gptq_gemm_{family}", *variant])


def device_name(device: Device) -> str:
    """A device's name in the measured table: the GPU's product name, or "cpu"."""
    return str(getattr(device, "product", device.name))


def contiguous_sizes(M: int, N: int, K: int, group_size: int) -> dict[str, int]:
    """The integer arguments of a GEMM whose arrays all lie in C order, in the kernel's order."""
    return {
        "M": M,
        "N": N,
        "K": K,
        "group_size": K if group_size == -1 else group_size,
        "stride_am": K,
        "stride_ak": 1,
        "stride_qwk": N,
        "stride_qwn": 1,
        "stride_sk": N,
        "stride_sn": 1,
        "stride_qzk": N // 8,
        "stride_qzn": 1,
        "stride_cm": N,
        "stride_cn": 1,
    }


def launch_config(sidecar: Sidecar, **sizes: int) -> LaunchConfig:
    """The launch that a sidecar prescribes for these sizes.

    Raises AbiError for a size below 1, and where the sidecar states no grid rule, warps or shared
    memory.
    """
    for name, size in sizes.items():
        if not hasattr(size, "__index__") or size < 1:
            raise AbiError(f"{name}: expected an integer from 1 on, found {size!r:.80}")
    grid = sidecar.grid_for(sizes)
    if grid is None or sidecar.num_warps is None or sidecar.shared_bytes is None:
        raise AbiError(
            f"{sidecar.entry}: the sidecar states no grid, num_warps or shared; "
            "give a LaunchConfig of your own"
        )
    return LaunchConfig(
        grid,
        block=sidecar.num_warps * 32,
        shared_bytes=sidecar.shared_bytes,
        cooperative=sidecar.cooperative,
        programmatic=sidecar.programmatic,
    )
