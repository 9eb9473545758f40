"""The shipped kernels: the catalogue, and the typed front door of the canonical GEMM."""

from .catalogue import Artefact, artefact, canonical, folder, launch_config, names
from .w4a16 import (
    BK,
    BM,
    BN,
    W4A16_PTX,
    W4A16_SIDECAR,
    PackedWeight,
    W4A16Weight,
    add_bias,
    fn_name,
    launch_w4a16_gptq,
)

__all__ = [
    "BK",
    "BM",
    "BN",
    "W4A16_PTX",
    "W4A16_SIDECAR",
    "Artefact",
    "PackedWeight",
    "W4A16Weight",
    "add_bias",
    "artefact",
    "canonical",
    "fn_name",
    "folder",
    "launch_config",
    "launch_w4a16_gptq",
    "names",
]
