"""Mutations of kernels and launches: what people get wrong, one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise

from .subjects import Subject

_GUARD = re.compile(r"^(\s*)@!?%p\d+\s+((?:ld|st)\.global\S*.*)$")
_COPY = re.compile(
    r"^(\s*(?:@!?%p\d+\s+)?cp\.async\.c[ag]\.shared\.global\b.*,\s*)(0x[0-9a-f]+)\s*,"
    r"\s*(%r\d+)(.*)$"
)
_GUARDED_COPY = re.compile(r"^(\s*)@!?%p\d+\s+(cp\.async\.c[ag]\.shared\.global\b.*)$")
_SHARED = re.compile(
    r"\b(?:ld|st)\.shared|ldmatrix|stmatrix|cp\.async\.c[ag]\.|cp\.async\.wait_group"
)
_WAIT_LOOP = re.compile(r"^\s*@!complete bra")
_ARRIVAL = re.compile(r"^\s*(?:@%p\d+\s+)?(?:mbarrier|cp\.async\.mbarrier)\.arrive")
_END = re.compile(r"^\s*(?:@\S+\s+)?(?:bra|ret)\b|^\$(?!L__tmp)\w+:")  # tmp: of debuggers


@dataclass(frozen=True)
class Mutant:
    """One thing wrong: other text, or other values in the parameter block, or another launch.

    pointers: bytes added to them; swapped: two parameters that change places.
    """

    kind: str
    label: str
    text: str | None = None
    pointers: dict[str, int] = field(default_factory=dict)
    integers: dict[str, int] = field(default_factory=dict)
    swapped: tuple[str, str] | None = None
    shared_bytes: int | None = None


def mutants(subject: Subject) -> Iterator[Mutant]:
    """All mutants of a subject."""
    yield from _of_text(subject.text)
    yield from _of_launch(subject)


def _of_text(text: str) -> Iterator[Mutant]:
    lines = text.split("\n")

    def changed(kind: str, number: int, line: str | None, what: str = "") -> Mutant:
        """Line `number` replaced, or deleted."""
        mutated = [*lines[:number], *([line] if line is not None else [""]), *lines[number + 1 :]]
        label = f"line {number + 1}: {' '.join(lines[number].split())}{what}"
        return Mutant(kind, label, "\n".join(mutated))

    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith(("bar.sync", "barrier.sync")):
            yield changed("barrier deleted", number, None)
            yield from _moved("barrier moved", lines, number)
        elif stripped.startswith("cp.async.wait_group"):
            yield changed("wait deleted", number, None)
            groups = int(re.findall(r"\d+", stripped)[0])
            weaker = f"\tcp.async.wait_group {groups + 1};"
            yield changed("wait weakened", number, weaker, f" -> {groups + 1}")
            yield from _moved("wait moved", lines, number)
        elif stripped.startswith("cp.async.commit_group"):
            yield changed("commit deleted", number, None)
        elif stripped.startswith(("fence", "wgmma.fence", "membar")):
            yield changed("fence deleted", number, None)
        elif stripped.startswith("wgmma.wait_group"):
            yield changed("wait for a product deleted", number, None)
            groups = int(re.findall(r"\d+", stripped)[0])
            weaker = line.replace(f"{groups};", f"{groups + 1};")
            yield changed("wait for a product weakened", number, weaker, f" -> {groups + 1}")
        elif stripped.startswith("wgmma.commit_group"):
            yield changed("commit deleted", number, None)
        elif "mbarrier.init" in stripped:
            yield changed("start of an mbarrier deleted", number, None)
        elif _WAIT_LOOP.match(line):
            yield changed("wait at an mbarrier dropped", number, None)
        elif _ARRIVAL.match(line):
            yield changed("arrival deleted", number, None)
        elif ".acq_rel" in stripped:
            relaxed = line.replace(".acq_rel", ".relaxed")
            yield changed("order of an atomic operation dropped", number, relaxed)
        elif match := _GUARD.match(line):
            kind = f"mask of a {'load' if match[2].startswith('ld') else 'store'} dropped"
            yield changed(kind, number, match[1] + match[2])
        elif "cp.async." in line:
            if match := _COPY.match(line):
                whole = f"{match[1]}{match[2]}, {match[2]}{match[4]}"
                yield changed("mask of a copy dropped", number, whole, " whole")
            if match := _GUARDED_COPY.match(line):
                yield changed("guard of a copy dropped", number, match[1] + match[2])


def _moved(kind: str, lines: list[str], number: int) -> Iterator[Mutant]:
    """Behind the next access to shared memory, and before the one before, in the same block."""
    for step, where in ((1, "down"), (-1, "up")):
        other = number + step
        while 0 <= other < len(lines) and not _END.match(lines[other]):
            if _SHARED.search(lines[other]) and not lines[other].strip().startswith("//"):
                rest = [*lines[:number], *lines[number + 1 :]]
                mutated = [*rest[:other], lines[number], *rest[other:]]
                label = f"line {number + 1}: {lines[number].strip()} {where} to {other + 1}"
                yield Mutant(kind, label, "\n".join(mutated))
                break
            other += step


def _of_launch(subject: Subject) -> Iterator[Mutant]:
    shared = subject.config.shared_bytes
    for less in (16, shared // 4, shared // 2):
        if 0 < less <= shared:
            yield Mutant("shared memory shrunk", f"-{less}", shared_bytes=shared - less)
    for name, array in subject.shapes.items():
        row = array.strides[0]
        for shift in dict.fromkeys((array.itemsize, -array.itemsize, row, -row)):
            yield Mutant("pointer shifted", f"{name} {shift:+} bytes", pointers={name: shift})
    for pair in combinations(subject.shapes, 2):
        yield Mutant("pointers swapped", " <-> ".join(pair), swapped=pair)
    integers = subject.integers
    names = [p.name for p in subject.signature.arguments if p.name in integers]
    for name in names:
        value = integers[name]
        kind = "size changed" if "stride" not in name else "stride changed"
        for other in (value + 1, value - 1, 2 * value):
            yield Mutant(kind, f"{name} {value} -> {other}", integers={name: other})
    for first, second in pairwise(names):
        if integers[first] != integers[second]:
            swap = {first: integers[second], second: integers[first]}
            yield Mutant("integers swapped", f"{first} <-> {second}", integers=swap)
