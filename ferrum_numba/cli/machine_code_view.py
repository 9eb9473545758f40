"""Machine code for people."""

from __future__ import annotations

from rich.console import Console

from ..report.builds import InspectedCode, InspectedCubin, MachineCode
from .console import facts_table, plain_table
from .inspection_view import verdict


def show_machine_code(console: Console, found: MachineCode) -> None:
    """A cubin with all its entries; of a fatbin its members, then each cubin."""
    if found.members:
        table = plain_table()
        for header in ("member", "target", "bytes", "packed"):
            table.add_column(header, justify="right" if header == "bytes" else "left")
        for member in found.members:
            note = member.unreadable or member.compression or "no"
            table.add_row(member.kind, member.target, f"{member.nbytes:,}", note)
        console.print(f"fatbin {found.name}", style="bold")
        console.print(table)
    for cubin in found.cubins:
        console.print()
        _show_cubin(console, found.name, cubin)


def show_agreement(console: Console, found: MachineCode) -> None:
    """Say if the parts of a folder of Triton's cache agree."""
    about = f"parts of {found.name}"
    if not found.disagreements:
        console.print(verdict(about, "agrees", ""))
    for line in found.disagreements:
        console.print(verdict(about, "disagrees", line))


def _show_cubin(console: Console, name: str, cubin: InspectedCubin) -> None:
    facts = facts_table()
    facts.add_row("cubin", f"{name} ({cubin.nbytes:,} bytes)")
    facts.add_row("sha256", cubin.sha256)
    facts.add_row("target", cubin.target)
    console.print(facts)
    for entry in cubin.entries:
        console.print(f"\nentry {entry.entry}", style="bold")
        _show_entry(console, entry)


def _show_entry(console: Console, entry: InspectedCode) -> None:
    table = plain_table()
    for header in ("parameter", "offset", "size"):
        table.add_column(header, justify="right")
    for number, (offset, size) in enumerate(entry.params):
        table.add_row(str(number), str(offset), str(size))
    console.print(table)
    console.print(f"parameter block: {entry.nbytes} bytes; a cubin has no names and no types\n")
    facts = facts_table()
    for name, extent in (("block", entry.block), ("at most", entry.max_block),
                         ("cluster", entry.cluster)):  # fmt: skip
        if extent is not None:
            facts.add_row(name, " x ".join(map(str, extent)))
    facts.add_row("registers", f"{entry.registers} a thread")
    facts.add_row("shared", f"{entry.shared_bytes} bytes, static")
    facts.add_row("local", f"{entry.local_bytes} bytes a thread")
    if entry.ctas_per_sm is not None:
        facts.add_row("occupancy", f"{entry.ctas_per_sm} CTAs an SM, without dynamic shared memory")
    console.print(facts)
