"""Damage, for tests of readers: what goes wrong with checkpoints, by name.

Each fault alters files on disk, and none of them more than one thing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ...errors import CheckpointError
from .configuration import CONFIGURATION_FAULTS
from .editing import Fault, Target
from .header import HEADER_FAULTS
from .layer import LAYER_FAULTS
from .placement import PLACEMENT_FAULTS

FAULTS: Mapping[str, Fault] = {
    **HEADER_FAULTS,
    **PLACEMENT_FAULTS,
    **CONFIGURATION_FAULTS,
    **LAYER_FAULTS,
}
"""name -> fault; `Fault.what` says in a line what it does."""


def apply_fault(folder: str | os.PathLike[str], name: str) -> str:
    """Damage the checkpoint in `folder` by the fault `name`; returns the layer that it meets.

    That is the first q_proj, or else the first layer. Raises CheckpointError for an unknown name,
    or for a checkpoint that the fault does not fit.
    """
    if name not in FAULTS:
        raise CheckpointError("fault", f"one of {', '.join(FAULTS)}", f"{name!r}")
    target = Target.find(Path(folder))
    FAULTS[name].apply(target)
    return target.layer


__all__ = ["FAULTS", "Fault", "apply_fault"]
