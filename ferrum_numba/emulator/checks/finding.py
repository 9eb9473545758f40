"""Findings of checks, as data and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...notebook import facts


@dataclass(frozen=True)
class Finding:
    """One problem of a launch: a kind, the instruction, the first example, and how often.

    check, kind: what was asked for, and which of its findings this is.
    count: accesses of one lane each (elements, for "unwritten-output" and "order").
    line, instruction: in the PTX; source, source_line: from .loc; None for what no instruction did.
    cta, warp, lanes: who did it first.  space: "global", "shared" or "local"; address: a host
    address, or the offset in the CTA's shared or the lane's local memory.
    array: the array of the launch that the address lies in, or else is nearest to; offset: bytes
    from the array's start, negative before it.
    """

    check: str
    kind: str
    message: str
    count: int = 1
    line: int | None = None
    instruction: str | None = None
    source: str | None = None
    source_line: int | None = None
    cta: tuple[int, int, int] | None = None
    warp: int | None = None
    lanes: tuple[int, ...] = ()
    space: str | None = None
    address: int | None = None
    array: str | None = None
    offset: int | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields, in JSON's types."""
        return asdict(self) | {"lanes": list(self.lanes), "cta": self.cta and list(self.cta)}

    def _repr_html_(self) -> str:
        lanes = _ranges(self.lanes) if self.lanes else ""
        pairs = (
            ("found", self.message),
            ("check", self.check),
            ("times", self.count),
            ("PTX line", self.line),
            ("instruction", self.instruction),
            ("source", self.source and f"{self.source}:{self.source_line}"),
            ("CTA, warp", self.cta and f"{self.cta}, {self.warp}"),
            ("lanes", lanes),
            ("array", self.array and f"{self.array}, byte {self.offset}"),
        )
        return facts(self.kind, pairs)

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.message}"]
        if self.instruction is not None:
            lines.append(f"  PTX line {self.line}: {self.instruction}")
        if self.source is not None:
            lines.append(f"  {self.source}:{self.source_line}{self._source_text()}")
        if self.cta is not None:
            lanes = _ranges(self.lanes)
            lines.append(f"  CTA {self.cta}, warp {self.warp}, {lanes}; {self.count} times in all")
        return "\n".join(lines)

    def _source_text(self) -> str:
        """The line of the source, where the file is there."""
        try:
            text = Path(self.source or "").read_text(encoding="utf-8").splitlines()
            return f": {text[(self.source_line or 0) - 1].strip()}" if self.source_line else ""
        except (OSError, ValueError, IndexError):
            return ""


def _ranges(lanes: tuple[int, ...]) -> str:
    """`lanes 0-3, 8`."""
    if len(lanes) == 1:
        return f"lane {lanes[0]}"
    pieces: list[list[int]] = []
    for lane in lanes:
        if pieces and pieces[-1][-1] == lane - 1:
            pieces[-1].append(lane)
        else:
            pieces.append([lane])
    texts = [str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in pieces]
    return f"lanes {', '.join(texts)}"
