"""From records to findings: attribution to arrays and source lines, and what to look at."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import table
from ..ptx import Body, Instruction
from .arrays import Areas, LaunchArray
from .finding import CHECKS, Finding
from .memory import AWAITED, IN_SHARED, KINDS, LANDED, MANY, WARPS

_CHECK_OF = {kind: check for check, kinds in CHECKS.items() for kind in kinds}


class Reporter:
    """Makes findings of one launch. limit: bytes of shared memory that a CTA has."""

    def __init__(self, body: Body, areas: Areas, limit: int) -> None:
        self._body = body
        self._areas = areas
        self._limit = limit

    def collect(self, records: Sequence[NDArray[np.void]]) -> list[Finding]:
        """One finding for each instruction and kind, with the counts of all workers."""
        if not records:
            return []
        counts = sum(r["count"].astype(np.int64) for r in records)
        findings = []
        for site, kind in np.argwhere(counts).tolist():
            first = next(r[site, kind] for r in records if r["count"][site, kind])
            instruction = self._body.statements[site]
            assert isinstance(instruction, Instruction)
            count = int(np.asarray(counts)[site, kind])
            findings.append(self._finding(instruction, KINDS[kind], first, count))
        return findings

    def _finding(self, ins: Instruction, kind: str, record: np.void, count: int) -> Finding:
        either = kind in ("out-of-bounds", "misaligned", "lane-conflict")
        shared = kind in _SHARED_KINDS or (either and self._is_shared(ins, record))
        address, nbytes = int(record["address"]), int(record["nbytes"])
        lanes = tuple(i for i in range(32) if int(record["lanes"]) >> i & 1)
        array, offset = None, None
        registers = not nbytes
        if registers:
            text, space = _REGISTERS[kind], None
        elif "local" in ins.opcode.modifiers:
            text, space = self._local(kind, address, nbytes), "local"
        elif shared:
            text, space = self._shared(kind, address, nbytes, record), "shared"
        else:
            space = "global"
            found = self._areas.nearest(address)
            array, offset = (found[0].name, found[1]) if found else (None, None)
            text = self._global(kind, ins, found, address, nbytes, record)
        file, source_line = ins.loc if ins.loc else (None, None)
        x, y, z = (int(i) for i in record["cta"])
        return Finding(
            check=_CHECK_OF[kind],
            kind=kind,
            message=text,
            count=count,
            line=ins.line,
            instruction=" ".join(ins.text.split()),
            source=self._body.files.get(file) if file is not None else None,
            source_line=source_line or None,
            cta=(x, y, z),
            warp=int(record["warp"]),
            lanes=lanes,
            space=space,
            address=None if registers else address,
            array=array,
            offset=offset,
        )

    @staticmethod
    def _is_shared(ins: Instruction, record: np.void) -> bool:
        """Whether it is of shared memory; an instruction of both spaces (cp.async) has noted it."""
        of_tiles = table.accesses(ins, "ldmatrix") or table.accesses(ins, "stmatrix")
        if not table.in_shared(ins) and not of_tiles:
            return False
        return "global" not in ins.opcode.modifiers or int(record["other"]) == IN_SHARED

    def _local(self, kind: str, address: int, nbytes: int) -> str:
        where = f"local memory at byte {address} ({nbytes} bytes)"
        if kind == "misaligned":
            return f"{where}: the access has to be aligned to its size"
        return f"{where}: a thread has {self._body.local_bytes} bytes; look at the index"

    def _shared(self, kind: str, address: int, nbytes: int, record: np.void) -> str:
        where = f"shared memory at byte {address} ({nbytes} bytes)"
        other = _other(int(record["other"]))
        if kind == "out-of-bounds":
            return (
                f"{where}: the CTA has {self._limit} bytes; look at shared_bytes of the launch"
                " and at the address"
            )
        if kind == "misaligned":
            return f"{where}: the access has to be aligned to its size"
        if kind == "uninitialised-shared":
            return (
                f"reads {where}, which this CTA has not written; look for a store that is missing"
                " or masked, or a copy that nobody waited for"
            )
        if kind == "pending-copy":
            return (
                f"{where}: an asynchronous copy to here is still under way{other}; look for a"
                " cp.async.wait_group that is missing or leaves too many groups"
            )
        if kind == "pending-product":
            return (
                f"writes {where}, which a wgmma{other} may still read; look for a"
                " wgmma.wait_group that is missing, leaves too many groups, or comes after the"
                " arrival that gives the place free"
            )
        if kind == "missing-fence":
            return (
                f"{where} was written by ordinary stores or cp.async{other}, and is read through"
                " the asynchronous proxy; look for a missing fence.proxy.async"
            )
        if kind == "lane-conflict":
            return f"{where}: another lane stores something else there in the same instruction"
        if kind == "lane-race":
            return (
                f"reads {where}, where lane {int(record['other'])} of this warp has stored, and"
                " nothing has brought the lanes together since; look for a missing bar.warp.sync"
            )
        return (
            f"{where}: {other.lstrip(', ')} used it, one of the two wrote, and nothing brings them"
            " into an order; look for a missing bar.sync, or arrival and wait, between the two"
        )

    def _global(
        self,
        kind: str,
        ins: Instruction,
        found: tuple[LaunchArray, int] | None,
        address: int,
        nbytes: int,
        record: np.void,
    ) -> str:
        where = _place(found, address, nbytes)
        if kind == "out-of-bounds":
            hint = "look at the mask of this access" if ins.guard else "the access has no mask"
            return f"{nbytes} bytes at {where}; {hint}, at the sizes and at the strides"
        if kind == "misaligned":
            return f"{nbytes} bytes at {where}: the access has to be aligned to its size"
        if kind == "read-only":
            return f"writes {nbytes} bytes to {where}, which the launch may only read"
        if kind == "uninitialised-scratch":
            return f"reads {nbytes} bytes of {where} that no CTA has written"
        if kind == "lane-conflict":
            return f"{where}: another lane stores something else there in the same instruction"
        if kind == "warp-race":
            return (
                f"{where}: warp {int(record['other']) - WARPS} of this CTA wrote it, this is warp"
                f" {int(record['warp'])}, and nothing brings them into an order; look at the masks"
                " and the strides, and for a missing bar.sync"
            )
        cta = int(record["other"]) - 1
        if table.accesses(ins, "load"):
            return (
                f"reads {where}, which CTA number {cta} writes, and nothing makes sure that it did"
                " before; look for a missing barrier before or after the atomic operation by which"
                " the CTAs talk to each other, and at its .release and .acquire"
            )
        return (
            f"writes {where}, which CTA number {cta} also writes; look at the mask, the grid and"
            " the strides"
        )

    def unwritten(self) -> list[Finding]:
        """Outputs that the launch did not write as a whole."""
        findings = []
        for array, count, first in self._areas.missing():
            position = int(array.positions()[first])
            offset = position * array.itemsize
            at = array.element(offset) or f" byte {offset}"
            total = len(array.positions())
            findings.append(
                Finding(
                    check="init",
                    kind="unwritten-output",
                    message=f"{count} of {total} elements of {array.name} were never written, the"
                    f" first is {array.name}{at}; look at the grid, the sizes and the store's mask",
                    count=count,
                    space="global",
                    address=array.address + offset,
                    array=array.name,
                    offset=offset,
                )
            )
        return findings

    def differing(
        self,
        arrays: Sequence[LaunchArray],
        others: Sequence[NDArray[np.uint8]],
        ctas: Sequence[int] | None,
    ) -> list[Finding]:
        """Outputs that came out otherwise with the warps in reverse order.

        ctas: those of which the elements are compared; None: all.
        """
        findings = []
        for array, other in zip(arrays, others, strict=True):
            if array.role == "scratch":
                continue
            ours = np.frombuffer(ctypes.string_at(array.address, array.nbytes), np.uint8)
            wrong = np.unique(np.flatnonzero(ours != other) // array.itemsize)
            if ctas is not None:
                wrong = wrong[np.isin(self._areas.writers(array, wrong), ctas)]
            if not len(wrong):
                continue
            offset = int(wrong[0]) * array.itemsize
            at = array.element(offset) or f" byte {offset}"
            findings.append(
                Finding(
                    check="order",
                    kind="order",
                    message=f"{len(wrong)} elements of {array.name} depend on the order in which"
                    f" the warps run, the first is {array.name}{at}; look for a missing barrier",
                    count=len(wrong),
                    space="global",
                    address=array.address + offset,
                    array=array.name,
                    offset=offset,
                )
            )
        return findings


_SHARED_KINDS = (
    "uninitialised-shared",
    "race",
    "pending-copy",
    "pending-product",
    "missing-fence",
    "lane-race",
)
# Of registers, which have no address.
_REGISTERS = {
    "uninitialised-register": "reads a register that these lanes never wrote; look at the paths"
    " that lead here without an instruction that writes it",
    "pending-product": "reads or writes a register that a wgmma still works on; look for a"
    " wgmma.wait_group that is missing, comes too late, or leaves too many groups",
    "missing-fence": "works on registers that were written in another way since the last"
    " wgmma.fence; look for one that is missing before this product",
}


def _other(tag: int) -> str:
    """Who a tag says used a place last."""
    low = tag & 0xFF
    if tag == 0:
        return ""
    if low in (MANY, MANY | 1):
        return ", several warps"
    return f", warp {(low & ~(LANDED | AWAITED)) >> 1}"


def _place(found: tuple[LaunchArray, int] | None, address: int, nbytes: int) -> str:
    """`a[3, 5]`, or how far before or behind the array."""
    if found is None:
        return f"address {address:#x}: the launch has no arrays"
    array, offset = found
    if 0 <= offset <= array.nbytes - nbytes:
        return f"{array.name}{array.element(offset)} (byte {offset} of {array.nbytes})"
    if offset < 0:
        return f"{-offset} bytes before {array.name}"
    if offset < array.nbytes:
        return f"the end of {array.name} (byte {offset} of {array.nbytes})"
    return f"{offset - array.nbytes} bytes behind the end of {array.name}"
