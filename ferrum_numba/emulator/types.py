"""The types that instructions take the bits of registers as, and values of them.

PTX registers are often plain bits (`.b32`); what they hold is said by the opcodes that use them.
"address" is a type of its own here: what stands in [ ].
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from . import table
from .ptx import Address, Instruction, Register, registers_of

ADDRESS = "address"
_BITS = {"f32x2": 64, "f16x2": 32, "bf16x2": 32, "bf16": 16, "pred": 1, "tf32": 32}

Bits = NDArray[np.unsignedinteger[Any]]

_DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "f16x2": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "bf16x2": ml_dtypes.bfloat16,
    "f32": np.float32,
    "f32x2": np.float32,
    "f64": np.float64,
}


def uses(ins: Instruction) -> list[tuple[Register, str, bool]]:
    """(register, type, whether it is written) of all operands; the guard is left out."""
    row = table.find(ins)
    if row.ends in ("branch", "barrier"):
        return []
    found = []
    types = row.operand_types(ins.opcode)
    for place, operand in enumerate(ins.operands):
        ptx_type = ADDRESS if isinstance(operand, Address) else types[min(place, len(types) - 1)]
        for register in registers_of(operand):
            found.append((register, _fitting(ptx_type, register), place < row.writes))
    return found


def held_types(instructions: Iterable[Instruction]) -> Mapping[Register, str]:
    """Type that each register holds, where its users agree on more than its bits."""
    said: dict[Register, set[str]] = defaultdict(set)
    for instruction in instructions:
        for register, ptx_type, _ in uses(instruction):
            if not ptx_type.startswith("b") or ptx_type.startswith("bf"):
                said[register].add(ptx_type)
    held = {}
    for register, types in said.items():
        if ADDRESS in types:
            held[register] = ADDRESS
        elif len(types) == 1:
            held[register] = min(types)
        elif all(ptx_type[0] in "su" for ptx_type in types):
            # LLVM has sums signed and comparisons often not: small numbers read best as signed.
            held[register] = f"s{register.bits}"
    return held


def bits_of_type(ptx_type: str) -> int:
    """Width of a type of this module's; 0 for an address, which has the register's."""
    if ptx_type == ADDRESS:
        return 0
    return _BITS.get(ptx_type) or int(ptx_type.lstrip("busf"))


def _fitting(ptx_type: str, register: Register) -> str:
    """The type, where a register of this width can hold it."""
    if register.bits == 1:
        return "pred"
    if ptx_type == ADDRESS:
        return ADDRESS
    digits = ptx_type.lstrip("busf")
    known = ptx_type in _BITS or (ptx_type[:1] in tuple("busf") and digits.isdecimal())
    if known and bits_of_type(ptx_type) == register.bits:
        return ptx_type
    if known and ptx_type[0] in "su" and bits_of_type(ptx_type) < register.bits:
        return f"{ptx_type[0]}{register.bits}"  # a load into a wider register extends
    return f"b{register.bits}"


@dataclass(frozen=True, eq=False)
class Values:
    """Values of a register in the 32 lanes.

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
