"""The bits of a register in all lanes, as values of a PTX type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .types import ADDRESS

Bits = NDArray[np.unsignedinteger[Any]]

_DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "f16x2": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "bf16x2": ml_dtypes.bfloat16,
    "f32": np.float32,
    "f64": np.float64,
}


@dataclass(frozen=True, eq=False)
class Values:
    """What a register holds in the 32 lanes.

    type: of PTX, or "address".  bits: [32], unsigned, as wide as the register.
    """

    type: str
    bits: Bits

    @property
    def array(self) -> NDArray[Any]:
        """The values: [32] in NumPy's type, for a packed type [32, 2] with the low half first."""
        if self.type == "pred":
            return self.bits.astype(bool)
        if self.type in _DTYPES:
            values: NDArray[Any] = self.bits.view(_DTYPES[self.type])
            return values.reshape(-1, 2) if self.type.endswith("x2") else values
        if self.type[0] == "s":
            return self.bits.view(f"i{self.bits.itemsize}")
        return self.bits

    def as_type(self, ptx_type: str) -> Values:
        """The same bits as another type.  Raises ValueError for one of another width."""
        dtype = np.dtype(_DTYPES.get(ptx_type) or _integer(ptx_type))
        nbytes = dtype.itemsize * (2 if ptx_type.endswith("x2") else 1)
        if nbytes != self.bits.itemsize or (self.type == "pred") != (ptx_type == "pred"):
            raise ValueError(f"{ptx_type}: a register of {8 * self.bits.itemsize} bits")
        return Values(ptx_type, self.bits)

    def text(self, lane: int) -> str:
        """One lane's value, as people read it."""
        value = self.array[lane]
        if self.type == "pred":
            return "true" if value else "false"
        if self.type.endswith("x2"):
            return f"({_real(value[0])}, {_real(value[1])})"
        if self.type in _DTYPES:
            return _real(value)
        if self.type == ADDRESS:
            return f"{int(value):#x}"
        if self.type[0] == "b":
            return _plain(int(value), 8 * self.bits.itemsize)
        return str(int(value))

    def item(self, lane: int) -> bool | int | float | list[float]:
        """One lane's value in Python's own types; a packed one as two."""
        value = self.array[lane]
        if self.type.endswith("x2"):
            return [float(half) for half in value]
        if self.type in _DTYPES:
            return float(value)
        return bool(value) if self.type == "pred" else int(value)


def _integer(ptx_type: str) -> str:
    kind, digits = ptx_type[:1], ptx_type[1:]
    if ptx_type == "pred":
        return "u1"
    if kind not in tuple("bus") or digits not in ("8", "16", "32", "64"):
        raise ValueError(f"{ptx_type}: expected a type of PTX, such as s32, f32 or f16x2")
    return f"{'i' if kind == 's' else 'u'}{int(digits) // 8}"


def _real(value: Any) -> str:
    number = float(value)
    if not math.isfinite(number):
        return {"nan": "NaN"}.get(str(number), str(number))
    digits = {2: 4, 4: 6}.get(value.dtype.itemsize, 9)
    return f"{number:.{digits}g}"


def _plain(value: int, bits: int) -> str:
    """Bits of no type: small numbers as they are, for masks and patterns are seldom small."""
    return str(value) if value < 1024 else f"{value:#0{bits // 4 + 2}x}"
