"""Findings made of records: attribution to arrays and source lines, and what to look at."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import table
from ..ptx import Body, Instruction
from .arrays import Areas, LaunchArray
from .check import Check, Kept, Kind
from .finding import Finding
from .state import AWAITED, IN_SHARED, LANDED, MANY, READ, WARPS, kinds
from .watch import ALL

_KINDS = {kind.name: kind for check in ALL for kind in check.kinds}
CHECKS: dict[str, tuple[str, ...]] = {}
"""The checks, and the kinds of findings of each."""
for _kind in _KINDS.values():
    CHECKS[_kind.check] = (*CHECKS.get(_kind.check, ()), _kind.name)
USUAL = tuple(dict.fromkeys(kind.check for check in ALL if check.usual for kind in check.kinds))
"""The checks that are made where nobody says which."""


class Reporter:
    """Makes findings of one launch. limit: bytes of shared memory that a CTA has."""

    def __init__(
        self,
        body: Body,
        areas: Areas,
        limit: int,
        checks: Sequence[Check],
        owners: NDArray[np.uint32],
    ) -> None:
        """owners: of each statement the only array that it may access, plus 1; 0: any."""
        self._owners = owners
        self._body = body
        self._checks = {kind.name: check for check in checks for kind in check.kinds}
        self._areas = areas
        self._limit = limit

    def collect(self, kept: Sequence[Kept]) -> list[Finding]:
        """One finding for each instruction and kind, with the counts of all workers."""
        kept = [k for k in kept if np.any(k["found"])]
        records: list[NDArray[np.void]] = [np.asarray(k["records"]) for k in kept]
        if not records:
            return []
        counts = sum(r["count"].astype(np.int64) for r in records)
        findings, numbered = [], kinds()
        for site, kind in np.argwhere(counts).tolist():
            first = next(i for i, r in enumerate(records) if r["count"][site, kind])
            instruction = self._body.statements[site]
            assert isinstance(instruction, Instruction)
            count = int(np.asarray(counts)[site, kind])
            its = _KINDS[numbered[kind]]
            record = records[first][site, kind]
            findings.append(self._finding(instruction, its, record, count, kept[first]))
        return findings

    def _finding(
        self, ins: Instruction, kind: Kind, record: np.void, count: int, kept: Kept
    ) -> Finding:
        address = int(record["address"])
        space = self._space(ins, kind, record)
        found = self._areas.nearest(address) if space == "global" else None
        owner = int(self._owners[ins.index])
        beside = ""
        if found is not None and owner and kind.check == "memory":
            its = self._areas.arrays[owner - 1]
            if its != found[0] and 0 <= found[1] < found[0].nbytes:
                beside = f", where {_place(found, address, 0)} lies"
            found = its, address - its.address
        array, offset = (found[0].name, found[1]) if found else (None, None)
        key = f"{space} load" if table.accesses(ins, "load") else str(space)
        text = kind.texts.get(key) or kind.texts[space or "register"]
        check = self._checks.get(kind.name)
        source, source_line = self._body.source_of(ins)
        x, y, z = (int(i) for i in record["cta"])
        return Finding(
            check=kind.check,
            kind=kind.name,
            message=text.format(
                **self._sight(ins, space, found, record, beside),
                **(check.sight(ins, kept, record) if check is not None else {}),
            ),
            count=count,
            line=ins.line,
            instruction=" ".join(ins.text.split()),
            source=source,
            source_line=source_line,
            cta=(x, y, z),
            warp=int(record["warp"]),
            lanes=tuple(i for i in range(32) if int(record["lanes"]) >> i & 1),
            space=space,
            address=None if space is None else address,
            array=array,
            offset=offset,
        )

    def _space(self, ins: Instruction, kind: Kind, record: np.void) -> str | None:
        """The memory that a record is of; None where it is of registers.

        An instruction of both shared and global memory (cp.async) has noted which it is.
        """
        if not record["nbytes"]:
            return None
        if "local" in ins.opcode.modifiers or kind.spaces == {"local"}:
            return "local"
        spaces = kind.spaces - {"local"}
        if len(spaces) == 1:
            return min(spaces)
        of_tiles = table.accesses(ins, "ldmatrix") or table.accesses(ins, "stmatrix")
        if not table.in_shared(ins) and not of_tiles:  # a generic one may be of either
            near = "shared" in spaces and int(record["address"]) < self._limit
            return "shared" if near else "global"
        if "global" not in ins.opcode.modifiers or int(record["other"]) == IN_SHARED:
            return "shared"
        return "global"

    def _sight(
        self,
        ins: Instruction,
        space: str | None,
        found: tuple[LaunchArray, int] | None,
        record: np.void,
        beside: str,
    ) -> dict[str, object]:
        """Names that a finding's text may use. beside: what else lies there."""
        address, nbytes, other = (int(record[name]) for name in ("address", "nbytes", "other"))
        place = f"{space} memory at byte {address} ({nbytes} bytes)"
        by = _user(other)
        return {
            "place": _place(found, address, nbytes) + beside if space == "global" else place,
            "nbytes": nbytes,
            "limit": self._limit,
            "local_bytes": self._body.local_bytes,
            "mask": "look at the mask of this access,"
            if ins.guard
            else "the access has no mask; look",
            "other": other,
            "user": by,
            "by": f", {by}" if by else "",
            "cta": (other & ~READ) - 1,
            "there": self._at(int(record["by"])),
            "other_warp": (other & ~READ) - WARPS,
            "warp": int(record["warp"]),
        }

    def _at(self, site: int) -> str:
        """Place of the instruction whose index plus 1 this is; 0: nothing is known."""
        ins = self._body.statements[site - 1] if site else None
        if not isinstance(ins, Instruction):
            return ""
        place = self._body.place_of(ins)
        return f" at PTX line {ins.line}" + (f" ({place})" if place else "")

    def unwritten(self) -> list[Finding]:
        """Outputs that the launch did not write as a whole."""
        findings = []
        for array, count, first in self._areas.missing():
            positions = array.positions()
            problem = f"{count} of {len(positions)} elements of {array.name} were never written"
            remedy = "look at the grid, the sizes and the store's mask"
            found = "init", "unwritten-output", problem, remedy
            findings.append(_of_elements(array, int(positions[first]), count, *found))
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
            elements = f"{len(wrong)} elements of {array.name}"
            problem = f"{elements} depend on the order in which the warps run"
            found = "order", "order", problem, "look for a missing barrier"
            findings.append(_of_elements(array, int(wrong[0]), len(wrong), *found))
        return findings


def _of_elements(
    array: LaunchArray, first: int, count: int, check: str, kind: str, problem: str, remedy: str
) -> Finding:
    """Finding about `count` elements of an array, of which `first` is the first."""
    offset = first * array.itemsize
    at = array.element(offset) or f" byte {offset}"
    return Finding(
        check=check,
        kind=kind,
        message=f"{problem}, the first is {array.name}{at}; {remedy}",
        count=count,
        space="global",
        address=array.address + offset,
        array=array.name,
        offset=offset,
    )


def _user(tag: int) -> str:
    """Last user of a place by its tag; "" for nobody."""
    low = tag & 0xFF
    if tag == 0:
        return ""
    if low in (MANY, MANY | 1):
        return "several warps"
    return f"warp {(low & ~(LANDED | AWAITED)) >> 1}"


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
