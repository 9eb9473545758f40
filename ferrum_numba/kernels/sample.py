"""Random arguments for a launch, as a sidecar declares them: for checks and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..abi import LaunchConfig, Sidecar
from ..abi.arrays import POINTEE_DTYPES
from ..dtypes import dtype_named
from ..errors import AbiError
from .catalogue import launch_config

# Integers that are no sizes, and what they are where nothing is said.
_ARGUMENTS = {"zero_bias": 1, "adds": 0}
# Arrays of indices, and the integer that says of how many rows.
_INDICES = {"g_idx": "groups"}


@dataclass(frozen=True, eq=False)
class Sample:
    """One launch: arrays in C order and integers, by the names of their parameters."""

    config: LaunchConfig
    arrays: Mapping[str, NDArray[np.generic]]
    integers: Mapping[str, int]


def sample(sidecar: Sidecar, sizes: Mapping[str, int], seed: int = 0) -> Sample:
    """A launch of these sizes. Outputs are filled with NaN, or with the largest integer.

    Raises AbiError where the sidecar does not declare the parameters, or a size is missing.
    """
    sizes = dict(sizes)
    if "K" in sizes and "group_size" in sizes:
        sizes.setdefault("groups", -(-sizes["K"] // sizes["group_size"]))
    integers = {
        p.name: sizes[p.name] for p in sidecar.params if p.role == "size" and p.name in sizes
    }
    missing = [p.name for p in sidecar.params if p.role == "size" and p.name not in sizes]
    if missing or not sidecar.params:
        raise AbiError(
            ", ".join(missing) or "sizes",
            "a value",
            "none",
            "give it; on the command line by --size NAME=N",
            where=sidecar.entry,
        )
    random = np.random.default_rng(seed)
    known = sidecar.numbers_for(integers)
    arrays: dict[str, NDArray[np.generic]] = {}
    for declaration in sidecar.params:
        if not declaration.shape or (declaration.nullable and declaration.role == "argument"):
            continue  # the latter stands in place of another array
        shape = [rule(known) for rule in declaration.shape]
        step = 1
        for rule, extent in zip(reversed(declaration.strides), reversed(shape), strict=True):
            if not rule.text.isdecimal():
                integers[rule.text] = step
            step *= extent
        dtype = POINTEE_DTYPES[declaration.type]
        rows = _INDICES.get(declaration.name)
        if rows in integers:
            arrays[declaration.name] = random.integers(0, integers[rows], shape, dtype)
        else:
            arrays[declaration.name] = _fill(random, shape, dtype, declaration.role == "output")
    config = launch_config(sidecar, **integers)
    declared = {p.name for p in sidecar.params}
    integers |= {name: sizes.get(name, n) for name, n in _ARGUMENTS.items() if name in declared}
    return Sample(config, arrays, integers)


def _fill(
    random: np.random.Generator, shape: list[int], name: str, output: bool
) -> NDArray[np.generic]:
    dtype = dtype_named(name)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        if output:
            return np.full(shape, info.max, dtype)
        return random.integers(info.min, info.max, shape, dtype, endpoint=True)
    if output:
        return np.full(shape, np.nan).astype(dtype)
    return random.standard_normal(shape).astype(dtype)
