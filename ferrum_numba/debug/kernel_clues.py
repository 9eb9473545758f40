"""Clues from the checks of the CPU device, which ran the launch as it is."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..emulator.checks import Finding
from ..errors import PtxError
from .case import Case
from .hypothesis import Hypothesis
from .reach_clues import beyond
from .trial import Outcome

_CAUSE_OF = {
    "race": ("missing-barrier", 0.9),
    "lane-race": ("missing-barrier", 0.9),
    "skipped-barrier": ("missing-barrier", 0.9),
    "lane-conflict": ("missing-barrier", 0.5),
    "cta-race": ("stride-wrong", 0.3),
    "warp-race": ("stride-wrong", 0.3),
    "pending-copy": ("missing-wait", 0.92),
    "pending-bulk": ("missing-wait", 0.92),
    "unfinished-bulk": ("missing-wait", 0.92),
    "missing-fence": ("missing-fence", 0.92),
    "read-only": ("missing-mask", 0.4),
    "misaligned": ("array-misaligned", 0.5),
    "uninitialised-shared": ("missing-barrier", 0.6),
    "uninitialised-global": ("kernel-uninitialised", 0.5),
    "uninitialised-local": ("kernel-uninitialised", 0.5),
    "uninitialised-register": ("kernel-uninitialised", 0.5),
    "unwritten-output": ("output-unwritten", 0.3),
}


def kernel_clues(case: Case, outcome: Outcome) -> list[Hypothesis]:
    """A hypothesis for each kind of finding."""
    found = []
    if outcome.code == PtxError.code:
        found.append(Hypothesis("ptx-damaged", outcome.error, 0.8))
    for finding in outcome.findings:
        if finding.kind == "out-of-bounds" and finding.space == "shared":
            found.append(_shared(case, finding))
        elif finding.kind == "out-of-bounds":
            found.append(beyond(case, finding, in_a_line(finding)))
        elif finding.kind in _CAUSE_OF:
            cause, weight = _CAUSE_OF[finding.kind]
            found.append(Hypothesis(cause, in_a_line(finding), weight))
    return found


def _shared(case: Case, finding: Finding) -> Hypothesis:
    needed = (finding.address or 0) + 16
    nbytes = max(2 * case.config.shared_bytes, 1 << (needed - 1).bit_length())
    remedy = case.with_config(shared_bytes=min(nbytes, 228 * 1024))
    mended = f"shared_bytes = {remedy.config.shared_bytes}"
    return Hypothesis("shared-memory-wrong", in_a_line(finding), 0.7, remedy, mended)


def in_a_line(finding: Finding) -> str:
    """The finding and its place, without the advice."""
    told = f"{finding.kind}: {finding.message.split(';')[0]}"
    where = [f"PTX line {finding.line}"] if finding.line else []
    if finding.source:
        where.append(f"{PurePosixPath(finding.source).name}:{finding.source_line}")
    return f"{told} ({', '.join(where)})" if where else told
