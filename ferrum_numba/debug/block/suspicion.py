"""Suspicions about a parameter block: likely faults, each with the fields it is about."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ...abi.arrays import POINTEE_DTYPES
from ...abi.expression import Expression
from ...abi.signature import SCRATCH_ROLES
from ...errors import AbiError
from .annotation import AnnotatedBlock, Field
from .misreading import misreading
from .notation import dtype_nbytes, show_array
from .plausible import (
    alignment,
    is_address,
    is_float_bits,
    is_plausible,
    is_split_address,
    is_two_integers,
)

Kind = Literal[
    "misread",  # the bytes fit the entry's parameters better when laid out otherwise
    "split address",  # two integers hold the halves of an address
    "not an address",
    "null",
    "misaligned",
    "other array",  # the address lies in another parameter's array
    "dtype",  # the array's elements are of another type than the kernel reads
    "too short",  # the kernel reaches past the end of the array
    "overlap",  # an output shares memory with another array
    "byte strides",  # all of an array's strides are those of C order, in bytes
    "rule",  # a rule of the sidecar does not hold
    "scratch",  # missing, though the kernel needs it
    "float bits",  # an integer that is a float's bits
    "integer bits",  # a float that is an integer's bits
    "unusual",  # an integer of a size that its role does not have
]


_SCRATCH_POINTERS = 2  # that Triton puts behind a kernel's own parameters


@dataclass(frozen=True)
class Suspicion:
    """A likely fault.  names: the parameters that it is about; what: goes after their names.

    certain: the launch breaks a rule; otherwise its values only look like it.
    """

    kind: Kind
    names: tuple[str, ...]
    what: str
    certain: bool = False

    def __str__(self) -> str:
        return f"{', '.join(self.names)}: {self.what}" if self.names else self.what


def suspicions(block: AnnotatedBlock) -> list[Suspicion]:
    """The likely faults, the most telling first; empty for a block that looks right.

    Where one other layout of the same bytes explains the odd values, it comes first, and what is
    its consequence is left out.
    """
    found = [*_split_addresses(block), *_overlaps(block), *_rules(block), *_byte_strides(block)]
    for field in block.fields:
        found += _of_field(block, field)
    found.sort(key=lambda suspicion: not suspicion.certain)
    other = misreading(block)
    if other is None:
        return found
    kept = [s for s in found if s.kind == "split address" or not set(s.names) & set(other.moved)]
    return [Suspicion("misread", other.names, other.what), *kept]


def _split_addresses(block: AnnotatedBlock) -> Iterator[Suspicion]:
    """Neighbouring 4-byte integers that hold the two halves of an address."""
    found = {field.owner for field in block.fields if field.array is not None}
    for left, right in zip(block.fields, block.fields[1:], strict=False):
        if not (_is_word(left) and _is_word(right) and right.offset == left.offset + 4):
            continue
        low, high = (int.from_bytes(field.data, "little") for field in (left, right))
        address = high << 32 | low
        owners = (n for n, a in block.arrays.items() if 0 <= address - a.address < a.available)
        owner = next(owners, None)
        # Small integers are the address of an array by chance, too, but not of one that is missed.
        if (owner is not None and owner not in found) or is_split_address(low, high):
            whose = f", that of {owner}" if owner else ""
            yield Suspicion(
                "split address",
                (left.parameter.name, right.parameter.name),
                f"together hold the address {address:#x}{whose}: a pointer lies where the entry "
                "has two integers",
            )


def _is_word(field: Field) -> bool:
    p = field.parameter
    return p.size == 4 and p.count is None and isinstance(field.value, int)


def _of_field(block: AnnotatedBlock, field: Field) -> Iterator[Suspicion]:
    p, value = field.parameter, field.value
    if isinstance(value, float):
        if not is_plausible(p, value):
            bits = int.from_bytes(field.data, "little")
            what = f"is {value:.3g}, whose bits are those of the integer {bits}"
            yield Suspicion("integer bits", (p.name,), f"{what}: was an integer written?")
    elif isinstance(value, bytes):
        return
    elif p.role in SCRATCH_ROLES:
        yield from _scratch(block, field, value)
    elif p.is_pointer or field.array is not None:
        yield from _pointer(block, field, value)
    else:
        yield from _integer(field, value)


def _scratch(block: AnnotatedBlock, field: Field, value: int) -> Iterator[Suspicion]:
    name, role = (field.parameter.name,), field.parameter.role
    demand = next((s for s in block.sidecar.scratch if s.role == role and s.size), None)
    if value == 0 and block.filled and (demand is not None or field.needed):
        much = f"{demand.size} bytes of it a CTA" if demand else f"{field.needed} bytes of it"
        yield Suspicion("scratch", name, f"is NULL, but the kernel uses {much}", certain=True)
    elif demand is not None and value % demand.align:
        what = f"is {value:#x}, not aligned to {demand.align} bytes, as the kernel was built"
        yield Suspicion("misaligned", name, what, certain=True)
    elif value and not is_address(value):
        yield Suspicion("not an address", name, f"is {value:#x}: {_looks(value)}")


def _pointer(block: AnnotatedBlock, field: Field, value: int) -> Iterator[Suspicion]:
    p, name = field.parameter, (field.parameter.name,)
    if value == 0:
        if field.needed != 0 and not field.nullable and not _may_be_scratch(block, field):
            yield Suspicion("null", name, "is NULL: the kernel faults where it uses it")
        return
    if field.array is None and not is_address(value):
        yield Suspicion("not an address", name, f"is {value:#x}: {_looks(value)}")
    elif field.array is None and block.arrays:
        what = f"is {value:#x}, where none of the launch's arrays lies"
        yield Suspicion("not an address", name, what)
    if value % alignment(p):
        what = f"is {value:#x}, not aligned to the {alignment(p)} bytes of an element ({p.c_type})"
        yield Suspicion("misaligned", name, what, certain=True)
    if field.array is None:
        return
    if field.owner != p.name:
        where = f"points to byte {field.inside} of {field.owner}'s array"
        what = f"{where}, {show_array(field.array)}: were two arguments swapped?"
        yield Suspicion("other array", name, what)
    expected = POINTEE_DTYPES.get(p.c_type or "")
    if expected is not None and field.array.dtype != expected:
        what = f"the kernel reads {expected} ({p.c_type}), the array holds {field.array.dtype}"
        yield Suspicion("dtype", name, what, certain=True)
    if field.needed is not None and field.slack is not None and field.slack < 0:
        what = (
            f"the kernel touches {field.needed} bytes by its extents and strides, of "
            f"{show_array(field.array)} there are {field.needed + field.slack}: "
            f"{-field.slack} too few"
        )
        yield Suspicion("too short", name, what, certain=True)


def _may_be_scratch(block: AnnotatedBlock, field: Field) -> bool:
    """Triton's scratch pointers come last, and are NULL where the kernel uses none."""
    last = block.signature.params[-_SCRATCH_POINTERS:]
    return field.parameter.role == "argument" and field.parameter in last


def _looks(value: int) -> str:
    """Guess what a value that is no address may be."""
    high, low = divmod(value, 1 << 32)
    if is_two_integers(value):
        return f"it looks like two integers, {low} and {high}"
    if high == 0:
        return f"it looks like an integer, {low}, or like half an address"
    if is_split_address(high, low):
        return f"it looks like the address {low << 32 | high:#x} with its halves swapped"
    return "no device has an address there"


def _integer(field: Field, value: int) -> Iterator[Suspicion]:
    p, name = field.parameter, (field.parameter.name,)
    low, high = p.integer_range
    if p.size == 4 and is_float_bits(value):
        number = struct.unpack("<f", field.data)[0]
        what = f"is {value}, the bits of the float {number:g}: was a float written?"
        yield Suspicion("float bits", name, what)
    elif not low <= value <= high:
        yield Suspicion("unusual", name, f"is {value}; {p.c_type} goes from {low} to {high}")
    elif not is_plausible(p, value):
        above, below = divmod(value % (1 << 8 * p.size), 1 << 32)
        left_over = f" ({above:#x} above {below}: left over from before?)" if above else ""
        role = "an integer argument" if p.role == "argument" else f"a {p.role}"
        yield Suspicion("unusual", name, f"is {value}{left_over}, unusual for {role}")


def _overlaps(block: AnnotatedBlock) -> Iterator[Suspicion]:
    """Outputs whose bytes another array has too."""
    known = [f for f in block.fields if f.array is not None and isinstance(f.value, int)]
    for output in (f for f in known if f.parameter.role == "output"):
        for other in known:
            if other is not output and _share(output, other):
                names = (output.parameter.name, other.parameter.name)
                what = "share memory: CTAs write the one while others still read the other"
                yield Suspicion("overlap", names, what, certain=True)


def _share(first: Field, second: Field) -> bool:
    """True if two fields' arrays share bytes, from their addresses on."""
    (start, end), (other_start, other_end) = map(_span, (first, second))
    return start < other_end and other_start < end


def _span(field: Field) -> tuple[int, int]:
    assert field.array is not None
    start = int(field.value)
    left = field.array.address + field.array.available
    return start, left if field.needed is None else min(left, start + field.needed)


def _rules(block: AnnotatedBlock) -> Iterator[Suspicion]:
    """Constraints, the grid rule and the derived integers of the sidecar."""
    sizes, config = block.sizes, block.config
    for declared in block.sidecar.params:
        right = _value(declared.value, sizes) if declared.value is not None else None
        if declared.value is not None and right not in (None, sizes.get(declared.name)):
            what = f"is {sizes[declared.name]}, but {declared.value.text} = {right}"
            yield Suspicion("rule", (declared.name,), what, certain=True)
    for rule in block.sidecar.constraints:
        if _value(rule, sizes) == 0:
            names = tuple(sorted(rule.names & block.values.keys()))
            what = f"the kernel was built for {rule.text}, here {rule.show(sizes)}"
            yield Suspicion("rule", names, what, certain=True)
    rules = block.sidecar.grid
    if config is None or rules is None:
        return
    expected = tuple(_value(rule, sizes) for rule in rules)
    if None not in expected and expected != config.grid:
        names = tuple(sorted(set().union(*(r.names for r in rules)) & block.values.keys()))
        text = ", ".join(rule.text for rule in rules)
        what = f"ask for the grid {expected} = ({text}), the launch has {config.grid}"
        yield Suspicion("rule", names, what, certain=True)


def _byte_strides(block: AnnotatedBlock) -> Iterator[Suspicion]:
    """Arrays not known here whose strides are those of C order, but for the size of an element."""
    known = {field.parameter.name for field in block.fields if field.array is not None}
    for declared in block.sidecar.params:
        dtype = POINTEE_DTYPES.get(declared.type)
        size = dtype_nbytes(dtype) if dtype else 1
        if size == 1 or len(declared.shape) < 2 or declared.name in known:
            continue
        found = [_value(rule, block.sizes) for rule in declared.strides]
        extents = [_value(rule, block.sizes) or 0 for rule in declared.shape]
        wrong = [size * math.prod(extents[axis + 1 :]) for axis in range(len(extents))]
        names = tuple(rule.text for rule in declared.strides if rule.text in block.values)
        if names and all(wrong) and found == wrong:
            what = (
                f"{size} times what C order of {declared.name} asks for: strides are in elements, "
                f"of {size} bytes each"
            )
            yield Suspicion("byte strides", names, what)


def _value(rule: Expression, sizes: Mapping[str, int]) -> int | None:
    """Value of a rule; None where the block's sizes give it none."""
    try:
        return rule(sizes)
    except AbiError:
        return None
