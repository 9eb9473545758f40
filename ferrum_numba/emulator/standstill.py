"""Report of a standstill: the waits of a CTA's warps of which none will ever go on."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from ..abi import Signature
from . import table
from .flow import Block
from .layout import WAITING
from .origin import Origin
from .ptx import Body, Instruction
from .runtime.mbarriers import BYTES, COUNT, PHASE
from .waits import Place, Wait

_FINISHED = 0xFFFFFFFF
_SHOWN = 4  # lines about CTAs that wait for different things


def describe(blocks: Sequence[Block], places: Sequence[Place]) -> str:
    """A line for each wait, with the warps that stand there."""
    groups: dict[str, list[int]] = {}
    for warp, place in enumerate(places):
        groups.setdefault(_line(blocks, place), []).append(warp)
    return "\n".join(f"  {_warps(warps)}: {line}" for line, warps in groups.items())


def _line(blocks: Sequence[Block], place: Place) -> str:
    if place.resume == _FINISHED:
        return "finished"
    ins = _wait(blocks, place.resume)
    if ins is None:
        return "between two waits"
    text = f"PTX line {ins.line}: {' '.join(ins.text.split())}"
    if not ins.opcode.base.startswith("mbarrier"):
        return f"{text}: for other warps to come to this barrier"
    pending, nbytes = place.word & COUNT, place.word >> BYTES & (1 << PHASE - BYTES) - 1
    signed = nbytes - (nbytes >> PHASE - BYTES - 1 << PHASE - BYTES)
    return (
        f"{text}: for the phase of parity {place.parity} of the mbarrier at shared byte"
        f" {place.address}, whose phase of parity {place.word >> PHASE & 1} lacks"
        f" {pending} arrivals and {signed} bytes"
    )


def _wait(blocks: Sequence[Block], resume: int) -> Instruction | None:
    """The instruction that a warp waits at."""
    number = resume & (WAITING - 1)
    for block in blocks:
        waits = block.exit == "barrier" if resume & WAITING else block.exit == "yield"
        if (waits and block.next == number) or (block.exit == "poll" and block.index == number):
            return block.last
    return None


def _warps(warps: list[int]) -> str:
    if len(warps) == 1:
        return f"warp {warps[0]}"
    if warps == list(range(warps[0], warps[-1] + 1)):
        return f"warps {warps[0]}-{warps[-1]}"
    return f"warps {', '.join(map(str, warps))}"


class Polls:
    """Description of what CTAs poll that wait for each other."""

    def __init__(
        self,
        body: Body,
        blocks: Sequence[Block],
        origins: Mapping[int, Origin],
        signature: Signature,
        parameter_block: bytes,
    ) -> None:
        """origins: of each access to global memory, by its line."""
        self._body, self._blocks, self._origins = body, blocks, origins
        self._pointers = {
            p.name: int.from_bytes(parameter_block[p.offset : p.offset + 8], "little")
            for p in signature.params
            if p.size == 8
        }

    def describe(self, waits: Sequence[Wait], ended: int) -> str:
        """Say what the CTAs that are left wait for, and what writes it."""
        groups: dict[str, list[Wait]] = {}
        for wait in waits:
            groups.setdefault(self._line(wait), []).append(wait)
        lines = [f"  {_ctas(group)}: {line}" for line, group in groups.items()]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"  and {len(lines) - _SHOWN} more"]
        polled = {self._name(wait.address)[0] for wait in waits if wait.site}
        return "\n".join(
            [
                f"deadlock: {len(waits)} CTA{'s' * (len(waits) > 1)} cannot end ({ended} did),"
                " since nothing changes any more that would let one go on:",
                *lines,
                *self._writers(polled),
                "look for a CTA that ended, or went on, without writing there, for a count of CTAs"
                " that is not the grid's, and for counters that were not zero at the start",
            ]
        )

    def _line(self, wait: Wait) -> str:
        ins = self._body.statements[wait.site - 1] if wait.site else None
        barrier = _wait(self._blocks, wait.resume)
        if barrier is not None and barrier.opcode.base.startswith("bar"):
            return f"waiting at PTX line {barrier.line}: {' '.join(barrier.text.split())}"
        if not isinstance(ins, Instruction):
            blocks = self._blocks[wait.resume & (WAITING - 1) :]
            after = [i for b in blocks for i in (*b.instructions, b.last) if i]
            return f"in the loop at PTX line {after[0].line}{self._source(after[0])}"
        name, offset = self._name(wait.address)
        nbytes = 8 if ins.opcode.type.endswith("64") else 4
        word = int.from_bytes(ctypes.string_at(wait.address, nbytes), "little")
        place = f"{name}+{offset}" if name else "the address"
        text = " ".join(ins.text.split())
        return (
            f"polling {place} ({wait.address:#x}), which holds {word}, at PTX line"
            f" {ins.line}{self._source(ins)}: {text}"
        )

    def _name(self, address: int) -> tuple[str, int]:
        """The parameter that an address is counted from, and how far it is."""
        below = [(at, name) for name, at in self._pointers.items() if 0 < at <= address]
        at, name = max(below, default=(address, ""))
        return name, address - at

    def _source(self, ins: Instruction) -> str:
        place = self._body.place_of(ins)
        return f" ({place})" if place else ""

    def _writers(self, polled: set[str]) -> list[str]:
        """The instructions that write what is polled, as far as their addresses tell."""
        found = []
        for ins in self._body.statements:
            if not isinstance(ins, Instruction) or not (
                table.accesses(ins, "store") or table.accesses(ins, "atomic")
            ):
                continue
            origin = self._origins.get(ins.line)
            if origin is not None and origin.address & polled:
                text = " ".join(ins.text.split())
                found.append(f"  written by PTX line {ins.line}{self._source(ins)}: {text}")
        return found


def _ctas(waits: Sequence[Wait]) -> str:
    shown = ", ".join(str(wait.cta) for wait in waits[:3])
    more = f" and {len(waits) - 3} more" if len(waits) > 3 else ""
    return f"CTA{'s' if len(waits) > 1 else ''} {shown}{more}"
