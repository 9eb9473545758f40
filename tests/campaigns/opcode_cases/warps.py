"""Cases of a warp: exchange between lanes, votes, reductions, atomics, barriers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .case import EXACT, HELD, Array, Case, elementwise, kernel, register_bits, values


def warps() -> Iterator[Case]:
    yield from _exchange()
    yield from _votes()
    yield from _atomics()
    yield from _barriers()


def _exchange() -> Iterator[Case]:
    for mode in ("idx", "up", "down", "bfly"):
        for c in (0x1F, 0x181F, 0x1C03, 0) if mode != "up" else (0, 0x1800, 0x1C00):
            code = f"""shfl.sync.{mode}.b32 %r|%p1, %a, %b, {c}, -1;
            @!%p1 xor.b32 %r, %r, 0x55555555;"""
            name = f"shfl.sync.{mode}.b32 {c:#x}"
            yield elementwise("warp", name, ("u32", "u32"), "u32", code)
    few = _few(5)
    for t in ("b32", "b64"):
        code = f"match.sync.any.{t} %r, %a, -1;"
        inputs = lambda n, seed, t=t: [few(n, seed)[0].astype(HELD[t])]  # noqa: E731
        yield elementwise("warp", f"match.sync.any.{t}", (t,), "u32", code, inputs=inputs)
    code = "match.sync.all.b32 %r|%p1, %a, -1; @%p1 add.u32 %r, %r, 77;"
    yield elementwise("warp", "match.sync.all.b32", ("b32",), "u32", code, inputs=_few(2, True))
    code = "elect.sync %r|%p1, -1; @%p1 add.u32 %r, %r, 7; xor.b32 %r, %r, %a;"
    yield elementwise("warp", "elect.sync", ("b32",), "u32", code, capability=90)


def _few(count: int, whole: bool = False) -> Callable[[int, int], list[Array]]:
    """Few different values; whole: in about every second warp all the same."""

    def generate(n: int, seed: int) -> list[Array]:
        random = np.random.default_rng(seed)
        x = random.integers(0, count, n).astype(np.uint32)
        if whole:
            x.reshape(-1, 32)[::2] = 5
        return [x]

    return generate


def _votes() -> Iterator[Case]:
    code = """setp.ne.u32 %p1, %a, 0; vote.sync.ballot.b32 %r, %p1, -1;
    vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1;
    vote.sync.uni.pred %p4, !%p1, -1; @%p2 add.u32 %r, %r, 3; @%p3 add.u32 %r, %r, 50;
    @%p4 add.u32 %r, %r, 700; activemask.b32 %t9; xor.b32 %r, %r, %t9;"""
    yield elementwise("warp", "vote.sync.*", ("u32",), "u32", code, inputs=_few(2, True))
    whole = {"add": np.add, "min": np.minimum, "max": np.maximum}
    for t in ("u32", "s32"):
        for name, f in whole.items():
            model = lambda a, f=f: np.repeat(  # noqa: E731
                f.reduce(a.reshape(-1, 32), axis=1).astype(a.dtype), 32)  # fmt: skip
            code = f"redux.sync.{name}.{t} %r, %a, -1;"
            yield elementwise("warp", f"redux.sync.{name}.{t}", (t,), t, code, model=model)
    for name in ("and", "or", "xor"):
        code = f"redux.sync.{name}.b32 %r, %a, -1;"
        yield elementwise("warp", f"redux.sync.{name}.b32", ("u32",), "u32", code)
    code = """mov.u32 %t9, %laneid; and.b32 %t10, %t9, 4; setp.eq.u32 %p1, %t10, 0; mov.u32 %r, 9;
    @%p1 redux.sync.add.u32 %r, %a, 0x0F0F0F0F;
    mov.u32 %t11, %lanemask_lt; mov.u32 %t12, %lanemask_ge;
    mad.lo.u32 %r, %t11, 3, %r; mad.lo.u32 %r, %t12, 5, %r; mov.u32 %t11, %lanemask_le;
    mad.lo.u32 %r, %t11, 7, %r;"""
    yield elementwise("warp", "redux.sync, half of the lanes", ("u32",), "u32", code)


_ATOMICS = {
    "add": ("u32", "s32", "u64", "f32", "f64", "f16", "f16x2", "bf16", "bf16x2"),
    "min": ("u32", "s32", "u64", "s64"),
    "max": ("u32", "s32", "u64", "s64"),
    "and": ("b32", "b64"),
    "or": ("b32", "b64"),
    "xor": ("b32", "b64"),
    "exch": ("b32", "b64"),
    "cas": ("b16", "b32", "b64"),
    "inc": ("u32",),
    "dec": ("u32",),
}


def _atomics() -> Iterator[Case]:
    for operation, types in _ATOMICS.items():
        for t in types:
            for space in ("global", "shared"):
                yield _apart(operation, t, space)
    for operation, types in _ATOMICS.items():
        for t in types:
            if operation not in ("exch", "cas", "inc", "dec") and t[0] in "usb" and t[1] != "f":
                yield _together(operation, t)


def _name(operation: str, t: str) -> str:
    return f"{operation}{'.noftz' if '16' in t and t != 'b16' else ''}.{t}"


def _apart(operation: str, t: str, space: str) -> Case:
    """Every lane has its own place: what was there and what is there afterwards."""
    size = HELD[t].itemsize
    b = register_bits(t)
    other = ", %b" if operation == "cas" else ""
    place = "[%q21]" if space == "global" else "[%t9]"
    body = [
        f".reg .b{b} %r; .reg .b{b} %a; .reg .b{b} %b; .reg .b{b} %o;",
        f"mul.wide.u32 %q20, %t1, {size}; mul.lo.u32 %t9, %t0, {size};",
        "add.s64 %q21, %q20, %q3; add.s64 %q22, %q20, %q2;",
        *(
            f"add.s64 %q23, %q20, %q{i}; ld.global.b{8 * size} %{letter}, [%q23];"
            for i, letter in ((0, "a"), (1, "b"), (3, "o"))
        ),
        # Every third lane finds what it compares with.
        f"rem.u32 %t10, %t1, 3; setp.eq.u32 %p1, %t10, 0; @%p1 mov.b{b} %a, %o;"
        if operation == "cas"
        else "",
        f"st.shared.b{8 * size} [%t9], %o;" if space == "shared" else "",
        f"atom.{space}.{_name(operation, t)} %r, {place}, %a{other};",
        f"st.global.b{8 * size} [%q22], %r;",
        f"ld.shared.b{8 * size} %o, [%t9]; st.global.b{8 * size} [%q21], %o;"
        if space == "shared"
        else "",
    ]
    capability = 90 if t.startswith("bf") else 80
    return Case(
        "atomic",
        f"atom.{space}.{_name(operation, t)}",
        kernel(4, "\n".join(body), capability),
        lambda n, seed: ([values(t, n, seed + i) for i in range(4)]),
        [(t, 1), (t, 1)],
        EXACT,
        shared_bytes=128 * size,
        capability=capability,
        accumulates=True,
    )


def _together(operation: str, t: str) -> Case:
    """All lanes of the grid on 64 places."""
    size = HELD[t].itemsize
    body = f"""mul.wide.u32 %q20, %t1, {size}; add.s64 %q20, %q20, %q0; and.b32 %t9, %t1, 63;
    mul.wide.u32 %q21, %t9, {size}; add.s64 %q21, %q21, %q1; .reg .b{8 * size} %a;
    ld.global.b{8 * size} %a, [%q20]; red.global.{operation}.{t} [%q21], %a;"""
    ufuncs = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and}
    ufuncs |= {"or": np.bitwise_or, "xor": np.bitwise_xor}

    def model(x: Array, y: Array) -> Array:
        result = y.copy()
        ufuncs[operation].at(result, np.arange(len(x)) % 64, x)
        return result

    return Case(
        "atomic",
        f"red.global.{operation}.{t}",
        kernel(2, body),
        lambda n, seed: [values(t, n, seed), values(t, 64, seed + 1)],
        [(t, 0)],
        EXACT,
        model,
        accumulates=True,
    )


def _barriers() -> Iterator[Case]:
    code = """setp.ne.u32 %p1, %a, 0; barrier.cta.red.popc.u32 %t9, 1, %p1;
    barrier.cta.red.and.pred %p2, 2, 128, %p1; barrier.cta.red.or.pred %p3, 1, %p1;
    mad.lo.u32 %r, %t9, 1000, %a; @%p2 add.u32 %r, %r, 100000; @%p3 add.u32 %r, %r, 200000;"""

    def inputs(n: int, seed: int) -> list[Array]:
        x = np.random.default_rng(seed).integers(0, 2, n).astype(np.uint32)
        x.reshape(-1, 128)[::3] = 1
        x.reshape(-1, 128)[1::3] = 0
        return [x]

    yield elementwise("barrier", "barrier.cta.red.*", ("u32",), "u32", code, inputs=inputs)
    code = """shl.b32 %t9, %t0, 2; mov.u32 %t12, %warpid; and.b32 %t10, %t12, 1;
    add.u32 %t10, %t10, 3; st.shared.b32 [%t9], %a; bar.sync %t10, 64;
    xor.b32 %t9, %t9, 256; ld.shared.b32 %r, [%t9];"""
    case = elementwise("barrier", "bar.sync id, 64", ("u32",), "u32", code)
    yield Case(**{**case.__dict__, "shared_bytes": 512})
