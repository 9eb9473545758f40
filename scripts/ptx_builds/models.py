"""The builds of a model's kernels: all but the W4A16 GEMMs, from embedding to next token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .build import Build, array, integers, owned

ARCHIVE = "models"
PAGE = 128  # positions of a page of the cache
HEAD_SIZES = (64, 128, 256)  # the paddings of head_dim
CACHE = ("C", "KV", "PAGE", "D")
PARTS = "KV * cdiv(HEADS // KV, BLOCK_G)"  # of the query heads


def _tensor(
    name: str, type_: str, *shape: str, role: str = "input", align: int = 16
) -> dict[str, Any]:
    """An array in C order."""
    steps = [f"({extent})" if " " in extent else extent for extent in shape[1:]]
    strides = [" * ".join(steps[i:]) or "1" for i in range(len(shape))]
    return array(name, type_, list(shape), strides, role) | {"align": align}


def _optional(parameter: dict[str, Any]) -> dict[str, Any]:
    return parameter | {"nullable": True}


def _floats(*names: str) -> list[dict[str, Any]]:
    """float32 parameters."""
    return [{"name": name, "type": "fp32", "role": "argument"} for name in names]


def _build(kernel: str, tile: dict[str, int], grid: Iterable[str], **fields: Any) -> Build:
    """A build for sm_80 and float16 whose label is its tile."""
    label = "".join(f"{name.removeprefix('BLOCK_')[0].lower()}{n}" for name, n in tile.items())
    defaults = {
        "archive": ARCHIVE,
        "label": (label,),
        "dtype": "float16",
        "target": "sm_80",
        "ptx_version": "7.0",
        "num_warps": 4,
        "constants": {},
    }
    return Build(kernel=kernel, tile=tile, grid=[*grid], **{**defaults, **fields})


EMBED_ROWS = _build(
    "embed_rows",
    {"BLOCK": 1024},
    ("T", "cdiv(H, BLOCK)", "1"),
    params=[
        _tensor("ids", "*i32", "T"),
        _tensor("table", "*T", "V", "H"),
        _tensor("x", "*fp32", "T", "H", role="output"),
        *integers("size", "T", "V", "H"),
    ],
    constraints=["H % 8 == 0"],
)
RMS_NORM = [
    _build(
        "rms_norm",
        {"BLOCK": block},
        ("M", "1", "1"),
        num_warps=warps,
        params=[
            _tensor("x", "*fp32", "M", "H"),
            _tensor("weight", "*fp32", "H"),
            _tensor("y", "*T", "M", "H", role="output"),
            *integers("size", "M", "H"),
            *_floats("eps"),
        ],
        constraints=["H % 8 == 0"],
    )
    for block, warps in ((1024, 4), (4096, 8))
]
# Where q, k and v come from, and how they turn.
ROTATION = [
    _optional(_tensor("q_norm", "*fp32", "D")),
    _optional(_tensor("k_norm", "*fp32", "D")),
    _tensor("cosines", "*fp32", "P", "R // 2"),
    _tensor("sines", "*fp32", "P", "R // 2"),
]
ROTARY_APPEND = [
    _build(
        "rotary_append",
        {"PAGE": PAGE, "BLOCK_H": 8, "BLOCK_D": block},
        ("T", "cdiv(HEADS, BLOCK_H) + 2 * cdiv(KV, BLOCK_H)", "1"),
        params=[
            _tensor("qkv", "*fp32", "T", "(HEADS + 2 * KV) * D"),
            *ROTATION,
            _tensor("sequences", "*i32", "T"),
            _tensor("positions", "*i32", "T", align=4),
            _tensor("pages", "*i32", "B", "S"),
            _tensor("q", "*T", "T", "HEADS * D", role="argument"),
            _tensor("keys", "*T", *CACHE, role="argument"),
            _tensor("values", "*T", *CACHE, role="argument"),
            *integers("size", "T", "HEADS", "KV", "D", "R", "P", "B", "S", "C"),
            *_floats("eps"),
        ],
        constraints=["D <= BLOCK_D", "D % 8 == 0", "R <= D", "R % 2 == 0", "HEADS % KV == 0"],
    )
    for block in HEAD_SIZES
]
ATTENTION_DECODE = [
    _build(
        "attention_decode",
        {"PAGE": PAGE, "BLOCK_N": 64, "BLOCK_G": 8, "BLOCK_D": block},
        ("B", PARTS, "SPLITS"),
        constants={"TOGETHER": 8 if block == 256 else 16},
        params=[
            _tensor("qkv", "*fp32", "B", "(HEADS + 2 * KV) * D"),
            *ROTATION,
            _tensor("keys", "*T", *CACHE, role="argument"),
            _tensor("values", "*T", *CACHE, role="argument"),
            _tensor("pages", "*i32", "B", "S"),
            _tensor("positions", "*i32", "B"),
            _tensor("out", "*T", "B", "HEADS * D", role="argument"),
            *integers("size", "B", "HEADS", "KV", "D", "R", "P", "C", "S"),
            *integers("argument", "window", "SPLITS"),
            *_floats("eps", "scale"),
            owned("workspace", "*fp32", f"4 * B * {PARTS} * SPLITS * BLOCK_G * (BLOCK_D + 2)"),
            owned("counters", "*i32", f"4 * B * {PARTS}"),
        ],
        constraints=[
            *("D <= BLOCK_D", "D % 8 == 0", "R <= D", "R % 2 == 0", "HEADS % KV == 0"),
            *("window >= 0", "SPLITS >= 1"),
        ],
    )
    for block in HEAD_SIZES
]
ATTENTION_PREFILL = [
    _build(
        "attention_prefill",
        {"PAGE": PAGE, "BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_D": block},
        ("HEADS", "cdiv(M, BLOCK_M)", "1"),
        target=target,
        ptx_version=version,
        num_warps=warps,
        constants={"STAGES": stages, "TENSOR_MAPS": int(target == "sm_90a")},
        params=[
            _tensor("q", "*T", "M", "HEADS * D"),
            _tensor("keys", "*T", *CACHE),
            _tensor("values", "*T", *CACHE),
            _tensor("pages", "*i32", "S", align=4),
            _tensor("out", "*T", "M", "HEADS * D", role="output"),
            *integers("size", "M", "HEADS", "KV", "D", "C", "S"),
            *integers("argument", "start", "window"),
            *_floats("scale"),
        ],
        constraints=["D <= BLOCK_D", "D % 8 == 0", "HEADS % KV == 0", "window >= 0", "start >= 0"],
    )
    for block in HEAD_SIZES
    for target, version, rows, columns, warps, stages in (
        ("sm_80", "7.0", 64, 64, 4, 2 if block == 256 else 3),
        # Before 8.6 assemblers differ in what the stride of a tensor map means.
        ("sm_90a", "8.6", *((64, 64, 4, 2) if block == 256 else (128, 128, 8, 3))),
    )
]
SILU_MUL = _build(
    "silu_mul",
    {"BLOCK": 1024},
    ("M", "cdiv(I, BLOCK)", "1"),
    params=[
        _tensor("both", "*T", "M", "2 * I"),
        _tensor("y", "*T", "M", "I", role="output"),
        *integers("size", "M", "I"),
    ],
    constraints=["I % 8 == 0"],
)


def _dense(
    m: int, n: int, k: int, stages: int, warps: int, target: str = "sm_80", out: str = "*T"
) -> Build:
    dependent = m < 64 and target != "sm_80"
    return _build(
        "dense_gemm",
        {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k},
        ("cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"),
        label=(f"m{m}n{n}{'wide' if out == '*fp32' else ''}",),
        target=target,
        ptx_version="7.4" if target == "sm_80" else "8.0",  # cache hints
        num_warps=warps,
        programmatic=dependent,
        constants={
            "STAGES": stages,
            "SWAP": int(m < 64),
            "WIDE": int(out == "*fp32"),
            **({"DEPENDENT": 1} if dependent else {}),
        },
        params=[
            _tensor("a", "*T", "M", "K"),
            _tensor("weight", "*T", "N", "K"),
            _optional(_tensor("bias", "*T", "N")),
            _tensor("c", out, "M", "N", role="output", align=4),
            *integers("size", "M", "N", "K"),
            *integers("argument", "adds"),
        ],
        constraints=["K % 8 == 0", "adds == 0 or adds == 1"],
    )


DENSE_GEMM = [
    _dense(*tile, out=out)
    for out in ("*fp32", "*T")
    for tile in (
        (16, 64, 128, 5, 4),
        (16, 64, 128, 5, 4, "sm_90a"),
        (64, 128, 64, 3, 4),
        (128, 128, 64, 3, 8, "sm_90a"),
    )
]
TOKEN_THRESHOLD = _build(
    "token_threshold",
    {"PARTS": 64, "BLOCK": 256},
    ("B", "PARTS", "1"),
    params=[
        _tensor("logits", "*fp32", "B", "V", align=4),
        _tensor("temperatures", "*fp32", "B"),
        _tensor("top_ks", "*i32", "B"),
        _tensor("top_ps", "*fp32", "B"),
        _tensor("positions", "*i32", "B"),
        _tensor("thresholds", "*i32", "B", role="argument"),
        _tensor("floors", "*i32", "B", role="argument"),
        _tensor("highest", "*fp32", "B", role="argument"),
        _tensor("masses", "*fp32", "B", role="argument"),
        *integers("size", "B", "V"),
        *integers("argument", "kind", "step"),
        owned("workspace", "*fp32", "64 * B * PARTS"),
        owned("counters", "*i32", "4 * B"),
    ],
)
SAMPLE_TOKEN = _build(
    "sample_token",
    {"PARTS": 64, "BLOCK": 1024},
    ("B", "PARTS", "1"),
    params=[
        _tensor("logits", "*fp32", "B", "V", align=4),
        _tensor("temperatures", "*fp32", "B"),
        _optional(_tensor("thresholds", "*i32", "B")),
        _tensor("seeds", "*i64", "B"),
        _tensor("tokens", "*i32", "B", role="argument"),
        _tensor("mail", "*i64", "B", role="argument", align=8),
        _tensor("positions", "*i32", "B", role="argument"),
        *integers("size", "B", "V"),
        owned("workspace", "*fp32", "8 * B * PARTS"),
        owned("counters", "*i32", "4 * B"),
    ],
)


def _dependent(build: Build) -> Build:
    """The same build, to be launched while the launch ahead of it still runs."""
    return replace(
        build,
        target="sm_90",
        ptx_version="8.0",  # of the sm_90a that Triton compiles for; griddepcontrol needs 7.8
        constants=build.constants | {"DEPENDENT": 1},
        programmatic=True,
    )


# Launches between a pass's GEMMs; on Hopper they overlap.
BETWEEN = [EMBED_ROWS, *RMS_NORM, *ROTARY_APPEND, *ATTENTION_DECODE, SILU_MUL]
FLOAT16 = [*BETWEEN, *map(_dependent, BETWEEN), *ATTENTION_PREFILL]
FLOAT16 += DENSE_GEMM
DRAW = [TOKEN_THRESHOLD, SAMPLE_TOKEN]
MODELS = [
    *FLOAT16,
    *(replace(build, dtype="bfloat16") for build in FLOAT16),
    *DRAW,
    *map(_dependent, DRAW),
]
