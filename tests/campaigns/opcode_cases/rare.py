"""Cases of what few kernels have: pairs of integers, the n-th set bit, spaces of addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .case import Array, Case, elementwise, values


def rare() -> Iterator[Case]:
    yield from _pairs()
    yield elementwise("bits", "fns.b32", ("b32", "u32", "s32"), "u32", model=_fns, inputs=_few)
    yield _spaces()


def _pairs() -> Iterator[Case]:
    functions: dict[str, Callable[[Array, Array], Array]] = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
    }
    for name, f in functions.items():
        for t, kind in (("u16x2", np.uint16), ("s16x2", np.int16)):
            model = lambda a, b, f=f, kind=kind: f(a.view(kind), b.view(kind)).view(  # noqa: E731
                np.uint32
            )
            words = ("u32", "u32")
            yield elementwise("integer", f"{name}.{t}", words, "u32", model=model, capability=90)
        if name != "add":
            model = lambda a, b, f=f: np.maximum(f(a.view(np.int16), b.view(np.int16)), 0).view(  # noqa: E731
                np.uint32
            )
            yield elementwise(
                "integer", f"{name}.relu.s16x2", words, "u32", model=model, capability=90
            )
            model = lambda a, b, f=f: np.maximum(f(a, b), 0)  # noqa: E731
            yield elementwise(
                "integer", f"{name}.relu.s32", ("s32", "s32"), "s32", model=model, capability=90
            )


def _few(n: int, seed: int) -> list[Array]:
    random = np.random.default_rng(seed)
    masks = values("b32", n, seed)
    masks[::7] = 0
    return [
        masks,
        random.integers(0, 32, n).astype(np.uint32),
        random.integers(-12, 13, n).astype(np.int32),
    ]


def _fns(masks: Array, bases: Array, counts: Array) -> Array:
    result = np.full(len(masks), 0xFFFFFFFF, np.uint32)
    rows = zip(masks.tolist(), bases.tolist(), counts.tolist(), strict=True)
    for i, (mask, base, count) in enumerate(rows):
        if count == 0:
            places = [base] if mask >> base & 1 else []
        elif count > 0:
            places = [p for p in range(base, 32) if mask >> p & 1][count - 1 :]
        else:
            places = [p for p in range(base, -1, -1) if mask >> p & 1][-count - 1 :]
        if places:
            result[i] = places[0]
    return result


def _spaces() -> Case:
    code = """.shared .align 4 .b8 own[64]; .local .align 4 .b8 depot[16];
    mov.u64 %q24, own; cvta.shared.u64 %q24, %q24; mov.u64 %q25, depot; cvta.local.u64 %q25, %q25;
    and.b32 %t9, %a, 3; setp.eq.u32 %p1, %t9, 0; setp.eq.u32 %p2, %t9, 1;
    mov.u64 %q26, %q0; @%p1 mov.u64 %q26, %q24; @%p2 mov.u64 %q26, %q25; mov.u32 %r, 0;
    isspacep.shared %p3, %q26; isspacep.local %p4, %q26; isspacep.global %p5, %q26;
    @%p3 add.u32 %r, %r, 1; @%p4 add.u32 %r, %r, 10; @%p5 add.u32 %r, %r, 100;"""
    model = lambda a: np.select([a % 4 == 0, a % 4 == 1], [1, 10], 100).astype(np.uint32)  # noqa: E731
    return elementwise("move", "isspacep.*", ("u32",), "u32", code, model=model)
