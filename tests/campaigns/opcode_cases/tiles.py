"""Cases of matrix instructions: mma, ldmatrix, stmatrix, wgmma.

Products and sums of small integers are exact in every format, so their results must agree bit for
bit; with real numbers the order of summation and the accumulator's width show, hence tolerances.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from .case import EXACT, Array, Case, Rule, kernel

_TYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "f64": np.float64,
    "s8": np.int8,
    "u8": np.uint8,
}
_RESULTS = {"f32": ("f32", np.float32), "f16": ("f16x2", np.float16), "f64": ("f64", np.float64)}
_RESULTS |= {"s32": ("s32", np.int32)}
_FORMS = [
    *(("m16n8k16", to, kind) for to, kind in (("f32", "f16"), ("f32", "bf16"), ("f16", "f16"))),
    *(("m16n8k8", to, kind) for to, kind in (("f32", "f16"), ("f32", "bf16"), ("f16", "f16"))),
    ("m16n8k4", "f32", "tf32"),
    ("m16n8k8", "f32", "tf32"),
    *(("m16n8k32", "f32", kind) for kind in ("e4m3", "e5m2")),
    *((f"m16n8k{k}", "s32", kind) for k in (16, 32) for kind in ("s8", "u8")),
    *(("m16n8k32", *kinds) for kinds in (("s32", "s8.u8"), ("s32", "u8.s8"))),
    *(("m16n8k32", "f32", kinds) for kinds in ("e4m3.e5m2", "e5m2.e4m3")),
    ("m8n8k4", "f64", "f64"),
    *((f"m16n8k{k}", "f64", "f64") for k in (4, 8, 16)),
]
# Per product of numbers of about 1: sums of 4 to 32 of them.  The GPU cuts what it aligns to the
# largest product, and keeps fewer bits of 8-bit products.
_REAL = {"f32": Rule(2**-12, 2**-14), "f16": Rule(2**-7, 2**-6), "f64": Rule(2**-49, 2**-49)}


def tiles() -> Iterator[Case]:
    for shape, to, kind in _FORMS:
        yield _mma(shape, to, kind, whole=True)
        if "." in kind:
            continue
        if to != "s32":
            yield _mma(shape, to, kind, whole=False)
        else:
            yield _mma(shape, to, kind, whole=True, option=".satfinite")
    for count in (1, 2, 4):
        for trans in ("", ".trans"):
            yield _matrix_move(count, trans)
    yield from _wgmmas()


def numbers(dtype: type, count: int, seed: int, whole: bool) -> Array:
    """Numbers of about 1, or small integers."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return random.integers(info.min, info.max, count, endpoint=True).astype(dtype)
    found = random.integers(-4, 5, count) if whole else random.standard_normal(count)
    return found.astype(dtype)


def _both(kind: str) -> str:
    """The types of A and B, of which one may stand for both. B's numbers are as A's, bit by bit."""
    return kind if "." in kind else f"{kind}.{kind}"


def _mma(shape: str, to: str, kind: str, whole: bool, option: str = "") -> Case:
    """A warp for each 32 cases; register r of thread i lies at i * registers + r."""
    m, k = (int(shape[1 : shape.index("n")]), int(shape.rpartition("k")[2]))
    dtype = _TYPES[kind.partition(".")[0]]
    size = 8 if kind == "f64" else 4
    per_word = size // np.dtype(dtype).itemsize
    a, b = m * k // 32 // per_word, 8 * k // 32 // per_word
    result, result_type = _RESULTS[to]
    c = m * 8 // 32 // (size // np.dtype(result_type).itemsize)
    letter = "q" if size == 8 else "t"
    names = [
        [f"%{letter}{first + i}" for i in range(n)] for first, n in ((30, a), (38, b), (42, c))
    ]
    lines = []
    for parameter, registers in enumerate(names):
        lines.append(
            f"mul.wide.u32 %q20, %t1, {size * len(registers)};"
            f"add.s64 %q{21 + parameter}, %q20, %q{parameter};"
        )
        lines += [
            f"ld.global.b{8 * size} {register}, [%q{21 + parameter}+{size * i}];"
            for i, register in enumerate(registers)
        ]
    groups = [f"{{{', '.join(n)}}}" for n in names]
    types = f"{to}.{_both(kind)}.{to}"
    name = f"mma.sync.aligned.{shape}.row.col{option}.{types}"
    lines.append(f"{name} {groups[2]}, {groups[0]}, {groups[1]}, {groups[2]};")
    lines += [f"st.global.b{8 * size} [%q23+{size * i}], {r};" for i, r in enumerate(names[2])]

    def inputs(n: int, seed: int) -> list[Array]:
        held = np.dtype(f"u{size}")
        arrays = [
            numbers(dtype, n * count * per_word, seed + i, whole).view(held)
            for i, count in enumerate((a, b))
        ]
        start = numbers(
            result_type, n * c * size // np.dtype(result_type).itemsize, seed + 2, whole
        )
        if option:
            start[::2] = np.where(start[::2] > 0, 2**31 - 1000, -(2**31) + 1000)
        return [*arrays, start.view(held)]

    rule = EXACT if whole else _REAL[to]
    if kind in ("e4m3", "e5m2") and not whole:
        rule = Rule(2**-8, 2**-8)
    return Case(
        "mma",
        name if whole else f"{name} (real)",
        kernel(
            3, "\n".join(lines), 90 if (size == 8 and shape[0:3] == "m16") or "e" in kind else 80
        ),
        inputs,
        [(result, c)],
        rule,
        capability=90,
        accumulates=True,
    )


def _matrix_move(count: int, trans: str) -> Case:
    """ldmatrix from rows in any order, then stmatrix to rows in that order elsewhere."""
    registers = ", ".join(f"%t{10 + i}" for i in range(count))
    form = f"sync.aligned.m8n8.x{count}{trans}"
    body = f"""mul.wide.u32 %q20, %t1, 16; add.s64 %q21, %q20, %q0; add.s64 %q22, %q20, %q2;
    mul.wide.u32 %q23, %t1, 4; add.s64 %q24, %q23, %q1;
    ld.global.v4.b32 {{%t20, %t21, %t22, %t23}}, [%q21]; shl.b32 %t2, %t0, 4;
    mov.b32 %t24, 0; st.shared.v4.b32 [%t2], {{%t20, %t21, %t22, %t23}};
    st.shared.v4.b32 [%t2+2048], {{%t24, %t24, %t24, %t24}}; ld.global.b32 %t3, [%q24]; bar.sync 0;
    ldmatrix.{form}.shared.b16 {{{registers}}}, [%t3]; add.u32 %t4, %t3, 2048;
    xor.b32 %t10, %t10, %t0; stmatrix.{form}.shared.b16 [%t4], {{{registers}}}; bar.sync 0;
    ld.shared.v4.b32 {{%t20, %t21, %t22, %t23}}, [%t2+2048];
    st.global.v4.b32 [%q22], {{%t20, %t21, %t22, %t23}};"""

    def inputs(n: int, seed: int) -> list[Array]:
        random = np.random.default_rng(seed)
        rows = np.stack([random.permutation(128) for _ in range(n // 128)])
        data = random.integers(0, 1 << 32, 4 * n, dtype=np.uint32)
        return [data, (16 * rows).astype(np.uint32).reshape(-1)]

    name = f"ldmatrix, stmatrix x{count}{trans}"
    return Case(
        "matrix", name, kernel(3, body, 90), inputs, [("u32", 4)], shared_bytes=4096, capability=90
    )


# -- wgmma ----------------------------------------------------------------------------------------

# mode: (code, bytes of a row of an atom)
_SWIZZLES = {"none": (0, 16), "128": (1, 128), "64": (2, 64), "32": (3, 32)}
_TILE_BYTES = 65536


def _wgmmas() -> Iterator[Case]:
    for swizzle in _SWIZZLES:
        for a, b in (("k", "k"), ("k", "mn"), ("mn", "k"), ("mn", "mn"), ("r", "mn"), ("r", "k")):
            yield _wgmma(64, "f32", "f16", swizzle, a, b)
    for n in (8, 24, 128, 256):
        yield _wgmma(n, "f32", "bf16", "128", "k", "k")
    yield _wgmma(64, "f32", "bf16", "128", "k", "mn")
    yield _wgmma(64, "f16", "f16", "128", "k", "k")
    for to, kind in (
        ("f32", "tf32"),
        ("s32", "s8"),
        ("s32", "u8"),
        ("f32", "e4m3"),
        ("f32", "e5m2"),
    ):
        yield _wgmma(64, to, kind, "128", "k", "k")
        yield _wgmma(32, to, kind, "64", "r", "k")
    for to, kinds in (("f32", "e4m3.e5m2"), ("f32", "e5m2.e4m3"), ("s32", "u8.s8")):
        yield _wgmma(64, to, kinds, "128", "k", "k")
    for to, kind in (("f32", "f16"), ("f32", "bf16"), ("f32", "tf32"), ("f32", "e4m3")):
        yield _wgmma(64, to, kind, "128", "k", "k", whole=False)


def _descriptor(address: int, swizzle: str, major: str, rows: int) -> int:
    """A descriptor whose offsets keep within the tile: see helpers/wgmma.py for what they mean."""
    code, width = _SWIZZLES[swizzle]
    atom = 8 * width
    if major == "k":
        leading, stride = (rows * 16, 128) if swizzle == "none" else (16, atom)
    elif swizzle == "none":
        leading, stride = rows * 16, 128
    else:
        leading, stride = 2 * atom, atom
    return address >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | code << 62


def _wgmma(n: int, to: str, kind: str, swizzle: str, a: str, b: str, whole: bool = True) -> Case:
    """Shared memory is filled with numbers; A begins at 0, B in its middle."""
    dtype = _TYPES[kind.partition(".")[0]]
    k = 32 // np.dtype(dtype).itemsize
    result, result_type = _RESULTS[to]
    count = n // 2 * np.dtype(result_type).itemsize // 4
    registers = ", ".join(f"%d{i}" for i in range(count))
    low = _descriptor(0, swizzle, a, 64) if a != "r" else 0
    high = _descriptor(_TILE_BYTES // 2, swizzle, b, n)
    first = "%q31" if a != "r" else "{%t30, %t31, %t32, %t33}"
    scales = "" if to == "s32" else ", 1, 1"
    if kind in ("f16", "bf16"):
        scales += "".join(f", {int(m == 'mn')}" for m in ((b,) if a == "r" else (a, b)))
    name = f"wgmma.mma_async.sync.aligned.m64n{n}k{k}.{to}.{_both(kind)}"
    lines = [
        "mul.wide.u32 %q20, %t0, 16; add.s64 %q21, %q20, %q0; mov.u32 %t2, tile;",
        "mad.lo.u32 %t3, %t0, 16, %t2; mov.u32 %t4, 0; mov.u32 %t5, %ctaid.x;",
        f"mul.wide.u32 %q23, %t5, {_TILE_BYTES}; add.s64 %q21, %q21, %q23;",
        "FILL: ld.global.v4.b32 {%t10, %t11, %t12, %t13}, [%q21];",
        "st.shared.v4.b32 [%t3], {%t10, %t11, %t12, %t13}; add.s64 %q21, %q21, 2048;",
        f"add.u32 %t3, %t3, 2048; add.u32 %t4, %t4, 2048; setp.lt.u32 %p1, %t4, {_TILE_BYTES};",
        "@%p1 bra FILL;",
        "fence.proxy.async; bar.sync 0; shr.u32 %t6, %t2, 4; and.b32 %t6, %t6, 16383;",
        f"cvt.u64.u32 %q30, %t6; add.s64 %q31, %q30, {low - (1 << 64) if low >> 63 else low};",
        f"add.s64 %q32, %q30, {high - (1 << 64) if high >> 63 else high};",
        *(
            f"mad.lo.u32 %t7, %t0, 4, %t2; ld.shared.b32 %t{30 + i}, [%t7+{512 * i}];"
            for i in range(4)
        ),
        f"mul.wide.u32 %q24, %t1, {4 * count}; add.s64 %q24, %q24, %q1;",
        *(f"ld.global.b32 %d{i}, [%q24+{4 * i}];" for i in range(count)),
        "wgmma.fence.sync.aligned;",
        "setp.eq.u32 %p2, 0, 0;" if n % 3 else "setp.ne.u32 %p2, %t5, 0;",
        f"{name} {{{registers}}}, {first}, %q32, %p2{scales};",
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        *(f"st.global.b32 [%q24+{4 * i}], %d{i};" for i in range(count)),
    ]

    def inputs(cases: int, seed: int) -> list[Array]:
        tiles_ = cases // 128
        data = numbers(dtype, tiles_ * _TILE_BYTES // np.dtype(dtype).itemsize, seed, whole)
        start = numbers(
            result_type, 4 * cases * count // np.dtype(result_type).itemsize, seed, whole
        )
        return [data.view(np.uint32), start.view(np.uint32)]

    rule = EXACT if whole else Rule(2**-12, 2**-13)
    if kind == "e4m3" and not whole:
        rule = Rule(2**-8, 2**-7)
    majors = f"{a} {b}" if kind in ("f16", "bf16") else a
    return Case(
        "wgmma",
        f"{name.replace('.sync.aligned', '')} {swizzle} {majors}{'' if whole else ' (real)'}",
        kernel(2, "\n".join(lines), 90),
        inputs,
        [(result, count)],
        rule,
        shared_bytes=_TILE_BYTES,
        capability=90,
        accumulates=True,
    )
