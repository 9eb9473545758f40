"""The shipped kernels: the catalogue, the choice among them, and the typed front door."""

from .act_order import prepare_act_order
from .catalogue import (
    ALIGN,
    Artefact,
    artefact,
    builds,
    contiguous_sizes,
    find,
    folder,
    launch_config,
    names,
)
from .choice import (
    ACT_ORDER_BOUNDS,
    act_order,
    canonical,
    choose,
    choose_act_order,
    device_name,
    of_dtype,
    tuning,
)
from .experts import ExpertTiles, choose_expert_tiles
from .repeated import Launches, launches_on
from .together import load_together
from .tuning import Tuning, m_class
from .w4a16 import (
    BK,
    BM,
    BN,
    W4A16_PTX,
    W4A16_SIDECAR,
    PackedWeight,
    W4A16Weight,
    fn_name,
    launch_w4a16_gptq,
    prepare_add_bias,
    prepare_w4a16_gptq,
    takes_bias,
)

__all__ = [
    "ACT_ORDER_BOUNDS",
    "ALIGN",
    "BK",
    "BM",
    "BN",
    "W4A16_PTX",
    "W4A16_SIDECAR",
    "Artefact",
    "ExpertTiles",
    "Launches",
    "PackedWeight",
    "Tuning",
    "W4A16Weight",
    "act_order",
    "artefact",
    "builds",
    "canonical",
    "choose",
    "choose_act_order",
    "choose_expert_tiles",
    "contiguous_sizes",
    "device_name",
    "find",
    "fn_name",
    "folder",
    "launch_config",
    "launch_w4a16_gptq",
    "launches_on",
    "load_together",
    "m_class",
    "names",
    "of_dtype",
    "prepare_act_order",
    "prepare_add_bias",
    "prepare_w4a16_gptq",
    "takes_bias",
    "tuning",
]
