"""Other ways in which the bytes of a block may have been laid out by whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice

from ..abi import Parameter
from .case import Case
from .truth import truth

_STRIDE_ONE = 1
_MOST_TUPLES = 300


@dataclass(frozen=True)
class Relaid:
    """A block in the PTX's layout, from bytes that are taken to be in another one."""

    cause: str
    what: str
    block: bytes
    mended: str


def relaid(case: Case) -> Iterator[Relaid]:
    """The block under each supposed mistake that fits its length; where that is right, those that
    move any value."""
    for layout in _layouts(case):
        if len(case.block) != case.signature.nbytes or _moved(case, layout.block) > 1:
            yield layout


def _moved(case: Case, block: bytes) -> int:
    """Count the parameters that have other bytes in another block."""
    places = [slice(p.offset, p.offset + p.size) for p in case.signature.params]
    return sum(case.block[place] != block[place] for place in places)


def _layouts(case: Case) -> Iterator[Relaid]:
    params = case.signature.params
    same = len(case.block) == case.signature.nbytes
    for index, p in enumerate(params):
        others = [*params[:index], *params[index + 1 :]]
        offsets, end = _offsets([(q.size, q.align) for q in others])
        if same or _fits(case, end):
            for value, told in _missing_values(case, p):
                block = _rewritten(case, others, offsets, {p.name: value})
                yield Relaid("parameter-missing", f"without {p.name}", block, f"{p.name} = {told}")
    for size in (8, 4):
        for index, p in enumerate(params):
            sizes = [(q.size, q.align) for q in params]
            offsets, end = _offsets([*sizes[:index], (size, size), *sizes[index:]])
            del offsets[index]
            if same or _fits(case, end):
                block = _rewritten(case, params, offsets, {})
                what = f"with {size} bytes too many before {p.name}"
                mended = f"the {size} bytes before {p.name} left out"
                yield Relaid("parameter-extra", what, block, mended)
    offsets, end = _offsets([(p.size, 1) for p in params])
    if _fits(case, end) and not same:
        block = _rewritten(case, params, offsets, {})
        yield Relaid("padding-missing", "one after the other", block, "each value aligned")
    yield from _several_missing(case)
    offsets, end = _offsets([(max(p.size, 8), 8) for p in params])
    if _fits(case, end) and not same:
        block = _rewritten(case, params, offsets, {})
        yield Relaid(
            "integers-too-wide", "every value in 8 bytes", block, "each value in its own width"
        )


def _several_missing(case: Case) -> Iterator[Relaid]:
    """Two or three parameters left out: those that a just-in-time launch leaves out as 1, or
    arrays.  Only where the block is shorter, and not for declared kernels, whose values tell."""
    if len(case.block) >= case.signature.nbytes or case.declared.params:
        return
    able = [p for p in case.signature.params if p.name in case.arrays or not p.is_pointer]
    for left_out in islice(chain(combinations(able, 2), combinations(able, 3)), _MOST_TUPLES):
        others = [p for p in case.signature.params if p not in left_out]
        offsets, end = _offsets([(p.size, p.align) for p in others])
        if _fits(case, end):
            arrays = case.arrays
            more = {p.name: arrays[p.name].address if p.name in arrays else 1 for p in left_out}
            told = ", ".join(f"{n} = {'its array' if n in arrays else 1}" for n in more)
            block = _rewritten(case, others, offsets, more)
            yield Relaid("parameter-missing", f"without {', '.join(more)}", block, told)


def _fits(case: Case, end: int) -> bool:
    """True if bytes of this length are the block, its end padded or not."""
    return end <= len(case.block) <= -(-end // 8) * 8


def _offsets(sizes: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Offsets of values of these (size, alignment) one after the other, and where they end."""
    offsets, end = [], 0
    for size, align in sizes:
        offsets.append(-(-end // align) * align)
        end = offsets[-1] + size
    return offsets, end


def _rewritten(
    case: Case, params: Sequence[Parameter], offsets: Sequence[int], more: dict[str, int]
) -> bytes:
    """The PTX's layout, filled from the block by other offsets."""
    block = bytearray(case.signature.nbytes)
    for p, offset in zip(params, offsets, strict=True):
        data = case.block[offset : offset + p.size]
        block[p.offset : p.offset + len(data)] = data
    for name, value in more.items():
        p = case.signature[name]
        block[p.offset : p.offset + p.size] = (value % (1 << 8 * p.size)).to_bytes(p.size, "little")
    return bytes(block)


def _missing_values(case: Case, p: Parameter) -> list[tuple[int, str]]:
    """Guess the value of a parameter that was left out, as far as the arrays tell."""
    right = truth(case).values
    if p.name in right:
        return [(right[p.name], str(right[p.name]))]
    if p.name in case.arrays:
        return [(case.arrays[p.name].address, "its array's address")]
    if p.is_pointer:
        return [(0, "NULL")]
    if case.declared.params:
        return [(_STRIDE_ONE, "1")]
    extents = {extent for array in case.arrays.values() for extent in array.values.shape}
    return [(extent, str(extent)) for extent in sorted({_STRIDE_ONE, *extents})]
