"""Clues from grid, block and shared memory, held against PTX and sidecar."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import FerrumError
from .case import Case
from .hypothesis import Hypothesis
from .truth import truth

_MOST_CTAS = 1024  # of a grid that is worth a try


def configuration_clues(case: Case) -> Iterator[Hypothesis]:
    """A configuration that PTX or sidecar do not ask for."""
    block, sidecar = case.config.block, case.declared
    demanded = None
    if case.signature.reqntid is not None:
        x, y, z = (*case.signature.reqntid, 1, 1)[:3]
        demanded, source = (x, y, z), "the PTX demands it (.reqntid)"
    elif sidecar.num_warps is not None:
        demanded, source = (sidecar.num_warps * 32, 1, 1), "the sidecar's num_warps * 32"
    if demanded is not None and demanded != block:
        told = f"the block is {block}, expected {demanded}: {source}"
        remedy = case.with_config(block=demanded)
        yield Hypothesis("warps-wrong", told, 0.96, remedy, f"a block of {demanded}")
    if sidecar.shared_bytes is not None and sidecar.shared_bytes != case.config.shared_bytes:
        told = (
            f"the launch gives {case.config.shared_bytes} bytes of shared memory, the sidecar asks "
            f"for {sidecar.shared_bytes}"
        )
        remedy = case.with_config(shared_bytes=sidecar.shared_bytes)
        mended = f"shared_bytes = {sidecar.shared_bytes}"
        yield Hypothesis("shared-memory-wrong", told, 0.96, remedy, mended)
    yield from _grid(case)


def _grid(case: Case) -> Iterator[Hypothesis]:
    values = {n: v for n, v in case.values.items() if type(v) is int}
    try:
        by_block = case.declared.grid_for(values)
        by_arrays = case.declared.grid_for({**values, **truth(case).values})
    except FerrumError:
        return
    if by_arrays is None or by_arrays == case.config.grid:
        return
    agreed = by_block == by_arrays
    told = f"the grid is {case.config.grid}, the sidecar's rule gives {by_arrays} for these sizes"
    try:
        remedy = case.with_config(grid=by_arrays)
    except FerrumError:
        return
    yield Hypothesis("grid-wrong", told, 0.95 if agreed else 0.4, remedy, f"a grid of {by_arrays}")


def configuration_guesses(case: Case) -> Iterator[Hypothesis]:
    """Try other grids and numbers of warps, where no sidecar says which are right."""
    if case.declared.grid is None:
        for grid in _grids(case):
            told = f"the grid is {case.config.grid}, and {grid} was tried"
            remedy = case.with_config(grid=grid)
            yield Hypothesis("grid-wrong", told, 0.3, remedy, f"a grid of {grid}")
    if case.declared.shared_bytes is None:
        for nbytes in (case.config.shared_bytes * 2, 49152, 102400):
            told = f"{case.config.shared_bytes} bytes of shared memory, and {nbytes} were tried"
            remedy = case.with_config(shared_bytes=nbytes)
            mended = f"shared_bytes = {nbytes}"
            yield Hypothesis("shared-memory-wrong", told, 0.3, remedy, mended)


def _grids(case: Case) -> list[tuple[int, int, int]]:
    """Other grids: axes exchanged, left out, multiplied, or an extent of an array; small first."""
    x, y, z = case.config.grid
    found = {(y, x, z), (z, y, x), (x, z, y), (x * y, 1, z), (x, 1, z), (1, y, z)}
    for factor in (2, 3, 4, 8):
        found |= {(x * factor, y, z), (x, y * factor, z), (x * factor, 1, z)}
    extents = {n for array in case.arrays.values() for n in array.values.shape}
    for extent in sorted(n for n in extents if n <= _MOST_CTAS)[:8]:
        found |= {(extent, y, z), (x, extent, z)}
    ctas = {grid: grid[0] * grid[1] * grid[2] for grid in found - {(x, y, z)}}
    return sorted((g for g, n in ctas.items() if n <= _MOST_CTAS), key=lambda g: (ctas[g], g))
