"""Versions: the drivers that read a PTX, and the devices that run a target.

Source: CUDA Toolkit release notes ("CUDA Toolkit and Corresponding Driver Versions") and the
release history in the PTX ISA.
"""

from __future__ import annotations

import re

from ..errors import AbiError

# PTX ISA -> (CUDA version, first Linux driver branch, where it is known) that brought it.
_PTX_RELEASES: dict[tuple[int, int], tuple[tuple[int, int], str | None]] = {
    (6, 3): ((10, 0), "410"),
    (6, 4): ((10, 1), "418"),
    (6, 5): ((10, 2), "440"),
    (7, 0): ((11, 0), "450"),
    (7, 1): ((11, 1), "455"),
    (7, 2): ((11, 2), "460"),
    (7, 3): ((11, 3), "465"),
    (7, 4): ((11, 4), "470"),
    (7, 5): ((11, 5), "495"),
    (7, 6): ((11, 6), "510"),
    (7, 7): ((11, 7), "515"),
    (7, 8): ((11, 8), "520"),
    (8, 0): ((12, 0), "525"),
    (8, 1): ((12, 1), "530"),
    (8, 2): ((12, 2), "535"),
    (8, 3): ((12, 3), "545"),
    (8, 4): ((12, 4), "550"),
    (8, 5): ((12, 5), "555"),
    (8, 6): ((12, 7), "565"),
    (8, 7): ((12, 8), "570"),
    (8, 8): ((12, 9), "575"),
    (9, 0): ((13, 0), "580"),
    (9, 1): ((13, 1), "590"),
    (9, 2): ((13, 2), "595"),
    (9, 3): ((13, 3), None),
    (9, 4): ((13, 4), None),
}
_TARGET = re.compile(r"sm_(\d+)(\d)([af]?)")


def cuda_for_ptx(version: tuple[int, int]) -> tuple[int, int] | None:
    """The oldest CUDA version whose driver reads this PTX ISA; None where that is not known."""
    if version < min(_PTX_RELEASES):
        return min(cuda for cuda, _ in _PTX_RELEASES.values())
    release = _PTX_RELEASES.get(version)
    return release[0] if release else None


def driver_for_ptx(version: tuple[int, int]) -> str | None:
    """The oldest Linux driver branch that reads this PTX ISA, e.g. "450"."""
    release = _PTX_RELEASES.get(version)
    return release[1] if release else None


def loader_for_ptx(version: tuple[int, int]) -> str:
    """The oldest that loads this PTX ISA, in words: "CUDA 12.8 (driver 570)"."""
    cuda, driver = cuda_for_ptx(version), driver_for_ptx(version)
    if cuda is None:
        return "a CUDA newer than this package"
    return f"CUDA {cuda[0]}.{cuda[1]}" + (f" (driver {driver})" if driver else "")


def runs_on(target: str, capability: tuple[int, int]) -> bool:
    """True if PTX of `target` ("sm_80", "sm_90a") runs on a device of this compute capability.

    Plain targets run on their own capability and every newer one, `a` targets on theirs alone,
    `f` targets on newer ones of the same major number (PTX ISA, ".target").
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise AbiError(".target", "sm_XY, sm_XYa or sm_XYf", f"{target!r}")
    needed, kind = (int(match[1]), int(match[2])), match[3]
    if kind == "a":
        return capability == needed
    return capability >= needed and (kind != "f" or capability[0] == needed[0])
