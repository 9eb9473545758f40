"""The shipped kernels: the catalogue, the choice among them, and the typed front door."""

from .act_order import launch_act_order
from .catalogue import (
    Artefact,
    act_order,
    artefact,
    canonical,
    choose,
    contiguous_sizes,
    device_name,
    folder,
    launch_config,
    names,
    tuned_name,
    tuning,
)
from .tuning import Tuning, m_class
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
    "Tuning",
    "W4A16Weight",
    "act_order",
    "add_bias",
    "artefact",
    "canonical",
    "choose",
    "contiguous_sizes",
    "device_name",
    "fn_name",
    "folder",
    "launch_act_order",
    "launch_config",
    "launch_w4a16_gptq",
    "m_class",
    "names",
    "tuned_name",
    "tuning",
]
