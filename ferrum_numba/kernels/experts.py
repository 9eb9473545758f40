"""The choice among the grouped GEMMs of experts, by how many rows an expert has on average."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..devices import Device
from ..errors import AbiError
from .catalogue import Artefact, builds

_FEW, _MANY = "moe_w4a16_gptq", "moe_w4a16_gptq_wgmma"
# Rows of an expert up to which a tile is the fastest on an H200; where a device has no such build,
# the next one that it has.
_TILES: tuple[tuple[float, str, Mapping[str, int]], ...] = (
    (4, _FEW, {"BLOCK_M": 8}),
    (sys.maxsize, _FEW, {"BLOCK_M": 16}),
)


@dataclass(frozen=True)
class ExpertTiles:
    """The builds of both halves of an MLP, and the blocks that they want choices sorted into.

    block  rows of a block
    span   blocks of a tile, at the most
    """

    gate_up: Artefact
    down: Artefact
    block: int
    span: int

    def blocks(self, choices: int, experts: int) -> int:
        """The most blocks that so many choices of so many experts can fill."""
        return (choices + min(choices, experts) * (self.block - 1)) // self.block


@lru_cache(maxsize=4096)
def choose_expert_tiles(
    device: Device, choices: int, experts: int, groups: tuple[int, int], dtype: str
) -> ExpertTiles:
    """The fastest builds for `choices` rows spread over `experts`.

    groups: rows in a group of gate and up, and of down; 0 where a group is all of K.  Raises
    AbiError where no build takes them.
    """
    for bound, kernel, fields in _TILES:
        if choices <= bound * experts:
            gate_up, down = (
                _build(device, group, kernel=kernel, dtype=dtype, GATED=gated, **fields)
                for gated, group in zip((1, 0), groups, strict=True)
            )
            if gate_up and down:
                block = gate_up.fields.get("UNIT", gate_up.fields["BLOCK_M"])
                return ExpertTiles(gate_up, down, block, gate_up.fields["BLOCK_M"] // block)
    raise AbiError("group_size", "multiples of 32, or one group of all rows", groups)


def _build(device: Device, group: int, **fields: Any) -> Artefact | None:
    """The build of these fields for the largest groups, on a GPU of the newest target."""
    fitting = [
        build
        for build in builds(**fields)
        if build.runs_on(device) and group % build.fields["GROUP"] == 0
    ]
    newest = 0 if device.name == "cpu" else -1  # sm_80 is the shortest to translate
    fitting.sort(key=lambda build: (build.fields["GROUP"], str(build.sidecar.target)))
    large = [b for b in fitting if b.fields["GROUP"] == fitting[-1].fields["GROUP"]]
    return large[newest] if large else None
