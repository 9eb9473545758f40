"""The choice among the grouped GEMMs of experts, by how many rows an expert has on average."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..devices import Device
from ..errors import AbiError
from .catalogue import Artefact, builds, of_newest_target

MOST_ROWS = 32  # of a block
_FEW, _MANY = "moe_w4a16_gptq", "moe_w4a16_gptq_wgmma"
_ACT_ORDER = "moe_w4a16_gptq_act_order"
# Rows of an expert up to which the kernel for few is the fastest on an H200, and those up to which
# a tile of the other one is, by the rows of the tile.
_FEW_ROWS = 6
_MANY_ROWS = {64: 40, 256: float("inf")}
# Warps that had better share 32 columns, by the k's from which on and the CTAs of 64 columns below
# which they do; two warps share 64 columns else.
_SHARED_BY = ((8192, 448, 8), (4096, 1024, 4), (0, 256, 4))


@dataclass(frozen=True)
class ExpertTiles:
    """The builds of both halves of an MLP, and the blocks that they want choices sorted into.

    block   rows of a block
    span    blocks of a tile, at the most
    gather  sorts activations into the order of blocks, where the builds want them so; or None
    """

    gate_up: Artefact
    down: Artefact
    block: int
    span: int
    gather: Artefact | None

    def blocks(self, choices: int, experts: int) -> int:
        """The most blocks that so many choices of so many experts can fill."""
        return (choices + min(choices, experts) * (self.block - 1)) // self.block


@dataclass(frozen=True)
class ExpertShape:
    """Sizes of a layer's experts.

    Groups: rows in one, 0 where it is all of K.  act_order: whether each row names its group.
    """

    experts: int
    hidden: int
    width: int
    gate_up_group: int
    down_group: int
    act_order: bool = False


@lru_cache(maxsize=4096)
def choose_expert_tiles(
    device: Device, choices: int, shape: ExpertShape, dtype: str
) -> ExpertTiles:
    """The fastest builds for `choices` rows spread over the experts.

    Raises AbiError where no build takes the groups.
    """
    if shape.act_order:
        halves = [_fitting(device, 0, kernel=_ACT_ORDER, dtype=dtype, GATED=g) for g in (1, 0)]
        return ExpertTiles(halves[0][0], halves[1][0], halves[0][0].fields["BLOCK_M"], 1, None)
    rows = choices / shape.experts
    # On the CPU device, where nobody waits for tensor cores, the kernel for few is as fast.
    if rows > _FEW_ROWS and device.name != "cpu":
        height = next(m for m, most in _MANY_ROWS.items() if rows <= most)
        for block_m in (height, *_MANY_ROWS):
            halves = [
                _fitting(device, group, kernel=_MANY, dtype=dtype, BLOCK_M=block_m, GATED=gated)
                for gated, group in ((1, shape.gate_up_group), (0, shape.down_group))
            ]
            if all(halves):
                (gather,) = _fitting(device, 0, kernel="moe_gather", dtype=dtype)
                gate_up, down = halves[0][0], halves[1][0]
                unit = gate_up.fields["UNIT"]
                return ExpertTiles(gate_up, down, unit, block_m // unit, gather)
    block = 16 if rows > _FEW_ROWS else 8
    touched = shape.experts * (1 - (1 - 1 / shape.experts) ** choices)  # on average
    halves = [
        _few(device, touched, group, columns, deep, kernel=_FEW, dtype=dtype, GATED=gated,
             BLOCK_M=block)
        for gated, group, columns, deep in (
            (1, shape.gate_up_group, 2 * shape.width, shape.hidden),
            (0, shape.down_group, shape.hidden, shape.width),
        )
    ]  # fmt: skip
    if not all(halves):
        groups = (shape.gate_up_group, shape.down_group)
        raise AbiError("group_size", "multiples of 32, or one group of all rows", groups)
    return ExpertTiles(halves[0][0], halves[1][0], block, 1, None)


def _few(
    device: Device, touched: float, group: int, columns: int, deep: int, **fields: Any
) -> list[Artefact]:
    """The builds for few rows, the fastest for so many experts, columns and k's first."""
    found = _fitting(device, group, **fields)
    ctas = touched * -(-columns // 64)
    warps = next((w for least, most, w in _SHARED_BY if deep >= least and ctas < most), None)
    wanted = (32, warps) if warps else (64, 2)
    own = [b for b in found if (b.fields["BLOCK_N"], b.fields["num_warps"]) == wanted]
    return own or [b for b in found if b.fields["num_warps"] == 2]


def _fitting(device: Device, group: int, **fields: Any) -> list[Artefact]:
    """The builds of these fields for the largest groups, of one target."""
    found = [
        build
        for build in builds(**fields)
        if build.runs_on(device) and group % build.fields.get("GROUP", 1) == 0
    ]
    largest = max((build.fields.get("GROUP", 1) for build in found), default=1)
    found = [build for build in found if build.fields.get("GROUP", 1) == largest]
    return of_newest_target(found, device)
