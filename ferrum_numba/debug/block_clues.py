"""Clues from the parameter block, held against the arrays: integers and addresses."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

from ..abi import Parameter
from ..abi.signature import SCRATCH_ROLES
from .case import Case, read_block
from .hypothesis import Hypothesis
from .layouts import relaid
from .truth import Truth, truth

_LOW = 1 << 32
_SMALL = 1 << 20


def integer_clues(case: Case) -> Iterator[Hypothesis]:
    """Sizes and strides that are not those of the arrays."""
    if not case.values:
        return
    right = truth(case)
    wrong = {
        name: (case.values[name], value)
        for name, value in right.values.items()
        if name in case.values and case.values[name] != value
    }
    swapped = set()
    for one, two in combinations(wrong, 2):
        if wrong[one] == wrong[two][::-1]:
            swapped |= {one, two}
            yield _exchange(case, one, two, right)
    if len(swapped) > 2:
        values = {name: right.values[name] for name in swapped}
        told = f"{len(swapped)} integers are exchanged in pairs: {', '.join(sorted(swapped))}"
        kind = _kind_of_exchange(case, swapped)
        yield Hypothesis(kind, told, 0.92, case.with_values(**values), "all of them exchanged")
    left = {name: pair for name, pair in wrong.items() if name not in swapped}
    in_bytes = {n: p for n, p in left.items() if p[0] == p[1] * _itemsize(case, n, right) != p[1]}
    if in_bytes:
        yield _strides_in_bytes(case, in_bytes, right)
    others = {n: p for n, p in left.items() if n not in in_bytes}
    weight = 0.8 if len(wrong) == 1 else 0.4
    for name, (has, should) in others.items():
        yield Hypothesis(
            _kind_of(case, name),
            f"{name} is {has}, by {right.source(name)} it is {should}",
            weight,
            case.with_values(**{name: should}),
            f"{name} = {should}",
        )
    if len(others) > 1:
        values = {name: should for name, (_, should) in others.items()}
        kinds = {_kind_of(case, name) for name in others}
        if len(kinds) == 1:
            text = ", ".join(f"{n} is {p[0]} instead of {p[1]}" for n, p in others.items())
            yield Hypothesis(kinds.pop(), text, 0.5, case.with_values(**values), "those")


def _exchange(case: Case, one: str, two: str, right: Truth) -> Hypothesis:
    has = case.values
    return Hypothesis(
        _kind_of_exchange(case, {one, two}),
        f"{one} is {has[one]} and {two} is {has[two]}, by {right.source(one)} and "
        f"{right.source(two)} it is the other way round",
        0.9,
        case.with_values(**{one: has[two], two: has[one]}),
        f"{one} = {has[two]} and {two} = {has[one]}",
    )


def _kind_of_exchange(case: Case, names: set[str]) -> str:
    roles = {case.signature[name].role for name in names}
    return "strides-swapped" if roles == {"stride"} else "sizes-swapped"


def _strides_in_bytes(case: Case, in_bytes: dict[str, tuple[Any, Any]], right: Truth) -> Hypothesis:
    name, (has, should) = next(iter(in_bytes.items()))
    more = f" ({len(in_bytes)} strides are so)" if len(in_bytes) > 1 else ""
    return Hypothesis(
        "strides-in-bytes",
        f"{name} is {has}: the bytes of the {should} elements that {right.source(name)} has{more}",
        0.9,
        case.with_values(**{n: p[1] for n, p in in_bytes.items()}),
        f"{name} = {should}" + (" and the others alike" if more else ""),
    )


def _kind_of(case: Case, name: str) -> str:
    if name == "group_size":
        return "group-size-wrong"
    return "stride-wrong" if case.signature[name].role == "stride" else "size-wrong"


def _itemsize(case: Case, name: str, right: Truth) -> int:
    """Item size of the array that a stride belongs to; 1 for a size."""
    votes = right.votes.get(name, [])
    of = next((v.array for v in votes if v.where.startswith("strides")), None)
    return case.arrays[of].values.itemsize if of else 1


def length_clues(case: Case) -> Iterator[Hypothesis]:
    """A block of another length than the PTX demands, or one whose values lie elsewhere."""
    signature, given = case.signature, len(case.block)
    own = _agreement(case, case.values) if case.values else -1
    if given != signature.nbytes:
        told = f"the block has {given} bytes, the PTX declares {signature.nbytes}"
    else:
        told = f"read as the PTX declares, {own} of {_most(case)} values make sense"
    first = _first_scratch(case)
    if first is not None and _end_before(case, first) <= given <= first.offset:
        padded = case.block + bytes(signature.nbytes - given)
        count = len(signature.params) - first.index
        yield Hypothesis(
            "scratch-missing",
            f"{told}: what is missing is the {count} scratch pointers at its end",
            0.97 if case.declared.params else 0.89,  # where nobody names the others, a trial tells
            replace(case, block=padded),
            "NULL for them",
        )
    for layout in relaid(case):
        values = read_block(layout.block, signature.params)
        agrees = _agreement(case, values)
        if given == signature.nbytes and agrees < own + 2:
            continue
        share = agrees / max(_most(case), 1)
        yield Hypothesis(
            layout.cause,
            f"{told}; {layout.what}, {agrees} of {_most(case)} do",
            (0.35 if given == signature.nbytes else 0.45) + 0.5 * share,
            replace(case, block=layout.block),
            layout.mended,
        )
    if given != signature.nbytes:
        cause = "parameter-missing" if given < signature.nbytes else "parameter-extra"
        yield Hypothesis(cause, told, 0.6)


def _end_before(case: Case, parameter: Parameter) -> int:
    """End of the parameter before this one; padding may follow."""
    before = case.signature.params[: parameter.index]
    return max((p.offset + p.size for p in before), default=0)


def _first_scratch(case: Case) -> Parameter | None:
    """The first of the scratch pointers; without a sidecar those that no array goes to."""
    params = case.signature.params
    found = [p for p in params if p.role in SCRATCH_ROLES]
    if found:
        return found[0]
    tail = None
    for p in reversed(params[-2:]):
        if p.size != 8 or not p.is_pointer or p.name in case.arrays:
            break
        tail = p
    return tail


def _agreement(case: Case, values: dict[str, Any]) -> int:
    """Count the values that are what they have to be, or at least may be."""
    right = truth(case).values
    return sum(_agrees(case, p, values[p.name], right) for p in case.signature.params)


def _agrees(case: Case, p: Parameter, value: Any, right: dict[str, int]) -> bool:
    if p.name in right:
        return bool(value == right[p.name])
    if p.name in case.arrays:
        return case.arrays[p.name].holds(value) if isinstance(value, int) else False
    if p.role in SCRATCH_ROLES or p.is_pointer:
        return isinstance(value, int) and (value == 0 or value > _LOW)
    return not isinstance(value, int) or (p.size == 4 and abs(value) < _SMALL) or value > _LOW


def _most(case: Case) -> int:
    return len(case.signature.params)


def pointer_clues(case: Case) -> Iterator[Hypothesis]:
    """Addresses that are not those of their arrays."""
    yield from _truncated(case)
    for name, array in case.arrays.items():
        value = case.values.get(name)
        if not isinstance(value, int) or value == array.address:
            continue
        try_it = partial(
            Hypothesis,
            remedy=case.with_values(**{name: array.address}),
            mended=f"its array's address, {array.address:#x}, for {name}",
        )
        other = next((n for n, a in case.arrays.items() if n != name and a.address == value), None)
        if other is not None:
            yield _other_array(case, name, other, try_it)
        elif value == 0:
            yield try_it("pointer-null", f"{name} is NULL", 0.95)
        elif value == array.address % _LOW or value == array.address >> 32:
            told = f"{name} is {value:#x}, half of the address {array.address:#x}"
            yield try_it("pointer-truncated", told, 0.95)
        elif not any(a.holds(value) for a in case.arrays.values()):
            told = f"{name} is {value:#x}, where no array of the launch lies"
            yield try_it("array-freed", told, 0.8)
        elif value % array.values.itemsize:
            told = (
                f"{name} is {value:#x}, not a multiple of the {array.values.itemsize} bytes of an "
                f"element ({array.values.dtype.name})"
            )
            yield try_it("array-misaligned", told, 0.95)
        elif array.holds(value):
            told = f"{name} points to byte {value - array.address} of its array, {array}"
            yield try_it("pointer-offset", told, 0.6)


def _truncated(case: Case) -> Iterator[Hypothesis]:
    """Several addresses of which only the lower half is there; one of them may be 0."""
    halves = {
        name: array.address
        for name, array in case.arrays.items()
        if array.address >= _LOW and case.values.get(name) == array.address % _LOW
    }
    if len(halves) > 1:
        told = f"{', '.join(halves)} hold the lower 4 bytes of their arrays' addresses"
        remedy = case.with_values(**halves)
        yield Hypothesis("pointer-truncated", told, 0.96, remedy, "the whole addresses")


def _other_array(case: Case, name: str, other: str, try_it: Any) -> Hypothesis:
    arrays = case.arrays
    told = f"{name} holds the address of {other}'s array, {arrays[other]}"
    if case.values.get(other) != arrays[name].address:
        return try_it("pointers-swapped", told, 0.7)  # type: ignore[no-any-return]
    swapped = case.with_values(**{name: arrays[name].address, other: arrays[other].address})
    return Hypothesis(
        "pointers-swapped",
        f"{told}, and {other} that of {name}'s",
        0.95,
        swapped,
        f"{name} and {other} exchanged",
    )


def number_clues(case: Case) -> Iterator[Hypothesis]:
    """Floats whose bits are an integer's, integers whose bits are a float's, swapped bytes."""
    for p in case.signature.params:
        value = case.values.get(p.name)
        bits = case.block[p.offset : p.offset + p.size]
        if p.size == 8 and isinstance(value, int):
            yield from _upper_half(case, p, value)
        if p.size != 4 or p.count is not None or value is None:
            continue
        if isinstance(value, float):
            yield from _double(case, p)
            integer = int.from_bytes(bits, "little")
            if 0 < integer < _SMALL:
                yield _number(case, p, f"{value:.3g}, the bits of the integer {integer}", float)
            continue
        number = struct.unpack("<f", bits)[0]
        if not value % 4096 and 2.0**-20 < abs(number) < 2.0**20:
            yield _number(case, p, f"{value}, the bits of the float {number:g}", int)
    yield from _turned(case)


def _upper_half(case: Case, p: Parameter, value: int) -> Iterator[Hypothesis]:
    """An integer of 8 bytes of which only the lower 4 look like one."""
    if p.is_pointer or p.name in case.arrays or p.role in SCRATCH_ROLES:
        return
    above, below = divmod(value % (1 << 64), _LOW)
    if 0 < above < _LOW - 1 and 0 < below < _SMALL:
        told = f"{p.name} is {value}: {below}, and above it {above:#x}"
        remedy = case.with_values(**{p.name: below})
        yield Hypothesis("integers-too-narrow", told, 0.7, remedy, f"{p.name} = {below}")


def _double(case: Case, p: Parameter) -> Iterator[Hypothesis]:
    """A float whose 4 bytes and the 4 behind them are a double."""
    data = case.block[p.offset : p.offset + 8]
    if (
        p.offset % 8
        or len(data) < 8
        or any(q.offset == p.offset + 4 for q in case.signature.params)
    ):
        return
    number = struct.unpack("<d", data)[0]
    if 1e-12 < abs(number) < 1e12:
        word = struct.pack("<f", number)
        block = case.block[: p.offset] + word + bytes(4) + case.block[p.offset + 8 :]
        told = f"{p.name} and the 4 bytes of padding behind it are the double {number:g}"
        remedy = replace(case, block=block)
        yield Hypothesis("number-bits", told, 0.8, remedy, f"{p.name} = {number:g} as a float")


def _turned(case: Case) -> Iterator[Hypothesis]:
    """Values, or integers alone, whose high byte comes first."""
    if not case.values:
        return
    now = _agreement(case, case.values)
    for sizes, whose in (((2, 4, 8), "each value"), ((4,), "each 4-byte value")):
        block = bytearray(case.block)
        for p in case.signature.params:
            if p.size in sizes and p.count is None:
                block[p.offset : p.offset + p.size] = block[p.offset : p.offset + p.size][::-1]
        then = _agreement(case, read_block(bytes(block), case.signature.params))
        if then > now + 1:
            yield Hypothesis(
                "byte-order",
                f"with the bytes of {whose} turned round {then} of {_most(case)} make sense, as "
                f"they are {now}",
                0.55 + 0.4 * then / _most(case),
                replace(case, block=bytes(block)),
                f"the bytes of {whose} turned round",
            )


def _number(case: Case, p: Parameter, told: str, kind: type) -> Hypothesis:
    bits = case.block[p.offset : p.offset + 4]
    number = (
        float(int.from_bytes(bits, "little")) if kind is float else struct.unpack("<f", bits)[0]
    )
    word = struct.pack("<f", number) if kind is float else struct.pack("<i", int(number))
    block = case.block[: p.offset] + word + case.block[p.offset + 4 :]
    return Hypothesis(
        "number-bits",
        f"{p.name} is {told}",
        0.85,
        replace(case, block=block),
        f"{p.name} = {kind(number):g}",
    )
