"""The choice among the grouped GEMMs of experts, by how many rows an expert has on average."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..devices import Device
from ..errors import AbiError
from .catalogue import Artefact, builds, of_newest_target

MOST_ROWS = 32  # of a block
_FEW, _SOME, _MANY = "moe_w4a16_gptq", "moe_w4a16_gptq_mma", "moe_w4a16_gptq_wgmma"
_ACT_ORDER = "moe_w4a16_gptq_act_order"
# Rows of an expert up to which the kernel for few is the fastest on an H200, and the one for some;
# and CTAs of down below which that leaves too many SMs idle, and the one for many takes its place.
_FEW_ROWS, _SOME_ROWS = 6, 24
# Rows of the tiles for many, by the rows of an expert up to which they are the fastest: a tile had
# better hold all of most experts, and be little higher than they are.
_MANY_TILES = ((70, 80), (float("inf"), 256))
_Tile = tuple[str, int]  # a kernel and rows
_SOME_TILE, _HIGHEST_TILE = (_SOME, 32), (_MANY, 256)
_CTAS = 3 * 132
# Columns that had better be shared, and by how many warps, by the k's from which on and the CTAs of
# 64 columns below which they are; two warps share 64 columns else.
_SHARED_BY = (
    (8192, 448, (32, 8)),
    (4096, 448, (32, 4)),
    (4096, 1024, (64, 4)),
    (0, 256, (32, 4)),
)


@dataclass(frozen=True)
class ExpertTiles:
    """The builds of both halves of an MLP, and the blocks that they want choices sorted into.

    block   rows of a block
    span    blocks of a tile, at the most
    gather  sorts activations into the order of blocks, where gate_up wants them so; or None
    """

    gate_up: Artefact
    down: Artefact
    block: int
    span: int
    gather: Artefact | None

    def blocks(self, choices: int, experts: int) -> int:
        """The most blocks that so many choices of so many experts can fill."""
        return (choices + min(choices, experts) * (self.block - 1)) // self.block

    @property
    def sorts(self) -> bool:
        """True if what gate_up makes, and down reads, is in the order of blocks."""
        return str(self.down.fields["kernel"]) == _MANY

    def most(self, choices: int, experts: int) -> int:
        """The most tiles that those blocks can make."""
        touched = min(choices, experts)
        return (self.blocks(choices, experts) + touched * (self.span - 1)) // self.span


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
    tried: list[tuple[_Tile, _Tile]] = []
    if rows > _FEW_ROWS:
        tried = [_fastest(rows, shape), (_SOME_TILE, _SOME_TILE)]
    if rows > _SOME_TILE[1]:
        tried.insert(1, (_HIGHEST_TILE, _HIGHEST_TILE))  # the one that takes any groups
    if device.name == "cpu":
        # wgmma takes long to translate, and in bfloat16 the kernel for few is the fastest.
        tried = tried[-1:] if dtype == "float16" else []
    for tiles in tried:
        found = _of(device, tiles, shape, dtype)
        if found:
            return found
    touched = shape.experts * (1 - (1 - 1 / shape.experts) ** choices)  # on average
    halves = [
        _few(device, touched, group, columns, deep, kernel=_FEW, dtype=dtype, GATED=gated)
        for gated, group, columns, deep in (
            (1, shape.gate_up_group, 2 * shape.width, shape.hidden),
            (0, shape.down_group, shape.hidden, shape.width),
        )
    ]  # fmt: skip
    if not all(halves):
        groups = (shape.gate_up_group, shape.down_group)
        raise AbiError("group_size", "multiples of 32, or one group of all rows", groups)
    return ExpertTiles(halves[0][0], halves[1][0], halves[0][0].fields["BLOCK_M"], 1, None)


def _fastest(rows: float, shape: ExpertShape) -> tuple[_Tile, _Tile]:
    """The tiles of gate_up and of down for more than few rows, on Hopper."""
    if rows > _SOME_ROWS:
        many = (_MANY, next(own for most, own in _MANY_TILES if rows <= most))
        return many, many
    down = shape.experts * -(-shape.hidden // 256)
    return _SOME_TILE, _SOME_TILE if down >= _CTAS else (_MANY, 80)


def _of(
    device: Device, tiles: tuple[_Tile, _Tile], shape: ExpertShape, dtype: str
) -> ExpertTiles | None:
    """The builds with these tiles, if there are such for these groups on the device."""
    found = []
    for (kernel, block_m), gated, group in zip(
        tiles, (1, 0), (shape.gate_up_group, shape.down_group), strict=True
    ):
        fields: dict[str, Any] = {"kernel": kernel, "BLOCK_M": block_m, "GATED": gated}
        if kernel == _SOME:
            fields["SORTED"] = int(tiles[1][0] == _MANY)
        found.append(_fitting(device, group, dtype=dtype, **fields))
    if not all(found):
        return None
    gate_up, down = found[0][0], found[1][0]
    gather = None
    if tiles[0][0] == _MANY:
        (gather,) = _fitting(device, 0, kernel="moe_gather", dtype=dtype)
    unit = gate_up.fields["UNIT"]
    return ExpertTiles(gate_up, down, unit, min(m for _, m in tiles) // unit, gather)


def _few(
    device: Device, touched: float, group: int, columns: int, deep: int, **fields: Any
) -> list[Artefact]:
    """The builds for few rows, the fastest for so many experts, columns and k's first."""
    found = _fitting(device, group, **fields)
    ctas = touched * -(-columns // 64)
    shared = (own for least, most, own in _SHARED_BY if deep >= least and ctas < most)
    wanted = next(shared, (64, 2))
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
