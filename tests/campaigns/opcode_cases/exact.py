"""Models in exact rational arithmetic: one rounding, in any direction, to any binary format."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Format:
    """A binary format: precision with the hidden bit, least exponent, bits, largest number."""

    precision: int
    least: int
    bits: int
    largest: Fraction

    @classmethod
    def ieee(cls, precision: int, exponent_bits: int) -> Format:
        least = 2 - (1 << exponent_bits - 1)
        largest = (2 - Fraction(1, 1 << precision - 1)) * Fraction(2) ** (1 - least)
        return cls(precision, least, precision + exponent_bits, largest)


F32, F16, BF16 = Format.ieee(24, 8), Format.ieee(11, 5), Format.ieee(8, 8)
E4M3 = Format(4, -6, 8, Fraction(448))
E5M2 = Format(3, -14, 8, Fraction(57344))


def rounded(value: Fraction, negative: bool, form: Format, mode: str, saturate: bool) -> int:
    """The bit pattern of a number; `negative` is the sign of a zero."""
    sign = (value < 0 or (value == 0 and negative)) << form.bits - 1
    size = abs(value)
    if size == 0:
        return sign
    exponent = max(size.numerator.bit_length() - size.denominator.bit_length(), form.least - 1)
    exponent -= size < Fraction(2) ** exponent
    exponent = max(exponent, form.least)
    unit = Fraction(2) ** (exponent - form.precision + 1)
    up = {"rz": False, "rm": bool(sign), "rp": not sign}.get(mode)
    units = size / unit
    count = round(units) if up is None else math.ceil(units) if up else math.floor(units)
    result = count * unit
    biased = exponent - form.least + 1
    mantissa = form.precision - 1
    pattern = (biased - 1 << mantissa) + count if biased > 0 else count
    if result > form.largest:
        limit = _pattern_of_largest(form)
        pattern = limit if saturate or (up is False) else limit + 1
    return sign | pattern


def _pattern_of_largest(form: Format) -> int:
    size = form.largest
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    count = int(size / Fraction(2) ** (exponent - form.precision + 1))
    return (exponent - form.least << form.precision - 1) + count


def apply(
    operation: Callable[..., Fraction],
    arrays: Sequence[np.ndarray],
    form: Format,
    mode: str,
    fallback: np.ndarray,
    saturate: bool = False,
    zero_sign: Callable[..., bool] | None = None,
) -> np.ndarray:
    """operation(*numbers) rounded, where they are finite and it is defined; else the fallback.

    zero_sign(*numbers): whether a result of zero is negative.
    """
    result = fallback.copy()
    for i, row in enumerate(zip(*(a.astype(np.float64).tolist() for a in arrays), strict=True)):
        if not all(map(math.isfinite, row)):
            continue
        try:
            value = operation(*map(Fraction, row))
        except (ZeroDivisionError, ValueError):
            continue
        negative = zero_sign(*row) if zero_sign else False
        result[i] = rounded(value, negative, form, mode, saturate)
    return result
