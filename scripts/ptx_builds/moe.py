"""The builds of a mixture of experts: routing, the GEMMs of all experts, and their sum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .build import Build, array, integers, tensor_map
from .models import _build, _dependent, _floats, _optional, _tensor

ARCHIVE = "moe"
EXPERTS = 512  # that a router may have
_SMS = 132  # of an H200; elsewhere only the speed suffers

ROUTE = _build(
    "moe_route",
    {"BLOCK_E": EXPERTS, "BLOCK_K": 32},
    ("M", "1", "1"),
    archive=ARCHIVE,
    num_warps=1,
    params=[
        _tensor("logits", "*fp32", "M", "E"),
        _optional(_tensor("bias", "*fp32", "E")),
        _tensor("weights", "*fp32", "M", "top_k", role="output"),
        _tensor("ids", "*i32", "M", "top_k", role="output"),
        *integers("size", "M", "E", "top_k"),
        *integers("argument", "sigmoid", "renormalise", "groups", "top_groups", "group_best"),
        *_floats("scale"),
    ],
    constraints=[
        *("E <= BLOCK_E", "top_k <= BLOCK_K", "groups >= 1", "groups <= BLOCK_K"),
        *("E % groups == 0", "top_groups >= 1", "top_groups <= groups", "group_best >= 1"),
        "group_best * groups <= E",
        "top_k * groups <= E * top_groups",
    ],
)
ALIGN = _build(
    "moe_align",
    {"BLOCK": 1024, "BLOCK_E": EXPERTS},
    ("E", "1", "1"),
    archive=ARCHIVE,
    params=[
        _tensor("topk_ids", "*i32", "T"),
        _tensor("sorted_token_ids", "*i32", "blocks * block", role="argument"),
        _tensor("expert_ids", "*i32", "blocks", role="argument"),
        _tensor("num_tokens_post_padded", "*i32", "1", role="argument"),
        _optional(_tensor("tiles", "*i32", "blocks + 1", role="argument", align=4)),
        *integers("size", "T", "E", "block", "blocks"),
        *integers("argument", "span"),
    ],
    constraints=[
        "E <= BLOCK_E",
        "span >= 1",
        "span <= 15",
        "blocks >= (min(T, E) * (block - 1) + T) // block",
    ],
)
SUM = _build(
    "moe_sum",
    {"BLOCK": 512},
    ("M", "cdiv(H, BLOCK)", "1"),
    archive=ARCHIVE,
    params=[
        _tensor("x", "*fp32", "M", "H", role="argument"),
        _tensor("parts", "*fp32", "M * top_k", "H"),
        _optional(_tensor("shared", "*T", "M", "H")),
        _optional(_tensor("gate", "*fp32", "M")),
        *integers("size", "M", "H", "top_k"),
    ],
    constraints=["H % 8 == 0"],
)


GATHER = _build(
    "moe_gather",
    {"ROWS": 4, "BLOCK": 1024},
    ("cdiv(P, ROWS)", "cdiv(cdiv(K, 32) * 32, BLOCK)", "1"),
    archive=ARCHIVE,
    params=[
        _tensor("a", "*T", "cdiv(T, top_k)", "K"),
        _tensor("sorted_token_ids", "*i32", "P"),
        _tensor("num_tokens_post_padded", "*i32", "1", align=4),
        _tensor("rows", "*T", "P", "cdiv(K, 32) * 32", role="argument"),
        *integers("size", "T", "P", "K", "top_k"),
    ],
    constraints=["K % 8 == 0"],
)


def _gemm_params(block: str, addresses: str = "3 + 3 * GATED") -> list[dict[str, Any]]:
    """The parameters of all GEMMs of experts, with so many addresses of each."""
    return [
        _tensor("a", "*T", "cdiv(T, top_k)", "K"),
        _tensor("experts", "*i64", "E", addresses),
        _tensor("sorted_token_ids", "*i32", f"blocks * {block}"),
        _tensor("expert_ids", "*i32", "blocks"),
        _tensor("num_tokens_post_padded", "*i32", "1", align=4),
        _optional(_tensor("weights", "*fp32", "T")),
        _optional(_tensor("c", "*T", "T", "N", role="output")),
        _optional(_tensor("wide", "*fp32", "T", "N", role="argument")),
        *integers("size", "T", "N", "K", "E", "group_size", "top_k", "blocks"),
        *integers("stride", "stride_am", "stride_qwk", "stride_sk", "stride_qzk"),
        *integers("argument", "zero_bias"),
    ]


_TILES = _optional(_tensor("tiles", "*i32", "blocks + 1", align=4))
_ANY = [
    *("N >= 8", "N % 8 == 0", "K >= 8", "K % 8 == 0", "group_size >= 1"),
    *("stride_am % 8 == 0", "stride_qwk % 4 == 0"),
    "zero_bias == 0 or zero_bias == 1",
    "c != 0 or wide != 0",
]
_CONSTRAINTS = [*_ANY, "group_size % GROUP == 0 or group_size >= K"]


def _size_bits(sizes: Iterable[int]) -> int:
    """Numbers of blocks as SIZES has them."""
    return sum(1 << size for size in sizes)


@dataclass(frozen=True)
class FewTile:
    """Work of a CTA of the GEMM for few rows of each expert: its rows, columns and warps.

    portable, dependent: whether there is a build for every GPU, and one for Hopper that starts
    while the launch ahead of it still runs.
    """

    block_m: int
    block_n: int
    num_warps: int
    group: int = 128
    max_registers: int | None = None
    portable: bool = True
    dependent: bool = True


FEW_TILES = [
    FewTile(8, 64, 2, max_registers=168),
    FewTile(8, 64, 4, max_registers=168, portable=False),
    FewTile(8, 32, 4, portable=False),
    FewTile(8, 32, 8, portable=False),
    FewTile(8, 64, 2, group=32),
]


def _few(tile: FewTile, gated: bool) -> Build:
    return _build(
        "moe_w4a16_gptq",
        {
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": 128,
            "GROUP": tile.group,
            "GATED": int(gated),
        },
        ("cdiv(N * (GATED + 1), BLOCK_N)", "blocks", "1"),
        archive=ARCHIVE,
        label=(
            f"m{tile.block_m}n{tile.block_n}w{tile.num_warps}",
            f"g{tile.group}",
            "gated" if gated else "down",
        ),
        ptx_version="7.4",  # cache hints
        num_warps=tile.num_warps,
        constants={"APART": 0},
        params=_gemm_params("BLOCK_M"),
        constraints=[*_CONSTRAINTS, "stride_sk % 4 == 0"],
        max_registers=tile.max_registers,
    )


def _act_order(gated: bool) -> Build:
    tile = {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64, "GATED": int(gated)}
    return _build(
        "moe_w4a16_gptq_act_order",
        tile,
        ("cdiv(N, BLOCK_N)", "blocks", "1"),
        archive=ARCHIVE,
        label=("m16n64", "gated" if gated else "down"),
        params=_gemm_params("BLOCK_M", "4 + 4 * GATED"),
        constraints=_ANY,
    )


@dataclass(frozen=True)
class ManyTile:
    """Work of a CTA of the GEMM for many rows on Hopper: its rows, columns and the stages of its
    ring.

    unit: rows of a block, of which a tile has up to block_m / unit.
    sizes: numbers of blocks that are multiplied together.  With more of them ptxas finds no
    registers for the products (its remark C7512).
    box, more: rows of activations that are copied at once; `more` where a tile has so many.
    """

    block_m: int
    unit: int
    block_n: int
    stages: int
    sizes: tuple[int, ...]
    more: int
    group: int = 128
    box: int = 32
    copy_registers: int = 56


MANY_TILES = [
    ManyTile(80, 8, 256, 5, (4, 8, 10), more=64),
    ManyTile(256, 32, 128, 3, (5, 6, 8), more=128),
    ManyTile(256, 32, 128, 3, (4, 8), more=128, group=32),
]


def _results(there: str) -> dict[str, dict[str, Any]]:
    """Of a GEMM's results, which are in the order of blocks, columns padded, where `there` is 1."""
    shape = (
        f"T + (blocks * UNIT - T) * {there}",
        f"N + (cdiv(N, 32) * 32 - N) * {there}",
    )
    return {
        "c": _optional(_tensor("c", "*T", *shape, role="argument")),
        "wide": _optional(_tensor("wide", "*fp32", *shape, role="argument")),
    }


# Maps of a go by its declared stride.
_ROWS = array("a", "*T", ["blocks * UNIT", "cdiv(K, 32) * 32"], ["stride_am", "1"])
_SORTED = {"a": _ROWS | {"align": 16}, **_results("GATED")}


def _many(tile: ManyTile, gated: bool) -> Build:
    return _build(
        "moe_w4a16_gptq_wgmma",
        {
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": 128,
            "UNIT": tile.unit,
            "CTAS": _SMS,
            "GROUP": tile.group,
            "GATED": int(gated),
            "BOX": tile.box,
            "MORE": tile.more,
        },
        ("CTAS", "1", "1"),
        archive=ARCHIVE,
        target="sm_90a",
        ptx_version="8.6",  # before it, assemblers differ in what the stride of a tensor map means
        label=(
            f"m{tile.block_m}u{tile.unit}n{tile.block_n}",
            f"g{tile.group}",
            "gated" if gated else "down",
        ),
        num_warps=8,
        constants={
            "STAGES": tile.stages,
            "BAND": 16,
            "COPY_REGISTERS": tile.copy_registers,
            "SIZES": _size_bits(tile.sizes),
        },
        params=[
            *(_SORTED.get(p["name"], p) for p in _gemm_params("UNIT")),
            _TILES,
            *tensor_map("few_map", "a", "BOX", "64"),
            *tensor_map("more_map", "a", "MORE", "64"),
        ],
        constraints=[*_CONSTRAINTS, "stride_sk % 8 == 0"],
        programmatic=True,
        own_order=True,
    )


@dataclass(frozen=True)
class SomeTile:
    """Work of a CTA of the GEMM for some rows of each expert: its columns, warps and registers.

    sizes: numbers of blocks of 8 rows that are multiplied together.
    hopper: whether it is for Hopper, and starts while the launch ahead of it still runs.
    """

    sizes: tuple[int, ...]
    block_n: int
    num_warps: int
    group: int = 128
    max_registers: int | None = None
    hopper: bool = True


SOME_TILES = [
    SomeTile((2, 3, 4), 256, 4, max_registers=168),
    SomeTile((2, 4), 128, 4, group=32, hopper=False),
]


def _some(tile: SomeTile, gated: bool, in_order: bool = False) -> Build:
    """in_order: whether results are sorted as the GEMM for many rows reads them."""
    build = _build(
        "moe_w4a16_gptq_mma",
        {
            "BLOCK_M": 32,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": 64,
            "UNIT": 8,
            "GROUP": tile.group,
            "GATED": int(gated),
            "SORTED": int(in_order),
        },
        ("cdiv(N * (GATED + 1), BLOCK_N)", "lines", "1"),
        archive=ARCHIVE,
        label=(
            f"m32n{tile.block_n}",
            f"g{tile.group}",
            ("gated" if gated else "down") + ("_sorted" if in_order else ""),
        ),
        ptx_version="7.4",  # cache hints
        num_warps=tile.num_warps,
        constants={"STAGES": 4, "SIZES": _size_bits(tile.sizes)},
        params=[
            *(_results("SORTED").get(p["name"], p) for p in _gemm_params("UNIT")),
            _TILES,
            *integers("size", "lines"),
        ],
        constraints=[*_CONSTRAINTS, "stride_sk % 8 == 0", "lines * (BLOCK_M // UNIT) >= blocks"],
        max_registers=tile.max_registers,
    )
    return _dependent_late(build) if tile.hopper else build


def _dependent_late(build: Build) -> Build:
    """The build for Hopper, whose next launch starts when the products are done."""
    build = _dependent(build)
    return replace(build, constants=build.constants | {"DEPENDENT": 2})


_GATED = (True, False)
FEW = [_few(tile, gated) for tile in FEW_TILES for gated in _GATED if tile.portable]
FEW += [
    _dependent_late(_few(tile, gated)) for tile in FEW_TILES for gated in _GATED if tile.dependent
]
MANY = [_many(tile, gated) for tile in MANY_TILES for gated in _GATED]
SOME = [_some(tile, gated) for tile in SOME_TILES for gated in _GATED]
SOME += [_some(tile, gated=True, in_order=True) for tile in SOME_TILES if tile.hopper]
ACT_ORDER = [_act_order(gated) for gated in _GATED]
FLOAT16 = [GATHER, SUM, _dependent(GATHER), _dependent(SUM), *FEW, *SOME, *MANY, *ACT_ORDER]
PLAIN = [ROUTE, ALIGN]
MOE = [
    *FLOAT16,
    *(replace(build, dtype="bfloat16") for build in FLOAT16),
    *PLAIN,
    *map(_dependent, PLAIN),
]
