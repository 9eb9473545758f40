"""One form of an opcode: its kernel, its operands, how results are compared, and a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ..operands import floats, words

Array = np.ndarray
Model = Callable[..., Array]
BLOCK = 128  # threads of a CTA

# PTX type -> how its bits are held, and how they are looked at where results are compared.
HELD = {
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **dict.fromkeys(("f16", "bf16", "e4m3x2", "e5m2x2"), np.dtype(np.uint16)),
    **dict.fromkeys(("f32", "f16x2", "bf16x2", "tf32"), np.dtype(np.uint32)),
    "f64": np.dtype(np.uint64),
}
SEEN = {
    **dict.fromkeys(("f16", "f16x2"), np.dtype(np.float16)),
    **dict.fromkeys(("bf16", "bf16x2"), np.dtype(ml_dtypes.bfloat16)),
    **dict.fromkeys(("f32", "tf32"), np.dtype(np.float32)),
    "f64": np.dtype(np.float64),
}


@dataclass(frozen=True)
class Rule:
    """|found - expected| <= absolute + relative * |expected|; both zero: the same bits.

    Any NaN equals any other; NaN whose bits differ are counted apart.
    """

    relative: float = 0.0
    absolute: float = 0.0

    def __str__(self) -> str:
        if self == EXACT:
            return "bits"
        parts = [("rel", self.relative), ("abs", self.absolute)]
        return " ".join(f"{name} {value:.1e}" for name, value in parts if value)


EXACT = Rule()
CLOSE = Rule(2**-21, 2**-126)


@dataclass(frozen=True)
class Case:
    """A kernel `k` with arrays for its parameters: first those that it reads, then its results.

    inputs(n): the arrays for n cases.  results: PTX type and elements for each case.
    model(*inputs): what the results must be, or None.  threads: a CTA's.  per_cta: cases of a CTA.
    """

    family: str
    name: str
    text: str
    inputs: Callable[[int, int], list[Array]]
    results: Sequence[tuple[str, float]]
    rule: Rule = EXACT
    model: Callable[..., list[Array] | Array] | None = None
    shared_bytes: int = 0
    per_cta: int = BLOCK
    capability: int = 80
    accumulates: bool = False  # results are also read: they begin as the inputs' last arrays


def values(ptx_type: str, n: int, seed: int) -> Array:
    """Random operands of a type, with all kinds of edge values among them."""
    if ptx_type in ("f16", "f32", "f64"):
        kind = {"f16": np.float16, "f32": np.float32, "f64": np.float64}[ptx_type]
        return floats(kind, n, seed).view(HELD[ptx_type])
    if ptx_type == "f16x2":
        return floats(np.float16, 2 * n, seed).view(np.uint32)
    if ptx_type in ("bf16", "bf16x2"):
        many = floats(np.float32, n * (2 if ptx_type == "bf16x2" else 1), seed)
        return (many.view(np.uint32) >> 16).astype(np.uint16).view(HELD[ptx_type])
    if ptx_type in ("e4m3x2", "e5m2x2"):
        return words(16, n, seed)
    if ptx_type == "tf32":
        return floats(np.float32, n, seed).view(np.uint32)
    bits, signed = int(ptx_type[1:]), ptx_type[0] == "s"
    return words(bits, n, seed, signed=signed)


def plain(ptx_type: str, n: int, seed: int, scale: float = 8.0) -> Array:
    """Random numbers of moderate size, without special values."""
    numbers = np.random.default_rng(seed).standard_normal(n * _per_word(ptx_type)) * scale
    return numbers.astype(SEEN[ptx_type]).view(HELD[ptx_type])


def _per_word(ptx_type: str) -> int:
    return 2 if ptx_type.endswith("x2") else 1


def seen(array: Array, ptx_type: str) -> Array:
    """An array of bits as the numbers that they are."""
    return array.view(SEEN.get(ptx_type, array.dtype))


def kernel(parameters: int, body: str, capability: int = 80, head: str = "") -> str:
    """An entry `k`; %q<i> holds parameter i, %t0 is %tid.x, %t1 the thread's number in the grid."""
    declared = ",\n".join(f"    .param .u64 p{i}" for i in range(parameters))
    loads = "\n".join(f"ld.param.u64 %q{i}, [p{i}];" for i in range(parameters))
    target = "sm_90a" if capability == 90 else f"sm_{capability}"
    return f""".version 8.4
.target {target}
.address_size 64
.extern .shared .align 1024 .b8 tile[];
{head}
.visible .entry k(
{declared}
)
{{
.reg .pred %p<16>;
.reg .b16 %h<64>;
.reg .b32 %t<64>;
.reg .b32 %d<260>;
.reg .b64 %q<64>;
{loads}
mov.u32 %t0, %tid.x;
mov.u32 %t1, %ctaid.x;
mad.lo.u32 %t1, %t1, {BLOCK}, %t0;
{body}
ret;
}}
"""


def register_bits(ptx_type: str) -> int:
    """Width of the register that holds a type."""
    return max(8 * HELD[ptx_type].itemsize, 16)


def elementwise(
    family: str,
    name: str,
    sources: Sequence[str],
    result: str,
    instructions: str = "",
    *,
    rule: Rule = EXACT,
    model: Model | None = None,
    inputs: Callable[[int, int], list[Array]] | None = None,
    capability: int = 80,
) -> Case:
    """A lane for each case: operands %a, %b, … of the source types, the result in %r.

    instructions: `name %r, %a, …;` where none are given.  model: takes and returns arrays as
    `seen`.
    """
    letters = "abcd"[: len(sources)]
    operands = ", ".join(f"%{letter}" for letter in letters)
    lines = [f".reg .b{register_bits(result)} %r;"]
    for i, (letter, ptx_type) in enumerate(zip(letters, sources, strict=True)):
        size = HELD[ptx_type].itemsize
        lines += [
            f".reg .b{register_bits(ptx_type)} %{letter};",
            f"mul.wide.u32 %q20, %t1, {size};",
            f"add.s64 %q20, %q20, %q{i};",
            f"ld.global.b{8 * size} %{letter}, [%q20];",
        ]
    size = HELD[result].itemsize
    lines += [
        instructions or f"{name} %r, {operands};",
        f"mul.wide.u32 %q20, %t1, {size};",
        f"add.s64 %q20, %q20, %q{len(sources)};",
        f"st.global.b{8 * size} [%q20], %r;",
    ]

    def generate(n: int, seed: int) -> list[Array]:
        return [values(ptx_type, n, seed + 7 * i) for i, ptx_type in enumerate(sources)]

    def expected(*arrays: Array) -> Array:
        assert model is not None
        with np.errstate(all="ignore"):
            return model(*(seen(x, t) for x, t in zip(arrays, sources, strict=True)))

    return Case(
        family,
        name,
        kernel(len(sources) + 1, "\n".join(lines), capability),
        inputs or generate,
        [(result, 1)],
        rule,
        expected if model else None,
        capability=capability,
    )
