"""The shipped artefacts, and which of them computes what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..abi import LaunchConfig, Sidecar
from ..devices import Device, Kernel
from ..errors import AbiError


@dataclass(frozen=True)
class Artefact:
    """One PTX of ptx/ with its sidecar."""

    name: str
    text: str
    sidecar: Sidecar

    def kernel(self, device: Device) -> Kernel:
        """This artefact, loaded on a device (once)."""
        return device.load_module(self.text, self.sidecar).get_kernel()


def folder() -> Path:
    """Where the artefacts lie: beside the code in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "ptx", package.parent / "ptx"):
        if candidate.is_dir():
            return candidate
    raise AbiError(f"ptx/: expected beside or inside {package}; reinstall ferrum-numba")


def names() -> list[str]:
    """The shipped artefacts' names."""
    return sorted(path.stem for path in folder().glob("*.ptx"))


@lru_cache(maxsize=64)
def artefact(name: str) -> Artefact:
    """A shipped artefact by name.  Raises AbiError for a name that is not shipped."""
    path = folder() / f"{name}.ptx"
    if name not in names():
        raise AbiError(f"artefact {name!r}: not shipped; there are {', '.join(names())}")
    sidecar = Sidecar.read(path.with_suffix(".json"))
    return Artefact(name, path.read_text(encoding="utf-8"), sidecar)


def canonical(zero_bias: int) -> Artefact:
    """The canonical GEMM whose zero is the stored nibble + `zero_bias` (1: GPTQ v1, 0: v2)."""
    versions = {1: "v1", 0: "v2"}
    if zero_bias not in versions:
        raise AbiError(f"zero_bias: expected 1 (GPTQ v1) or 0 (GPTQ v2), found {zero_bias}")
    return artefact(f"w4a16_gptq_gemm_typed.{versions[zero_bias]}.sm_80")


def launch_config(sidecar: Sidecar, **sizes: int) -> LaunchConfig:
    """The launch that a sidecar prescribes for these sizes.

    Raises AbiError where the sidecar states no grid rule, warps or shared memory.
    """
    grid = sidecar.grid_for(sizes)
    if grid is None or sidecar.num_warps is None or sidecar.shared_bytes is None:
        raise AbiError(
            f"{sidecar.entry}: the sidecar states no grid, num_warps or shared; "
            "give a LaunchConfig of your own"
        )
    return LaunchConfig(grid, block=sidecar.num_warps * 32, shared_bytes=sidecar.shared_bytes)
