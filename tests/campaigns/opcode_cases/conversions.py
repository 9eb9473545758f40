"""Cases of cvt: every pair of types, rounding and saturation that Triton uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from . import exact
from .case import HELD, SEEN, Array, Case, elementwise
from .scalars import INTEGERS

_FLOATS = ("f16", "bf16", "f32", "f64")
_FORMATS = {"f16": exact.F16, "bf16": exact.BF16, "f32": exact.F32}


def conversions() -> Iterator[Case]:
    yield from _integers()
    yield from _floats()
    yield from _directed()
    yield from _bytes()


def _case(name: str, sources: tuple[str, ...], result: str, **options: object) -> Case:
    types = {name.split(".")[-1], name.split(".")[-2]}
    needs = 90 if types & {"bf16", "e4m3x2", "e5m2x2"} and "f32" not in types else 80
    needs = 90 if types & {"e4m3x2", "e5m2x2"} else needs
    return elementwise("convert", name, sources, result, capability=needs, **options)


def _integers() -> Iterator[Case]:
    for to in INTEGERS:
        for source in INTEGERS:
            model = lambda a, to=to: a.astype(HELD[to])  # noqa: E731
            yield _case(f"cvt.{to}.{source}", (source,), to, model=model)
            low, high = np.iinfo(HELD[to]).min, np.iinfo(HELD[to]).max

            def clamped(a: Array, to: str = to, low: int = low, high: int = high) -> Array:
                return np.array([max(low, min(high, v)) for v in a.tolist()], HELD[to])

            limits = np.iinfo(HELD[source])
            if limits.min < low or limits.max > high:
                yield _case(f"cvt.sat.{to}.{source}", (source,), to, model=clamped)
    for to in _FLOATS:
        for source in INTEGERS:
            model = None if to == "bf16" else (lambda a, to=to: a.astype(SEEN[to]))
            yield _case(f"cvt.rn.{to}.{source}", (source,), to, model=model)
    for source in _FLOATS:
        for to in INTEGERS:
            for mode in ("rni", "rzi", "rmi", "rpi"):
                yield _case(f"cvt.{mode}.{to}.{source}", (source,), to)
    for mode in ("rz", "rm", "rp"):
        for source in ("s32", "u32"):
            model = _exact(exact.F32, mode, "f32")
            yield _case(f"cvt.{mode}.f32.{source}", (source,), "f32", model=model)


def _floats() -> Iterator[Case]:
    for to, source in (("f64", "f32"), ("f32", "f64"), ("f16", "f32"), ("f16", "f64")):
        mode = "" if to == "f64" else ".rn"
        model = lambda a, to=to: a.astype(SEEN[to])  # noqa: E731
        yield _case(f"cvt{mode}.{to}.{source}", (source,), to, model=model)
    for to, source in (("f32", "f16"), ("f64", "f16"), ("f32", "bf16")):
        model = lambda a, to=to: a.astype(SEEN[to])  # noqa: E731
        yield _case(f"cvt.{to}.{source}", (source,), to, model=model)
    bf16 = lambda a: a.astype(np.float32).astype(ml_dtypes.bfloat16)  # noqa: E731
    yield _case("cvt.rn.bf16.f32", ("f32",), "bf16", model=bf16)
    yield _case("cvt.rn.bf16.f64", ("f64",), "bf16")
    yield _case("cvt.rn.relu.bf16.f32", ("f32",), "bf16")
    yield _case("cvt.rn.relu.f16.f32", ("f32",), "f16")
    yield _case("cvt.rn.bf16.f16", ("f16",), "bf16", model=bf16)
    yield _case("cvt.rn.f16.bf16", ("bf16",), "f16")
    yield _case("cvt.rna.tf32.f32", ("f32",), "tf32")
    for name in ("cvt.rn.ftz.f16.f32", "cvt.sat.f32.f32", "cvt.ftz.f32.f32"):
        yield _case(name, ("f32",), name.split(".")[-2])
    for mode, whole in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        for t in ("f16", "f32", "f64"):
            yield _case(f"cvt.{mode}.{t}.{t}", (t,), t, model=whole)
    for mode in ("rn", "rz", "rn.relu"):
        for to in ("f16x2", "bf16x2"):
            yield _case(f"cvt.{mode}.{to}.f32", ("f32", "f32"), to)


def _directed() -> Iterator[Case]:
    for to in ("f16", "bf16"):
        yield _case(f"cvt.rz.{to}.f32", ("f32",), to, model=_exact(_FORMATS[to], "rz", to))
    for mode in ("rz", "rm", "rp"):
        model = _exact(exact.F32, mode, "f32")
        yield _case(f"cvt.{mode}.f32.f64", ("f64",), "f32", model=model)


def _exact(form: exact.Format, mode: str, to: str) -> Callable[[Array], Array]:
    def model(a: Array) -> Array:
        fallback = a.astype(np.float64).astype(np.float32).astype(SEEN[to]).view(HELD[to])
        sign = lambda x: np.signbit(x)  # noqa: E731
        found = exact.apply(lambda x: x, [a], form, mode, fallback, zero_sign=sign)
        return found.view(SEEN[to])

    return model


def _bytes() -> Iterator[Case]:
    """The 8-bit types; the first operand goes to the upper byte."""
    for kind, form in (("e4m3", exact.E4M3), ("e5m2", exact.E5M2)):
        pair = f"{kind}x2"

        def narrowed(*arrays: Array, form: exact.Format = form, pairs: bool = False) -> Array:
            parts = []
            for a in arrays:
                fallback = np.where(np.isnan(a), 0x7F, 0).astype(np.uint16)
                top = exact.rounded(form.largest, False, form, "rn", True)
                infinite = np.isinf(a)
                fallback[infinite] = top | np.signbit(a[infinite]).astype(np.uint16) << 7
                sign = lambda x: np.signbit(x)  # noqa: E731
                parts.append(exact.apply(lambda x: x, [a], form, "rn", fallback, True, sign))
            return parts[0] << 8 | parts[1]

        name = f"cvt.rn.satfinite.{pair}.f32"
        yield _case(name, ("f32", "f32"), pair, model=narrowed)
        halves = lambda a, f=narrowed: f(a[1::2], a[::2])  # noqa: E731
        yield _case(f"cvt.rn.satfinite.{pair}.f16x2", ("f16x2",), pair, model=halves)
        yield _case(f"cvt.rn.satfinite.relu.{pair}.f32", ("f32", "f32"), pair)
        dtype = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[kind]
        wide = lambda a, dtype=dtype: a.view(dtype).astype(np.float16)  # noqa: E731
        yield _case(f"cvt.rn.f16x2.{pair}", (pair,), "f16x2", model=wide)
        yield _case(f"cvt.rn.relu.f16x2.{pair}", (pair,), "f16x2")
