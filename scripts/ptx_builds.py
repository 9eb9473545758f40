"""What compile_ptx.py builds: every artefact of ptx/, its tile, and what its launcher must know."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Build:
    """One artefact: a kernel, what it is compiled with, and what its launcher must know.

    params: as the sidecar takes them; rules are expressions over the named integers.  What they
    promise of alignment the compiler may count on.
    ptx_version: the lowest PTX ISA that has the instructions, so that older drivers load it.
    max_registers: a thread's, where the assembler's own choice lets fewer CTAs share an SM.
    programmatic: whether it is launched before the launch ahead of it is done, and waits itself.
    even_registers: whether specialised warps all keep the registers that they have at launch.
    """

    artefact: str
    kernel: str
    target: str
    ptx_version: str
    num_warps: int
    num_stages: int
    tile: dict[str, int]
    constants: dict[str, int]
    params: list[dict[str, Any]]
    grid: list[str]
    constraints: list[str] = field(default_factory=list)
    max_registers: int | None = None
    programmatic: bool = False
    even_registers: bool = False


def _array(
    name: str, type_: str, shape: list[str], strides: list[str], role: str = "input"
) -> dict[str, Any]:
    return {"name": name, "type": type_, "role": role, "shape": shape, "strides": strides}


def _aligned(params: list[dict[str, Any]], align: int, *names: str) -> list[dict[str, Any]]:
    """The parameters, those of `names` on addresses that are multiples of `align` bytes."""
    return [p | {"align": align} if p["name"] in names else p for p in params]


def _owned(role: str, type_: str, nbytes: str) -> dict[str, Any]:
    """A buffer that the launcher brings along."""
    return {"name": role, "type": type_, "role": role, "nbytes": nbytes, "align": 16}


def _integers(role: str, *names: str) -> list[dict[str, Any]]:
    return [{"name": name, "type": "i32", "role": role} for name in names]


W4A16_PARAMS = [
    _array("a", "*fp16", ["M", "K"], ["stride_am", "stride_ak"]),
    _array("qweight", "*i32", ["K // 8", "N"], ["stride_qwk", "stride_qwn"]),
    _array("scales", "*fp16", ["cdiv(K, group_size)", "N"], ["stride_sk", "stride_sn"]),
    _array("qzeros", "*i32", ["cdiv(K, group_size)", "N // 8"], ["stride_qzk", "stride_qzn"]),
    _array("c", "*fp16", ["M", "N"], ["stride_cm", "stride_cn"], role="output"),
    *_integers("size", "M", "N", "K", "group_size"),
    *_integers("stride", "stride_am", "stride_ak", "stride_qwk", "stride_qwn"),
    *_integers("stride", "stride_sk", "stride_sn", "stride_qzk", "stride_qzn"),
    *_integers("stride", "stride_cm", "stride_cn"),
]
BIAS = _array("bias", "*fp16", ["N"], ["1"]) | {"nullable": True}
UNIT_STRIDES = ["stride_ak", "stride_qwn", "stride_sn", "stride_qzn"]
W4A16_CONSTRAINTS = [
    "M >= 1",
    "N >= 8",
    "N % 8 == 0",
    "K >= 8",
    "K % 8 == 0",
    "group_size >= 8",
    "group_size % 8 == 0",
]


def _bfloat16(build: Build) -> Build:
    """The same build for bfloat16 activations, scales and results."""
    kernel, _, rest = build.artefact.partition(".")
    types = {"*fp16": "*bf16"}
    apart = {"APART": 0} if "APART" in build.constants else {}  # bfloat16 has no room for it
    return replace(
        build,
        artefact=f"{kernel}.bf16.{rest}",
        constants=build.constants | apart,
        params=[p | {"type": types.get(p["type"], p["type"])} for p in build.params],
    )


def _canonical(zero_format: str, zero_bias: int) -> Build:
    return Build(
        artefact=f"w4a16_gptq_gemm_typed.{zero_format}.sm_80",
        kernel="w4a16_gptq_gemm_typed",
        target="sm_80",
        ptx_version="7.0",
        num_warps=4,
        num_stages=1,
        tile={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32},
        constants={"ZERO_BIAS": zero_bias},
        params=W4A16_PARAMS,
        grid=["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"],
        constraints=W4A16_CONSTRAINTS,
    )


def _act_order(zero_format: str, zero_bias: int) -> Build:
    """As the canonical kernel, but with `g_idx`, and `groups` in place of group_size."""
    a, qweight, _, _, c, *integers = W4A16_PARAMS
    return replace(
        _canonical(zero_format, zero_bias),
        artefact=f"w4a16_gptq_gemm_act_order.{zero_format}.sm_80",
        kernel="w4a16_gptq_gemm_act_order",
        params=[
            a,
            qweight,
            _array("scales", "*fp16", ["groups", "N"], ["stride_sk", "stride_sn"]),
            _array("qzeros", "*i32", ["groups", "N // 8"], ["stride_qzk", "stride_qzn"]),
            _array("g_idx", "*i32", ["K"], ["1"]),
            c,
            *(p | {"name": "groups"} if p["name"] == "group_size" else p for p in integers),
        ],
        constraints=[*W4A16_CONSTRAINTS[:-2], "groups >= 1"],
    )


@dataclass(frozen=True)
class DecodeTile:
    """What a CTA of the decode kernel does: its rows and columns of c, its warps."""

    block_m: int
    block_n: int
    num_warps: int
    max_registers: int | None = None

    @property
    def name(self) -> str:
        return f"m{self.block_m}n{self.block_n}w{self.num_warps}"


# 128 registers let 16 warps share an SM, 168 let 12.
DECODE_TILES = {
    128: [
        DecodeTile(8, 32, 4, max_registers=128),
        DecodeTile(8, 32, 8, max_registers=128),
        DecodeTile(8, 32, 16),
        DecodeTile(8, 64, 4, max_registers=168),
        DecodeTile(16, 32, 8),
        DecodeTile(16, 64, 4),
        DecodeTile(16, 64, 8),
    ],
    32: [DecodeTile(8, 32, 4), DecodeTile(8, 32, 8), DecodeTile(16, 32, 4), DecodeTile(16, 32, 8)],
}


def _decode(tile: DecodeTile, group: int, zero_format: str, zero_bias: int) -> Build:
    return Build(
        artefact=f"w4a16_gptq_gemm_decode.{tile.name}.g{group}.{zero_format}.sm_80",
        kernel="w4a16_gptq_gemm_decode",
        target="sm_80",
        ptx_version="7.4",  # cache hints
        num_warps=tile.num_warps,
        num_stages=1,
        tile={"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": 128},
        constants={
            "GROUP": group,
            "APART": int(tile.block_m * tile.block_n == 256),
            "ZERO_BIAS": zero_bias,
        },
        params=[*_aligned(W4A16_PARAMS, 16, "a", "qweight", "scales"), BIAS],
        grid=["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"],
        constraints=[
            *W4A16_CONSTRAINTS[:-2],
            "group_size >= 1",
            f"group_size % {group} == 0 or group_size >= K",
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 4 == 0",
            *(f"{stride} == 1" for stride in UNIT_STRIDES),
        ],
        max_registers=tile.max_registers,
    )


# The builds that some shape runs faster with programmatic launches, and when each of them lets the
# next launch start: 1 at once, 2 when its products are done.
DEPENDENT_TILES = {
    "decode.m8n32w4.g128": 2,
    "decode.m8n32w8.g128": 1,
    "decode.m8n32w16.g128": 1,
    "decode.m8n64w4.g128": 1,
    "decode.m16n32w8.g128": 1,
    "decode.m16n64w4.g128": 1,
    "decode.m16n64w8.g128": 1,
    "decode.m8n32w8.g32": 1,
    "decode.m16n32w8.g32": 1,
    "mma.m32n128w4c264.g128": 2,
    "mma.m32n128w4c264.g32": 2,
}


def _dependent(build: Build, start: int) -> Build:
    """The same build, to be launched while the launch ahead of it still runs."""
    return replace(
        build,
        artefact=build.artefact.removesuffix(build.target) + "sm_90",
        target="sm_90",
        ptx_version="8.0",  # of the sm_90a that Triton compiles for; griddepcontrol needs 7.8
        constants=build.constants | {"DEPENDENT": start},
        programmatic=True,
    )


@dataclass(frozen=True)
class MmaTile:
    """What a CTA of the GEMM for more rows does, and how many CTAs a GPU runs at once, about."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    stages: int
    ctas: int
    warps_k: int = 1

    @property
    def name(self) -> str:
        return f"m{self.block_m}n{self.block_n}w{self.num_warps}c{self.ctas}"


MMA_TILES = {
    128: [
        MmaTile(16, 128, 256, 4, 2, 264, warps_k=2),
        MmaTile(32, 128, 256, 4, 2, 264, warps_k=2),
        MmaTile(32, 256, 128, 4, 4, 264),
        MmaTile(64, 64, 256, 8, 2, 132, warps_k=4),
        MmaTile(64, 128, 128, 4, 2, 264),
        MmaTile(64, 256, 64, 4, 4, 264),
    ],
    32: [MmaTile(32, 128, 256, 4, 2, 264, warps_k=2), MmaTile(64, 128, 128, 4, 2, 264)],
}
# Blocks of c for full rounds of CTAS; those left over are split along K, down to 1024 a CTA.
_BLOCKS = "cdiv(M, BLOCK_M) * cdiv(N, BLOCK_N)"
_SPLIT = f"min(CTAS // max(1, {_BLOCKS} % CTAS), K // 1024)"


def _mma(tile: MmaTile, group: int, zero_format: str, zero_bias: int) -> Build:
    return Build(
        artefact=f"w4a16_gptq_gemm_mma.{tile.name}.g{group}.{zero_format}.sm_80",
        kernel="w4a16_gptq_gemm_mma",
        target="sm_80",
        ptx_version="7.0",
        num_warps=tile.num_warps,
        num_stages=1,
        tile={
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "CTAS": tile.ctas,
        },
        constants={
            "WARPS_K": tile.warps_k,
            "STAGES": tile.stages,
            "GROUP": group,
            "ZERO_BIAS": zero_bias,
        },
        params=[
            *_aligned(W4A16_PARAMS, 16, "a", "qweight", "scales", "c"),
            BIAS,
            _owned("workspace", "*fp32", "4 * CTAS * BLOCK_M * BLOCK_N"),
            _owned("counters", "*i32", "4 * CTAS"),
        ],
        grid=[f"{_BLOCKS} + {_BLOCKS} % CTAS * max(0, {_SPLIT} - 1)", "1", "1"],
        constraints=[
            *W4A16_CONSTRAINTS[:-2],
            "group_size >= 1",
            f"group_size % {group} == 0 or group_size >= K",
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 8 == 0",
            "stride_cm % 4 == 0",
            "stride_cn == 1",
            *(f"{stride} == 1" for stride in UNIT_STRIDES),
        ],
    )


@dataclass(frozen=True)
class ActOrderTile:
    """What a CTA of the GEMM for activation order does, and how many groups it has room for."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    max_registers: int | None = None
    groups: int = 256
    copies: int = 4

    @property
    def name(self) -> str:
        return f"m{self.block_m}n{self.block_n}w{self.num_warps}g{self.groups}"


# Groups times copies: 80 KiB of shared memory, so that two CTAs share an SM.
ACT_ORDER_TILES = [
    ActOrderTile(8, 32, 64, 8, max_registers=128),
    ActOrderTile(16, 32, 64, 8, max_registers=128),
    ActOrderTile(64, 32, 32, 4),
    ActOrderTile(16, 32, 64, 8, max_registers=128, groups=1024, copies=1),
]
# Without zeros to look up there are registers for more loads under way.
SYMMETRIC_TILES = [replace(ACT_ORDER_TILES[0], block_k=128), *ACT_ORDER_TILES[1:3]]


def _act_order_mma(tile: ActOrderTile, zero_format: str, zero_bias: int) -> Build:
    reference = _act_order(zero_format, zero_bias)
    return replace(
        reference,
        artefact=f"w4a16_gptq_gemm_act_order_mma.{tile.name}.{zero_format}.sm_80",
        kernel="w4a16_gptq_gemm_act_order_mma",
        ptx_version="7.4",  # cache hints
        num_warps=tile.num_warps,
        tile={"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k},
        constants={
            "GROUPS": tile.groups,
            "COPIES": tile.copies,
            "ZERO_BIAS": zero_bias,
            "SYMMETRIC": int(zero_format == "sym"),
        },
        params=[*_aligned(reference.params, 16, "a", "qweight", "scales", "g_idx", "c"), BIAS],
        constraints=[
            *reference.constraints,
            f"groups <= {tile.groups}",
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 4 == 0",
            "stride_cm % 4 == 0",
            "stride_cn == 1",
            *(f"{stride} == 1" for stride in UNIT_STRIDES),
        ],
        max_registers=tile.max_registers,
    )


@dataclass(frozen=True)
class WgmmaTile:
    """What a CTA of the GEMM for many rows on Hopper does, and the stages of its ring.

    num_warps: those that multiply, in `partitions` of their own; four more copy.
    """

    block_m: int
    block_n: int
    block_k: int
    stages: int
    num_warps: int = 8
    partitions: int = 1

    @property
    def name(self) -> str:
        return f"m{self.block_m}n{self.block_n}"

    @property
    def copy_registers(self) -> int:
        """Of a copying thread: with partitions, what each of twelve warps has at launch."""
        return 56 if self.partitions == 1 else 168

    @property
    def chunk(self) -> int:
        """k's dequantised at once: two such, and the sums, have to fit into the registers."""
        return 32 if self.block_m * self.block_n == 4096 * self.num_warps else self.block_k // 2


WGMMA_TILES = {
    64: [
        WgmmaTile(64, 128, 128, 8, partitions=2),
        WgmmaTile(64, 256, 128, 6),
        WgmmaTile(128, 64, 128, 5, num_warps=4),
        WgmmaTile(128, 128, 128, 5, partitions=2),
        WgmmaTile(128, 256, 128, 4),
        WgmmaTile(256, 128, 64, 5),
    ],
    32: [
        WgmmaTile(64, 128, 128, 8, partitions=2),
        WgmmaTile(128, 128, 128, 5, partitions=2),
        WgmmaTile(256, 128, 64, 5),
    ],
}
WGMMA_PROGRAMS = 132  # the multiprocessors of an H200; elsewhere only the speed suffers


def _wgmma(tile: WgmmaTile, group: int, zero_format: str, zero_bias: int) -> Build:
    return Build(
        artefact=f"w4a16_gptq_gemm_wgmma.{tile.name}.g{group}.{zero_format}.sm_90a",
        kernel="w4a16_gptq_gemm_wgmma",
        target="sm_90a",
        ptx_version="8.6",  # before it, assemblers differ in what the stride of a tensor map means
        num_warps=tile.num_warps // tile.partitions,
        num_stages=1,
        tile={"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k},
        constants={
            "STAGES": tile.stages,
            "BAND": 16,
            "CHUNK": min(tile.chunk, group),
            "COPY_REGISTERS": tile.copy_registers,
            "PARTITIONS": tile.partitions,
            "GROUP": group,
            "ZERO_BIAS": zero_bias,
        },
        params=[
            *_aligned(W4A16_PARAMS, 16, "a", "qweight", "scales", "c"),
            BIAS,
            _owned("workspace", "*fp32", f"4 * 2 * {WGMMA_PROGRAMS} * BLOCK_M * BLOCK_N"),
            _owned("counters", "*i32", f"4 * 2 * {WGMMA_PROGRAMS * tile.partitions}"),
        ],
        grid=[f"min({WGMMA_PROGRAMS}, {_BLOCKS} * cdiv(K, BLOCK_K))", "1", "1"],
        constraints=[
            *W4A16_CONSTRAINTS[:-2],
            "group_size >= 1",
            f"group_size % {group} == 0 or group_size >= K",
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 8 == 0",
            "stride_cm % 2 == 0",
            "stride_cn == 1",
            *(f"{stride} == 1" for stride in UNIT_STRIDES),
        ],
        programmatic=True,
        even_registers=tile.partitions > 1,
    )


ADD_BIAS = Build(
    artefact="add_bias.sm_80",
    kernel="add_bias",
    target="sm_80",
    ptx_version="7.0",
    num_warps=4,
    num_stages=1,
    tile={"BLOCK_N": 512},
    constants={},
    params=[
        _array("c", "*fp16", ["M", "N"], ["stride_cm", "stride_cn"], role="output"),
        _array("bias", "*fp16", ["N"], ["1"]),
        *_integers("size", "M", "N"),
        *_integers("stride", "stride_cm", "stride_cn"),
    ],
    grid=["M", "cdiv(N, BLOCK_N)", "1"],
    constraints=["M >= 1", "N >= 1"],
)
ZERO_FORMATS = {"v1": 1, "v2": 0}
REFERENCES = [
    *(_canonical(*zeros) for zeros in ZERO_FORMATS.items()),
    *(_act_order(*zeros) for zeros in ZERO_FORMATS.items()),
    ADD_BIAS,
]
DECODE = [
    _decode(tile, group, *zeros)
    for group, tiles in DECODE_TILES.items()
    for tile in tiles
    for zeros in ZERO_FORMATS.items()
]
MMA = [
    _mma(tile, group, *zeros)
    for group, tiles in MMA_TILES.items()
    for tile in tiles
    for zeros in ZERO_FORMATS.items()
]
DEPENDENT = [
    _dependent(build, DEPENDENT_TILES[tile])
    for build in [*DECODE, *MMA]
    for tile, _, _ in [build.artefact.removeprefix("w4a16_gptq_gemm_").partition(".v")]
    if tile in DEPENDENT_TILES
]
WGMMA = [
    _wgmma(tile, group, *zeros)
    for group, tiles in WGMMA_TILES.items()
    for tile in tiles
    for zeros in ZERO_FORMATS.items()
]
ACT_ORDER = [
    *(_act_order_mma(tile, *zeros) for tile in ACT_ORDER_TILES for zeros in ZERO_FORMATS.items()),
    *(_act_order_mma(tile, "sym", 0) for tile in SYMMETRIC_TILES),
]
FLOAT16 = [*REFERENCES, *DECODE, *MMA, *DEPENDENT, *ACT_ORDER, *WGMMA]
BUILDS = [*FLOAT16, *map(_bfloat16, FLOAT16)]
