"""An inspection for people: facts, the signature, and what the entry is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..devices.resources import Resources
from ..report.builds import (
    Census,
    InspectedEntry,
    InspectedParameter,
    Inspection,
    Loading,
    Needs,
    SourceFile,
    Unreadable,
)
from ..report.builds.occupancy import find_sm
from .block_table import column_width, short_name
from .console import facts_table, plain_table
from .fitting import Column, print_fitted

_ENTRIES = 32  # that are shown
_OPCODES = 4  # of a family, that are named
_LINES = 6  # of a source file, that are named
_GOOD = ("agrees", "none", "loads")


def show_inspection(
    console: Console, found: Inspection, loading: Loading | None, everything: bool
) -> None:
    """One PTX with all its entries.  loading: what a device said, or None."""
    lines = facts_table()
    for name, value in _file_facts(found):
        lines.add_row(name, value)
    console.print(lines)
    shown = found.entries if everything else found.entries[:_ENTRIES]
    for entry in shown:
        console.print(f"\nentry {entry.entry}", style="bold")
        _show_entry(console, entry, found.target, everything)
    console.print()
    if len(shown) < len(found.entries):
        more = len(found.entries) - len(shown)
        console.print(f"and {more:,} more entries; --entry NAME shows one, --all every one\n")
    sidecar = found.sidecar
    about = f"sidecar {sidecar.path}" if sidecar.path else "sidecar"
    console.print(verdict(about, sidecar.verdict, sidecar.reason))
    if loading is not None:
        console.print(verdict(f"device {loading.name}", loading.verdict, loading.reason))


def show_folder(
    console: Console, rows: Sequence[tuple[Inspection | Unreadable, Loading | None]]
) -> None:
    """A line an entry, and below what could not be read and what disagrees."""
    entries = [(f, entry) for f, _ in rows if isinstance(f, Inspection) for entry in f.entries]
    table = _folder_table(entries)
    unbounded = console.options.update(width=10_000)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
    else:
        for found, entry in entries:
            console.print(_folder_lines(found, entry))
    files = [found for found, _ in rows if isinstance(found, Inspection)]
    console.print(f"\n{_count(len(files), 'PTX file')}, {_count(len(entries), 'entry', 'entries')}")
    for row, loading in rows:
        if isinstance(row, Unreadable):
            console.print(verdict(row.ptx, "cannot be read", row.error))
            continue
        state = row.sidecar
        if state.reason:
            console.print(verdict(str(state.path), state.verdict, state.reason))
        if loading is not None and loading.reason:
            console.print(verdict(f"{row.ptx} on {loading.name}", loading.verdict, loading.reason))


def _folder_table(entries: Sequence[tuple[Inspection, InspectedEntry]]) -> Table:
    table = plain_table()
    for header in ("PTX", "target", "driver"):
        table.add_column(header, no_wrap=True)
    for header in ("params", "threads", "shared", "regs", "CTAs/SM"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("sidecar", no_wrap=True)
    for found, entry in entries:
        state = Text(found.sidecar.verdict, _style(found.sidecar.verdict))
        table.add_row(_entry_name(found, entry), *_folder_cells(found, entry), state)
    return table


def _folder_lines(found: Inspection, entry: InspectedEntry) -> Text:
    """Text of a table row, for a console that is too narrow for a table."""
    target, driver, nbytes, threads, shared, registers, ctas = _folder_cells(found, entry)
    loader = driver if driver.startswith("CUDA") else f"driver {driver}"
    facts = [loader, f"{nbytes} B params"]
    facts += [f"{threads} threads"] if threads else []
    facts += [f"{shared} B shared", f"{registers} regs", f"{ctas} CTAs/SM"]
    state = (found.sidecar.verdict, _style(found.sidecar.verdict))
    name = _entry_name(found, entry)
    return Text.assemble(
        (name, "bold"), f" for {target}, sidecar ", state, "\n  ", ", ".join(facts)
    )


def _entry_name(found: Inspection, entry: InspectedEntry) -> str:
    name = found.ptx.rpartition("/")[2].removesuffix(".ptx")
    return f"{name}: {_short(entry.entry)}" if len(found.entries) > 1 else name


def _folder_cells(found: Inspection, entry: InspectedEntry) -> tuple[str, ...]:
    """Target, driver, bytes of parameters and of shared memory, registers, CTAs of an SM."""
    shared = entry.needs.shared_bytes
    resources = entry.resources or Resources("")
    unknown = "?"
    return (
        found.target,
        found.min_driver or (f"CUDA {found.min_cuda}" if found.min_cuda else unknown),
        str(entry.nbytes),
        str(entry.needs.threads or ""),
        unknown if shared is None else str(shared + entry.needs.static_shared_bytes),
        unknown if resources.registers is None else str(resources.registers),
        unknown if resources.ctas_per_sm is None else str(resources.ctas_per_sm),
    )


def _style(word: str) -> str:
    return "green" if word in _GOOD else "bold red"


def verdict(about: str, word: str, reason: str) -> Text:
    """`about: word: reason`, the word in colour."""
    return Text.assemble(f"{about}: ", (word, _style(word)), f": {reason}" if reason else "")


def _file_facts(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "ptx", f"{found.ptx} ({found.nbytes:,} bytes)"
    yield "sha256", found.ptx_sha256
    yield "target", found.target
    yield "PTX ISA", f"{found.ptx_version}, loads from {found.loader} on"


def _show_entry(console: Console, entry: InspectedEntry, target: str, everything: bool) -> None:
    console.print()
    print_fitted(console, *_parameter_table(entry))
    console.print(f"parameter block: {entry.nbytes} bytes\n")
    facts = facts_table()
    for name, value in (*_needs_facts(entry.needs, entry.tiles), *_resource_facts(entry, target)):
        facts.add_row(name, value)
    console.print(facts)
    console.print()
    console.print(_family_table(entry.census, everything))
    for table in (_access_table(entry.census), _tensor_table(entry.census)):
        if table is not None:
            console.print()
            console.print(table)
    if entry.calls:
        calls = ", ".join(map(_short, entry.calls))
        console.print(f"\ncalls {calls}, whose instructions are not counted")
    if entry.census.files:
        console.print()
        console.print(_source_table(entry.census.files, everything))


def _parameter_table(entry: InspectedEntry) -> tuple[list[Column], list[list[str]]]:
    """The columns, and a row for each parameter."""
    declared = any(p.c_type for p in entry.params)
    names = [short_name(p.name, entry.entry) for p in entry.params]
    columns = [Column("", True), Column("parameter", least=column_width(names))]
    columns += [Column("PTX", rank=1)] + [Column("kernel")] * declared
    columns += [Column("offset", True), Column("size", True, 2), Column("role", least=16)]
    rows = []
    for name, p in zip(names, entry.params, strict=True):
        cells = [str(p.index), name]
        cells.append(f".{p.ptx_type}" + (" .ptr" if p.pointer and not declared else ""))
        cells += [p.c_type or ""] * declared
        rows.append([*cells, str(p.offset), str(p.size), _role(p)])
    return columns, rows


def _role(p: InspectedParameter) -> str:
    """Role of a parameter, and its extent or its rule."""
    shape = f" ({', '.join(p.shape)})" if p.shape else f" of {p.nbytes} bytes" if p.nbytes else ""
    shape += f" {p.rule}" if p.rule else ""
    return p.role.replace("_", " ") + shape + (" or NULL" if p.nullable else "")


def _needs_facts(needs: Needs, tiles: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    if needs.block:
        extents = ", ".join(map(str, needs.block))
        yield "block", f"({extents}), demanded by {needs.block_source}"
    else:
        yield "block", _not_stated(needs.max_block)
    if needs.cluster or needs.num_ctas > 1:
        yield "cluster", ", ".join(map(str, needs.cluster or (needs.num_ctas,))) + " CTAs"
    if needs.num_warps is not None:
        stages = "" if needs.num_stages is None else f", {_count(needs.num_stages, 'stage')}"
        yield "built for", f"{_count(needs.num_warps, 'warp')}{stages}"
    if needs.programmatic or needs.cooperative:
        kinds = ["programmatic"] * needs.programmatic + ["cooperative"] * needs.cooperative
        yield "launch", ", ".join(kinds)
    yield "shared", _shared(needs)
    for name, role, size in needs.provided:
        much = "none of it used: NULL" if size == "0 bytes a CTA" else size or "size not stated"
        yield role.replace("_", " "), f"{name}: {much}" if name != role else much
    steps = ", ".join(f"{'/'.join(map(str, n))} along {axis}" for axis, n in tiles.items())
    unsaid = f"not stated; a CTA takes steps of {steps}" if steps else "not stated"
    yield "grid", f"({', '.join(needs.grid)})" if needs.grid else unsaid
    for name, pairs in (("tile", needs.tile), ("constants", needs.constants)):
        if pairs:
            yield name, _pairs(pairs)
    if needs.constraints:
        yield "holds for", ", ".join(needs.constraints)


def _not_stated(most: tuple[int, ...] | None) -> str:
    if most is None:
        return "not stated"
    return f"not stated, at most {' x '.join(map(str, most))} threads (.maxntid)"


def _shared(needs: Needs) -> str:
    parts = []
    if needs.static_shared_bytes:
        parts.append(f"{needs.static_shared_bytes} bytes static")
    if needs.shared_bytes is None:
        parts.append("dynamic, how much is not stated")
    elif needs.shared_bytes or not parts:
        parts.append(f"{needs.shared_bytes} bytes dynamic" if needs.shared_bytes else "none")
    return ", ".join(parts)


def _resource_facts(entry: InspectedEntry, target: str) -> Iterator[tuple[str, str]]:
    found = entry.resources
    if found is None:
        yield "registers", f"unknown: {entry.resources_unknown}"
        return
    local = f", {found.local_bytes} bytes local" if found.local_bytes else ""
    spills = ""
    if found.spill_store_bytes or found.spill_load_bytes:
        spills = (
            f", spills {found.spill_store_bytes} bytes of stores, {found.spill_load_bytes} of loads"
        )
    constant = f", {found.constant_bytes} bytes constant" if found.constant_bytes else ""
    yield "registers", f"{found.registers} a thread{local}{spills}{constant} ({found.source})"
    yield "occupancy", _occupancy(entry, found, target)


def _occupancy(entry: InspectedEntry, found: Resources, target: str) -> str:
    threads, ctas = entry.needs.most_threads, found.ctas_per_sm
    if ctas is None:
        what = "the block" if threads is None else "the SM"
        return f"unknown: {what} is not known"
    if ctas == 0:
        return "0: not even one CTA fits on an SM"
    warps = ctas * -(-(threads or 0) // 32)
    sm = find_sm(target)
    share = f" of {sm.warps}, {warps / sm.warps:.0%}" if sm and "ptxas" in found.source else ""
    of = "" if entry.needs.block else f" of {threads} threads"
    return f"{_count(ctas, 'CTA')}{of} an SM ({_count(warps, 'warp')}{share})"


def _family_table(census: Census, everything: bool) -> Table:
    table = plain_table()
    table.add_column(_count(census.instructions, "instruction"), no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("opcodes", overflow="fold")
    for family in census.families:
        named = list(family.opcodes.items())
        shown = named if everything else named[:_OPCODES]
        text = ", ".join(_times(count, name) for name, count in shown)
        left = len(named) - len(shown)
        table.add_row(family.name, str(family.count), text + (f", {left} more" if left else ""))
    return table


def _access_table(census: Census) -> Table | None:
    if not census.accesses:
        return None
    table = plain_table()
    table.add_column("memory", no_wrap=True)
    table.add_column("operation", no_wrap=True)
    table.add_column("instructions×bytes a thread", overflow="fold")
    grouped: dict[tuple[str, str], list[str]] = {}
    for access in census.accesses:
        width = "?" if access.width is None else str(access.width)
        of_place = grouped.setdefault((access.space, access.operation), [])
        of_place.append(_times(access.count, width))
    for (space, operation), widths in grouped.items():
        table.add_row(space, operation, ", ".join(widths))
    return table


def _tensor_table(census: Census) -> Table | None:
    if not census.tensor:
        return None
    table = plain_table()
    for header in ("tensor", "shape", "types"):
        table.add_column(header, no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for use in census.tensor:
        table.add_row(use.operation, use.shape, use.types, str(use.count))
    return table


def _source_table(files: Iterable[SourceFile], everything: bool) -> Table:
    table = plain_table()
    table.add_column("source", overflow="fold")
    table.add_column("instructions", justify="right", no_wrap=True)
    table.add_column("line: instructions", overflow="fold")
    for file in files:
        if not file.name:
            table.add_row("no line", str(file.count), "")
            continue
        most = sorted(file.lines.items(), key=lambda item: -item[1])
        shown = dict(most if everything else most[:_LINES])
        text = ", ".join(f"{line}: {n}" for line, n in file.lines.items() if line in shown)
        left = len(most) - len(shown)
        table.add_row(file.name, str(file.count), text + (f", {left} more" if left else ""))
    return table


def _times(count: int, what: object) -> str:
    return f"{count}×{what}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _pairs(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in numbers.items()) or "none"


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}…"
