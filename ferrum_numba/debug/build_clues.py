"""Clues from PTX and sidecar: unreadable, stale, for another driver or GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from .. import kernels
from ..abi import Sidecar, Signature, cuda_for_ptx, driver_for_ptx, ptx_digest, runs_on
from ..emulator.parse import parse_entry
from ..errors import FerrumError
from ..ptx_text import not_ptx, read_module
from .case import Case
from .causes import CAUSES
from .hypothesis import Hypothesis


def ptx_clues(case: Case) -> Iterator[Hypothesis]:
    """Text that is no PTX, or not all of one; an entry that is not in it."""
    module = read_module(case.ptx)
    entries = list(module.entries)
    if not {"version", "target"} <= module.header.keys():
        yield Hypothesis("ptx-unreadable", not_ptx(case.ptx), 1.0)
        return
    if len(module.header["version"]) > 1:
        yield Hypothesis("ptx-joined", f"its entries are {', '.join(entries)}", 1.0)
        return
    if module.text.count("{") > module.text.count("}") or not entries:
        lines = case.ptx.count("\n")
        told = f"it ends at line {lines + 1}, within a block" if entries else "it has no .entry"
        yield Hypothesis("ptx-truncated", told, 1.0)
        return
    entry = case.entry
    if entry is not None and entry not in entries:
        told = f"{entry} was asked for, the PTX declares {', '.join(entries)}"
        yield Hypothesis("entry-missing", told, 1.0)
        return
    if entry is None and len(entries) > 1 and _sidecar_entry(case) is None:
        told = f"the PTX declares {', '.join(entries)}, and none was named"
        yield Hypothesis("entry-ambiguous", told, 1.0)
        return
    try:
        parse_entry(case.ptx, case.signature.entry)
    except FerrumError as error:
        yield Hypothesis("ptx-damaged", str(error).splitlines()[0], 1.0)


def _sidecar_entry(case: Case) -> str | None:
    try:
        return Sidecar.read(case.sidecar).entry
    except FerrumError:
        return None


def device_clues(case: Case) -> Iterator[Hypothesis]:
    """PTX that the device of the launch cannot run."""
    signature = case.signature
    needed = cuda_for_ptx(signature.ptx_version)
    version = "{}.{}".format(*signature.ptx_version)
    if case.driver is not None and (needed is None or needed > case.driver):
        oldest = driver_for_ptx(signature.ptx_version)
        told = f"the PTX is of ISA {version}, the driver reads CUDA {_dotted(case.driver)}"
        told += f", and the first that reads it is {oldest}" if oldest else ""
        yield Hypothesis("driver-too-old", told, 1.0)
    if case.capability is not None and not runs_on(signature.target, case.capability):
        major, minor = case.capability
        told = f"the PTX is for {signature.target}, the device is sm_{major}{minor}"
        yield Hypothesis("target-mismatch", told, 1.0)


def sidecar_clues(case: Case) -> Iterator[Hypothesis]:
    """A sidecar that cannot be read, or is not of this PTX."""
    if case.sidecar is None:
        return
    try:
        sidecar = Sidecar.read(case.sidecar)
    except FerrumError as error:
        cause = error.code if error.code in CAUSES else "sidecar-unreadable"
        yield Hypothesis(cause, str(error), 1.0)
        return
    plain = Signature.from_ptx(case.ptx, case.signature.entry)
    try:
        replace(sidecar, ptx_sha256=None).check(case.ptx, plain)
        sidecar.declare(plain)
    except FerrumError as error:
        yield Hypothesis("stale-sidecar", str(error), 0.98)
        return
    if sidecar.ptx_sha256 not in (None, ptx_digest(case.ptx)):
        yield _digests_differ(case, sidecar)


def _digests_differ(case: Case, sidecar: Sidecar) -> Hypothesis:
    """Find the stale one of the two by the shipped PTX; else it is taken to be the sidecar."""
    shipped = _shipped(sidecar.ptx_sha256)
    told = (
        f"the sidecar was written for the PTX {(sidecar.ptx_sha256 or '')[:16]}…, this one is "
        f"{ptx_digest(case.ptx)[:16]}…"
    )
    if shipped is None:
        return Hypothesis("stale-sidecar", told, 0.97)
    told += f"; the former is shipped as {shipped.name}"
    remedy = replace(case, ptx=shipped.text)
    return Hypothesis("ptx-altered", told, 0.97, remedy, "the shipped PTX")


def _shipped(digest: str | None) -> kernels.Artefact | None:
    """The shipped kernel whose PTX has this digest."""
    for build in kernels.builds():
        with suppress(FerrumError):  # one that is damaged is none of this launch's business
            if build.declared["ptx_sha256"] == digest and build.text:
                return build
    return None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
