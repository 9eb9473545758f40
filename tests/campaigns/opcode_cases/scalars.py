"""Cases of one lane: integers, bits, comparison, floating point of all widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from . import exact
from .case import EXACT, HELD, SEEN, Array, Case, Rule, elementwise, plain, values

_SIGNED, _UNSIGNED = ("s16", "s32", "s64"), ("u16", "u32", "u64")
INTEGERS = (*_SIGNED, *_UNSIGNED)
ULP = 2.0**-23


def scalars() -> Iterator[Case]:
    yield from _integers()
    yield from _wide_integers()
    yield from _bits()
    yield from _comparisons()
    yield from _floats()
    yield from _directed()
    yield from _halves()
    yield from _functions()


def _python(function: Callable[..., int], to: str) -> Callable[..., Array]:
    """A model from a function of Python's integers; the result is cut to the type's width."""
    dtype = HELD[to]
    mask = (1 << 8 * dtype.itemsize) - 1

    def model(*arrays: Array) -> Array:
        rows = zip(*(a.tolist() for a in arrays), strict=True)
        words = [function(*row) & mask for row in rows]
        return np.array(words, f"u{dtype.itemsize}").view(dtype)

    return model


def _nonzero(kind: str) -> Callable[[int, int], list[Array]]:
    def generate(n: int, seed: int) -> list[Array]:
        x, y = values(kind, n, seed), values(kind, n, seed + 1)
        y[y == 0] = 3
        return [x, y]

    return generate


def _quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _integers() -> Iterator[Case]:
    for t in INTEGERS:
        bits = int(t[1:])
        for name, f in (("add", int.__add__), ("sub", int.__sub__), ("mul.lo", int.__mul__)):
            yield elementwise("integer", f"{name}.{t}", (t, t), t, model=_python(f, t))
        high = lambda a, b, bits=bits: a * b >> bits  # noqa: E731
        yield elementwise("integer", f"mul.hi.{t}", (t, t), t, model=_python(high, t))
        mad = lambda a, b, c: a * b + c  # noqa: E731
        yield elementwise("integer", f"mad.lo.{t}", (t, t, t), t, model=_python(mad, t))
        mad = lambda a, b, c, bits=bits: (a * b >> bits) + c  # noqa: E731
        yield elementwise("integer", f"mad.hi.{t}", (t, t, t), t, model=_python(mad, t))
        sad = lambda a, b, c: abs(a - b) + c  # noqa: E731
        yield elementwise("integer", f"sad.{t}", (t, t, t), t, model=_python(sad, t))
        for name, f in (("min", min), ("max", max)):
            yield elementwise("integer", f"{name}.{t}", (t, t), t, model=_python(f, t))
        for name, f in (("div", _quotient), ("rem", lambda a, b: a - b * _quotient(a, b))):
            model = _python(f, t)
            yield elementwise("integer", f"{name}.{t}", (t, t), t, model=model, inputs=_nonzero(t))
        if bits < 64:
            wide = f"{t[0]}{2 * bits}"
            product = _python(int.__mul__, wide)
            yield elementwise("integer", f"mul.wide.{t}", (t, t), wide, model=product)
            mad = lambda a, b, c: a * b + c  # noqa: E731
            yield elementwise(
                "integer", f"mad.wide.{t}", (t, t, wide), wide, model=_python(mad, wide)
            )
    for t in _SIGNED:
        yield elementwise("integer", f"abs.{t}", (t,), t, model=_python(abs, t))
        yield elementwise("integer", f"neg.{t}", (t,), t, model=_python(int.__neg__, t))
    clamp = lambda v: max(-(1 << 31), min((1 << 31) - 1, v))  # noqa: E731
    for name, f in (("add", int.__add__), ("sub", int.__sub__)):
        model = _python(lambda a, b, f=f: clamp(f(a, b)), "s32")
        yield elementwise("integer", f"{name}.sat.s32", ("s32", "s32"), "s32", model=model)
    for t in ("u32", "s32"):
        low = (lambda v: ((v & 0xFFFFFF) ^ 0x800000) - 0x800000) if t == "s32" else (
            lambda v: v & 0xFFFFFF)  # fmt: skip
        for part, shift in (("lo", 0), ("hi", 16)):
            f = lambda a, b, low=low, shift=shift: low(a) * low(b) >> shift  # noqa: E731
            yield elementwise("integer", f"mul24.{part}.{t}", (t, t), t, model=_python(f, t))
            g = lambda a, b, c, f=f: f(a, b) + c  # noqa: E731
            yield elementwise("integer", f"mad24.{part}.{t}", (t, t, t), t, model=_python(g, t))
        for u in ("u32", "s32"):
            yield elementwise(
                "integer", f"dp4a.{t}.{u}", (t, u, "s32"), "s32", model=_dot(t, u, 4, 0)
            )
            for first, part in enumerate(("lo", "hi")):
                model = _dot(t, u, 2, 2 * first)
                yield elementwise(
                    "integer", f"dp2a.{part}.{t}.{u}", (t, u, "s32"), "s32", model=model
                )


def _dot(t: str, u: str, count: int, first: int) -> Callable[..., Array]:
    def field(value: int, ptx_type: str, index: int, bits: int) -> int:
        number = value >> bits * index & (1 << bits) - 1
        return number - (1 << bits) if ptx_type == "s32" and number >> bits - 1 else number

    def function(a: int, b: int, c: int) -> int:
        pairs = ((field(a, t, i, 32 // count), field(b, u, first + i, 8)) for i in range(count))
        return c + sum(x * y for x, y in pairs)

    return _python(function, "s32")


def _wide_integers() -> Iterator[Case]:
    """Chains with a carry, whose result is one wider integer."""
    split = "mov.b64 {%t10, %t11}, %a; mov.b64 {%t12, %t13}, %b; "
    for name, f in (("add", int.__add__), ("sub", int.__sub__)):
        code = f"{split}{name}.cc.u32 %t14, %t10, %t12; {name}c.u32 %t15, %t11, %t13;"
        code += "mov.b64 %r, {%t14, %t15};"
        model = _python(f, "u64")
        yield elementwise("carry", f"{name}.cc.u32", ("u64", "u64"), "u64", code, model=model)
        code = f"""mov.b64 %q30, 0; {name}.cc.u64 %q31, %a, %b; {name}c.cc.u64 %q32, %b, %a;
        {name}c.u64 %q33, %q30, %q30; add.u64 %r, %q32, %q33;"""

        def carries(a: int, b: int, f: Callable[[int, int], int] = f) -> int:
            wide, sign = 1 << 64, 1 if f is int.__add__ else -1
            low = f(a, b)
            carry = int(low < 0 or low >= wide)
            middle = f(b, a) + sign * carry
            return middle + sign * int(middle < 0 or middle >= wide)

        model = _python(carries, "u64")
        yield elementwise("carry", f"{name}c.cc.u64", ("u64", "u64"), "u64", code, model=model)
    code = f"""{split}mul.lo.u32 %t14, %t10, %t12; mul.hi.u32 %t15, %t10, %t12;
    mad.lo.cc.u32 %t15, %t11, %t12, %t15; madc.hi.u32 %t16, %t11, %t12, 0;
    mad.lo.cc.u32 %t15, %t10, %t13, %t15; madc.hi.cc.u32 %t16, %t10, %t13, %t16;
    xor.b32 %t15, %t15, %t16; mov.b64 %r, {{%t14, %t15}};"""

    def product(a: int, b: int) -> int:
        a0, a1, b0, b1 = a & 0xFFFFFFFF, a >> 32, b & 0xFFFFFFFF, b >> 32
        total = a0 * b0 + (a1 * b0 + a0 * b1 << 32)
        return total & 0xFFFFFFFF | ((total >> 32 & 0xFFFFFFFF) ^ (total >> 64)) << 32

    yield elementwise(
        "carry", "madc.hi.cc.u32", ("u64", "u64"), "u64", code, model=_python(product, "u64")
    )


def _bits() -> Iterator[Case]:
    for bits in (16, 32, 64):
        t, u, s = f"b{bits}", f"u{bits}", f"s{bits}"
        for name, f in (("and", int.__and__), ("or", int.__or__), ("xor", int.__xor__)):
            yield elementwise("bits", f"{name}.{t}", (t, t), t, model=_python(f, t))
        yield elementwise("bits", f"not.{t}", (t,), t, model=_python(int.__invert__, t))
        yield elementwise("bits", f"cnot.{t}", (t,), t, model=_python(lambda a: int(not a), t))
        left = lambda a, b, bits=bits: a << min(b, bits)  # noqa: E731
        right = lambda a, b, bits=bits: a >> min(b, bits)  # noqa: E731
        yield elementwise("bits", f"shl.{t}", (t, "u32"), t, model=_python(left, t))
        yield elementwise("bits", f"shr.{u}", (u, "u32"), u, model=_python(right, u))
        yield elementwise("bits", f"shr.{s}", (s, "u32"), s, model=_python(right, s))
    for bits in (32, 64):
        t, w = f"b{bits}", f"u{bits}"
        popc, clz = _python(int.bit_count, "u32"), _python(
            lambda a, bits=bits: bits - a.bit_length(), "u32")  # fmt: skip
        brev = lambda a, bits=bits: int(f"{a:0{bits}b}"[::-1], 2)  # noqa: E731
        yield elementwise("bits", f"popc.{t}", (t,), "u32", model=popc)
        yield elementwise("bits", f"clz.{t}", (t,), "u32", model=clz)
        yield elementwise("bits", f"brev.{t}", (t,), t, model=_python(brev, t))
        for kind in "us":
            yield elementwise("bits", f"bfind.{kind}{bits}", (f"{kind}{bits}",), "u32")
            yield elementwise("bits", f"bfind.shiftamt.{kind}{bits}", (f"{kind}{bits}",), "u32")
            yield elementwise(
                "bits", f"bfe.{kind}{bits}", (f"{kind}{bits}", "u32", "u32"), f"{kind}{bits}"
            )
        yield elementwise("bits", f"bfi.{t}", (t, t, "u32", "u32"), t)
        yield elementwise("move", f"mov.{t}", (w,), w, model=lambda a: a)
    for table in (0x96, 0xE8, 0xCA, 0x3C, 0x1F, 0x80):
        name = f"lop3.b32 {table:#x}"
        code = f"lop3.b32 %r, %a, %b, %c, {table};"

        def model(a: Array, b: Array, c: Array, table: int = table) -> Array:
            result = np.zeros_like(a)
            for i in range(8):
                if table >> i & 1:
                    terms = (x if i >> k & 1 else ~x for x, k in ((a, 2), (b, 1), (c, 0)))
                    first, second, third = terms
                    result |= first & second & third
            return result

        yield elementwise("bits", name, ("b32",) * 3, "b32", code, model=model)
    for name in (
        "prmt.b32",
        "shf.l.clamp.b32",
        "shf.r.clamp.b32",
        "shf.l.wrap.b32",
        "shf.r.wrap.b32",
    ):
        yield elementwise("bits", name, ("b32",) * 3, "b32")
    for form in ("clamp", "wrap"):
        yield elementwise("bits", f"bmsk.{form}.b32", ("b32", "b32"), "b32")
        for t in ("u32", "s32"):
            yield elementwise("bits", f"szext.{form}.{t}", (t, "u32"), t)


_RELATIONS = ("eq", "ne", "lt", "le", "gt", "ge")
_UNORDERED = ("equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")


def _comparisons() -> Iterator[Case]:
    """All relations of a type in one kernel: a bit of the result for each."""
    for t in (*INTEGERS, "f16", "bf16", "f32", "f64"):
        floating = t[0] in "fb"
        relations = (*_RELATIONS, *_UNORDERED) if floating else _RELATIONS
        lines = ["mov.b32 %r, 0;"]
        for i, relation in enumerate(relations):
            pair = "%p1, %a, %b; not.pred %p2, %p1" if "16" in t and floating else "%p1|%p2, %a, %b"
            lines.append(
                f"setp.{relation}.{t} {pair}; @%p1 or.b32 %r, %r, {1 << i};"
                f"@%p2 or.b32 %r, %r, {1 << i + 16};"
            )
        capability = 90 if t == "bf16" else 80
        model = _relations_model(relations)
        yield elementwise(
            "compare",
            f"setp.*.{t}",
            (t, t),
            "u32",
            "\n".join(lines),
            model=model,
            capability=capability,
        )
    code = "setp.lt.f16x2 %p1|%p2, %a, %b; selp.b32 %t9, 1, 0, %p1; selp.b32 %r, 2, 0, %p2; or.b32 %r, %r, %t9;"  # noqa: E501
    model = lambda a, b: (a < b)[::2] + 2 * (a < b)[1::2].astype(np.uint32)  # noqa: E731
    yield elementwise("compare", "setp.lt.f16x2", ("f16x2", "f16x2"), "u32", code, model=model)
    yield elementwise("compare", "set.gt.u32.f32", ("f32", "f32"), "u32")
    yield elementwise("compare", "set.le.f32.s32", ("s32", "s32"), "f32")
    for t in ("f16", "f16x2"):
        yield elementwise("compare", f"set.le.{t}.{t}", (t, t), t)
        yield elementwise("compare", f"set.neu.b{t}.b{t}", (f"b{t}",) * 2, f"b{t}", capability=90)
    yield elementwise("compare", "set.gt.u16.f16", ("f16", "f16"), "u16")
    yield elementwise("compare", "slct.u64.s32", ("u64", "u64", "s32"), "u64")
    yield elementwise("compare", "slct.f32.f32", ("f32", "f32", "f32"), "f32")
    for t in ("f32", "f64"):
        lines = ["mov.b32 %r, 0;"]
        properties = ("finite", "infinite", "number", "notanumber", "normal", "subnormal")
        for i, name in enumerate(properties):
            lines.append(f"testp.{name}.{t} %p1, %a; @%p1 or.b32 %r, %r, {1 << i};")

        def classes(a: Array) -> Array:
            tiny = (a != 0) & (abs(a) < np.finfo(a.dtype).tiny)
            finite = np.isfinite(a)
            found = (finite, np.isinf(a), ~np.isnan(a), np.isnan(a), finite & ~tiny, tiny)
            return sum(f.astype(np.uint32) << i for i, f in enumerate(found))

        yield elementwise("compare", f"testp.*.{t}", (t,), "u32", "\n".join(lines), model=classes)


def _relations_model(relations: tuple[str, ...]) -> Callable[[Array, Array], Array]:
    names = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal"}
    names |= {"gt": "greater", "ge": "greater_equal"}

    def model(a: Array, b: Array) -> Array:
        if a.dtype.kind not in "iu":
            a, b = a.astype(np.float64), b.astype(np.float64)
            unordered = np.isnan(a) | np.isnan(b)
        else:
            unordered = np.zeros(len(a), bool)
        result = np.zeros(len(a), np.uint32)
        for i, relation in enumerate(relations):
            if relation in ("num", "nan"):
                holds = unordered if relation == "nan" else ~unordered
            else:
                holds = getattr(np, names[relation[:2]])(a, b)
                holds = holds | unordered if len(relation) == 3 else holds & ~unordered
            result |= holds.astype(np.uint32) << i
            result |= (~holds).astype(np.uint32) << i + 16
        return result

    return model


def _flushed(x: Array) -> Array:
    return np.where(abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def _floats() -> Iterator[Case]:
    binary = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
    for t in ("f32", "f64"):
        for name, f in binary.items():
            yield elementwise("float", f"{name}.rn.{t}", (t, t), t, model=f)
        yield elementwise("float", f"fma.rn.{t}", (t, t, t), t)
        yield elementwise("float", f"sqrt.rn.{t}", (t,), t, model=np.sqrt)
        one = SEEN[t].type(1)
        yield elementwise("float", f"rcp.rn.{t}", (t,), t, model=lambda x, one=one: one / x)
        yield elementwise("float", f"neg.{t}", (t,), t, model=np.negative)
        yield elementwise("float", f"abs.{t}", (t,), t, model=np.abs)
        yield elementwise("float", f"copysign.{t}", (t, t), t, model=lambda a, b: np.copysign(b, a))
        for name in ("min", "max"):
            yield elementwise("float", f"{name}.{t}", (t, t), t)
    for name in ("min.NaN", "max.NaN", "min.ftz", "max.ftz", "add.sat", "mul.ftz.sat"):
        yield elementwise("float", f"{name}.f32", ("f32", "f32"), "f32")
    for name in ("min", "max", "max.ftz", "min.NaN"):
        form = f"{name}.xorsign.abs.f32"
        yield elementwise("float", form, ("f32", "f32"), "f32", capability=90)
    for name in ("add", "sub", "mul"):
        model = lambda a, b, f=binary[name]: _flushed(f(_flushed(a), _flushed(b)))  # noqa: E731
        yield elementwise("float", f"{name}.rn.ftz.f32", ("f32", "f32"), "f32", model=model)
    for name, n in (("div.rn.ftz", 2), ("fma.rn.ftz", 3), ("fma.rn.sat", 3), ("sqrt.rn.ftz", 1)):
        yield elementwise("float", f"{name}.f32", ("f32",) * n, "f32")
    for name in ("rcp.rn.ftz", "neg.ftz", "abs.ftz"):
        yield elementwise("float", f"{name}.f32", ("f32",), "f32")


def _directed() -> Iterator[Case]:
    """.rz, .rm, .rp of binary32, against exact rational arithmetic."""
    operations = {
        "add": (lambda a, b: a + b, np.add, 2),
        "sub": (lambda a, b: a - b, np.subtract, 2),
        "mul": (lambda a, b: a * b, np.multiply, 2),
        "div": (lambda a, b: a / b, np.divide, 2),
        "fma": (lambda a, b, c: a * b + c, lambda a, b, c: a.astype(np.float64) * b + c, 3),
        "rcp": (lambda a: 1 / a, lambda a: np.float32(1) / a, 1),
        "sqrt": (_root, np.sqrt, 1),
    }
    for mode in ("rz", "rm", "rp"):
        for name, (operation, plain_one, count) in operations.items():
            signs = _zero_signs(name, mode)

            def model(*arrays: Array, f=operation, g=plain_one, mode=mode, signs=signs) -> Array:
                fallback = g(*arrays).astype(np.float32).view(np.uint32)
                return exact.apply(f, arrays, exact.F32, mode, fallback, zero_sign=signs)

            yield elementwise(
                "rounding", f"{name}.{mode}.f32", ("f32",) * count, "f32", model=model
            )
        yield elementwise("rounding", f"add.{mode}.ftz.f32", ("f32", "f32"), "f32")
        for name in ("add", "sub"):
            yield elementwise("rounding", f"{name}.{mode}.f64", ("f64", "f64"), "f64")


def _root(x: Fraction) -> Fraction:
    """The square root, cut far beyond what is rounded to; its last bit tells of more."""
    if x < 0:
        raise ValueError
    scaled = x * (1 << 400)
    root = math.isqrt(int(scaled))
    return Fraction(2 * root + (root * root != scaled), 1 << 201)


def _zero_signs(name: str, mode: str) -> Callable[..., bool]:
    def minus(x: float) -> bool:
        return math.copysign(1, x) < 0

    def signs(*row: float) -> bool:
        if name in ("mul", "div"):
            return minus(row[0]) != minus(row[1])
        if name in ("rcp", "sqrt"):
            return minus(row[0])
        x, y = (row[0], row[1]) if name != "fma" else (0.0, row[2])
        first = minus(x) if name != "fma" else minus(row[0]) != minus(row[1])
        second = minus(y) != (name == "sub")
        return (first or second) if mode == "rm" else (first and second)

    return signs


def _halves() -> Iterator[Case]:
    for t in ("f16", "f16x2", "bf16", "bf16x2"):
        capability = 90 if t.startswith("b") else 80
        options = {"capability": capability}
        binary = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
        for name, f in binary.items():
            model = f if t.startswith("f") else None
            yield elementwise("half", f"{name}.rn.{t}", (t, t), t, model=model, **options)
        forms = ["fma.rn", "fma.rn.relu"] + (["fma.rn.sat"] if t.startswith("f") else [])
        for form in forms:
            yield elementwise("half", f"{form}.{t}", (t, t, t), t, **options)
        for name in ("min", "max", "min.NaN", "max.NaN"):
            yield elementwise("half", f"{name}.{t}", (t, t), t, **options)
        for name in ("min", "max.NaN"):
            form = f"{name}.xorsign.abs.{t}"
            yield elementwise("half", form, (t, t), t, capability=90)
        for name in ("neg", "abs"):
            yield elementwise("half", f"{name}.{t}", (t,), t, **options)
        if t.startswith("f"):
            for name in ("add.sat", "mul.sat", "sub.sat"):
                yield elementwise("half", f"{name}.{t}", (t, t), t)


def _functions() -> Iterator[Case]:
    """Approximations: what PTX promises of them is the tolerance, about twice where both err."""
    f32 = ("f32",)
    rules = {
        "ex2.approx": Rule(2**-21, 2**-126),
        "ex2.approx.ftz": Rule(2**-21, 2**-126),
        "lg2.approx": Rule(2**-21, 2**-21),
        "lg2.approx.ftz": Rule(2**-21, 2**-21),
        "rcp.approx": Rule(2 * ULP, 2**-126),
        "rcp.approx.ftz": Rule(2 * ULP),
        "rsqrt.approx": Rule(4 * ULP),
        "rsqrt.approx.ftz": Rule(4 * ULP),
        "sqrt.approx": Rule(4 * ULP, 2**-126),
        "sqrt.approx.ftz": Rule(4 * ULP),
        "tanh.approx": Rule(2**-10.9, 2**-126),
    }
    for name, rule in rules.items():
        yield elementwise("approximate", f"{name}.f32", f32, "f32", rule=rule)
    for name in ("sin.approx", "cos.approx", "sin.approx.ftz", "cos.approx.ftz"):
        inputs = lambda n, seed: [plain("f32", n, seed, 1.0)]  # noqa: E731
        rule = Rule(0, 2**-20)
        yield elementwise("approximate", f"{name}.f32", f32, "f32", rule=rule, inputs=inputs)
    for name in ("div.full", "div.approx", "div.full.ftz"):
        inputs = lambda n, seed: [plain("f32", n, seed), plain("f32", n, seed + 1)]  # noqa: E731
        yield elementwise(
            "approximate", f"{name}.f32", ("f32", "f32"), "f32", rule=Rule(4 * ULP), inputs=inputs
        )
    yield elementwise(
        "approximate", "div.full.f32 (edges)", ("f32", "f32"), "f32",
        "div.full.f32 %r, %a, %b;", rule=Rule(4 * ULP, 2**-126),
    )  # fmt: skip
    for t in ("f16", "f16x2"):
        yield elementwise("approximate", f"ex2.approx.{t}", (t,), t, rule=Rule(2**-9.5, 2**-23))
        yield elementwise("approximate", f"tanh.approx.{t}", (t,), t, rule=Rule(2**-9.5, 2**-23))
    for t in ("bf16", "bf16x2"):
        for name in ("ex2.approx.ftz", "tanh.approx"):
            rule = Rule(2**-6.5, 2**-126)
            yield elementwise("approximate", f"{name}.{t}", (t,), t, rule=rule, capability=90)


__all__ = ["EXACT", "scalars"]
