"""The builds of the W4A16 GEMMs, and of what adds a bias to their results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .build import Build, aligned, array, derived, integers, owned, tensor_map

PARAMS = [
    array("a", "*T", ["M", "K"], ["stride_am", "stride_ak"]),
    array("qweight", "*i32", ["K // 8", "N"], ["stride_qwk", "stride_qwn"]),
    array("scales", "*T", ["cdiv(K, group_size)", "N"], ["stride_sk", "stride_sn"]),
    array("qzeros", "*i32", ["cdiv(K, group_size)", "N // 8"], ["stride_qzk", "stride_qzn"]),
    array("c", "*T", ["M", "N"], ["stride_cm", "stride_cn"], role="output"),
    *integers("size", "M", "N", "K", "group_size"),
    *integers("stride", "stride_am", "stride_ak", "stride_qwk", "stride_qwn"),
    *integers("stride", "stride_sk", "stride_sn", "stride_qzk", "stride_qzn"),
    *integers("stride", "stride_cm", "stride_cn"),
]
# What the tuned kernels take besides: what is added to the result, and to each stored zero; and
# where the result goes as float32 in place of c, set there or added.
EXTRAS = [
    array("bias", "*T", ["N"], ["1"]) | {"nullable": True},
    *integers("argument", "zero_bias"),
    array("wide", "*fp32", ["M", "N"], ["N", "1"], role="argument")
    | {"nullable": True, "align": 16},
    *integers("argument", "adds"),
]
SIZES = ["M >= 1", "N >= 8", "N % 8 == 0", "K >= 8", "K % 8 == 0"]
UNIT_STRIDES = [f"{name} == 1" for name in ("stride_ak", "stride_qwn", "stride_sn", "stride_qzn")]
TUNED = [
    *UNIT_STRIDES,
    "zero_bias == 0 or zero_bias == 1",
    "adds == 0 or adds == 1",
    "c != 0 or wide != 0",
]
GROUPS = ["group_size >= 1", "group_size % GROUP == 0 or group_size >= K"]
ZERO_FORMATS = {"v1": 1, "v2": 0}


def _tuned(params: list[dict[str, Any]], *aligned_names: str) -> list[dict[str, Any]]:
    """The parameters of a tuned kernel: those arrays aligned, c left out where `wide` is given."""
    params = aligned(params, 16, *aligned_names)
    return [*(p | {"nullable": True} if p["name"] == "c" else p for p in params), *EXTRAS]


def _bfloat16(build: Build) -> Build:
    """The same build for bfloat16 activations, scales and results."""
    apart = {"APART": 0} if "APART" in build.constants else {}  # bfloat16 has no room for it
    return replace(build, dtype="bfloat16", constants=build.constants | apart)


def _canonical(zero_format: str, zero_bias: int) -> Build:
    return Build(
        kernel="w4a16_gptq_gemm_typed",
        archive=None,
        label=(zero_format,),
        dtype="float16",
        target="sm_80",
        ptx_version="7.0",
        num_warps=4,
        tile={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32},
        constants={"ZERO_BIAS": zero_bias},
        params=PARAMS,
        grid=["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"],
        constraints=[*SIZES, "group_size >= 8", "group_size % 8 == 0"],
    )


def _act_order_params() -> list[dict[str, Any]]:
    """The canonical ones, but with `g_idx`, and `groups` in place of group_size."""
    a, qweight, _, _, c, *rest = PARAMS
    return [
        a,
        qweight,
        array("scales", "*T", ["groups", "N"], ["stride_sk", "stride_sn"]),
        array("qzeros", "*i32", ["groups", "N // 8"], ["stride_qzk", "stride_qzn"]),
        array("g_idx", "*i32", ["K"], ["1"]),
        c,
        *(p | {"name": "groups"} if p["name"] == "group_size" else p for p in rest),
    ]


def _act_order(zero_format: str, zero_bias: int) -> Build:
    return replace(
        _canonical(zero_format, zero_bias),
        kernel="w4a16_gptq_gemm_act_order",
        archive="w4a16_gptq_gemm_act_order",
        params=_act_order_params(),
        constraints=[*SIZES, "groups >= 1"],
    )


@dataclass(frozen=True)
class DecodeTile:
    """Work of a CTA of the decode kernel: its rows and columns of c, its warps.

    dependent: whether some shape runs faster with programmatic launches, and when the build lets
    the next launch start: 1 at once, 2 when its products are done; None: there is no such build.
    portable: whether there is a build for sm_80.
    """

    block_m: int
    block_n: int
    num_warps: int
    dependent: int | None = None
    max_registers: int | None = None
    portable: bool = True


# 128 registers let 16 warps share an SM, 168 let 12.
DECODE_TILES = {
    128: [
        DecodeTile(8, 32, 4, dependent=2, max_registers=128),
        DecodeTile(8, 32, 8, dependent=1, max_registers=128),
        DecodeTile(8, 32, 16, dependent=1, portable=False),
        DecodeTile(8, 64, 4, max_registers=168),
        DecodeTile(16, 32, 8, dependent=1),
        DecodeTile(16, 64, 4),
        DecodeTile(16, 64, 8, dependent=1, portable=False),
    ],
    64: [
        DecodeTile(8, 32, 4, dependent=2, max_registers=128, portable=False),
        DecodeTile(8, 32, 8, dependent=1, max_registers=128, portable=False),
        DecodeTile(8, 32, 16, dependent=1, portable=False),
        DecodeTile(16, 32, 8, dependent=1, portable=False),
    ],
    32: [
        DecodeTile(8, 32, 4),
        DecodeTile(8, 32, 8, dependent=1, portable=False),
        DecodeTile(16, 32, 4),
        DecodeTile(16, 32, 8, dependent=1, portable=False),
    ],
}


def _decode(tile: DecodeTile, group: int) -> Build:
    return Build(
        kernel="w4a16_gptq_gemm_decode",
        archive="w4a16_gptq_gemm_decode",
        label=(f"m{tile.block_m}n{tile.block_n}w{tile.num_warps}", f"g{group}"),
        dtype="float16",
        target="sm_80",
        ptx_version="7.4",  # cache hints
        num_warps=tile.num_warps,
        tile={"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": 128, "GROUP": group},
        constants={"APART": int(tile.block_m * tile.block_n == 256)},
        params=_tuned(PARAMS, "a", "qweight", "scales"),
        grid=["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"],
        constraints=[
            *SIZES,
            *GROUPS,
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 4 == 0",
            *TUNED,
        ],
        max_registers=tile.max_registers,
    )


@dataclass(frozen=True)
class MmaTile:
    """Work of a CTA of the GEMM for more rows, and the rough number of CTAs that run at once."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    stages: int
    ctas: int
    warps_k: int = 1


def _with_dependent(build: Build, tile: DecodeTile) -> list[Build]:
    """A build, and the same to be launched while the launch ahead of it still runs."""
    if tile.dependent is None:
        return [build]
    dependent = replace(
        build,
        target="sm_90",
        ptx_version="8.0",  # of the sm_90a that Triton compiles for; griddepcontrol needs 7.8
        constants=build.constants | {"DEPENDENT": tile.dependent},
        programmatic=True,
    )
    return [build, dependent] if tile.portable else [dependent]


_SMS = 132  # of an H200; elsewhere only the speed suffers
MMA_TILES = {
    128: [
        MmaTile(16, 128, 256, 4, 2, 2 * _SMS, warps_k=2),
        MmaTile(32, 128, 256, 4, 2, 2 * _SMS, warps_k=2),
        MmaTile(32, 256, 128, 4, 4, 2 * _SMS),
        MmaTile(64, 256, 64, 4, 4, 2 * _SMS),
    ],
    32: [
        MmaTile(32, 128, 256, 4, 2, 2 * _SMS, warps_k=2),
        MmaTile(64, 128, 128, 4, 2, 2 * _SMS),
    ],
}
# Blocks of c for full rounds of CTAS; those left over are split along K, down to 1024 a CTA.
_BLOCKS = "cdiv(M, BLOCK_M) * cdiv(N, BLOCK_N)"
_SPLIT = f"min(CTAS // max(1, {_BLOCKS} % CTAS), K // 1024)"


def _mma(tile: MmaTile, group: int) -> Build:
    return Build(
        kernel="w4a16_gptq_gemm_mma",
        archive="w4a16_gptq_gemm_mma",
        label=(f"m{tile.block_m}n{tile.block_n}w{tile.num_warps}", f"g{group}"),
        dtype="float16",
        target="sm_80",
        ptx_version="7.0",
        num_warps=tile.num_warps,
        tile={
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "GROUP": group,
            "CTAS": tile.ctas,
        },
        constants={"WARPS_K": tile.warps_k, "STAGES": tile.stages},
        params=[
            *_tuned(PARAMS, "a", "qweight", "scales", "c"),
            owned("workspace", "*fp32", "4 * CTAS * BLOCK_M * BLOCK_N"),
            owned("counters", "*i32", "4 * CTAS"),
        ],
        grid=[f"{_BLOCKS} + {_BLOCKS} % CTAS * max(0, {_SPLIT} - 1)", "1", "1"],
        constraints=[
            *SIZES,
            *GROUPS,
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 8 == 0",
            "stride_cm % 4 == 0",
            "stride_cn == 1",
            *TUNED,
        ],
    )


@dataclass(frozen=True)
class ActOrderTile:
    """Work of a CTA of the GEMM for activation order, and the groups that it has room for."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    max_registers: int | None = None
    capacity: int = 256
    copies: int = 4


# Groups times copies: 80 KiB of shared memory, so that two CTAs share an SM.
ACT_ORDER_TILES = [
    ActOrderTile(8, 32, 64, 8, max_registers=128),
    ActOrderTile(16, 32, 64, 8, max_registers=128),
    ActOrderTile(64, 32, 32, 4),
    ActOrderTile(16, 32, 64, 8, max_registers=128, capacity=1024, copies=1),
]
# Without zeros to look up there are registers for more loads under way.
SYMMETRIC_TILES = [replace(ACT_ORDER_TILES[0], block_k=128), *ACT_ORDER_TILES[1:3]]


def _act_order_mma(tile: ActOrderTile, symmetric: bool) -> Build:
    label = (f"m{tile.block_m}n{tile.block_n}w{tile.num_warps}", f"cap{tile.capacity}")
    return Build(
        kernel="w4a16_gptq_gemm_act_order_mma",
        archive="w4a16_gptq_gemm_act_order_mma",
        label=(*label, "sym") if symmetric else label,
        dtype="float16",
        target="sm_80",
        ptx_version="7.4",  # cache hints
        num_warps=tile.num_warps,
        tile={
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "CAPACITY": tile.capacity,
        },
        constants={"COPIES": tile.copies, "SYMMETRIC": int(symmetric)},
        params=[
            *_tuned(_act_order_params(), "a", "qweight", "scales", "g_idx", "c"),
        ],
        grid=["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"],
        constraints=[
            *SIZES,
            "groups >= 1",
            "groups <= CAPACITY",
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 4 == 0",
            "stride_cm % 4 == 0",
            "stride_cn == 1",
            *TUNED,
        ],
        max_registers=tile.max_registers,
        table=True,
    )


@dataclass(frozen=True)
class WgmmaTile:
    """Work of a CTA of the GEMM for many rows on Hopper, and the stages of its ring.

    along: partitions of the eight warps that multiply, which share out the tile's steps; one of
    four more warps copies.
    chunk: k's dequantised at once, an even part of block_k; two such, and the sums, have to fit
    into the registers.  Few of them let products begin sooner, and end in more of them.
    """

    block_m: int
    block_n: int
    block_k: int
    stages: int
    chunk: int
    along: int = 1

    @property
    def box(self) -> int:
        """Rows that are copied, and stored, at once."""
        return min(32 if self.block_m < 128 else 64, self.block_m & -self.block_m)

    @property
    def copy_registers(self) -> int:
        """A copying thread's: with partitions, what each of the twelve warps has at launch."""
        return 65536 // (12 * 32) // 8 * 8 if self.along > 1 else 64


# Tiles of many rows take small groups, since that costs them less than a percent with large ones.
WGMMA_TILES = {
    128: [
        WgmmaTile(32, 64, 128, 8, 32, along=2),
        WgmmaTile(48, 64, 128, 8, 32, along=2),
        WgmmaTile(64, 64, 128, 6, 32, along=2),
        WgmmaTile(96, 64, 128, 6, 32, along=2),
        WgmmaTile(128, 64, 128, 4, 16, along=2),
        WgmmaTile(64, 128, 128, 7, 16),
        WgmmaTile(96, 128, 128, 6, 16),
        WgmmaTile(128, 128, 128, 5, 16),
    ],
    64: [
        WgmmaTile(64, 64, 128, 6, 32, along=2),
        WgmmaTile(128, 128, 128, 5, 16),
        WgmmaTile(192, 128, 128, 4, 32),
    ],
    32: [
        WgmmaTile(32, 64, 128, 8, 32, along=2),
        WgmmaTile(64, 64, 128, 6, 32, along=2),
        WgmmaTile(128, 128, 128, 5, 16),
        WgmmaTile(256, 128, 64, 5, 32),
    ],
}
# Work shared out to programs, as scripts/kernels/tile_schedule.py has it.  The tiles that do not
# fill the last round are shared out by their steps where that saves more steps than it takes to sum
# parts of tiles: each of them to `split` programs, or, together with those of the round before, to
# all programs in a row (`spans`), which gives each at most two parts.  Parts of a large tile cost
# more than it saves to keep all programs busy with few of them.
SCHEDULE = [
    derived("tiles", _BLOCKS),
    derived("steps", "cdiv(K, BLOCK_K)"),
    derived("left", f"tiles % {_SMS}"),
    derived("split", f"min({_SMS} // max(1, left), cdiv(steps, 4))"),
    derived(
        "spans",
        f"split < 2 or tiles >= {_SMS} and split > 2 or tiles < {_SMS} and BLOCK_M <= 128 and "
        f"split < 4 and cdiv(steps, split) - cdiv(left * steps, {_SMS}) > 512 // BLOCK_K",
    ),
    derived(
        "saved", f"steps - spans * cdiv(left * steps, {_SMS}) - (1 - spans) * cdiv(steps, split)"
    ),
    derived(
        "sharers",
        f"spans * {_SMS} * (saved > 1024 // BLOCK_K) * (left > 0) + "
        f"(1 - spans) * split * left * (saved > (tiles >= {_SMS}) * 682 // BLOCK_K)",
    ),
    derived(
        "whole",
        f"(sharers > 0) * (tiles // {_SMS} - spans * (tiles >= {_SMS})) + "
        f"(sharers == 0) * cdiv(tiles, {_SMS})",
    ),
    derived("programs", f"(sharers > 0) * {_SMS} + (sharers == 0) * cdiv(tiles, max(1, whole))"),
    derived("parts", "(sharers > 0) * (1 - spans) * split"),
]


def _wgmma(tile: WgmmaTile, group: int) -> Build:
    return Build(
        kernel="w4a16_gptq_gemm_wgmma",
        archive="w4a16_gptq_gemm_wgmma",
        label=(f"m{tile.block_m}n{tile.block_n}", f"g{group}"),
        dtype="float16",
        target="sm_90a",
        ptx_version="8.6",  # of the drivers that it has run on; its instructions need 8.0
        num_warps=8 // tile.along,
        tile={
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "GROUP": group,
            "ALONG": tile.along,
            "BOX": tile.box,
        },
        constants={
            "STAGES": tile.stages,
            "BAND": 16,
            "CHUNK": tile.chunk,
            "COPY_REGISTERS": tile.copy_registers,
        },
        params=[
            *_tuned(PARAMS, "a", "qweight", "scales", "c"),
            *SCHEDULE,
            *tensor_map("a_map", "a", "BOX", "64"),
            *tensor_map("words_map", "qweight", "BLOCK_K // 8", "32"),
            owned("workspace", "*fp32", f"4 * 2 * {_SMS} * BLOCK_M * BLOCK_N"),
            owned("counters", "*i32", f"4 * 2 * {_SMS}"),
        ],
        grid=["max((whole > 0) * programs, sharers)", "1", "1"],
        constraints=[
            *SIZES,
            *GROUPS,
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 8 == 0",
            "stride_cm % 2 == 0",
            "stride_cn == 1",
            *TUNED,
        ],
        programmatic=True,
        even_registers=tile.along > 1,
        own_order=True,
    )


ADD_BIAS = Build(
    kernel="add_bias",
    archive=None,
    label=(),
    dtype="float16",
    target="sm_80",
    ptx_version="7.0",
    num_warps=4,
    tile={"BLOCK_N": 512},
    constants={},
    params=[
        array("c", "*T", ["M", "N"], ["stride_cm", "stride_cn"], role="output"),
        array("bias", "*T", ["N"], ["1"]),
        *integers("size", "M", "N"),
        *integers("stride", "stride_cm", "stride_cn"),
    ],
    grid=["M", "cdiv(N, BLOCK_N)", "1"],
    constraints=["M >= 1", "N >= 1"],
)
_FLOAT16 = [
    *(_canonical(*zeros) for zeros in ZERO_FORMATS.items()),
    *(_act_order(*zeros) for zeros in ZERO_FORMATS.items()),
    ADD_BIAS,
    *(
        build
        for group, tiles in DECODE_TILES.items()
        for tile in tiles
        for build in _with_dependent(_decode(tile, group), tile)
    ),
    *(_mma(tile, group) for group, tiles in MMA_TILES.items() for tile in tiles),
    *(_act_order_mma(tile, symmetric=False) for tile in ACT_ORDER_TILES),
    *(_act_order_mma(tile, symmetric=True) for tile in SYMMETRIC_TILES),
    *(_wgmma(tile, group) for group, tiles in WGMMA_TILES.items() for tile in tiles),
]
W4A16 = [*_FLOAT16, *map(_bfloat16, _FLOAT16)]
