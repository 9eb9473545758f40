"""All that a PTX and its sidecar say, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

from ...abi import Sidecar, Signature, cuda_for_ptx, driver_for_ptx, loader_for_ptx, ptx_digest
from ...abi.sidecar import Scratch
from ...abi.signature import SCRATCH_ROLES
from ...devices.resources import Resources
from ...emulator.origin import element_nbytes, tiles
from ...errors import AbiError, PtxError
from .census import Census, take_census
from .occupancy import find_sm, resident_ctas
from .outline import Outline, outline

Verdict = Literal["agrees", "disagrees", "none"]


@dataclass(frozen=True)
class SidecarVerdict:
    """True if a sidecar says the same as the PTX, and else where they differ."""

    path: str | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class InspectedParameter:
    """A row of the signature table; offset, size and alignments in bytes.

    ptx_type: "u64", or "b8[24]" for an aggregate.  pointer: whether the PTX says `.ptr`.
    c_type, shape, strides, nbytes, nullable: as the sidecar declares them.  rule: how the launcher
    computes it, by the sidecar.
    """

    index: int
    name: str
    ptx_type: str
    c_type: str | None
    offset: int
    size: int
    align: int
    role: str
    pointer: bool
    shape: tuple[str, ...] = ()
    strides: tuple[str, ...] = ()
    nbytes: str | None = None
    nullable: bool = False
    rule: str = ""


@dataclass(frozen=True)
class Needs:
    """Needs of a launch of the entry; None or empty where neither PTX nor sidecar says.

    block: threads (x, y, z), and block_source who demands it.  max_block: of `.maxntid`.
    cluster: CTAs (x, y, z).  num_warps, num_ctas, num_stages: as Triton built it.
    programmatic, cooperative: the kind of launch that it was built for, see LaunchConfig.
    shared_bytes: dynamic, of a CTA; uses_dynamic_shared: whether the PTX has any.
    static_shared_bytes: declared in the PTX.  scratch: Triton's, of a CTA.
    provided: (parameter, role, size rule) of the memory that the launcher lends.
    """

    block: tuple[int, ...] | None
    block_source: str
    max_block: tuple[int, ...] | None
    cluster: tuple[int, ...] | None
    num_warps: int | None
    num_ctas: int
    num_stages: int | None
    programmatic: bool
    cooperative: bool
    shared_bytes: int | None
    uses_dynamic_shared: bool
    static_shared_bytes: int
    scratch: tuple[Scratch, ...]
    provided: tuple[tuple[str, str, str], ...]
    grid: tuple[str, ...] | None
    tile: Mapping[str, int] | None
    constants: Mapping[str, int] | None
    constraints: tuple[str, ...]

    @property
    def threads(self) -> int | None:
        """Threads of a CTA."""
        return None if self.block is None else prod(self.block)

    @property
    def most_threads(self) -> int | None:
        """Threads of a CTA, or where that is not stated the most that the PTX allows."""
        block = self.block or self.max_block
        return None if block is None else prod(block)


@dataclass(frozen=True)
class InspectedEntry:
    """One entry.

    calls: functions that it calls.  resources: None where nobody can say them, and
    resources_unknown why.  element_nbytes: of the arrays of which it shows, by parameter's index.
    tiles: constants that CTAs' numbers are multiplied by, by axis.  Both are empty where the body
    cannot be followed.
    """

    entry: str
    line: int
    nbytes: int
    params: tuple[InspectedParameter, ...]
    needs: Needs
    census: Census
    calls: tuple[str, ...]
    resources: Resources | None = None
    resources_unknown: str = ""
    element_nbytes: Mapping[int, int] = field(default_factory=dict)
    tiles: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection:
    """A PTX.

    min_cuda, min_driver: the oldest that load its PTX ISA, None where not known; loader: in words.
    """

    ptx: str
    ptx_sha256: str
    nbytes: int
    target: str
    ptx_version: str
    min_cuda: str | None
    min_driver: str | None
    loader: str
    sidecar: SidecarVerdict
    entries: tuple[InspectedEntry, ...]


@dataclass(frozen=True)
class Loading:
    """Verdict of a device on the entries, and the reason where it refuses them."""

    name: str
    verdict: Literal["loads", "refuses"]
    reason: str = ""


@dataclass(frozen=True)
class Unreadable:
    """A file that is no PTX that can be read."""

    ptx: str
    error: str


def inspect_ptx(
    name: str, text: str, sidecar: Sidecar | SidecarVerdict, path: str | None, entry: str | None
) -> Inspection:
    """Read PTX text.

    name: how it is called.  sidecar: what was read from `path`, or the verdict where it could not
    be read.  entry: inspect this one alone.

    Raises PtxError, with the line, for text that cannot be read.
    """
    names = Signature.entries(text) if entry is None else [entry]
    first = Signature.from_ptx(text, names[0] if names else None)
    described, verdict = _verdict(text, sidecar, path, names)
    entries = []
    for entry_name in names:
        own = described if described.entry in (None, entry_name) else Sidecar()
        entries.append(_inspect_entry(text, entry_name, own))
    cuda = cuda_for_ptx(first.ptx_version)
    return Inspection(
        ptx=name,
        ptx_sha256=ptx_digest(text),
        nbytes=len(text.encode()),
        target=first.target,
        ptx_version=dotted(first.ptx_version),
        min_cuda=dotted(cuda) if cuda else None,
        min_driver=driver_for_ptx(first.ptx_version),
        loader=loader_for_ptx(first.ptx_version),
        sidecar=verdict,
        entries=tuple(entries),
    )


def dotted(version: tuple[int, int]) -> str:
    """ "8.7" for (8, 7)."""
    return f"{version[0]}.{version[1]}"


def with_resources(
    entry: InspectedEntry, found: Resources | None, target: str, unknown: str = ""
) -> InspectedEntry:
    """The entry with its resources; how many CTAs an SM holds is worked out where nobody says."""
    if found is None:
        return replace(entry, resources=None, resources_unknown=unknown)
    sm, threads = find_sm(target), entry.needs.most_threads
    if found.ctas_per_sm is None and sm and threads and found.registers is not None:
        shared = (found.shared_bytes or 0) + (entry.needs.shared_bytes or 0)
        found = replace(found, ctas_per_sm=resident_ctas(sm, threads, found.registers, shared))
    return replace(entry, resources=found)


def _verdict(
    text: str, sidecar: Sidecar | SidecarVerdict, path: str | None, names: list[str]
) -> tuple[Sidecar, SidecarVerdict]:
    """The sidecar, empty where it disagrees, and the verdict on it."""
    if isinstance(sidecar, SidecarVerdict):
        return Sidecar(), sidecar
    if path is None:
        return Sidecar(), SidecarVerdict(None, "none")
    about = sidecar.entry if sidecar.entry in names else names[0]
    try:
        signature = Signature.from_ptx(text, about)
        sidecar.check(text, signature)
        sidecar.declare(signature)
    except AbiError as error:
        return Sidecar(), SidecarVerdict(path, "disagrees", str(error))
    return replace(sidecar, entry=about), SidecarVerdict(path, "agrees")


def _inspect_entry(text: str, entry: str, sidecar: Sidecar) -> InspectedEntry:
    signature = sidecar.declare(Signature.from_ptx(text, entry))
    found = outline(text, entry)
    try:
        elements, steps = element_nbytes(text, entry), tiles(text, entry)
    except PtxError:
        elements, steps = {}, {}
    return InspectedEntry(
        entry=entry,
        line=found.line,
        nbytes=signature.nbytes,
        params=_parameters(signature, sidecar),
        needs=_needs(signature, sidecar, found),
        census=take_census(found),
        calls=found.calls,
        element_nbytes=elements,
        tiles=steps,
    )


def _parameters(signature: Signature, sidecar: Sidecar) -> tuple[InspectedParameter, ...]:
    declarations = {p.name: p for p in sidecar.params}
    rows = []
    for p in signature.params:
        declared = declarations.get(p.name)
        row = InspectedParameter(
            index=p.index,
            name=p.name,
            ptx_type=p.ptx_type if p.count is None else f"{p.ptx_type}[{p.count}]",
            c_type=p.c_type,
            offset=p.offset,
            size=p.size,
            align=p.align,
            role=p.role,
            pointer=p.pointer,
        )
        if declared is not None:
            row = replace(
                row,
                shape=tuple(rule.text for rule in declared.shape),
                strides=tuple(rule.text for rule in declared.strides),
                nbytes=declared.nbytes.text if declared.nbytes else None,
                nullable=declared.nullable,
                rule=declared.rule,
            )
        rows.append(row)
    return tuple(rows)


def _needs(signature: Signature, sidecar: Sidecar, found: Outline) -> Needs:
    block, source = signature.reqntid, ".reqntid"
    if block is None and sidecar.num_warps is not None:
        block, source = (sidecar.num_warps * 32,), "the sidecar's num_warps"
    sizes = {p.name: f"{p.nbytes.text} bytes" for p in sidecar.params if p.nbytes is not None}
    sizes_a_cta = {s.role: f"{s.size} bytes a CTA" for s in sidecar.scratch}
    return Needs(
        block=block,
        block_source=source if block else "",
        max_block=found.directives.get("maxntid"),
        cluster=signature.cluster,
        num_warps=sidecar.num_warps,
        num_ctas=sidecar.num_ctas,
        num_stages=sidecar.num_stages,
        programmatic=sidecar.programmatic,
        cooperative=sidecar.cooperative,
        shared_bytes=sidecar.shared_bytes if found.dynamic_shared or sidecar.shared_bytes else 0,
        uses_dynamic_shared=found.dynamic_shared,
        static_shared_bytes=found.static_shared_bytes,
        scratch=sidecar.scratch,
        provided=tuple(
            (p.name, p.role, sizes.get(p.name) or sizes_a_cta.get(p.role, ""))
            for p in signature.params
            if p.role in SCRATCH_ROLES
        ),
        grid=tuple(rule.text for rule in sidecar.grid) if sidecar.grid else None,
        tile=sidecar.tile,
        constants=sidecar.constants,
        constraints=tuple(rule.text for rule in sidecar.constraints),
    )
