"""True if a block's bytes make more sense in another layout than in the entry's.

A launcher that leaves a parameter out, has one too many, writes every integer as 8 bytes or forgets
alignment hands over bytes that the entry reads at other places; one that mixes two up exchanges
their values.  Each of these mistakes is a hypothesis about where the values lie; the one that
leaves far fewer odd values than the entry's own layout is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ...abi.block import decode
from ...abi.expression import Expression
from ...abi.sidecar import Sidecar
from ...abi.signature import Parameter
from ...errors import AbiError
from .annotation import AnnotatedBlock
from .plausible import is_plausible

_TOLD = 4  # values that are told of another layout
_EVIDENCE = 2  # values that another layout finds elsewhere, at least
_CLEARLY = 2  # how much another layout has to explain, at least


@dataclass(frozen=True)
class Misreading:
    """A layout that the bytes fit better.

    names: the parameters at which the mistake may have been made; empty where it is everywhere.
    moved: the parameters whose bytes lie elsewhere in it.
    """

    names: tuple[str, ...]
    what: str
    moved: tuple[str, ...]


@dataclass(frozen=True)
class _Layout:
    """A layout of the values: an offset a parameter, None for one that was never written.

    at: the parameters that the mistake was made with, none where it was made with all.
    """

    mistake: str
    at: tuple[str, ...]
    offsets: tuple[int | None, ...]


def misreading(block: AnnotatedBlock) -> Misreading | None:
    """The layout that explains the block best, where the entry's own is clearly worse."""
    params = block.signature.params
    odd = _odd(block, [p.offset for p in params])
    if odd < _CLEARLY:
        return None
    layouts = [x for x in _layouts(params) if len(_moved(block, x)) >= _EVIDENCE]
    scored = [(_odd(block, layout.offsets), layout) for layout in layouts]
    best = min((score for score, _ in scored), default=odd)
    if best > odd // 4 or odd - best < _CLEARLY:
        return None
    fits = [layout for score, layout in scored if score == best]
    first = fits[0]
    alike = [layout.at for layout in fits if layout.mistake == first.mistake]
    if first.mistake == _EXCHANGED and len(alike) > 1:
        return None  # several exchanges explain it: none does
    names = tuple(name for at in alike for name in at)
    what = (
        f"the bytes look as if {first.mistake.format(_among(alike))}: read so, "
        f"{'less' if best else 'nothing'} looks wrong{_instead(block, first)}"
    )
    moved = tuple(
        p.name for p, there in zip(params, first.offsets, strict=True) if p.offset != there
    )
    return Misreading(names, what, moved)


def _moved(block: AnnotatedBlock, layout: _Layout) -> list[tuple[Parameter, bytes]]:
    """The parameters that lie elsewhere in a layout, with their bytes there, where not all 0."""
    moved = []
    for p, offset in zip(block.signature.params, layout.offsets, strict=True):
        if offset is not None and offset != p.offset:
            data = block.data[offset : offset + p.size]
            if len(data) == p.size and any(data):
                moved.append((p, data))
    return moved


def _instead(block: AnnotatedBlock, layout: _Layout) -> str:
    """The first integers that come out differently: "; M would be 10, N 2560"."""
    values = ((p.name, decode(p, data)) for p, data in _moved(block, layout) if not p.is_pointer)
    told = [f"{name} {value}" for name, value in values if isinstance(value, int)]
    name, _, rest = ", ".join(told[:_TOLD]).partition(" ")
    return f"; {name} would be {rest}" if told else ""


_EXCHANGED = "{} were exchanged"


def _among(alternatives: Sequence[tuple[str, ...]]) -> str:
    texts = [" and ".join(names) for names in alternatives]
    if len(texts) > 3:
        return f"one of {texts[0]} to {texts[-1]}"
    return " or ".join(texts)


def _layouts(params: Sequence[Parameter]) -> Iterator[_Layout]:
    """Each mistake; of those that fit equally well, the first is reported."""
    own = [(p.size, p.align) for p in params]
    for missing, p in enumerate(params):
        offsets: list[int | None] = [*_place(own[:missing] + own[missing + 1 :])]
        offsets.insert(missing, None)
        yield _Layout("a parameter was left out, {}", (p.name,), tuple(offsets))
    for nbytes in (8, 4):
        for before, p in enumerate(params):
            offsets = [*_place([*own[:before], (nbytes, nbytes), *own[before:]])]
            del offsets[before]
            mistake = f"there were {nbytes} bytes too many before {{}}"
            yield _Layout(mistake, (p.name,), tuple(offsets))
    wide = [(max(size, 8), max(align, 8)) for size, align in own]
    yield _Layout("every value was written as 8 bytes", (), tuple(_place(wide)))
    yield _Layout(
        "values were written without padding", (), tuple(_place([(size, 1) for size, _ in own]))
    )
    for first, second in combinations(params, 2):
        if first.size == second.size:
            swap = {first.offset: second.offset, second.offset: first.offset}
            exchanged = tuple(swap.get(p.offset, p.offset) for p in params)
            yield _Layout(_EXCHANGED, (first.name, second.name), exchanged)


def _place(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Offsets of values of these (size, alignment), one after the other."""
    offsets, end = [], 0
    for size, align in sizes:
        offsets.append(-(-end // align) * align)
        end = offsets[-1] + size
    return offsets


def _odd(block: AnnotatedBlock, offsets: Sequence[int | None]) -> int:
    """Count what looks wrong in a layout: values, and the sidecar's rules that do not hold.

    A pointer that is none tells more than an integer of an unusual size.
    """
    odd = 0
    sizes = dict(block.sidecar.tile or {})
    for p, offset in zip(block.signature.params, offsets, strict=True):
        if offset is None or offset + p.size > len(block.data):
            continue  # never written, or written past the end: nothing to be said
        value = decode(p, block.data[offset : offset + p.size])
        null = value == 0 and block.fields[p.index].nullable
        if not null and not is_plausible(p, value, block.arrays):
            odd += _CLEARLY if p.is_pointer else 1
        if type(value) is int:
            sizes[p.name] = value
    broken = sum(not _holds(rule, sizes) for rule in block.sidecar.constraints)
    return odd + broken + _gaps(block.sidecar, sizes)


def _holds(rule: Expression, sizes: Mapping[str, int]) -> bool:
    """True also where a size is not known."""
    try:
        return not rule.names <= sizes.keys() or bool(rule(sizes))
    except AbiError:
        return False


def _gaps(sidecar: Sidecar, sizes: Mapping[str, int]) -> int:
    """Count the strides that are not those of an array in C order, as most arrays are."""
    gaps = 0
    for declaration in sidecar.params:
        pairs = list(zip(declaration.shape, declaration.strides, strict=True))
        if not all(rule.names <= sizes.keys() for pair in pairs for rule in pair):
            continue
        expected = 1
        try:
            for extent, stride in reversed([(e(sizes), s(sizes)) for e, s in pairs]):
                gaps += stride != expected and (extent != 1 or stride < 1)
                expected *= extent
        except AbiError:  # a division by zero
            gaps += 1
    return gaps
