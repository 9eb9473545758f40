"""The builds of a mixture of experts: routing, the GEMMs of all experts, and their sum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .build import Build, integers
from .models import _build, _dependent, _floats, _optional, _tensor

ARCHIVE = "moe"
EXPERTS = 512  # that a router may have

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
        *integers("argument", "sigmoid", "renormalise"),
        *_floats("scale"),
    ],
    constraints=["E <= BLOCK_E", "top_k <= BLOCK_K", "top_k <= E"],
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
        "span <= 8",
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


def _gemm_params(block: str) -> list[dict[str, Any]]:
    """The parameters of all GEMMs of experts."""
    return [
        _tensor("a", "*T", "cdiv(T, top_k)", "K"),
        _tensor("experts", "*i64", "E", "3 + 3 * GATED"),
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


@dataclass(frozen=True)
class FewTile:
    """Work of a CTA of the GEMM for few rows of each expert: its rows, columns and warps."""

    block_m: int
    block_n: int
    num_warps: int
    group: int = 128
    max_registers: int | None = None
    mark: str = ""


FEW_TILES = [
    FewTile(8, 64, 2),
    FewTile(16, 64, 2),
    FewTile(8, 64, 2, group=32),
    FewTile(16, 64, 2, group=32),
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
            f"m{tile.block_m}n{tile.block_n}w{tile.num_warps}{tile.mark}",
            f"g{tile.group}",
            "gated" if gated else "down",
        ),
        ptx_version="7.4",  # cache hints
        num_warps=tile.num_warps,
        constants={"APART": 0},
        params=_gemm_params("BLOCK_M"),
        constraints=[
            *("N >= 8", "N % 8 == 0", "K >= 8", "K % 8 == 0"),
            *("group_size >= 1", "group_size % GROUP == 0 or group_size >= K"),
            *("stride_am % 8 == 0", "stride_qwk % 4 == 0", "stride_sk % 4 == 0"),
            "zero_bias == 0 or zero_bias == 1",
            "c != 0 or wide != 0",
        ],
        max_registers=tile.max_registers,
    )


@dataclass(frozen=True)
class ManyTile:
    """Work of a CTA of the GEMM for many rows on Hopper; like a WgmmaTile."""

    block_m: int
    block_n: int
    block_k: int
    stages: int
    chunk: int
    num_warps: int = 8
    partitions: int = 1
    group: int = 64
    copy: int = 96
    unit: int = 64
    mark: str = ""


def _many(tile: ManyTile, gated: bool) -> Build:
    return _build(
        "moe_w4a16_gptq_wgmma",
        {
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "UNIT": tile.unit,
            "GROUP": tile.group,
            "GATED": int(gated),
        },
        ("132", "1", "1"),
        archive=ARCHIVE,
        target="sm_90a",
        ptx_version="8.0",
        label=(
            f"m{tile.block_m}u{tile.unit}n{tile.block_n}{tile.mark}",
            f"g{tile.group}",
            "gated" if gated else "down",
        ),
        num_warps=tile.num_warps // tile.partitions,
        constants={
            "STAGES": tile.stages,
            "BAND": 16,
            "CHUNK": min(tile.chunk, tile.group),
            "COPY_REGISTERS": tile.copy if tile.partitions == 1 else 168,
            "PARTITIONS": tile.partitions,
        },
        params=[*_gemm_params("UNIT"), _optional(_tensor("tiles", "*i32", "blocks + 1", align=4))],
        constraints=[
            *("N >= 8", "N % 8 == 0", "K >= 8", "K % 8 == 0"),
            *("group_size >= 1", "group_size % GROUP == 0 or group_size >= K"),
            *("stride_am % 8 == 0", "stride_qwk % 4 == 0", "stride_sk % 8 == 0"),
            "zero_bias == 0 or zero_bias == 1",
            "c != 0 or wide != 0",
        ],
        programmatic=True,
        even_registers=tile.partitions > 1,
    )


FEW = [_few(tile, gated) for gated in (True, False) for tile in FEW_TILES]
_FLOAT16 = [SUM, *FEW]
_FLOAT16 += [_dependent(build) for build in _FLOAT16]
PLAIN = [ROUTE, ALIGN]
MOE = [
    *_FLOAT16,
    *(replace(build, dtype="bfloat16") for build in _FLOAT16),
    *PLAIN,
    *map(_dependent, PLAIN),
]
