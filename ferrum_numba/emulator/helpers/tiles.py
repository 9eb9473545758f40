"""Matrix instructions of one warp.

    ldmatrix_<count>[_trans](base, addresses, out), stmatrix_<count>[_trans](base, addresses, in)
    prepare_a_<type>_<registers>(out, registers…), prepare_b_<type>_<registers>(out, registers…):
        the operands of one or more mma as numbers in the order in which mma wants them
    mma_<float|int>_<elements>_<registers of B>_<count>(out, a, b0, …, c0…):
        count products with the same A; `elements` of it lie in a register

Lane l = 4g + t of a warp holds: of C (16 x 8) the elements (g, 2t), (g, 2t+1), (g+8, 2t),
(g+8, 2t+1); of A (16 x k) and B (k x 8) E elements along k in each register, k = E (4j + t) + h
for element h of register pair j of A and of register j of B.  Source: PTX ISA, "Matrix Fragments
for mma.m16n8k16" and those of the other shapes, which all follow this rule.

Prepared A: planes [register][h] of 32 numbers, then an i32 that is 0 where all of A is zero.
Prepared B: [j][h][t][column & 1][column >> 1] numbers, then an i32: 0 where all of B is finite.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..library import Helpers, family
from .access import pointer

# How many elements of a type lie in a 32-bit register.
ELEMENTS = {"f16": 2, "bf16": 2, "tf32": 1, "e4m3": 4, "e5m2": 4, "s8": 4, "u8": 4}
# In 32 bits of elements: those that say whether one is not zero; all that are set in NaN and
# infinity (of e4m3, which has no infinity, in NaN).
_MAGNITUDE = {"f16": 0x7FFF7FFF, "bf16": 0x7FFF7FFF, "tf32": 0x7FFFE000, "e4m3": 0x7F7F7F7F}
_SPECIAL = {"f16": 0x7C00, "bf16": 0x7F80, "tf32": 0x7F800000, "e4m3": 0x7F, "e5m2": 0x7C}


def plane_bytes(kind: str, registers: int) -> int:
    """Size of prepared A or B without the flag that follows it."""
    return registers * ELEMENTS[kind] * 128


def picks(indices: Iterable[int]) -> str:
    """A constant shuffle mask."""
    items = [f"i32 {i}" for i in indices]
    return f"<{len(items)} x i32> <{', '.join(items)}>"


@family("ldmatrix")
def ldmatrix(helpers: Helpers, name: str, count: str, trans: str = "") -> str:
    lines = []
    for m in range(int(count)):
        parts = []
        for row in range(8):
            part = f"%m{m}r{row}"
            parts.append(part)
            lines.append(
                f"  {part}.o = extractelement <32 x i32> %address, i64 {8 * m + row}\n"
                f"  {part}.p = {pointer('shared', f'{part}.o')}\n"
                f"  {part} = load <8 x i16>, ptr {part}.p, align 1\n"
            )
        lines.append(concatenate(parts, 8, f"%m{m}"))
        if trans:
            order = [(2 * (lane % 4) + h) * 8 + lane // 4 for lane in range(32) for h in (0, 1)]
            lines.append(
                f"  %m{m}.t = shufflevector <64 x i16> %m{m}, <64 x i16> poison, {picks(order)}\n"
            )
        source = f"%m{m}.t" if trans else f"%m{m}"
        lines.append(
            f"  %m{m}.out = getelementptr i8, ptr %out, i64 {128 * m}\n"
            f"  store <64 x i16> {source}, ptr %m{m}.out, align 64\n"
        )
    return f"""
define internal void @{name}(ptr %base, <32 x i32> %address, ptr %out) #0 {{
{"".join(lines)}  ret void
}}
"""


def concatenate(parts: list[str], n: int, name: str) -> str:
    """Lines that join vectors of n i16 into one, two by two."""
    lines, level = [], 0
    while len(parts) > 1:
        joined = []
        for i in range(0, len(parts), 2):
            text = name if len(parts) == 2 else f"{name}.c{level}.{i}"
            lines.append(
                f"  {text} = shufflevector <{n} x i16> {parts[i]}, <{n} x i16> {parts[i + 1]},"
                f" {picks(range(2 * n))}\n"
            )
            joined.append(text)
        parts, n, level = joined, 2 * n, level + 1
    return "".join(lines)


@family("stmatrix")
def stmatrix(helpers: Helpers, name: str, count: str, trans: str = "") -> str:
    lines = []
    for m in range(int(count)):
        lines.append(
            f"  %m{m}.in = getelementptr i8, ptr %in, i64 {128 * m}\n"
            f"  %m{m} = load <64 x i16>, ptr %m{m}.in, align 64\n"
        )
        for row in range(8):
            order = list(range(8 * row, 8 * row + 8))
            if trans:  # lane 4g + t holds (2t, g) and (2t + 1, g)
                order = [(4 * g + row // 2) * 2 + row % 2 for g in range(8)]
            part = f"%m{m}r{row}"
            lines.append(
                f"  {part}.o = extractelement <32 x i32> %address, i64 {8 * m + row}\n"
                f"  {part}.p = {pointer('shared', f'{part}.o')}\n"
                f"  {part} = shufflevector <64 x i16> %m{m}, <64 x i16> poison, {picks(order)}\n"
                f"  store <8 x i16> {part}, ptr {part}.p, align 1\n"
            )
    return f"""
define internal void @{name}(ptr %base, <32 x i32> %address, ptr %in) #0 {{
{"".join(lines)}  ret void
}}
"""


def _numbers(helpers: Helpers, name: str, source: str, kind: str) -> str:
    """Lines that turn a <32 x i32> of elements into numbers %name0 (the lowest), %name1, …"""
    if kind == "tf32":  # the multiplier does not look at the other 13 bits
        return f"""  {name}0.b = and <32 x i32> {source}, splat (i32 -8192)
  {name}0 = bitcast <32 x i32> {name}0.b to <32 x float>
"""
    if kind == "bf16":
        return f"""  {name}0.b = shl <32 x i32> {source}, splat (i32 16)
  {name}0 = bitcast <32 x i32> {name}0.b to <32 x float>
  {name}1.b = and <32 x i32> {source}, splat (i32 -65536)
  {name}1 = bitcast <32 x i32> {name}1.b to <32 x float>
"""
    if ELEMENTS[kind] == 4:
        return "".join(_byte(helpers, f"{name}{h}", source, kind, h) for h in range(4))
    lines = [f"  {name}1.s = lshr <32 x i32> {source}, splat (i32 16)\n"]
    for h, bits in enumerate((source, f"{name}1.s")):
        lines.append(f"  {name}{h}.i = trunc <32 x i32> {bits} to <32 x i16>\n")
        if helpers.host.half_conversion:
            lines.append(
                f"  {name}{h}.h = bitcast <32 x i16> {name}{h}.i to <32 x half>\n"
                f"  {name}{h} = fpext <32 x half> {name}{h}.h to <32 x float>\n"
            )
        else:
            widen = helpers.use("widen_half")
            lines.append(f"  {name}{h} = call <32 x float> @{widen}(<32 x i16> {name}{h}.i)\n")
    return "".join(lines)


def _byte(helpers: Helpers, name: str, source: str, kind: str, h: int) -> str:
    """Lines that turn byte h of each lane into a number."""
    if kind in ("s8", "u8"):
        down = "ashr" if kind == "s8" else "lshr"
        return f"""  {name}.u = shl <32 x i32> {source}, splat (i32 {24 - 8 * h})
  {name} = {down} <32 x i32> {name}.u, splat (i32 24)
"""
    widen = helpers.use(f"widen_{kind}")
    return f"""  {name}.d = lshr <32 x i32> {source}, splat (i32 {8 * h})
  {name}.b = trunc <32 x i32> {name}.d to <32 x i8>
  {name} = call <32 x float> @{widen}(<32 x i8> {name}.b)
"""


def number_type(kind: str) -> str:
    """What the elements of a type are multiplied as."""
    return "i32" if kind in ("s8", "u8") else "float"


@family("prepare")
def prepare(helpers: Helpers, name: str, operand: str, kind: str, registers: str) -> str:
    count, elements, number = int(registers), ELEMENTS[kind], number_type(kind)
    arguments = ", ".join(f"<32 x i32> %r{i}" for i in range(count))
    flag_at = plane_bytes(kind, count)
    lines = [_flag_a(count, kind) if operand == "a" else _flag_b(count, kind)]
    # Of B, lane 4n + t holds column n: order by t, then odd columns after even ones.
    order = [4 * (2 * n + odd) + t for t in range(4) for odd in (0, 1) for n in range(4)]
    for i in range(count):
        source = f"%r{i}"
        if operand == "b":
            source = f"%o{i}"
            lines.append(
                f"  {source} = shufflevector <32 x i32> %r{i}, <32 x i32> poison, {picks(order)}\n"
            )
        lines.append(_numbers(helpers, f"%f{i}.", source, kind))
        for h in range(elements):
            lines.append(
                f"  %to{i}.{h} = getelementptr i8, ptr %out, i64 {(elements * i + h) * 128}\n"
                f"  store <32 x {number}> %f{i}.{h}, ptr %to{i}.{h}, align 64\n"
            )
    return f"""
define internal void @{name}(ptr %out, {arguments}) #0 {{
{"".join(lines)}  %flag.at = getelementptr i8, ptr %out, i64 {flag_at}
  store i32 %flag, ptr %flag.at, align 64
  ret void
}}
{_declare_or(helpers)}"""


def _declare_or(helpers: Helpers) -> str:
    helpers.declare("i32 @llvm.vector.reduce.or.v32i32(<32 x i32>)")
    return ""


def _flag_a(count: int, kind: str) -> str:
    lines = []
    every = "%r0"
    for i in range(1, count):
        lines.append(f"  %any{i} = or <32 x i32> {every}, %r{i}\n")
        every = f"%any{i}"
    magnitude = _MAGNITUDE.get(kind, 0x7F7F7F7F if kind == "e5m2" else -1)
    return (
        "".join(lines)
        + f"""  %magnitudes = and <32 x i32> {every}, splat (i32 {magnitude})
  %flag = call i32 @llvm.vector.reduce.or.v32i32(<32 x i32> %magnitudes)
"""
    )


def _flag_b(count: int, kind: str) -> str:
    if kind not in _SPECIAL:
        return "  %flag = add i32 0, 0\n"
    special, n = _SPECIAL[kind], 32 * ELEMENTS[kind]
    element = f"i{1024 // n}"
    lines = []
    for i in range(count):
        lines.append(
            f"  %e{i} = bitcast <32 x i32> %r{i} to <{n} x {element}>\n"
            f"  %x{i} = and <{n} x {element}> %e{i}, splat ({element} {special})\n"
            f"  %n{i} = icmp eq <{n} x {element}> %x{i}, splat ({element} {special})\n"
            f"  %b{i} = bitcast <{n} x i1> %n{i} to i{n}\n"
        )
    last = "%b0"
    for i in range(1, count):
        lines.append(f"  %any{i} = or i{n} {last}, %b{i}\n")
        last = f"%any{i}"
    return "".join(lines) + f"  %bad = icmp ne i{n} {last}, 0\n  %flag = zext i1 %bad to i32\n"


@family("mma")
def mma(
    helpers: Helpers, name: str, numbers: str, elements: str, registers: str, count: str
) -> str:
    """C += A B for `count` pairs of B and C.

    Where A is all zero and the B's are finite nothing is multiplied: kernels pad their last rows
    so.  Adding +0 is what is left, for it turns -0 into +0.
    """
    tiles, number = range(int(count)), {"float": "float", "int": "i32"}[numbers]
    e, steps = int(elements), 4 * int(elements) * int(registers)
    if number == "float":
        vector = "<32 x float>"
        helpers.declare(f"{vector} @llvm.fmuladd.v32f32({vector}, {vector}, {vector})")
    cs = ", ".join(f"<32 x {number}> %c{n}.{i}.0" for n in tiles for i in range(4))
    flags = "".join(
        f"  %b{n}.flag.at = getelementptr i8, ptr %b{n}, i64 {32 * steps}\n"
        f"  %b{n}.flag = load i32, ptr %b{n}.flag.at, align 64\n"
        f"  %flag{n} = or i32 %flag{n - 1 if n else '.a'}, %b{n}.flag\n"
        for n in tiles
    )
    body = [_step(step, tiles, e, number) for step in range(steps)]
    return f"""
define internal void @{name}(ptr %out, ptr %a, {", ".join(f"ptr %b{n}" for n in tiles)}, {cs}) #0 {{
  %a.flag.at = getelementptr i8, ptr %a, i64 {64 * steps}
  %flag.a = load i32, ptr %a.flag.at, align 64
{flags}  %skip = icmp eq i32 %flag{tiles[-1]}, 0
  br i1 %skip, label %add, label %multiply
add:
{_results(tiles, 0, number)}multiply:
{"".join(body)}{_results(tiles, steps, number)}}}
"""


def _step(step: int, tiles: range, elements: int, number: str) -> str:
    """Lines that add the products of one k to all C's."""
    j, h = divmod(step // 4, elements)
    t = step % 4
    quad, vector = picks(lane // 4 * 4 + t for lane in range(32)), f"<32 x {number}>"
    lines = []
    for half in (0, 1):
        name = f"%a{step}.{half}"
        lines.append(
            f"  {name}.at = getelementptr i8, ptr %a,"
            f" i64 {((2 * j + half) * elements + h) * 128}\n"
            f"  {name}.v = load {vector}, ptr {name}.at, align 64\n"
            f"  {name} = shufflevector {vector} {name}.v, {vector} poison, {quad}\n"
        )
    for n in tiles:
        for odd in (0, 1):
            name = f"%b{n}.{step}.{odd}"
            place = (((j * elements + h) * 4 + t) * 2 + odd) * 16
            lines.append(
                f"  {name}.at = getelementptr i8, ptr %b{n}, i64 {place}\n"
                f"  {name}.v = load <4 x {number}>, ptr {name}.at, align 16\n"
                f"  {name} = shufflevector <4 x {number}> {name}.v, <4 x {number}> poison,"
                f" {picks(lane % 4 for lane in range(32))}\n"
            )
        for i in range(4):
            factors = (f"%a{step}.{i // 2}", f"%b{n}.{step}.{i % 2}")
            lines.append(_accumulate(f"%c{n}.{i}", step, *factors, number))
    return "".join(lines)


def _accumulate(c: str, step: int, a: str, b: str, number: str) -> str:
    if number == "i32":
        return f"""  {c}.{step}p = mul <32 x i32> {a}, {b}
  {c}.{step + 1} = add <32 x i32> {c}.{step}, {c}.{step}p
"""
    vector = "<32 x float>"
    return (
        f"  {c}.{step + 1} = call {vector} @llvm.fmuladd.v32f32({vector} {a}, {vector} {b},"
        f" {vector} {c}.{step})\n"
    )


def _results(tiles: range, step: int, number: str) -> str:
    lines = []
    for n in tiles:
        for i in range(4):
            name, place = f"%c{n}.{i}.{step}", f"%c{n}.{i}.{'z' if step == 0 else 'e'}"
            if step == 0 and number == "float":
                lines.append(f"  {name}z = fadd <32 x float> {name}, splat (float 0.0)\n")
                name += "z"
            lines.append(
                f"  {place} = getelementptr i8, ptr %out, i64 {(4 * n + i) * 128}\n"
                f"  store <32 x {number}> {name}, ptr {place}, align 64\n"
            )
    return "".join(lines) + "  ret void\n"
