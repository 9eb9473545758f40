"""Two builds of a kernel: can what launches the one launch the other, and how they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .census import Census
from .inspection import InspectedEntry, InspectedParameter, Inspection, Needs

_SIGNS = {"u": "b", "s": "b"}  # a launcher writes the same bits for either


@dataclass(frozen=True)
class Change:
    """One difference to a launcher.

    needed: a launcher of A that does not follow it launches B wrongly.  Otherwise B can be launched
    as A is, under the condition that `what` states.
    """

    subject: str
    what: str
    needed: bool = True


@dataclass(frozen=True)
class Count:
    """Counts of something in A and in B."""

    name: str
    a: int
    b: int


@dataclass(frozen=True)
class EntryComparison:
    """An entry of A and what stands for it in B.

    families, opcodes, accesses, tensor: all families; of the others those whose counts differ.
    sources: files whose lines differ, by (file, lines only in A, lines only in B, lines of both
    with other numbers of instructions).
    """

    a: str
    b: str
    changes: tuple[Change, ...]
    families: tuple[Count, ...]
    opcodes: tuple[Count, ...]
    accesses: tuple[Count, ...]
    tensor: tuple[Count, ...]
    resources: tuple[Count, ...]
    sources: tuple[SourceDifference, ...]


@dataclass(frozen=True)
class SourceDifference:
    """The lines of one source file: (line, instructions in A, instructions in B)."""

    name: str
    lines: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class BuildComparison:
    """Two PTX.  only_a, only_b: entries without a counterpart."""

    a: str
    b: str
    entries: tuple[EntryComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    identical: bool

    @property
    def changes(self) -> tuple[Change, ...]:
        """Differences of all entries, each once."""
        lost = [Change("entry", f"B has no entry {name}") for name in self.only_a]
        return tuple(dict.fromkeys([*lost, *(c for e in self.entries for c in e.changes)]))

    @property
    def launches(self) -> bool:
        """True if a launcher of A launches B as it is."""
        return not any(change.needed for change in self.changes)

    @property
    def sentence(self) -> str:
        """The answer in a line."""
        if self.identical:
            return "yes: the two are the same text"
        needed = [change.what for change in self.changes if change.needed]
        conditions = [change.what for change in self.changes if not change.needed]
        if needed:
            return f"no: {'; '.join(needed)}"
        answer = "yes: a launcher of A launches B"
        return f"{answer}; {'; '.join(conditions)}" if conditions else answer


def compare_builds(a: Inspection, b: Inspection) -> BuildComparison:
    """Compare two inspections, entry by entry; two single entries are a pair by any name."""
    names_a, names_b = ([entry.entry for entry in side.entries] for side in (a, b))
    if len(names_a) == len(names_b) == 1:
        pairs = [(a.entries[0], b.entries[0])]
    else:
        of_b = {entry.entry: entry for entry in b.entries}
        pairs = [(e, of_b[e.entry]) for e in a.entries if e.entry in of_b]
    paired = {entry.entry for pair in pairs for entry in pair}
    shared = tuple(_module_changes(a, b))
    return BuildComparison(
        a=a.ptx,
        b=b.ptx,
        entries=tuple(_compare_entries(x, y, shared) for x, y in pairs),
        only_a=tuple(name for name in names_a if name not in paired),
        only_b=tuple(name for name in names_b if name not in paired),
        identical=a.ptx_sha256 == b.ptx_sha256,
    )


def _module_changes(a: Inspection, b: Inspection) -> Iterator[Change]:
    if a.target != b.target:
        what = f"B runs where {b.target} does, A where {a.target} does"
        yield Change("target", what, needed=False)
    if a.ptx_version != b.ptx_version:
        what = f"B loads from {b.loader} on, A from {a.loader}"
        yield Change("driver", what, needed=False)


def _compare_entries(
    a: InspectedEntry, b: InspectedEntry, shared: Sequence[Change]
) -> EntryComparison:
    changes = [*_entry_changes(a, b), *_parameter_changes(a, b)]
    changes += [*_needs_changes(a.needs, b.needs), *_body_changes(a, b)]
    x, y = a.census, b.census
    return EntryComparison(
        a=a.entry,
        b=b.entry,
        changes=(*changes, *shared),
        families=tuple(_counts(_families(x), _families(y), equal=True)),
        opcodes=tuple(_counts(_opcodes(x), _opcodes(y))),
        accesses=tuple(_counts(_accesses(x), _accesses(y))),
        tensor=tuple(_counts(_tensor(x), _tensor(y))),
        resources=tuple(_counts(_resources(a), _resources(b), equal=True)),
        sources=tuple(_sources(x, y)),
    )


def _entry_changes(a: InspectedEntry, b: InspectedEntry) -> Iterator[Change]:
    if a.entry != b.entry:
        yield Change("entry", f"the entry is {b.entry}, not {a.entry}")


def _parameter_changes(a: InspectedEntry, b: InspectedEntry) -> Iterator[Change]:
    """Parameters by name where both sides have the names of the source, else by position."""
    named = all(p.c_type for side in (a, b) for p in side.params)
    keys = [[p.name if named else str(p.index) for p in side.params] for side in (a, b)]
    of_a, of_b = (
        dict(zip(k, side.params, strict=True)) for k, side in zip(keys, (a, b), strict=True)
    )
    for what, only, other in (("is gone", of_a, of_b), ("is new", of_b, of_a)):
        names = [_name(p, key, named) for key, p in only.items() if key not in other]
        if names:
            verb = what.replace("is", "are") if len(names) > 1 else what
            yield Change("parameters", f"{', '.join(names)} {verb}")
    moved = [key for key in of_a if key in of_b and of_a[key].offset != of_b[key].offset]
    for key in of_a:
        if key in of_b:
            yield from _type_changes(_name(of_a[key], key, named), of_a[key], of_b[key])
    if moved:
        first = moved[0]
        name = _name(of_a[first], first, named)
        more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
        place = f"{name}{more} lie elsewhere" if more else f"{name} lies elsewhere"
        yield Change(
            "parameters",
            f"{place} in the block (offset {of_a[first].offset}, now {of_b[first].offset})",
        )
    if a.nbytes != b.nbytes:
        yield Change("parameters", f"the block has {b.nbytes} bytes, not {a.nbytes}")


def _name(p: InspectedParameter, key: str, named: bool) -> str:
    if named:
        return p.name
    about = f".{p.ptx_type}" if p.role == "argument" else p.role.replace("_", " ")
    return f"parameter {key} ({about})"


def _type_changes(name: str, a: InspectedParameter, b: InspectedParameter) -> Iterator[Change]:
    if _bits(a) != _bits(b):
        yield Change("parameters", f"{name} is .{b.ptx_type}, not .{a.ptx_type}")
    elif a.c_type and b.c_type and a.c_type != b.c_type:
        yield Change("parameters", f"{name} is {b.c_type}, not {a.c_type}")
    if a.role != b.role and "argument" not in (a.role, b.role):
        roles = [role.replace("_", " ") for role in (b.role, a.role)]
        yield Change("parameters", f"{name} is {' and not '.join(roles)}")
    if a.c_type and b.c_type and (a.shape, a.strides) != (b.shape, b.strides):
        shapes = [f"({', '.join(p.shape)})" for p in (b, a)]
        strides = [f"({', '.join(p.strides)})" for p in (b, a)]
        told = shapes if shapes[0] != shapes[1] else strides
        kind = "shape" if shapes[0] != shapes[1] else "strides"
        yield Change("parameters", f"{name} has {kind} {told[0]}, not {told[1]}")
    if a.nbytes != b.nbytes and b.nbytes:
        yield Change("parameters", f"{name} needs {b.nbytes} bytes, not {a.nbytes or 0}")
    if a.rule and b.rule and a.rule != b.rule:
        what = f"the launcher makes {name} {b.rule}, not {a.rule}"
        yield Change("parameters", what, needed=False)


def _bits(p: InspectedParameter) -> str:
    return _SIGNS.get(p.ptx_type[0], p.ptx_type[0]) + p.ptx_type[1:]


def _needs_changes(a: Needs, b: Needs) -> Iterator[Change]:
    if a.threads != b.threads:
        yield _stated("block", "threads a CTA", a.threads, b.threads)
    elif b.block and a.block and _extents(a.block) != _extents(b.block):
        yield Change("block", f"the block is {_extents(b.block)}, not {_extents(a.block)}")
    if (a.cluster, a.num_ctas) != (b.cluster, b.num_ctas):
        yield Change("cluster", f"clusters of {_ctas(b)}, not of {_ctas(a)}")
    for kind in ("programmatic", "cooperative"):
        if getattr(a, kind) != getattr(b, kind):
            asks = "asks for" if getattr(b, kind) else "is not built for"
            yield Change("launch", f"B {asks} a {kind} launch")
    if a.shared_bytes != b.shared_bytes:
        yield _shared(a.shared_bytes, b.shared_bytes)
    yield from _scratch_changes(a, b)
    yield from _grid_changes(a, b)
    news = [rule for rule in b.constraints if rule not in a.constraints]
    if news:
        yield Change("constraints", f"B is only right for {', '.join(news)}", needed=False)
    if a.constants != b.constants and None not in (a.constants, b.constants):
        pairs = f"{_pairs(b.constants)}, not {_pairs(a.constants)}"
        yield Change("constants", f"B computes something else ({pairs})", needed=False)


def _body_changes(a: InspectedEntry, b: InspectedEntry) -> Iterator[Change]:
    """Compare what no signature says: the arrays' elements, and the share of a CTA."""
    elements = [
        index
        for index in a.element_nbytes.keys() & b.element_nbytes.keys()
        if a.element_nbytes[index] != b.element_nbytes[index]
        and not (a.params[index].c_type and b.params[index].c_type)
    ]
    sizes = {(a.element_nbytes[i], b.element_nbytes[i]) for i in elements}
    for was, now in sorted(sizes):
        of = [str(i) for i in elements if (a.element_nbytes[i], b.element_nbytes[i]) == (was, now)]
        many = f"parameters {', '.join(of)}" if len(of) > 1 else f"parameter {of[0]}"
        yield Change("arrays", f"elements of {many} have {now} bytes, not {was}")
    kinds = [_half_kinds(side.census) for side in (a, b)]
    if kinds[0] and kinds[1] and kinds[0].isdisjoint(kinds[1]):
        of_a, of_b = ("/".join(sorted(kind)) for kind in kinds)
        yield Change("arrays", f"B computes with {of_b}, A with {of_a}")
    if a.needs.grid is not None and b.needs.grid is not None:
        return
    for axis in a.tiles.keys() & b.tiles.keys():
        if a.tiles[axis] != b.tiles[axis]:
            of_a, of_b = ("/".join(map(str, side.tiles[axis])) for side in (a, b))
            what = f"a CTA takes steps of {of_b} along {axis}, not {of_a}: compute the grid by it"
            yield Change("grid", what)


def _half_kinds(census: Census) -> set[str]:
    """float16 or bfloat16, as far as opcodes name them."""
    words = {part for opcode in _opcodes(census) for part in opcode.split(".")}
    names = {"float16": ("f16", "f16x2"), "bfloat16": ("bf16", "bf16x2")}
    return {name for name, types in names.items() if words & set(types)}


def _ctas(needs: Needs) -> str:
    extents = needs.cluster or (needs.num_ctas,)
    return f"{' x '.join(map(str, extents))} CTA{'s' if extents != (1,) else ''}"


def _stated(subject: str, what: str, a: int | None, b: int | None) -> Change:
    if a is None or b is None:
        side, known = ("A", b) if a is None else ("B", a)
        return Change(
            subject, f"{side} does not state its {what}, the other asks for {known}", needed=False
        )
    return Change(subject, f"{b} {what}, not {a}")


def _shared(a: int | None, b: int | None) -> Change:
    if a is not None and b is not None and a > b:
        what = f"A's {a} bytes of dynamic shared memory are more than B's {b}"
        return Change("shared", what, needed=False)
    return _stated("shared", "bytes of dynamic shared memory", a, b)


def _scratch_changes(a: Needs, b: Needs) -> Iterator[Change]:
    before = {s.role: s for s in a.scratch}
    for scratch in b.scratch:
        old = before.get(scratch.role)
        role = scratch.role.replace("_", " ")
        if scratch.size > (old.size if old else 0):
            yield Change(
                "scratch", f"{scratch.size} bytes of {role} a CTA, not {old.size if old else 0}"
            )
        elif scratch.size and old and scratch.align > old.align:
            yield Change("scratch", f"{role} aligned to {scratch.align} bytes, not {old.align}")


def _grid_changes(a: Needs, b: Needs) -> Iterator[Change]:
    if a.grid is None or b.grid is None:
        return
    if a.grid != b.grid:
        yield Change("grid", f"the grid is ({', '.join(b.grid)}), not ({', '.join(a.grid)})")
    tiles = a.tile or {}, b.tile or {}
    read = " ".join((*a.grid, *b.grid))
    other = {k: v for k, v in tiles[1].items() if tiles[0].get(k) != v and k in read}
    if other:
        before = {k: tiles[0][k] for k in other if k in tiles[0]}
        yield Change("grid", f"the grid follows from {_pairs(other)}, not {_pairs(before)}")


def _extents(block: Sequence[int]) -> tuple[int, ...]:
    return (*block, 1, 1)[:3]


def _pairs(numbers: Mapping[str, int] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (numbers or {}).items()) or "nothing"


def _counts(a: Mapping[str, int], b: Mapping[str, int], *, equal: bool = False) -> Iterator[Count]:
    for name in dict.fromkeys([*a, *b]):
        if equal or a.get(name, 0) != b.get(name, 0):
            yield Count(name, a.get(name, 0), b.get(name, 0))


def _families(census: Census) -> dict[str, int]:
    return {**{f.name: f.count for f in census.families}, "all": census.instructions}


def _opcodes(census: Census) -> dict[str, int]:
    return {name: n for family in census.families for name, n in family.opcodes.items()}


def _accesses(census: Census) -> dict[str, int]:
    found: Counter[str] = Counter()
    for access in census.accesses:
        width = "" if access.width is None else f", {access.width} bytes"
        found[f"{access.space} {access.operation}{width}"] += access.count
    return dict(found)


def _tensor(census: Census) -> dict[str, int]:
    return {f"{use.operation} {use.shape} {use.types}": use.count for use in census.tensor}


def _resources(entry: InspectedEntry) -> dict[str, int]:
    """Drop fields that are None."""
    found = entry.resources
    if found is None:
        return {}
    names: dict[str, Any] = {
        "registers a thread": found.registers,
        "local bytes a thread": found.local_bytes,
        "CTAs an SM": found.ctas_per_sm,
    }
    return {name: number for name, number in names.items() if number is not None}


def _sources(a: Census, b: Census) -> Iterator[SourceDifference]:
    sides = [{file.name: file.lines for file in side.files if file.name} for side in (a, b)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        lines = [side.get(name, {}) for side in sides]
        found = [
            (line, lines[0].get(line, 0), lines[1].get(line, 0))
            for line in sorted({*lines[0], *lines[1]})
            if lines[0].get(line, 0) != lines[1].get(line, 0)
        ]
        if found:
            yield SourceDifference(name, tuple(found))
